package postgres

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// streamWorld is a store with an endpoint, and what else happens on its server.
type streamWorld struct {
	t   *testing.T
	url string
	*Store
	tenant kapsel.Tenant
	ep     kapsel.Endpoint
	now    time.Time
}

func newStreamWorld(t *testing.T) *streamWorld {
	w := &streamWorld{t: t, url: pgtest.New(t)}
	w.reopen()
	var err error
	if w.now, err = w.Time(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.tenant = kapsel.Tenant{ID: kapsel.NewTenantID(w.now), Plan: kapsel.DefaultPlan, CreatedAt: w.now, UpdatedAt: w.now}
	w.ep = kapsel.Endpoint{ID: kapsel.NewEndpointID(w.now), TenantID: w.tenant.ID, State: kapsel.EndpointActive, CreatedAt: w.now, UpdatedAt: w.now}
	if err := w.CreateTenant(t.Context(), w.tenant); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateEndpoint(t.Context(), w.ep, 10); err != nil {
		t.Fatal(err)
	}
	return w
}

// reopen opens the database, anew if it is open.
func (w *streamWorld) reopen() {
	w.t.Helper()
	if w.Store != nil {
		w.Close()
	}
	s, err := Open(w.t.Context(), w.url, Options{Migrate: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Store = s
	w.t.Cleanup(func() { s.Close() })
}

// accept stores an event.
func (w *streamWorld) accept() kapsel.EventID {
	w.t.Helper()
	part := kapsel.PartOf(w.ep.ID)
	e := kapsel.Event{ID: kapsel.NewEventID(w.now, part), TenantID: w.tenant.ID, EndpointID: w.ep.ID, ReceivedAt: w.now}
	d := kapsel.Delivery{ID: kapsel.NewDeliveryID(w.now, part), EventID: e.ID, EndpointID: w.ep.ID, TenantID: w.tenant.ID, DueAt: w.now, CreatedAt: w.now}
	if _, err := w.Accept(w.t.Context(), store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}}); err != nil {
		w.t.Fatal(err)
	}
	return e.ID
}

// session is a superuser's connection to a database of the server, "" the store's.
func (w *streamWorld) session(database string) *pgx.Conn {
	w.t.Helper()
	return w.connect(pgtest.Superuser(w.url), database)
}

func (w *streamWorld) connect(url, database string) *pgx.Conn {
	w.t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		w.t.Fatal(err)
	}
	if database != "" {
		config.Database = database
	}
	conn, err := pgx.ConnectConfig(w.t.Context(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (w *streamWorld) exec(c *pgx.Conn, sql string, args ...any) {
	w.t.Helper()
	if _, err := c.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// read are the events behind a position, and the position to go on from.
func (w *streamWorld) read(after store.Position, now time.Time) (ids []kapsel.EventID, next store.Position) {
	w.t.Helper()
	events, next, _, err := w.StreamEvents(w.t.Context(), store.StreamFilter{}, after, now, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range events {
		ids = append(ids, e.Event.ID)
	}
	return ids, next
}

// readUntil reads until some events have come.
func (w *streamWorld) readUntil(n int, after store.Position) (ids []kapsel.EventID, next store.Position) {
	for len(ids) < n {
		var more []kapsel.EventID
		more, after = w.read(after, w.now)
		ids = append(ids, more...)
	}
	return ids, after
}

func (w *streamWorld) want(what string, want, got []kapsel.EventID) {
	w.t.Helper()
	if !slices.Equal(want, got) {
		w.t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// late is an event whose transaction has written it and is not over.
func (w *streamWorld) late(c *pgx.Conn) kapsel.EventID {
	w.t.Helper()
	part := kapsel.PartOf(w.ep.ID)
	e := kapsel.NewEventID(w.now, part)
	w.exec(c, "BEGIN")
	w.exec(c, `INSERT INTO events (part, id, tenant_id, endpoint_id, received_at, content_type, header, query, body, signature, traceparent, seq)
		VALUES ($1, $2, $3, $4, $5, '', '', '', '', '{}', '', CAST(CAST(pg_current_xact_id() AS text) AS bigint) + $6)`,
		int16(part), [16]byte(e), [16]byte(w.tenant.ID), [16]byte(w.ep.ID), w.now, w.seqBase)
	return e
}

// TestStream_CommitsOutOfOrder: an event whose transaction began before that of another, and
// is committed after it, comes before it, and none is missed.
func TestStream_CommitsOutOfOrder(t *testing.T) {
	w := newStreamWorld(t)
	first := w.accept()
	got, at := w.readUntil(1, store.Position{})
	w.want("the first", []kapsel.EventID{first}, got)

	a, b := w.session(""), w.session("")
	slow, slower := w.late(a), w.late(b)
	quick := w.accept()
	got, at = w.read(at, w.now)
	w.want("while two transactions before it run", nil, got)
	w.exec(b, "COMMIT")
	got, at = w.read(at, w.now)
	w.want("while one runs", nil, got)
	w.exec(a, "COMMIT")
	got, _ = w.readUntil(3, at)
	w.want("when none does", []kapsel.EventID{slow, slower, quick}, got)

	// One that is rolled back leaves nothing to wait for.
	w.late(a)
	last := w.accept()
	w.exec(a, "ROLLBACK")
	got, _ = w.readUntil(1, w.position(quick))
	w.want("behind one that was rolled back", []kapsel.EventID{last}, got)
}

func (w *streamWorld) position(e kapsel.EventID) store.Position {
	w.t.Helper()
	at, err := w.StreamPosition(w.t.Context(), kapsel.TenantID{}, e)
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

// TestStream_LongTransactionsOfOthers: a transaction in another database does not hold the
// stream, nor does one of our role in ours that is older than any of Kapsel's gets. When one
// of another role began is not shown to ours, so that one is waited for.
func TestStream_LongTransactionsOfOthers(t *testing.T) {
	w := newStreamWorld(t)
	other := w.session("postgres")
	w.exec(other, "BEGIN")
	w.exec(other, "CREATE TEMPORARY TABLE elsewhere AS SELECT pg_current_xact_id()")
	one := w.accept()
	got, at := w.readUntil(1, store.Position{})
	w.want("beside another database's", []kapsel.EventID{one}, got)

	ours := w.connect(w.url, "")
	w.exec(ours, "BEGIN")
	w.exec(ours, "SELECT pg_current_xact_id()")
	two := w.accept()
	got, at = w.read(at, w.now)
	w.want("beside a young one of this database", nil, got)
	got, at = w.read(at, w.now.Add(2*time.Minute))
	w.want("beside an old one of this database", []kapsel.EventID{two}, got)
	foreign := w.session("")
	w.exec(foreign, "BEGIN")
	w.exec(foreign, "SELECT pg_current_xact_id()")
	kept := w.accept()
	got, at = w.read(at, w.now.Add(2*time.Minute))
	w.want("beside an old one of another role", nil, got)
	w.exec(foreign, "COMMIT")
	for got = nil; len(got) == 0; {
		got, at = w.read(at, w.now.Add(2*time.Minute))
	}
	w.want("when that is over", []kapsel.EventID{kept}, got)
	// The horizon does not go back, whatever is known of those transactions later.
	three := w.accept()
	got, next := w.read(at, w.now)
	w.want("beside it once more", nil, got)
	if next.Compare(at) < 0 {
		t.Errorf("the stream went back from %v to %v", at, next)
	}
	w.exec(other, "COMMIT")
	w.exec(ours, "COMMIT")
	got, _ = w.readUntil(1, next)
	w.want("at the end", []kapsel.EventID{three}, got)
}

// TestStream_OtherServer: a database that comes from a server whose transaction ids are ahead
// goes on, behind all that is there.
func TestStream_OtherServer(t *testing.T) {
	w := newStreamWorld(t)
	old := w.accept()
	w.exec(w.session(""), "UPDATE events SET seq = seq + 1000000000000")
	w.reopen()
	at := w.position(old)
	var want []kapsel.EventID
	for range 2 {
		want = append(want, w.accept())
		w.reopen() // changes nothing more
	}
	got, _ := w.readUntil(2, at)
	w.want("behind what came along", want, got)
	got, _ = w.readUntil(3, store.Position{})
	w.want("all", append([]kapsel.EventID{old}, want...), got)
}

// TestStream_OtherRoles: what sessions of other roles do is known well enough, too.
func TestStream_OtherRoles(t *testing.T) {
	w := newStreamWorld(t)
	super := w.session("postgres")
	name := fmt.Sprintf("plain_%d", time.Now().UnixNano())
	w.exec(super, "CREATE ROLE "+name+" LOGIN") // until the server is thrown away
	w.exec(w.session(""), "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+name)
	u, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(name)
	w.url = u.String()
	w.reopen()

	w.exec(super, "BEGIN")
	w.exec(super, "SELECT pg_current_xact_id()")
	one := w.accept()
	got, _ := w.readUntil(1, store.Position{})
	w.want("beside another database's, of another role", []kapsel.EventID{one}, got)
	w.exec(super, "COMMIT")
}
