package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"regexp"
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

// TestPlans_B117_OfTheHotPath checks that the statements of the hot path reach the tables by
// their keys, also on a young table that the planner knows nothing about. A plan that reads a
// table whole is quick in the first minute and fatal later.
func TestPlans_B117_OfTheHotPath(t *testing.T) {
	url := pgtest.New(t)
	if s, err := Open(t.Context(), url, Options{Migrate: true}); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), connectorOf(t, url).conn(hotSession))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())

	keyScan := regexp.MustCompile(`using (?:idempotency_keys|guards)_pkey on .*\n *(.*)`)
	n := 0
	for _, statements := range []map[string]string{acceptStatements, completeStatements, claimStatements, renewStatements} {
		for _, name := range slices.Sorted(maps.Keys(statements)) {
			sql := statements[name]
			if name == "begin" || name == "commit" || name == "rollback" {
				continue
			}
			n++
			prepared := fmt.Sprintf("s%d", n)
			if _, err := conn.Exec(t.Context(), "PREPARE "+prepared+" AS "+sql); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			params := 0
			for strings.Contains(sql, fmt.Sprintf("$%d::", params+1)) {
				params++
			}
			args := strings.TrimSuffix(strings.Repeat("NULL,", params), ",")
			rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE "+prepared+"("+args+")", pgx.QueryExecModeSimpleProtocol)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			plan := strings.ReplaceAll(strings.Join(lines, "\n"), "Seq Scan on nodes", "Scan of a row for each node")
			for _, bad := range []string{"Seq Scan", "Hash Join", "Merge", "Bitmap", "Materialize", "JIT", "hashed SubPlan", "Index Cond: (part = u.part)\n"} {
				if strings.Contains(plan, bad) {
					t.Errorf("%s: the plan has a %s:\n%s", name, bad, plan)
				}
			}
			for _, scan := range keyScan.FindAllStringSubmatch(plan, -1) {
				if columns := strings.Count(scan[1], " = "); columns < 3 {
					t.Errorf("%s: the plan finds a key by %d of its 3 columns, among all of an endpoint or a part:\n%s", name, columns, plan)
				}
			}
			if testing.Verbose() {
				t.Logf("%s:\n%s", name, plan)
			}
		}
	}
}

// statements is a tracer that keeps what a pool is asked.
type statements struct {
	mu  sync.Mutex
	all map[string][]any // arguments by text
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[q.SQL] = q.Args
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, b pgx.TraceBatchStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range b.Batch.QueuedQueries {
		s.all[q.SQL] = q.Arguments
	}
	return ctx
}

func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// TestPlans_B117_OfAllOtherCalls checks that no call reads a table of the hot path whole, or
// all of a part, whatever its filters are.
func TestPlans_B117_OfAllOtherCalls(t *testing.T) {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seen := &statements{all: map[string][]any{}}
	for _, pool := range []**pgxpool.Pool{&s.people, &s.engine} {
		config := (*pool).Config()
		config.ConnConfig.Tracer = seen
		(*pool).Close()
		if *pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}

	// One delivery of each state, so that no call returns before its last statement.
	ctx, now := t.Context(), time.Now().UTC()
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now}
	part, node, gone := kapsel.PartOf(ep.ID), kapsel.NewNodeID(now), kapsel.NewNodeID(now)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.CreateTenant(ctx, tenant))
	must(s.CreateEndpoint(ctx, ep, 10))
	must(s.Join(ctx, node, now, time.Hour))
	must(s.Join(ctx, gone, now.Add(-time.Hour), time.Second))
	accept := func() (kapsel.Event, kapsel.Delivery) {
		e := kapsel.Event{ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: ep.ID, ReceivedAt: now, IdempotencyKey: []byte(rand.Text())}
		d := kapsel.Delivery{ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: ep.ID, TenantID: tenant.ID, DueAt: now, CreatedAt: now}
		_, err := s.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Minute, Guard: e.IdempotencyKey, GuardWindow: time.Minute})
		must(err)
		return e, d
	}
	accept()
	held, _, err := s.Claim(ctx, gone, now, []store.Want{{EndpointID: ep.ID, Limit: 1}}, 1)
	must(err)
	_, err = s.SaveCircuit(ctx, kapsel.Circuit{EndpointID: ep.ID, State: kapsel.CircuitHalfOpen, Probe: gone})
	must(err)
	_, err = s.TakeOver(ctx, now, 10)
	must(err)
	event, canceled := accept()
	_, err = s.MoveDelivery(ctx, tenant.ID, canceled.ID, kapsel.Cancel{}, now)
	must(err)
	_, err = s.Replay(ctx, tenant.ID, event.ID, kapsel.DeliveryID{}, now)
	must(err)
	_, err = s.Redeliver(ctx, event.ID, now)
	must(err)
	src := kapsel.Source{ID: kapsel.NewSourceID(now), TenantID: tenant.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
	must(s.CreateSource(ctx, src))
	unmatched := kapsel.Event{ID: kapsel.NewEventID(now, kapsel.PartOf(src.ID)), TenantID: tenant.ID, SourceID: src.ID, ReceivedAt: now}
	_, err = s.Accept(ctx, store.Acceptance{Event: unmatched})
	must(err)
	_, err = s.Deliver(ctx, tenant.ID, unmatched.ID, ep.ID, now)
	must(err)
	_, err = s.ListSources(ctx, tenant.ID, store.Page[kapsel.SourceID]{Limit: 10})
	must(err)
	_, err = s.Event(ctx, tenant.ID, event.ID)
	must(err)
	_, err = s.Attempt(ctx, tenant.ID, held[0].Delivery.Token)
	must(err)
	_, err = s.ListAttempts(ctx, tenant.ID, held[0].Delivery.ID, 0, 10)
	must(err)
	for _, id := range []kapsel.EndpointID{{}, ep.ID} {
		for _, status := range []kapsel.EventStatus{"", "received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled", "unmatched"} {
			for _, f := range []store.EventFilter{{}, {Since: now, Until: now}, {IdempotencyKey: []byte("k")}} {
				f.EndpointID, f.Status = id, status
				_, _, err = s.ListEvents(ctx, tenant.ID, f, store.Page[kapsel.EventID]{Limit: 10})
				must(err)
			}
		}
		for _, replayed := range []*bool{nil, new(bool)} {
			_, err = s.ListDeliveries(ctx, tenant.ID, store.DeliveryFilter{EndpointID: id, Replayed: replayed}, store.Page[kapsel.DeliveryID]{Limit: 10})
			must(err)
			for status := kapsel.Pending; status <= kapsel.Canceled; status++ {
				f := store.DeliveryFilter{EndpointID: id, Status: &status, Replayed: replayed}
				_, err = s.ListDeliveries(ctx, tenant.ID, f, store.Page[kapsel.DeliveryID]{Limit: 10})
				must(err)
			}
		}
	}
	for _, status := range []kapsel.EventStatus{"", "received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled", "unmatched"} {
		_, _, err = s.ListEvents(ctx, tenant.ID, store.EventFilter{SourceID: src.ID, Status: status}, store.Page[kapsel.EventID]{Limit: 10})
		must(err)
	}
	for _, status := range []kapsel.EventStatus{"", "received", "delivered", "dead_letter", "unmatched"} {
		for _, f := range []store.EventFilter{{Type: "a.b"}, {Type: "a.b", EndpointID: ep.ID}, {Type: "a.b", AppID: kapsel.NewAppID(now)}} {
			f.Status = status
			_, _, err = s.ListEvents(ctx, tenant.ID, f, store.Page[kapsel.EventID]{Limit: 10})
			must(err)
		}
	}
	for _, source := range []kapsel.SourceID{{}, src.ID} {
		_, _, _, err = s.StreamEvents(ctx, store.StreamFilter{Tenants: []kapsel.TenantID{tenant.ID}, EndpointID: ep.ID, SourceID: source}, store.Position{}, now, 10)
		must(err)
	}
	_, err = s.StreamEnd(ctx, now)
	must(err)
	_, err = s.StreamPosition(ctx, tenant.ID, event.ID)
	must(err)
	_, err = s.Backlog(ctx)
	must(err)
	_, err = s.Held(ctx, node)
	must(err)
	_, err = s.QueueDepth(ctx, now, 10)
	must(err)
	_, _, err = s.BacklogOf(ctx, ep.ID, now, 10)
	must(err)
	_, err = s.Circuit(ctx, ep.ID)
	must(err)
	_, err = s.Settings(ctx, 0)
	must(err)
	_, err = s.CancelWaiting(ctx, ep.ID, now, 10)
	must(err)
	replay := kapsel.Replay{
		ID: kapsel.NewReplayID(now), TenantID: tenant.ID, Since: now.Add(-time.Hour), Statuses: []kapsel.DeliveryStatus{kapsel.Canceled},
		Rate: 1, Status: kapsel.ReplayRunning, CreatedAt: now,
	}
	for _, with := range [][]kapsel.DeliveryStatus{{kapsel.Delivered}, {kapsel.Canceled}} {
		replay.Statuses = with
		_, _, err = s.CountReplay(ctx, replay, 10, 10)
		must(err)
	}
	late := ep
	late.ID, late.NoIngest = kapsel.NewEndpointID(now), true
	late.Subscriptions = []kapsel.Subscription{{Source: src.ID.String()}}
	must(s.CreateEndpoint(ctx, late, 10))
	again, _ := accept()
	held, _, err = s.Claim(ctx, node, now, []store.Want{{EndpointID: ep.ID, Limit: 10}}, 1<<20)
	must(err)
	for _, c := range held {
		after, err := c.Delivery.After(kapsel.Answer{Code: kapsel.HTTPServerError, Retry: true, Delay: time.Hour, MaxAttempts: 20}, now)
		must(err)
		must(s.Complete(ctx, store.Completion{Delivery: after, Attempt: kapsel.Attempt{
			ID: c.Delivery.Token, DeliveryID: after.ID, EventID: after.EventID, EndpointID: ep.ID, TenantID: tenant.ID, Number: after.Attempts, StartedAt: now,
		}}))
	}
	for _, change := range []func(*kapsel.Replay){
		func(r *kapsel.Replay) { r.Missing, r.Statuses = true, nil },
		func(r *kapsel.Replay) { r.Statuses = []kapsel.DeliveryStatus{kapsel.Pending} },
	} {
		other := replay
		other.ID = kapsel.NewReplayID(now)
		change(&other)
		_, _, err = s.CountReplay(ctx, other, 10, 10)
		must(err)
		must(s.CreateReplay(ctx, other))
		if made, _, err := s.StepReplay(ctx, other.ID, now, 10); err != nil || made == 0 {
			t.Fatalf("made %d, %v", made, err)
		}
	}
	must(s.DeleteEndpoint(ctx, tenant.ID, late.ID, now))
	_, err = s.CancelWaiting(ctx, late.ID, now, 10)
	must(err)
	_, err = s.Event(ctx, tenant.ID, again.ID)
	must(err)
	must(s.CreateReplay(ctx, replay))
	if made, _, err := s.StepReplay(ctx, replay.ID, now, 10); err != nil || made == 0 {
		t.Fatalf("made %d, %v", made, err)
	}
	_, err = s.ListReplays(ctx, tenant.ID, store.Page[kapsel.ReplayID]{Limit: 10})
	must(err)
	_, err = s.MoveReplay(ctx, tenant.ID, replay.ID, kapsel.ReplayRunning, now)
	must(err)
	_, err = s.CancelWaiting(ctx, ep.ID, now, 10)
	must(err)
	for range 2 {
		_, _, err = s.StepReplay(ctx, replay.ID, now, 10)
		must(err)
	}
	_, err = s.DeleteFinished(ctx, tenant.ID, now.Add(time.Hour), 10)
	must(err)
	_, err = s.DeletedTenants(ctx, kapsel.TenantID{}, 10)
	must(err)
	_, err = s.DeleteExpiredKeys(ctx, now.Add(time.Hour), 10)
	must(err)
	_, err = s.DeleteExpiredGuards(ctx, now.Add(time.Hour), 10)
	must(err)
	_, err = s.EndpointStats(ctx, kapsel.TenantID{}, []kapsel.EndpointID{ep.ID}, now, now)
	must(err)
	for _, id := range []kapsel.TenantID{{}, tenant.ID} {
		_, err = s.Usage(ctx, id, now, now)
		must(err)
	}
	_, err = s.DeleteOldCounters(ctx, now, 10)
	must(err)

	bad := regexp.MustCompile(`Seq Scan on (events|deliveries|attempts|idempotency_keys|guards|endpoint_stats|tenant_usage)|Index Cond: \(part = [^()]*\)\n|Index Cond: \(\(event_id >= [^()]*\) AND \(event_id < [^()]*\)\)\n|Bitmap|Hash Join|Merge Join`)
	// The rule of row-level security may read the endpoints of a tenant into a hash table; a
	// statement may not do that with a table of the hot path.
	hashed := regexp.MustCompile(`hashed (SubPlan \d+)\b`)
	ofHotPath := `\n *->.* on (events|deliveries|attempts|idempotency_keys|guards|expansions)\b`
	scan := regexp.MustCompile(`Index (Only )?Scan (Backward )?using \w+ on (events|deliveries|attempts|idempotency_keys|guards|endpoint_stats|tenant_usage)\b`)
	bounded := regexp.MustCompile(scan.String() + `.*\n *Index Cond`)
	explained := 0
	explain := func(sql string, args []any) {
		if !strings.Contains(sql, "WHERE") {
			return
		}
		explained++
		rows, err := s.people.Query(ctx, "EXPLAIN "+sql, slices.DeleteFunc(slices.Clone(args), func(a any) bool {
			_, form := a.(pgx.QueryResultFormats)
			return form
		})...)
		must(err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(err)
		plan := strings.Join(lines, "\n") + "\n"
		if found := bad.FindString(plan); found != "" {
			t.Errorf("%s\nis planned with %s:\n%s", sql, found, plan)
		}
		for _, table := range hashed.FindAllStringSubmatch(plan, -1) {
			if regexp.MustCompile(`\b` + table[1] + ofHotPath).MatchString(plan) {
				t.Errorf("%s\nis planned with a %s:\n%s", sql, table[0], plan)
			}
		}
		// All entries of an index are read where it has no condition; openEndpoints begins
		// with the first of them.
		whole := len(scan.FindAllString(plan, -1)) - len(bounded.FindAllString(plan, -1))
		if allowed := strings.Count(sql, "WITH RECURSIVE open"); whole > allowed {
			t.Errorf("%s\nreads an index whole:\n%s", sql, plan)
		}
	}
	asked := maps.Clone(seen.all) // explaining adds to it
	for sql, args := range asked {
		explain(sql, args)
	}
	// With statistics of a table in which few deliveries are open, the planner knows more.
	_, err = s.engine.Exec(ctx, `
		INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, claims, attempts, counted, takeovers,
			last_status_code, last_error_code, size, created_at, finished_at)
		SELECT $1, gen_random_uuid(), gen_random_uuid(), $2, $3, 2, 1, 1, 1, 0, 200, '', 10, now(), now() FROM generate_series(1, 20000)`,
		part, id(ep.ID), id(tenant.ID))
	must(err)
	for sql, args := range asked { // the table has grown, and the planner knows nothing of its columns
		explain(sql, args)
	}
	_, err = s.engine.Exec(ctx, "ANALYZE deliveries")
	must(err)
	for sql, args := range asked {
		explain(sql, args)
	}
	t.Logf("%d statements", explained)
}
