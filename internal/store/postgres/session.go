package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// setting is a setting of a session of PostgreSQL, with its value as PostgreSQL shows it.
type setting struct{ name, value string }

// session is what Kapsel asks of a connection. A pooler may drop what a client sends while it
// connects, so Kapsel sets the settings by SET afterwards and then reads them back.
type session struct {
	asked  []setting // the URL asks for these; the others win
	needed []setting // a promise rests on each: Kapsel refuses a connection with another value
	wished []setting // another value only makes statements slower: Kapsel logs a warning
}

// Row-level security shows a session the rows of the tenant that the setting tenantSetting names:
// the rows of all tenants for everyone, and none for nobody.
const (
	tenantSetting = "kapsel.tenant"
	everyone      = "*"
	nobody        = ""
)

// engineSession is the session of calls that are made for no tenant. Its settings win over those
// of the role and the database. A statement that waits longer than the limits fails, and its
// caller tries again.
var engineSession = session{
	needed: []setting{
		{"synchronous_commit", "on"},
		usualTimeout,
		{"lock_timeout", "2s"},
		{"idle_in_transaction_session_timeout", "5s"},
		{"idle_session_timeout", "0"}, // a node may have nothing to do for hours
		{"row_security", "on"},
		{"default_transaction_isolation", "read committed"},
		{"TimeZone", "UTC"},
		{tenantSetting, everyone},
	},
	// A young table has no statistics, and a plan made without them is kept. Every query of Kapsel has
	// an index that gives few rows in the right order, so the planner may use only that. The penalty
	// on other plans would otherwise start the compiler.
	wished: []setting{
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"jit", "off"},
	},
}

// usualTimeout is how long a statement may take, unless bodies may be longer than store.UsualBody.
var usualTimeout = setting{"statement_timeout", "5s"}

// patient returns the session with more time for a statement. Callers must keep the sum below a
// minute: PostgreSQL shows longer times in minutes.
func (s session) patient(more time.Duration) session {
	if more == 0 || !slices.Contains(s.needed, usualTimeout) {
		return s
	}
	return s.with(setting{usualTimeout.name, fmt.Sprintf("%ds", (5*time.Second+more)/time.Second)})
}

// peopleSession is the session of calls that name their tenant in each transaction.
var peopleSession = engineSession.with(setting{tenantSetting, nobody})

// migrationLock is how long a migration waits for a lock. All writes to a table wait behind a migration that
// waits for the table, so it is less than they wait.
var migrationLock = setting{"lock_timeout", "1s"}

// migrationSession sets no other time limits: a migration takes long.
var migrationSession = engineSession.with(
	setting{"statement_timeout", "0"},
	migrationLock,
	setting{"idle_in_transaction_session_timeout", "0"})

// hotSession is the session of the hot path, whose statements join arrays to a table by its key.
// It has a plan made once, whatever the arrays' lengths, and does not spill a batch to disk.
var hotSession = session{
	needed: engineSession.needed,
	wished: append(slices.Clone(engineSession.wished),
		setting{"enable_material", "off"},
		setting{"plan_cache_mode", "force_generic_plan"},
		setting{"work_mem", "64MB"}),
}

// with returns the session with other values of some needed settings.
func (s session) with(changed ...setting) session {
	s.needed = slices.Clone(s.needed)
	for _, c := range changed {
		s.needed[slices.IndexFunc(s.needed, func(n setting) bool { return n.name == c.name })] = c
	}
	return s
}

// set sets the settings on a new connection, in one round trip. If the server refuses one, set
// sets all but the wished settings and then each wished one, and calls refused with the name of each
// wished one that the server refused.
func (s session) set(ctx context.Context, conn *pgconn.PgConn, refused func(name string, err error)) error {
	// A pooler that does not clean up leaves the statements and settings of the session's former client.
	needed := "DEALLOCATE ALL; RESET ALL;"
	for _, a := range s.asked {
		needed += fmt.Sprintf("SELECT set_config(%s, %s, false);", quote(a.name), quote(a.value))
	}
	needed += usual + sets(s.needed)
	wished := slices.Concat(s.wished, unseen)
	if _, err := conn.Exec(ctx, needed+sets(wished)).ReadAll(); sqlState(err) == "" {
		return err
	}
	if _, err := conn.Exec(ctx, needed).ReadAll(); err != nil {
		return err
	}
	for _, w := range wished {
		if _, err := conn.Exec(ctx, sets([]setting{w})).ReadAll(); sqlState(err) != "" {
			refused(w.name, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// usual undoes settings of a role or a database that have no right value for every server. The server
// converts no text, because the client's encoding is the database's. A whole transaction has no limit;
// servers have one from version 17 on, beside the limits of statements and waits.
const usual = `SELECT set_config('client_encoding', current_setting('server_encoding'), false);
	SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('server_version_num')::int >= 170000;`

// unseen are settings that are set and not read back: PostgreSQL shows what the system made of them,
// which is nothing on a Unix socket. With them the server notices within ten seconds that a node is
// gone, whether it waits for an answer to what it has sent or for the rest of a batch. The locks of
// that node's transaction would else stay for hours.
var unseen = []setting{
	{"tcp_user_timeout", "5s"}, {"tcp_keepalives_idle", "2"}, {"tcp_keepalives_interval", "1"}, {"tcp_keepalives_count", "5"},
}

// quote returns text as a literal of SQL.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// sets returns the statements that set the settings.
func sets(all []setting) string {
	var sql strings.Builder
	for _, s := range all {
		fmt.Fprintf(&sql, "SET %s TO '%s';", s.name, s.value)
	}
	return sql.String()
}

// state is what a connection's session says of itself: the values of the settings that were asked
// for and of those in shown, and the two values that ask adds, backend and micros.
type state map[string]string

// shown are the server's own settings in a state.
var shown = []string{"server_version_num", "fsync", "full_page_writes", "transaction_read_only"}

// ask returns a session's state, in one round trip.
func (s session) ask(ctx context.Context, conn *pgconn.PgConn) (state, error) {
	sql := "SELECT pg_backend_pid() AS backend, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS micros"
	for _, name := range shown {
		sql += fmt.Sprintf(", current_setting('%s') AS %q", name, name)
	}
	for _, n := range slices.Concat(s.needed, s.wished) {
		sql += fmt.Sprintf(", current_setting('%s', true) AS %q", n.name, n.name)
	}
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("the server says nothing of its session")
	}
	st := state{}
	for i, f := range results[0].FieldDescriptions {
		st[f.Name] = string(results[0].Rows[0][i])
	}
	return st, nil
}

// broken returns the first needed setting that has another value. found is false if there is none.
func (s session) broken(st state) (n setting, found bool) {
	i := slices.IndexFunc(s.needed, func(n setting) bool { return st[n.name] != n.value })
	if i < 0 {
		return n, false
	}
	return s.needed[i], true
}
