package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// connectorOf makes a connector for a test's database.
func connectorOf(t *testing.T, url string) *connector {
	t.Helper()
	c, err := newConnector(url, Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// meddler stands between a store and its server and takes a statement out of what the store
// sends, as a proxy does that knows better.
type meddler struct {
	url string

	mu    sync.Mutex
	drops string // the statement; "": none
	conns []net.Conn
}

func newMeddler(t *testing.T, url string) *meddler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(url, "@")
	server, database, _ := strings.Cut(rest, "/")
	m := &meddler{url: before + "@" + l.Addr().String() + "/" + database}
	t.Cleanup(func() {
		l.Close()
		m.drop("")
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			m.mu.Lock()
			m.conns = append(m.conns, client)
			m.mu.Unlock()
			go func() {
				defer upstream.Close()
				buf := make([]byte, 1<<20)
				for {
					n, err := client.Read(buf)
					m.mu.Lock()
					if m.drops != "" { // a message has its length, so the statement becomes spaces
						copy(buf, bytes.ReplaceAll(buf[:n], []byte(m.drops), bytes.Repeat([]byte(" "), len(m.drops))))
					}
					m.mu.Unlock()
					if _, werr := upstream.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
			go func() {
				defer client.Close()
				_, _ = io.Copy(client, upstream)
			}()
		}
	}()
	return m
}

// drop ends all connections and drops a statement from those that come.
func (m *meddler) drop(statement string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drops = statement
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// TestSession_GoneNodes checks that the server looks whether a node that sends nothing is still there, so that
// the locks of a node that is gone do not stay.
func TestSession_GoneNodes(t *testing.T) {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, session := range map[string]session{"engine": engineSession, "people": peopleSession, "hot": hotSession, "migration": migrationSession} {
		conn, err := s.from.connect(t.Context(), session)
		if err != nil {
			t.Fatal(err)
		}
		defer closeNow(conn)
		for setting, want := range map[string]string{"tcp_user_timeout": "5000", "tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "5"} {
			results, err := conn.Exec(t.Context(), "SHOW "+setting).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(results[0].Rows[0][0]); got != want {
				t.Errorf("%s: %s is %s, want %s", name, setting, got, want)
			}
		}
	}
}

func TestSession_IsReadBack(t *testing.T) {
	url := pgtest.New(t)
	m := newMeddler(t, url)
	var log lockedLog
	s, err := Open(t.Context(), m.url, Options{Migrate: true, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, n := range engineSession.needed {
		t.Run(n.name, func(t *testing.T) {
			// With a default that is another, whatever the server's own is.
			other := map[string]string{"synchronous_commit": "off", "default_transaction_isolation": "serializable", "TimeZone": "Asia/Tokyo", "row_security": "off"}[n.name]
			if n.name != tenantSetting {
				if other == "" {
					other = "7s"
				}
				pgtest.Exec(t, pgtest.Superuser(url), fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET %s = %%L', current_database(), '%s'); END $$`, n.name, other))
				defer pgtest.Exec(t, pgtest.Superuser(url), fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I RESET %s', current_database()); END $$`, n.name))
			}
			m.drop(sets([]setting{n}))
			defer m.drop("")

			refusedByName := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, ErrSession) || !strings.Contains(err.Error(), n.name) || store.Passes(err) {
					t.Errorf("%s: error is %v", what, err)
				}
			}
			if other, err := Open(t.Context(), m.url, Options{}); err == nil {
				other.Close()
				t.Error("the store is opened")
			} else if n.name != "statement_timeout" && n.name != "lock_timeout" && n.name != "idle_in_transaction_session_timeout" {
				refusedByName("open", err) // migrations ask for other limits, so that their sessions are as they want
			}
			until(t, "the connections are made anew", func() bool { return !store.Passes(s.Ping(t.Context())) })
			refusedByName("ping", s.Ping(t.Context()))
			_, err := s.Accept(t.Context(), anAcceptance())
			refusedByName("accept", err)
			var e *kapsel.Error
			if !errors.As(err, &e) || e.Code != kapsel.DatabaseUnavailable || !strings.Contains(e.Detail, n.name) || strings.Contains(e.Detail, "try again;") {
				t.Errorf("the answer is %v", e)
			}
		})
		until(t, "it is ready again", func() bool { return s.Ping(t.Context()) == nil })
		if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
			t.Errorf("accept once %s is set again: %v", n.name, err)
		}
	}
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("nothing of it is an error in the log: %s", log.String())
	}
}

// TestSession_SettingsOfTheDatabase checks that settings of a role or a database with which Kapsel could not
// work do not reach its sessions.
func TestSession_SettingsOfTheDatabase(t *testing.T) {
	for _, other := range []setting{{"client_encoding", "LATIN1"}, {"row_security", "off"}} {
		t.Run(other.name, func(t *testing.T) {
			url := pgtest.New(t)
			pgtest.Exec(t, pgtest.Superuser(url), fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET %s = %%L', current_database(), '%s'); END $$`, other.name, other.value))
			var log lockedLog
			s, err := Open(t.Context(), url, Options{Migrate: true, Log: log.logger()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			now := time.Now().UTC()
			tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "Zoë 日本", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
			if err := s.CreateTenant(t.Context(), tenant); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
				t.Error(err)
			}
			if got, err := s.Tenant(t.Context(), tenant.ID); err != nil || got.Name != tenant.Name {
				t.Errorf("the name is %q, %v", got.Name, err)
			}
			conn, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			var name []byte
			if err := conn.QueryRow(t.Context(), "SELECT convert_to(name, 'UTF8') FROM tenants WHERE id = $1", [16]byte(tenant.ID)).Scan(&name); err != nil || string(name) != tenant.Name {
				t.Errorf("the database has the name %q, %v", name, err)
			}
			if strings.Contains(log.String(), "level=WARN") {
				t.Errorf("it warns: %s", log.String())
			}
		})
	}
}

func TestSession_WhatOnlyMakesItFastIsAWarning(t *testing.T) {
	url := pgtest.New(t)
	m := newMeddler(t, url)
	m.drop(sets([]setting{{"enable_seqscan", "off"}}))
	var log lockedLog
	s, err := Open(t.Context(), m.url, Options{Migrate: true, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "setting=enable_seqscan"); n != 1 || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

// A server that does not know a setting that only makes Kapsel fast is used without it.
func TestSession_ASettingThatTheServerDoesNotKnow(t *testing.T) {
	conn, err := pgconn.Connect(t.Context(), pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	s := engineSession
	s.wished = append([]setting{{"no_such_setting", "on"}}, s.wished...)
	var unknown []string
	if err := s.set(t.Context(), conn, func(name string, err error) { unknown = append(unknown, name) }); err != nil {
		t.Fatal(err)
	}
	if len(unknown) != 1 || unknown[0] != "no_such_setting" {
		t.Errorf("refused were %v", unknown)
	}
	st, err := engineSession.ask(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range append(engineSession.needed, engineSession.wished...) {
		if st[n.name] != n.value {
			t.Errorf("%s is %q", n.name, st[n.name])
		}
	}
}

// A server may lose its durability while it runs: a reload is enough.
func TestServer_LosesItsDurabilityAtRunTime(t *testing.T) {
	server := pgtest.Start(t)
	url := server.New(t)
	var log lockedLog
	s, err := Open(t.Context(), url, Options{Migrate: true, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pgtest.Exec(t, pgtest.Superuser(url), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
	until(t, "it is not ready", func() bool { return errors.Is(s.Ping(t.Context()), ErrUnsafe) })
	if _, err := s.Accept(t.Context(), anAcceptance()); !errors.Is(err, ErrUnsafe) || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
		t.Errorf("accepted without fsync: %v", err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "fsync=off") {
		t.Errorf("the log has %s", log.String())
	}
	pgtest.Exec(t, pgtest.Superuser(url), "ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
	until(t, "it is ready", func() bool { return s.Ping(t.Context()) == nil })
	if _, err := s.Accept(t.Context(), anAcceptance()); err != nil {
		t.Error(err)
	}
}

func TestServer_DurableElsewhere(t *testing.T) {
	open := func(t *testing.T, url string, external bool) error {
		t.Helper()
		s, err := Open(t.Context(), url, Options{Migrate: true, External: external})
		if err == nil {
			s.Close()
		}
		return err
	}
	t.Run("none", func(t *testing.T) {
		url := pgtest.Start(t, "fsync = off", "full_page_writes = off").New(t)
		if err := open(t, url, false); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "KAPSEL_DATABASE_DURABILITY=external") {
			t.Errorf("error is %v", err)
		}
		// What a role or an ordinary user can make is no sign of anything.
		pgtest.Exec(t, pgtest.Superuser(url), "ALTER ROLE kapsel SET neon.timeline_id = 'x'")
		pgtest.Exec(t, url, "CREATE FUNCTION aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '1' $$")
		if err := open(t, url, false); !errors.Is(err, ErrUnsafe) {
			t.Errorf("with signs that anybody can make: error is %v", err)
		}
		if err := open(t, url, true); err != nil {
			t.Errorf("with the operator's word: %v", err)
		}
	})
	t.Run("Neon", func(t *testing.T) {
		url := pgtest.Start(t, "fsync = off", "neon.timeline_id = 'de200bd42b49cc1814412c7e592dd6e9'").New(t)
		if err := open(t, url, false); err != nil {
			t.Error(err)
		}
	})
	t.Run("Aurora", func(t *testing.T) {
		url := pgtest.Start(t, "full_page_writes = off").New(t)
		pgtest.Exec(t, pgtest.Superuser(url), "CREATE FUNCTION pg_catalog.aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '15.4.0' $$")
		if err := open(t, url, false); err != nil {
			t.Error(err)
		}
	})
}

func TestURL_RefusesByName(t *testing.T) {
	const url = "postgres://kapsel:hunter2@127.0.0.1:1/kapsel?sslmode=disable"
	for _, tt := range []struct{ parameters, names string }{
		{"default_query_exec_mode=exec", "default_query_exec_mode"},
		{"default_query_exec_mode=simple_protocol", "default_query_exec_mode"},
		{"default_query_exec_mode=cache_describe", "default_query_exec_mode"},
		{"default_query_exec_mode=nonsense", "default_query_exec_mode"},
		{"statement_cache_capacity=0", "statement_cache_capacity"},
		{"target_session_attrs=read-only", "target_session_attrs"},
		{"target_session_attrs=standby", "target_session_attrs"},
		{"target_session_attrs=prefer-standby", "target_session_attrs"},
		{"synchronous_commit=off", "synchronous_commit"},
		{"statement_timeout=0", "statement_timeout"},
		{"Lock_Timeout=1s", "Lock_Timeout"},
		{"kapsel.tenant=x", "kapsel.tenant"},
		{"timezone=Europe/Berlin", "timezone"},
		{"default_transaction_isolation=serializable", "default_transaction_isolation"},
		{"enable_seqscan=on", "enable_seqscan"},
		{"options=-c%20synchronous_commit%3Doff", "options: synchronous_commit"},
		{"options=-csynchronous_commit%3Doff", "options: synchronous_commit"},
		{"options=--synchronous-commit%3Doff", "options: synchronous_commit"},
		{"client_encoding=LATIN1", "client_encoding"},
		{"default_transaction_read_only=on", "default_transaction_read_only"},
		{"row_security=off", "row_security"},
		{"replication=database", "replication"},
		{"pool_max_conns=none", "pool_max_conns"},
		{"sslmode=nonsense", "sslmode"},
	} {
		_, err := Open(t.Context(), url+"&"+tt.parameters, Options{})
		if !errors.Is(err, ErrURL) || !strings.Contains(err.Error(), tt.names) || store.Passes(err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error is %v", tt.parameters, err)
		}
	}
	for _, parameters := range []string{
		"default_query_exec_mode=cache_statement", "statement_cache_capacity=100", "target_session_attrs=primary",
		"synchronous_commit=on", "timezone=utc", "application_name=a", "search_path=a", "work_mem=1GB", "pool_max_conns=3",
		"options=-c%20search_path%3Da", "options=-c%20work_mem%3D1GB", "client_encoding=UTF8", "connect_timeout=3",
	} {
		if _, err := readURL(url + "&" + parameters); err != nil {
			t.Errorf("%s: %v", parameters, err)
		}
	}
}

// What is set for other programs does not keep Kapsel from starting, and does not change its
// sessions.
func TestURL_TheEnvironmentIsForOthersToo(t *testing.T) {
	url := pgtest.New(t)
	t.Setenv("PGOPTIONS", "-c synchronous_commit=off -c kapsel.tenant=*")
	t.Setenv("PGTZ", "Europe/Berlin")
	s, err := Open(t.Context(), url, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.look(t.Context()); err != nil {
		t.Error(err)
	}
	t.Setenv("PGTARGETSESSIONATTRS", "standby")
	if _, err := Open(t.Context(), url, Options{}); !errors.Is(err, ErrURL) {
		t.Errorf("for a standby: %v", err)
	}
}

func TestURL_NoPasswordInErrors(t *testing.T) {
	for _, url := range []string{
		"postgres://kapsel:hunter2@127.0.0.1:port/kapsel",
		"postgres://kapsel:hunter2@127.0.0.1/kapsel?sslmode=nonsense",
		"postgres://kapsel:hunter2%@127.0.0.1/kapsel",
		"postgres://kapsel:hunter2@[::1/kapsel",
		"postgres://kapsel:hunter2/x@127.0.0.1/kapsel",
		"postgres://kapsel:a`: hunter2@127.0.0.1:port/kapsel",
		"postgres://127.0.0.1/kapsel?password=hunter2&port=x",
		"postgres://127.0.0.1/kapsel?password=hunter2&sslrootcert=/nowhere",
	} {
		_, err := Open(t.Context(), url, Options{})
		if !errors.Is(err, ErrURL) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
}

// Each new connection, of the hot path and of the pools, has the password that its file holds
// now, whatever way the file is named.
func TestPassword_IsReadAtEachConnect(t *testing.T) {
	server := pgtest.Start(t)
	sure := server.New(t)
	pgtest.Exec(t, pgtest.Superuser(sure), "ALTER ROLE kapsel PASSWORD 'first'")
	server.RequirePassword(t)
	password := func(t *testing.T, value string) {
		t.Helper()
		pgtest.Exec(t, pgtest.Superuser(sure), "ALTER ROLE kapsel PASSWORD '"+value+"'")
	}
	for name, prepare := range map[string]func(t *testing.T) (url string, write func(password string)){
		"the URL's passfile": func(t *testing.T) (string, func(string)) {
			file := filepath.Join(t.TempDir(), "pgpass")
			return server.New(t) + "&passfile=" + file, passwordFile(t, file)
		},
		"PGPASSFILE": func(t *testing.T) (string, func(string)) {
			file := filepath.Join(t.TempDir(), "pgpass")
			t.Setenv("PGPASSFILE", file)
			return server.New(t), passwordFile(t, file)
		},
		"the home directory": func(t *testing.T) (string, func(string)) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			return server.New(t), passwordFile(t, filepath.Join(home, ".pgpass"))
		},
		"a service file": func(t *testing.T) (string, func(string)) {
			file := filepath.Join(t.TempDir(), "services")
			url := server.New(t) + "&service=kapsel&servicefile=" + file
			return url, func(password string) {
				writeFile(t, file, "[kapsel]\npassword="+password+"\n")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, write := prepare(t)
			password(t, "first")
			write("first")
			s, err := Open(t.Context(), url, Options{Migrate: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			works := func(when string) {
				t.Helper()
				until(t, when, func() bool {
					_, accepted := s.Accept(t.Context(), anAcceptance())
					_, listed := s.ListTenants(t.Context(), store.Page[kapsel.TenantID]{Limit: 1})
					_, known := s.Nodes(t.Context(), anAcceptance().Event.ReceivedAt)
					renewed := s.Renew(t.Context(), kapsel.NodeID{1}, anAcceptance().Event.ReceivedAt, 1)
					return errors.Join(accepted, listed, known) == nil && kapsel.CodeOf(renewed) == kapsel.Conflict
				})
			}
			works("with the first password")

			password(t, "second")
			pgtest.Exec(t, pgtest.Superuser(sure), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'kapsel'")
			until(t, "the old password is refused", func() bool {
				_, err := s.Accept(t.Context(), anAcceptance())
				return sqlState(err) == "28P01" && kapsel.CodeOf(err) == kapsel.DatabaseUnavailable && !store.Passes(err)
			})
			write("second")
			works("with the second password")
		})
	}
	t.Run("wrong at start", func(t *testing.T) {
		_, err := Open(t.Context(), server.New(t)+"&password=wrong", Options{})
		if err == nil || store.Passes(err) || !strings.Contains(err.Error(), "user or password") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("error is %v", err)
		}
	})
}

func passwordFile(t *testing.T, name string) func(password string) {
	return func(password string) { writeFile(t, name, "*:*:*:kapsel:"+password+"\n") }
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// While a file is replaced, what it held before is used.
func TestPassword_WhileTheFileIsAway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pgpass")
	writeFile(t, file, "*:*:*:kapsel:secret\n")
	c := connectorOf(t, "postgres://kapsel@127.0.0.1:1/kapsel?passfile="+file)
	if got := c.config().ConnConfig.Password; got != "secret" {
		t.Errorf("the password is %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := c.config().ConnConfig.Password; got != "secret" {
		t.Errorf("without the file the password is %q", got)
	}
	writeFile(t, file, "*:*:*:kapsel:new\n")
	if got := c.config().ConnConfig.Password; got != "new" {
		t.Errorf("the password is %q", got)
	}
}

func TestLasting(t *testing.T) {
	state := func(code, text string) error {
		return fmt.Errorf("ask: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: text})
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.DeadlineExceeded, false},
		{io.ErrUnexpectedEOF, false},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, false},
		{&net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}, false},
		{pgconn.ErrReadOnlyConnection, false},
		{errClosed, false},
		{state("57P03", "the database system is starting up"), false},
		{state("57P01", "terminating connection"), false},
		{state("53300", "too many clients already"), false},
		{state("53100", "could not extend file"), false},
		{state("25006", "cannot execute INSERT in a read-only transaction"), false},
		{state("40001", "could not serialize"), false},
		{state("55P03", "lock not available"), false},
		{state("58030", "could not read"), false},
		{state("08006", "connection failure"), false},
		{state("08P01", "server login has been failing, try again later"), false},
		{state("08P01", "query_wait_timeout"), false},
		{state("XX000", "cache lookup failed"), false},
		{state("0A000", "cached plan must not change result type"), false},
		{state("42703", `column "x" does not exist`), true},
		{state("42P01", `relation "x" does not exist`), true},
		{state("42501", "permission denied"), true},
		{state("28P01", "password authentication failed"), true},
		{state("28000", "no pg_hba.conf entry"), true},
		{state("3D000", "database does not exist"), true},
		{state("08P01", "unsupported startup parameter: options"), true},
		{state("08P01", `database "x" does not exist`), true},
		{state("08P01", "no such user: x"), true},
		{state("XX001", "invalid page in block 7"), true},
		{state("0A000", "not supported"), true},
		{refuse(ErrPooling, "x"), true},
		{errors.Join(errors.New("tls error: server refused TLS connection")), true},
		{errors.Join(errors.New("tls error: server refused TLS connection"), errors.New("dial error: connection refused")), false},
		{errors.Join(errors.New("dial error: connection refused"), state("28P01", "")), true},
	} {
		if got := lasting(tt.err); got != tt.want {
			t.Errorf("%v lasts: %t", tt.err, got)
		}
	}
}

// A schema that somebody changed is not answered with "try again", and is found before the
// next event comes.
func TestLasting_AColumnIsMissing(t *testing.T) {
	url := pgtest.New(t)
	var log lockedLog
	s, err := Open(t.Context(), url, Options{Migrate: true, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for table, column := range map[string]string{"events": "body", "deliveries": "size", "tenant_usage": "bytes", "idempotency_keys": "expires_at"} {
		pgtest.Exec(t, pgtest.Superuser(url), fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO gone", table, column))
		err := s.Ping(t.Context())
		var e *kapsel.Error
		if !errors.As(err, &e) || e.Code != kapsel.DatabaseUnavailable || !strings.Contains(e.Detail, "schema") || !strings.Contains(e.Detail, "42703") ||
			strings.Contains(e.Detail, "does not answer") || strings.Contains(e.Detail, column) {
			t.Errorf("%s: ping: %v", table, err)
		}
		in := anAcceptance()
		in.Event.IdempotencyKey = []byte("key")
		if _, err := s.Accept(t.Context(), in); store.Passes(err) || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Errorf("%s: accept: %v", table, err)
		}
		pgtest.Exec(t, pgtest.Superuser(url), fmt.Sprintf("ALTER TABLE %s RENAME COLUMN gone TO %s", table, column))
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("%s: mended: %v", table, err)
		}
		if _, err := s.Accept(t.Context(), in); err != nil {
			t.Errorf("%s: mended: %v", table, err)
		}
	}
	pgtest.Exec(t, pgtest.Superuser(url), "REVOKE INSERT ON events FROM kapsel")
	if err := s.Ping(t.Context()); !strings.Contains(fmt.Sprint(err), "lacks a right") {
		t.Errorf("without the right to insert: %v", err)
	}
	pgtest.Exec(t, pgtest.Superuser(url), "GRANT INSERT ON events TO kapsel")
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want one a minute: %s", n, log.String())
	}
}

// A rehearsal leaves nothing.
func TestPing_LeavesNothing(t *testing.T) {
	url := pgtest.New(t)
	s, err := Open(t.Context(), url, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, table := range []string{"events", "deliveries", "idempotency_keys", "tenant_usage", "guards"} {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s has %d rows, %v", table, n, err)
		}
	}
}

// TestPatientSession: with larger bodies statements have more time, and with the usual ones the
// same as ever; a migration has as much as it wants.
func TestPatientSession(t *testing.T) {
	for _, tt := range []struct {
		of   session
		body int64
		want string
	}{
		{engineSession, 0, "5s"}, {engineSession, 10 << 20, "5s"}, {engineSession, 10<<20 + 1, "6s"}, {hotSession, 64 << 20, "59s"},
		{peopleSession, 25 << 20, "20s"}, {migrationSession, 64 << 20, "0"},
	} {
		s := tt.of.patient(store.BodyTime(tt.body))
		if !slices.Contains(s.needed, setting{"statement_timeout", tt.want}) {
			t.Errorf("with bodies of %d bytes: %v, want %s", tt.body, s.needed, tt.want)
		}
	}
}

// A server that takes no writes may do so later; until then the error says why it takes none.
func TestReadOnly_IsNamed(t *testing.T) {
	url := pgtest.New(t)
	pgtest.Exec(t, pgtest.Superuser(url), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	s, err := Open(t.Context(), url, Options{})
	if err == nil {
		s.Close()
	}
	if err == nil || !store.Passes(err) || !strings.Contains(err.Error(), "default_transaction_read_only is on") {
		t.Errorf("error is %v", err)
	}
}
