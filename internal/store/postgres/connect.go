package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// lane is one connection for the hot path, with its statements prepared. It is made when it is
// needed. Only one goroutine at a time may use a lane.
type lane struct {
	from       *connector
	texts      map[string]string
	conn       *pgconn.PgConn // nil: none
	generation int64          // conn's generation; see connector
	pooled     bool           // conn goes through a pooler
	statements map[string]*pgconn.StatementDescription
}

func newLane(from *connector, statements map[string]string) *lane {
	l := &lane{from: from, texts: map[string]string{sameSession: "SELECT CAST(pg_backend_pid() AS text)"}}
	maps.Copy(l.texts, statements)
	return l
}

// sameSession is the statement with which a lane checks that its session is still its own.
const sameSession = "same session"

// open makes a connection, unless the lane has an open one of the current generation. If open
// fails, nothing was sent.
func (l *lane) open(ctx context.Context) error {
	generation := l.from.generation.Load()
	if l.conn != nil && !l.conn.IsClosed() && l.generation == generation {
		return nil
	}
	l.drop()
	conn, err := l.from.connect(ctx, hotSession)
	if err != nil {
		return err
	}
	l.statements = make(map[string]*pgconn.StatementDescription, len(l.texts))
	for name, text := range l.texts {
		if l.statements[name], err = conn.Prepare(ctx, name, text, nil); err != nil {
			closeNow(conn)
			return fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	l.conn, l.generation, l.pooled = conn, generation, pooled(conn)
	return nil
}

// drop closes the connection. The server rolls back a transaction under way.
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

// command is a prepared statement to run: the statement's name, its parameters in binary form, and
// a function that is called with each row of the result.
type command struct {
	statement string
	params    [][]byte
	each      func(*row)
}

// binaryForm asks for the binary form of all parameters or columns.
var binaryForm = []int16{1}

// run sends the commands together and reads their results, in one round trip. Outside of an
// explicit transaction the commands are one transaction, which is committed if run returns nil. If
// a pooler is in between, run also fails if a session other than the lane's own served the
// commands: their writes may be committed, but not as Kapsel asked for them.
func (l *lane) run(ctx context.Context, commands ...command) error {
	var foreign error
	if l.pooled {
		check := command{sameSession, nil, func(r *row) {
			if r.text() != backendOf(l.conn) {
				foreign = errPooling("transaction", "one connection was served by two sessions")
			}
		}}
		commands = append([]command{check}, commands...)
	}
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
	return cmp.Or(foreign, unreadable)
}

// guarded is a lane that several goroutines use in turn.
type guarded struct {
	limit  time.Duration // time limit of a transaction
	mu     sync.Mutex
	lane   *lane
	closed bool
}

// use runs a transaction on the lane, and again if another transaction got in its way. It closes
// the connection after a failure that leaves a transaction open or makes the connection useless.
func (g *guarded) use(ctx context.Context, run func(context.Context, *lane) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return g.lane.from.failed(errClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	return g.lane.from.failed(retry(ctx, func() error {
		if err := g.lane.open(ctx); err != nil {
			return err
		}
		err := run(ctx, g.lane)
		if stale(err) || lasting(err) || g.lane.conn.TxStatus() != 'I' {
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
