package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// connectTimeout is how long it may take to make a connection, if the URL gives no time or more
// than 10 s. userTimeout is how long the kernel waits for the other side to acknowledge what was
// sent.
const (
	connectTimeout = 2 * time.Second
	userTimeout    = 5 * time.Second
)

// connector makes all connections of a store. It reads the URL anew for each connection, so that a
// password or certificate that was rotated in its file is used from then on. It refuses a
// connection that lacks what Kapsel's promises rest on: the session's settings, the server's
// settings, and that a session stays with its connection. Any goroutine may use a connector.
type connector struct {
	url      string
	external bool          // the server keeps what it commits, whatever its settings say
	bodyTime time.Duration // how much longer than usual a statement with a body may take
	log      *slog.Logger
	alarm    *store.Alarm // raised by errors that last; silent while the store is opened, since Open returns them

	// generation grows when open connections are no longer as Kapsel asked for them. Connections of an
	// older generation must be made anew.
	generation atomic.Int64

	mu        sync.Mutex
	last      *pgxpool.Config // the URL's configuration when it could be read last
	unread    bool            // the last try to read the URL failed, and this was logged
	elsewhere string          // the known service that keeps the server's data; "": none known
	warned    map[string]bool // wished settings whose refusal was logged

	pooling  sync.Mutex // held during a check; see checkPooling
	checked  time.Time  // when the last check began
	unpooled error      // what the last check found
}

// newConnector returns a connector for a URL. It fails as readURL does.
func newConnector(url string, opts Options, log *slog.Logger) (*connector, error) {
	config, err := readURL(url)
	if err != nil {
		return nil, err
	}
	return &connector{url: url, external: opts.External, bodyTime: store.BodyTime(opts.MaxBody), log: log, alarm: &store.Alarm{}, last: config, warned: map[string]bool{}}, nil
}

// config returns the URL's configuration, with the password and the certificates that their files
// hold now. If they cannot be read, as while a file is replaced, it returns what they held before.
func (c *connector) config() *pgxpool.Config {
	config, err := readURL(c.url)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if !c.unread {
			c.log.Warn("the files of the database URL cannot be read; connecting with what they held before", "error", err)
		}
		c.unread = true
		return c.last.Copy()
	}
	c.unread = false
	if config.ConnConfig.Password == "" { // the password file may be missing for a moment
		config.ConnConfig.Password = c.last.ConnConfig.Password
	}
	c.last = config
	return config.Copy()
}

// conn returns the configuration of a connection with a session.
func (c *connector) conn(s session) *pgx.ConnConfig {
	config := c.config().ConnConfig
	s.asked = takeSettings(config.RuntimeParams)
	config.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error { return c.agree(ctx, conn, s) }
	return config
}

// connect returns a new connection with a session.
func (c *connector) connect(ctx context.Context, s session) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, &c.conn(s).Config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// pool returns a new pool of at most most connections, each with a session. The first is made: a call
// may wait for less time than that takes.
func (c *connector) pool(ctx context.Context, s session, most int32) (*pgxpool.Pool, error) {
	config, one := c.config(), c.conn(s)
	config.ConnConfig.AfterConnect, config.ConnConfig.RuntimeParams = one.AfterConnect, one.RuntimeParams
	config.MaxConns = min(config.MaxConns, most)
	config.MinConns, config.MinIdleConns = min(config.MinConns, config.MaxConns), min(config.MinIdleConns, config.MaxConns)
	config.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		now := c.config().ConnConfig
		conn.Host, conn.Port, conn.TLSConfig, conn.Fallbacks = now.Host, now.Port, now.TLSConfig, now.Fallbacks
		conn.User, conn.Password, conn.Database = now.User, now.Password, now.Database
		return nil
	}
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := p.Ping(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// backendKey is the key under which a connection keeps the id of the server's process that serves
// it.
const backendKey = "kapsel.backend"

// backendOf returns the id of the process that served a connection when the connection was made.
func backendOf(conn *pgconn.PgConn) string {
	backend, _ := conn.CustomData()[backendKey].(string)
	return backend
}

// pooled reports whether a pooler stands between Kapsel and the server: a pooler tells its
// clients process ids of its own.
func pooled(conn *pgconn.PgConn) bool {
	return backendOf(conn) != strconv.FormatUint(uint64(conn.PID()), 10)
}

// agree asks for a session on a new connection, and fails if the connection does not get it. It
// takes two round trips. If a pooler is in between, agree also checks that sessions stay with
// their connections.
func (c *connector) agree(ctx context.Context, conn *pgconn.PgConn, s session) error {
	limited, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	s = s.patient(c.bodyTime)
	if err := s.set(limited, conn, c.warn); err != nil {
		return fmt.Errorf("set up the session: %w", err)
	}
	st, err := s.ask(limited, conn)
	if err != nil {
		return fmt.Errorf("ask the session for its settings: %w", err)
	}
	conn.CustomData()[backendKey] = st["backend"]
	if err := c.judge(limited, conn, s, st); err != nil {
		return err
	}
	if pooled(conn) {
		return c.checkPooling(ctx)
	}
	return nil
}

// judge fails if a session or its server lacks what a promise rests on. It logs a warning for a
// setting that only makes Kapsel slower.
func (c *connector) judge(ctx context.Context, conn *pgconn.PgConn, s session, st state) error {
	if n, found := s.broken(st); found {
		return refuse(ErrSession, "%s is %q, not %q; does a pooler or proxy in between drop what Kapsel sets?", n.name, st[n.name], n.value)
	}
	for _, w := range s.wished {
		if st[w.name] != w.value {
			c.warn(w.name, fmt.Errorf("it is %q, not %q", st[w.name], w.value))
		}
	}
	return c.checkServer(ctx, conn, st)
}

// warn logs that the server refuses a setting that only makes Kapsel fast. It logs each setting
// once.
func (c *connector) warn(name string, err error) {
	c.mu.Lock()
	known := c.warned[name]
	c.warned[name] = true
	c.mu.Unlock()
	if !known {
		c.log.Warn("the database refuses a setting that makes Kapsel's statements fast; going on without it", "setting", name, "error", err)
	}
}

// timeout returns how long a step of making a connection may take.
func (c *connector) timeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.ConnConfig.ConnectTimeout
}

// holds returns the state of a connection's session. It fails if the connection is no longer as it
// was when agree accepted it; Store.look then has all connections made anew.
func (c *connector) holds(ctx context.Context, conn *pgconn.PgConn, s session) (state, error) {
	s = s.patient(c.bodyTime)
	st, err := s.ask(ctx, conn)
	if err != nil {
		return nil, err
	}
	if st["backend"] != backendOf(conn) {
		return st, errPooling("transaction", "one connection was served by two sessions")
	}
	if err := c.judge(ctx, conn, s, st); err != nil || !pooled(conn) {
		return st, err
	}
	c.pooling.Lock()
	due := time.Since(c.checked) >= poolingEvery
	c.pooling.Unlock()
	if due {
		err = c.checkPooling(ctx)
	}
	return st, err
}

// poolingEvery is how often the mode of a pooler is checked: the mode may change while connections
// stay open.
const poolingEvery = 10 * time.Second

// checkServer fails with ErrUnsafe for a server that is too old, or that does not keep what it
// commits.
func (c *connector) checkServer(ctx context.Context, conn *pgconn.PgConn, st state) error {
	if n, err := strconv.Atoi(st["server_version_num"]); err != nil || n < 140000 {
		return refuse(ErrUnsafe, "it is of version %s; 14 or newer is needed", st["server_version_num"])
	}
	for _, name := range []string{"fsync", "full_page_writes"} {
		if st[name] == "on" || c.external {
			continue
		}
		service, err := c.service(ctx, conn)
		if err != nil {
			return fmt.Errorf("ask the server what it is: %w", err)
		}
		if service == "" {
			return refuse(ErrUnsafe, "it runs with %s=%s; set it to on, or set KAPSEL_DATABASE_DURABILITY=external if the server keeps its data elsewhere, "+
				"where the setting does not matter", name, st[name])
		}
	}
	return nil
}

// services are the services known to be durable whatever fsync and full_page_writes say, since
// they keep pages and WAL elsewhere, with a query that is true only there.
//
//   - Neon commits once a quorum of safekeepers has the WAL, and its computes run with
//     fsync=off. Its library defines neon.timeline_id, which only the server's own
//     configuration can set; on other servers a role or a database could. (neon.git:
//     pgxn/neon/libpagestore.c, compute_tools/src/config.rs.)
//   - Aurora writes no pages, only log, to six copies of its storage. Its catalog has
//     aurora_version(), and only a superuser can put a function there. (Amazon's user guide for
//     Aurora, "Amazon Aurora versions".)
//
// AlloyDB has no sign that AlloyDB Omni, which is an ordinary server, does not have.
var services = []struct{ name, query string }{
	{"Neon", `SELECT coalesce(current_setting('neon.timeline_id', true), '') <> '' AND NOT EXISTS (
		SELECT 1 FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS s WHERE lower(s) LIKE 'neon.timeline\_id=%')`},
	{"Amazon Aurora", `SELECT pg_catalog.to_regprocedure('pg_catalog.aurora_version()') IS NOT NULL`},
}

// service returns the known service that keeps the server's data elsewhere, "" if there is none.
func (c *connector) service(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	c.mu.Lock()
	known := c.elsewhere
	c.mu.Unlock()
	if known != "" {
		return known, nil
	}
	for _, s := range services {
		is, err := one(ctx, conn, s.query)
		if err != nil {
			return "", err
		}
		if is == "t" {
			c.log.Info("the database keeps its data elsewhere, so its fsync and full_page_writes do not matter", "service", s.name)
			c.mu.Lock()
			c.elsewhere = s.name
			c.mu.Unlock()
			return s.name, nil
		}
	}
	return "", nil
}

// checkPooling fails with ErrPooling if a pooler gives each transaction or statement any of its
// sessions: what one connection sets or prepares would then be another's. Callers that come while
// a check is under way share the next check.
func (c *connector) checkPooling(ctx context.Context) error {
	asked := time.Now()
	c.pooling.Lock()
	defer c.pooling.Unlock()
	if c.checked.After(asked) {
		return c.unpooled
	}
	c.checked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c.unpooled = c.sessionsStay(ctx)
	return c.unpooled
}

// sessionsStay opens two connections. While the second has a transaction open, the first must keep
// its session; sessionsStay fails if it does not. The connections set nothing, because a setting
// would stay with the pooler's other clients.
func (c *connector) sessionsStay(ctx context.Context) error {
	config := c.config().ConnConfig
	_ = takeSettings(config.RuntimeParams)
	a, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer closeNow(a)
	b, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return fmt.Errorf("connect a second time (if a pooler is in between: is its pool large enough?): %w", err)
	}
	defer closeNow(b)
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	first, err := backend(ctx, a)
	if err != nil {
		return err
	}
	if _, err := b.Exec(ctx, "BEGIN").ReadAll(); err != nil {
		if sqlState(err) == "08P01" && strings.Contains(err.Error(), "not allowed") {
			return errPooling("statement", err.Error())
		}
		return fmt.Errorf("begin a transaction: %w", err)
	}
	other, err := backend(ctx, b)
	if err != nil {
		return err
	}
	if other == first {
		return errPooling("transaction", "two connections were served by one session")
	}
	for n := range 4 {
		again, err := backend(ctx, a)
		if err != nil {
			return err
		}
		if again != first {
			return errPooling("transaction", "one connection was served by two sessions")
		}
		// A pooler that gives out its sessions in turn changes the session only after the transaction.
		if n > 0 {
			continue
		}
		if _, err := b.Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
			return fmt.Errorf("end a transaction: %w", err)
		}
	}
	return nil
}

func errPooling(mode, seen string) error {
	return refuse(ErrPooling, "a pooler in between does %s pooling (%s); use session pooling (pool_mode = session in pgbouncer.ini), or connect to the server itself",
		mode, seen)
}

// backend returns the id of the process that serves a connection now.
func backend(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	return one(ctx, conn, "SELECT pg_backend_pid()")
}

// one returns the one value that a query returns.
func one(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return "", errors.New("the server does not answer with one value")
	}
	return string(results[0].Rows[0][0]), nil
}
