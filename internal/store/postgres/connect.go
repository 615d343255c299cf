package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// lane is one connection for the hot path, with its statements prepared. It is made when it is
// needed. Only one goroutine at a time may use a lane.
type lane struct {
	from  *connector
	texts map[string]string
	connection
	opening chan opened        // gets the connection that is being made; nil: none is
	cancel  context.CancelFunc // ends what makes it
}

// connection is an open connection with prepared statements.
type connection struct {
	conn       *pgconn.PgConn // nil: none
	generation int64          // see connector
	pooled     bool           // conn goes through a pooler
	statements map[string]*pgconn.StatementDescription
}

// opened is a connection, or why there is none.
type opened struct {
	connection
	err error
}

func newLane(from *connector, statements map[string]string) *lane {
	l := &lane{from: from, texts: map[string]string{sameSession: "SELECT CAST(pg_backend_pid() AS text)"}}
	maps.Copy(l.texts, statements)
	return l
}

// sameSession is the statement with which a lane checks that its session is still its own.
const sameSession = "same session"

// openTimeout bounds how long a lane's connection is made. The URL may name servers that do not answer, each of
// which takes a time-out of its own.
const openTimeout = time.Minute

// open makes a connection, unless the lane has an open one of the current generation. If open
// fails, nothing was sent. After the end of ctx the connection is still made, and the next call gets
// it: no call may have the time that a far server or several dead ones take.
func (l *lane) open(ctx context.Context) error {
	for l.conn == nil || l.conn.IsClosed() || l.generation != l.from.generation.Load() {
		l.drop()
		if l.opening == nil {
			opening := make(chan opened, 1)
			making, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
			l.opening, l.cancel = opening, cancel
			go func() {
				defer cancel()
				made, err := l.make(making)
				opening <- opened{made, err}
			}()
		}
		select {
		case made := <-l.opening:
			l.opening = nil
			if made.err != nil {
				return made.err
			}
			l.connection = made.connection
		case <-ctx.Done():
			return fmt.Errorf("connect: %w", ctx.Err())
		}
	}
	return nil
}

// make returns a new connection with the lane's statements, which it prepares in one round trip.
func (l *lane) make(ctx context.Context) (c connection, err error) {
	c.generation = l.from.generation.Load()
	if c.conn, err = l.from.connect(ctx, hotSession); err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			closeNow(c.conn)
		}
	}()
	names := slices.Sorted(maps.Keys(l.texts))
	pipeline := c.conn.StartPipeline(ctx)
	for _, name := range names {
		pipeline.SendPrepare(name, l.texts[name], nil)
	}
	if err := pipeline.Sync(); err != nil {
		return c, fmt.Errorf("prepare statements: %w", err)
	}
	c.statements = make(map[string]*pgconn.StatementDescription, len(names))
	for _, name := range names {
		answer, err := pipeline.GetResults()
		if err != nil {
			return c, fmt.Errorf("prepare %s: %w", name, err)
		}
		statement, ok := answer.(*pgconn.StatementDescription)
		if !ok {
			return c, fmt.Errorf("prepare %s: the library answers with %T", name, answer)
		}
		statement.Name, statement.SQL = name, l.texts[name] // the library sets neither
		c.statements[name] = statement
	}
	c.pooled = pooled(c.conn)
	return c, pipeline.Close()
}

// drop closes the connection. The server rolls back a transaction under way.
func (l *lane) drop() {
	if l.conn != nil {
		closeNow(l.conn)
		l.connection = connection{}
	}
}

// close closes the connection, also one that is being made.
func (l *lane) close() {
	l.drop()
	if l.opening != nil {
		l.cancel()
		if made := <-l.opening; made.err == nil {
			closeNow(made.conn)
		}
		l.opening = nil
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
	g.lane.close()
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
