package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session are the settings of every connection. They win over those of the role and the
// database. What waits longer than these limits fails and is tried again by its caller.
var session = map[string]string{
	"synchronous_commit":                  "on",
	"statement_timeout":                   "5s",
	"lock_timeout":                        "2s",
	"idle_in_transaction_session_timeout": "5s",
	"tcp_user_timeout":                    "5s",
	"default_transaction_isolation":       "read committed",
	"timezone":                            "UTC",
	tenantSetting:                         everyone,
	// A young table has no statistics, and a plan made without them is kept. Every query of
	// ours has an index that gives few rows in the right order, so that is what is left to
	// the planner. The penalty on other plans would otherwise start the compiler.
	"enable_seqscan":    "off",
	"enable_bitmapscan": "off",
	"enable_hashjoin":   "off",
	"enable_mergejoin":  "off",
	"jit":               "off",
}

// hotSession are further settings of the connections of the hot path, whose statements join
// arrays to a table by its key: with a plan made once, whatever the arrays' lengths, and
// without spilling a batch to disk.
var hotSession = map[string]string{
	"enable_material": "off",
	"plan_cache_mode": "force_generic_plan",
	"work_mem":        "64MB",
}

// Row-level security shows a session the rows of the tenant that a setting of it names, those
// of all tenants for everyone, and none where it is not set.
const (
	tenantSetting = "kapsel.tenant"
	everyone      = "*"
)

// How long a connection may take to be made, and how long the kernel waits for the other
// side to acknowledge what was sent.
const (
	connectTimeout = 2 * time.Second
	userTimeout    = 5 * time.Second
)

// configure sets on a connection what all of ours have.
func configure(config *pgx.ConnConfig) {
	maps.Copy(config.RuntimeParams, session)
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "kapsel"
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > 10*time.Second {
		config.ConnectTimeout = connectTimeout
	}
	dialer := net.Dialer{Timeout: config.ConnectTimeout, KeepAlive: userTimeout, Control: setUserTimeout}
	config.DialFunc = dialer.DialContext
	if config.ValidateConnect == nil { // the URL says nothing of target_session_attrs
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
}

// lane is one connection for the hot path, made when it is needed, with its statements
// prepared. It is used by one goroutine at a time.
type lane struct {
	config     *pgconn.Config
	texts      map[string]string
	conn       *pgconn.PgConn // nil: none
	statements map[string]*pgconn.StatementDescription
}

func newLane(config *pgx.ConnConfig, statements map[string]string) *lane {
	c := config.Config.Copy()
	maps.Copy(c.RuntimeParams, hotSession)
	return &lane{config: c, texts: statements}
}

// open makes sure that there is a connection. When it fails, nothing was sent.
func (l *lane) open(ctx context.Context) error {
	if l.conn != nil && !l.conn.IsClosed() {
		return nil
	}
	conn, err := pgconn.ConnectConfig(ctx, l.config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	l.statements = make(map[string]*pgconn.StatementDescription, len(l.texts))
	for name, text := range l.texts {
		if l.statements[name], err = conn.Prepare(ctx, name, text, nil); err != nil {
			closeNow(conn)
			return fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	l.conn = conn
	return nil
}

// drop closes the connection; a transaction under way on it is rolled back.
func (l *lane) drop() {
	if l.conn != nil {
		closeNow(l.conn)
		l.conn = nil
	}
}

func closeNow(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// command is a prepared statement to run: its name, parameters in binary form, and what to
// do with each row of the result.
type command struct {
	statement string
	params    [][]byte
	each      func(*row)
}

// binary asks for the binary form of all parameters or columns.
var binaryForm = []int16{1}

// run sends the commands together and reads their results: one round trip. Outside of an
// explicit transaction they are one, committed when run returns nil.
func (l *lane) run(ctx context.Context, commands ...command) error {
	var batch pgconn.Batch
	for _, c := range commands {
		batch.ExecStatement(l.statements[c.statement], c.params, binaryForm, binaryForm)
	}
	results := l.conn.ExecBatch(ctx, &batch)
	var unreadable error
	for i := 0; results.NextResult(); i++ {
		result := results.ResultReader()
		for result.NextRow() {
			r := row{values: result.Values()}
			if each := commands[i].each; each != nil {
				each(&r)
			}
			if r.err != nil && unreadable == nil {
				unreadable = fmt.Errorf("%s: %w", commands[i].statement, r.err)
			}
		}
		if _, err := result.Close(); err != nil {
			break
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	return unreadable
}

// guarded is a lane that several goroutines take turns with.
type guarded struct {
	mu     sync.Mutex
	lane   *lane
	closed bool
}

// use runs a transaction on the lane, again while others get in its way. A failure that
// leaves the connection within a transaction, or with a server that takes no writes, closes it.
func (g *guarded) use(ctx context.Context, run func(context.Context, *lane) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return failed(errClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return failed(retry(ctx, func() error {
		if err := g.lane.open(ctx); err != nil {
			return err
		}
		err := run(ctx, g.lane)
		if stale(err) || g.lane.conn.TxStatus() != 'I' {
			g.lane.drop()
		}
		return err
	}))
}

func (g *guarded) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.lane.drop()
}

// checkServer refuses a server that is too old, or that does not keep what it commits.
func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version, fsync, pageWrites string
	err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num'), current_setting('fsync'), current_setting('full_page_writes')").
		Scan(&version, &fsync, &pageWrites)
	if err != nil {
		return fmt.Errorf("ask the server for its settings: %w", err)
	}
	if n, err := strconv.Atoi(version); err != nil || n < 140000 {
		return fmt.Errorf("%w: it is of version %s; 14 or newer is needed", ErrUnsafe, version)
	}
	if fsync != "on" {
		return fmt.Errorf("%w: it runs with fsync=%s; set it to on", ErrUnsafe, fsync)
	}
	if pageWrites != "on" {
		return fmt.Errorf("%w: it runs with full_page_writes=%s; set it to on", ErrUnsafe, pageWrites)
	}
	return nil
}

// warnUnbound logs that row-level security does not bind the role of a connection.
func warnUnbound(ctx context.Context, conn *pgx.Conn, log *slog.Logger) error {
	var role string
	var unbound bool
	err := conn.QueryRow(ctx, "SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user").Scan(&role, &unbound)
	if err != nil {
		return fmt.Errorf("ask the server for the role: %w", err)
	}
	if unbound {
		log.WarnContext(ctx, "the database role is a superuser or has BYPASSRLS, so row-level security is no second wall between tenants; "+
			"connect as a plain role that owns the database", "role", role)
	}
	return nil
}
