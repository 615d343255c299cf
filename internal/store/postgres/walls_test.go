package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// The tables that belong to no tenant. A table that is not named here needs a policy.
var instanceTables = []string{"schema_info", "schema_migrations", "meta", "settings_counter", "nodes", "duties"}

// settle fills each table with rows of a new tenant.
func settle(t *testing.T, s *Store) kapsel.TenantID {
	t.Helper()
	ctx, now := t.Context(), time.Now().UTC()
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.CreateTenant(ctx, tenant))
	must(s.CreateEndpoint(ctx, ep, 10))
	must(s.CreateSource(ctx, kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: tenant.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}))
	must(s.CreateApp(ctx, kapsel.App{ID: kapsel.NewAppID(now), TenantID: tenant.ID, CreatedAt: now, UpdatedAt: now}))
	must(s.CreateEventType(ctx, kapsel.EventType{ID: kapsel.NewEventTypeID(now), TenantID: tenant.ID, Name: "a", CreatedAt: now, UpdatedAt: now}))
	must(s.CreateKey(ctx, kapsel.Key{ID: kapsel.NewKeyID(now), TenantID: tenant.ID, Scope: kapsel.ScopeRead, Hash: sha256.Sum256(tenant.ID[:]), CreatedAt: now}))
	part, node := kapsel.PartOf(ep.ID), kapsel.NewNodeID(now)
	must(s.Join(ctx, node, now, time.Hour))
	e := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: now, IdempotencyKey: []byte(rand.Text())}
	d := kapsel.Delivery{ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID, DueAt: now, CreatedAt: now}
	_, err := s.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Minute, Guard: e.IdempotencyKey, GuardWindow: time.Minute, ExpandAfter: ep.ID})
	must(err)
	held, _, err := s.Claim(ctx, node, now, []store.Want{{EndpointID: ep.ID, Limit: 1}}, 1)
	must(err)
	attempt := kapsel.Attempt{
		ID: held[0].Delivery.Token, DeliveryID: d.ID, EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID, Number: 1, StartedAt: now,
	}
	done := held[0].Delivery
	done.Status, done.Attempts, done.Counted, done.FinishedAt = kapsel.Delivered, 1, 1, now
	must(s.Complete(ctx, store.Completion{Attempt: attempt, Delivery: done}))
	_, err = s.SaveCircuit(ctx, kapsel.Circuit{EndpointID: ep.ID, State: kapsel.CircuitHalfOpen})
	must(err)
	must(s.CreateReplay(ctx, kapsel.Replay{ID: kapsel.NewReplayID(now), TenantID: tenant.ID, Since: now, Rate: 1, Status: kapsel.ReplayRunning, CreatedAt: now}))
	_, err = s.Reserve(ctx, store.Reservation{Owner: tenant.ID, Key: "k", Seed: [16]byte{1}, CreatedAt: now, ExpiresAt: now}, now)
	must(err)
	must(s.CreateSession(ctx, kapsel.Session{ID: kapsel.NewSessionID(now), Hash: sha256.Sum256(e.ID[:]), TenantID: tenant.ID, CreatedAt: now, SeenAt: now}))
	must(s.AddChange(ctx, kapsel.Change{ID: kapsel.NewChangeID(now), TenantID: tenant.ID, At: now, Verb: "create", Subject: kapsel.Subject{Kind: kapsel.KindTenant}}))
	must(s.CreatePortalLink(ctx, kapsel.PortalLink{ID: kapsel.NewPortalLinkID(now), TenantID: tenant.ID, Mode: kapsel.PortalRead, Token: sha256.Sum256(e.ID[:]), CreatedAt: now, ExpiresAt: now}))
	must(s.SetPortalLogo(ctx, kapsel.PortalLogo{TenantID: tenant.ID, Type: "image/png", Image: []byte("image"), Alt: "Acme", UpdatedAt: now}))
	logs, err := s.TakeLogs(ctx, []kapsel.TenantID{tenant.ID}, now)
	must(err)
	log := logs[0]
	_, err = s.Append(ctx, []store.Growth{{
		Log: log.ID, Was: log.State, Size: 1, Root: log.Root, Leaves: []store.Leaf{{Record: []byte("text")}}, Tiles: []store.Tile{{Hashes: []byte("hashes")}},
	}})
	must(err)
	_, err = s.Publish(ctx, []store.SignedHead{{Log: log.ID, Epoch: log.Epoch, Size: 1, Root: log.Root, SignedAt: now, Note: []byte("note")}})
	must(err)
	must(s.SetWitnessed(ctx, []store.Witnessed{{SignedHead: store.SignedHead{Log: log.ID, Size: 1, Root: log.Root, SignedAt: now, Note: []byte("note")}}}))
	// An erasure is an entry of its own.
	alone := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: now}
	_, err = s.Accept(ctx, store.Acceptance{Event: alone})
	must(err)
	_, err = s.EraseEvent(ctx, tenant.ID, alone.ID, now)
	must(err)
	must(s.Booked(ctx, nil, []store.BookConflict{{Fact: kapsel.MadeFact(&d), Answer: "exists", At: now}}))
	must(s.ReportBooks(ctx, []store.BookReport{{Owner: store.Owner{TenantID: tenant.ID}, At: now}}))
	return tenant.ID
}

// TestWall_S20_Tables checks that a session sees no row of another tenant in any table, even
// as the role that owns the tables.
func TestWall_S20_Tables(t *testing.T) {
	url := pgtest.New(t)
	s, err := Open(t.Context(), url, Options{Migrate: true, Ledger: true})
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := settle(t, s), settle(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url) // one session throughout, as in a pool
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	super, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(context.Background())

	rows, err := super.Query(t.Context(), "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	count := func(q rowQuerier, sql string, args ...any) (n int) {
		t.Helper()
		if err := q.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	endpoint := func(of kapsel.TenantID) (id [16]byte) {
		t.Helper()
		if err := super.QueryRow(t.Context(), "SELECT id FROM endpoints WHERE tenant_id = $1", [16]byte(of)).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	as := func(v view, run func(pgx.Tx)) {
		t.Helper()
		tx, err := conn.BeginTx(t.Context(), v.begin())
		if err != nil {
			t.Fatal(err)
		}
		run(tx)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	walled := 0
	for _, table := range tables {
		if slices.Contains(instanceTables, table) {
			continue
		}
		walled++
		all := "SELECT count(*) FROM " + table
		there := count(super, all)
		if there < 2 {
			t.Errorf("%s has %d rows; the test needs one of each tenant", table, there)
		}
		if n := count(conn, all); n != 0 {
			t.Errorf("%s: %d rows without a tenant", table, n)
		}
		as(viewOf(kapsel.TenantID{}), func(tx pgx.Tx) {
			if n := count(tx, all); n != there {
				t.Errorf("%s: the admin sees %d rows of %d", table, n, there)
			}
		})
		owner := map[string]string{"tenants": "id", "answers": "owner", "sessions": "owner", "circuits": "", "idempotency_keys": "", "guards": "", "endpoint_stats": "endpoint_id",
			"audit_outbox": "", "audit_packs": "", "audit_leaves": "", "audit_tiles": "", "audit_heads": "", "audit_witnessed": "", "ledger_outbox": ""}
		column, special := owner[table]
		if !special {
			column = "tenant_id"
		}
		my, other := [16]byte(mine), [16]byte(theirs)
		if column == "endpoint_id" { // a row is whose the endpoint is
			my, other = endpoint(mine), endpoint(theirs)
		}
		as(viewOf(mine), func(tx pgx.Tx) {
			if column == "" {
				if n := count(tx, all); n != 0 {
					t.Errorf("%s: %d rows for a tenant, want none", table, n)
				}
				return
			}
			ours := count(super, all+" WHERE "+column+" = $1", my)
			if n, foreign := count(tx, all), count(tx, all+" WHERE "+column+" <> $1", my); n != ours || n == 0 || foreign != 0 {
				t.Errorf("%s: a tenant sees %d rows, %d of them another's; it has %d", table, n, foreign, ours)
			}
			tag, err := tx.Exec(t.Context(), "DELETE FROM "+table+" WHERE "+column+" = $1", other)
			if err != nil || tag.RowsAffected() != 0 {
				t.Errorf("%s: a tenant deletes %d rows of another: %v", table, tag.RowsAffected(), err)
			}
			_, err = tx.Exec(t.Context(), fmt.Sprintf("UPDATE %s SET %s = $1", table, column), other)
			if sqlState(err) != "42501" {
				t.Errorf("%s: a tenant gives its rows to another: %v", table, err)
			}
		})
		if n := count(conn, all); n != 0 {
			t.Errorf("%s: %d rows after the transaction that had a tenant", table, n)
		}
	}
	if walled < 10 {
		t.Errorf("looked into %d tables of %v", walled, tables)
	}
}

// sent is a tracer that keeps what connections are asked, in order.
type sent struct {
	mu  sync.Mutex
	all []string
}

func (s *sent) add(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, sql)
}

func (s *sent) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

func (s *sent) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	s.add(q.SQL)
	return ctx
}
func (s *sent) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestWall_S20_Methods checks that every method that takes a tenant, or an object of a tenant,
// runs its statements in a transaction that is bound to that tenant.
func TestWall_S20_Methods(t *testing.T) {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	people, engine := &sent{}, &sent{}
	for tracer, pool := range map[*sent]**pgxpool.Pool{people: &s.people, engine: &s.engine} {
		config := (*pool).Config()
		config.ConnConfig.Tracer = tracer
		(*pool).Close()
		if *pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	tenant := kapsel.NewTenantID(time.Now())
	beyond := map[string]string{
		"DeletedTenants": "its tenant is a place in the list of all",
		"Accounts":       "it takes off what the outbox holds at the same moment, and no tenant sees the outbox",
		"AccountOf":      "as Accounts",
		"EraseEvent":     "it erases texts of leaves in the same transaction, and no tenant sees leaves; it looks for the event of the tenant",
	}
	methods := reflect.TypeFor[store.Store]()
	called := 0
	for i := range methods.NumMethod() {
		m := methods.Method(i)
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		takes := false
		for n := 1; n < m.Type.NumIn(); n++ {
			arg := reflect.New(m.Type.In(n)).Elem()
			if arg.Kind() == reflect.Int {
				arg.SetInt(1) // a limit
			}
			takes = setTenant(arg, tenant) || takes
			args = append(args, arg)
		}
		if !takes || beyond[m.Name] != "" {
			continue
		}
		called++
		reflect.ValueOf(s).MethodByName(m.Name).Call(args)
		if all := engine.take(); len(all) > 0 {
			t.Errorf("%s sends past the wall: %q", m.Name, all)
		}
		begin, within, asked := viewOf(tenant).begin().BeginQuery, false, 0
		all := people.take()
		for _, sql := range all {
			switch sql {
			case begin:
				within = true
			case "commit", "rollback":
				within = false
			default:
				asked++
				if !within {
					t.Errorf("%s asks outside of a transaction of the tenant: %s", m.Name, sql)
				}
			}
		}
		if asked == 0 {
			t.Errorf("%s sends %q", m.Name, all)
		}
	}
	if called < 25 {
		t.Errorf("only %d methods take a tenant", called)
	}
	t.Logf("%d methods", called)
}

// setTenant sets the tenant that an argument is, or that an object as an argument is of, and
// reports whether there is one.
func setTenant(arg reflect.Value, tenant kapsel.TenantID) bool {
	id := reflect.ValueOf(tenant)
	if arg.Type() == id.Type() {
		arg.Set(id)
		return true
	}
	if arg.Kind() != reflect.Struct {
		return false
	}
	for _, f := range reflect.VisibleFields(arg.Type()) {
		if f.Type == id.Type() && f.Name != "Before" { // a page of the list of all tenants
			arg.FieldByIndex(f.Index).Set(id)
			return true
		}
	}
	return false
}

// TestWall_S20_StartWarnsWhenTheRoleIsNotBound checks that a warning is logged at the start
// when the database role is not bound by row-level security.
func TestWall_S20_StartWarnsWhenTheRoleIsNotBound(t *testing.T) {
	url := pgtest.New(t)
	super, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(context.Background())
	bypass := "bypass_" + strings.ToLower(rand.Text())
	if _, err := super.Exec(t.Context(), "CREATE ROLE "+bypass+" LOGIN BYPASSRLS; GRANT kapsel TO "+bypass); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		role, url string
		warns     bool
	}{
		{"kapsel", url, false},
		{"postgres", pgtest.Superuser(url), true},
		{bypass, strings.Replace(url, "//kapsel@", "//"+bypass+"@", 1), true},
	} {
		var log bytes.Buffer
		s, err := Open(t.Context(), tt.url, Options{Migrate: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatalf("%s: %v", tt.role, err)
		}
		s.Close()
		if got := strings.Contains(log.String(), "level=WARN") && strings.Contains(log.String(), "role="+tt.role); got != tt.warns {
			t.Errorf("%s: the log has %q", tt.role, &log)
		}
	}
}

// TestWall_S20_DumpAndRestore checks that the backup that docs/operating.md describes can be
// made and restored by the plain role.
func TestWall_S20_DumpAndRestore(t *testing.T) {
	from, to := pgtest.New(t), pgtest.New(t)
	s, err := Open(t.Context(), from, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	before, err := s.Settings(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(program string, in []byte, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), pgtest.Program(t, program), args...)
		cmd.Stdin = bytes.NewReader(in)
		cmd.Env = append(os.Environ(), "PGOPTIONS=-c kapsel.tenant=*")
		return cmd.Output()
	}
	if dump, err := run("pg_dump", nil, from); err == nil {
		t.Errorf("a dump that the wall applies to is made without a word: %d bytes", len(dump))
	}
	dump, err := run("pg_dump", nil, "--enable-row-security", from)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("psql", dump, "-v", "ON_ERROR_STOP=1", "-q", to); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if s, err = Open(t.Context(), to, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	after, err := s.Settings(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, after) || len(after.Endpoints) != 1 {
		t.Errorf("restored %+v, want %+v", after, before)
	}
}
