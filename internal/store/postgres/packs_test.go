package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// packed is a store whose completions the test writes by the batch.
type packed struct {
	t   *testing.T
	s   *Store
	l   *lane
	w   *completer
	now time.Time
}

func newPacked(t *testing.T) *packed {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l := newLane(s.from, completeStatements)
	if err := l.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.drop)
	return &packed{t, s, l, newCompleter(7), time.Now().UTC().Truncate(time.Millisecond)}
}

func (p *packed) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// tenant makes a tenant with an endpoint.
func (p *packed) tenant() kapsel.Endpoint {
	p.t.Helper()
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(p.now), Plan: kapsel.DefaultPlan, CreatedAt: p.now, UpdatedAt: p.now}
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(p.now), TenantID: tenant.ID, State: kapsel.EndpointActive, CreatedAt: p.now, UpdatedAt: p.now}
	p.must(p.s.CreateTenant(p.t.Context(), tenant))
	p.must(p.s.CreateEndpoint(p.t.Context(), ep, 10))
	return ep
}

// held returns the end of an attempt of a delivery to an endpoint, which a node holds.
func (p *packed) held(ep kapsel.Endpoint, node kapsel.NodeID) *batch.Call[*completion] {
	p.t.Helper()
	part := kapsel.PartOf(ep.ID)
	e := kapsel.Event{ID: kapsel.NewEventID(p.now, part), TenantID: ep.TenantID, EndpointID: ep.ID, ReceivedAt: p.now}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(p.now, part), EventID: e.ID, EndpointID: ep.ID, TenantID: ep.TenantID,
		Status: kapsel.Delivering, Node: node, Token: kapsel.NewAttemptID(p.now, part), Claims: 1, CreatedAt: p.now,
	}
	_, err := p.s.Accept(p.t.Context(), store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}})
	p.must(err)
	a := kapsel.Attempt{ID: d.Token, DeliveryID: d.ID, EventID: e.ID, EndpointID: ep.ID, TenantID: ep.TenantID, Number: 1, StartedAt: p.now, StatusCode: 204}
	d.Status, d.Attempts, d.FinishedAt, d.LastStatusCode = kapsel.Delivered, 1, p.now, 204
	return &batch.Call[*completion]{In: &completion{Completion: store.Completion{Attempt: a, Delivery: d}}}
}

// pack writes a pack of n attempts of a new tenant, and takes the tenant's log.
func (p *packed) pack(n int) (calls []*batch.Call[*completion], log store.Log) {
	p.t.Helper()
	ep, node := p.tenant(), kapsel.NewNodeID(p.now)
	p.must(p.s.Join(p.t.Context(), node, p.now, time.Hour))
	for range n {
		calls = append(calls, p.held(ep, node))
	}
	p.must(p.w.write(p.t.Context(), p.l, calls))
	p.rows(1, 0)
	logs, err := p.s.TakeLogs(p.t.Context(), []kapsel.TenantID{ep.TenantID}, p.now)
	p.must(err)
	return calls, logs[0]
}

func (p *packed) count(table string) (n int) {
	p.t.Helper()
	p.must(p.s.engine.QueryRow(p.t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

// rows checks how many packs and rows of one entry the outbox has.
func (p *packed) rows(packs, single int) {
	p.t.Helper()
	if a, b := p.count("audit_packs"), p.count("audit_outbox"); a != packs || b != single {
		p.t.Errorf("%d packs and %d entries in none, want %d and %d", a, b, packs, single)
	}
}

func (p *packed) entries() []store.Entry {
	p.t.Helper()
	entries, _, err := p.s.Entries(p.t.Context(), store.EntryKey{}, 1000, nil)
	p.must(err)
	return entries
}

// TestPacks_OfABatch checks that a batch writes a pack for each tenant, that a batch that has moved before
// writes nothing, and that no pack is made while a node lives that knows none.
func TestPacks_OfABatch(t *testing.T) {
	p := newPacked(t)
	one, two, node := p.tenant(), p.tenant(), kapsel.NewNodeID(p.now)
	p.must(p.s.Join(t.Context(), node, p.now, time.Hour))
	var calls []*batch.Call[*completion]
	for i := range 40 {
		ep := one
		if i%4 == 0 {
			ep = two
		}
		calls = append(calls, p.held(ep, node))
	}
	for range 2 {
		p.must(p.w.write(t.Context(), p.l, calls))
		p.rows(2, 0)
	}
	of := map[kapsel.AttemptID]kapsel.TenantID{}
	for _, e := range p.entries() {
		r, err := store.ReadRecord(e.AttemptID, e.Record)
		p.must(err)
		if r.AttemptID != e.AttemptID || r.StatusCode != 204 {
			t.Errorf("the entry of %s says %+v", e.AttemptID, r)
		}
		of[e.AttemptID] = e.TenantID
	}
	for _, c := range calls {
		if a := c.In.Attempt; of[a.ID] != a.TenantID {
			t.Errorf("attempt %s of tenant %s has an entry of %s", a.ID, a.TenantID, of[a.ID])
		}
	}

	// A batch of which one has moved fails as a whole.
	again := []*batch.Call[*completion]{calls[0], p.held(one, node)}
	if err := p.w.write(t.Context(), p.l, again); err == nil {
		t.Error("a batch with one that has moved before was written")
	}
	p.rows(2, 0)

	old := kapsel.NewNodeID(p.now)
	p.must(p.s.Join(t.Context(), old, p.now, time.Hour))
	_, err := p.s.engine.Exec(t.Context(), "UPDATE nodes SET schema = $2 WHERE id = $1", id(old), packsSchema-1)
	p.must(err)
	p.must(p.w.write(t.Context(), p.l, again[1:]))
	p.rows(2, 1)
	p.must(p.s.Leave(t.Context(), old))
	p.must(p.w.write(t.Context(), p.l, []*batch.Call[*completion]{p.held(one, node)}))
	p.rows(3, 1)
	if n := len(p.entries()); n != 42 {
		t.Errorf("%d entries, want 42", n)
	}
}

// TestPacks_Shrink checks that appends and erasures of entries of one pack, all at the same time, lose none and make
// no leaf twice.
func TestPacks_Shrink(t *testing.T) {
	p := newPacked(t)
	calls, log := p.pack(60)
	tenant := calls[0].In.Attempt.TenantID
	group, ctx := errgroup.WithContext(t.Context())
	for i := range 3 {
		group.Go(func() error {
			for j := i; j < 30; j += 3 {
				if _, err := p.s.EraseEvent(ctx, tenant, calls[j].In.Attempt.EventID, p.now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error { return p.appendAll(ctx, log, 7) })
	p.must(group.Wait())
	p.must(p.appendAll(t.Context(), log, 1000))
	p.rows(0, 0)
	leaves, err := p.s.Leaves(t.Context(), log.ID, 0, 1000)
	p.must(err)
	texts, of := 0, map[kapsel.AttemptID]bool{}
	for _, l := range leaves {
		if l.AttemptID.IsZero() {
			continue
		}
		of[l.AttemptID] = true
		if l.Record != nil {
			texts++
		}
	}
	if len(of) != 60 || len(leaves) != 90 || texts != 30 {
		t.Errorf("%d leaves, of %d attempts, %d with a text; want 90, 60 and 30", len(leaves), len(of), texts)
	}
}

// TestPacks_InAnotherOrder checks that a pack that somebody has changed is taken in the order that it has.
func TestPacks_InAnotherOrder(t *testing.T) {
	p := newPacked(t)
	_, log := p.pack(5)
	_, err := p.s.engine.Exec(t.Context(), `
		UPDATE audit_packs SET attempts = ARRAY(SELECT unnest(attempts) ORDER BY 1 DESC),
			entries = ARRAY(SELECT u.entry FROM unnest(attempts, entries) AS u (id, entry) ORDER BY u.id DESC)`)
	p.must(err)
	p.must(p.appendAll(t.Context(), log, 3))
	p.rows(0, 0)
	leaves, err := p.s.Leaves(t.Context(), log.ID, 0, 10)
	p.must(err)
	if len(leaves) != 5 {
		t.Errorf("%d leaves, want 5", len(leaves))
	}
}

// appendAll makes leaves of what is in the outbox, so many at a time, until it is empty.
func (p *packed) appendAll(ctx context.Context, log store.Log, atOnce int) error {
	for {
		var after store.EntryKey
		for done := false; !done; {
			entries, next, err := p.s.Entries(ctx, after, atOnce, nil)
			if err != nil || len(entries) == 0 && after == (store.EntryKey{}) {
				return err
			}
			now, err := p.s.Log(ctx, log.ID)
			if err != nil {
				return err
			}
			g := store.Growth{Log: log.ID, Was: now.State, Size: now.Size + int64(len(entries)), Root: now.Root}
			for i, e := range entries {
				l := store.Leaf{Index: now.Size + int64(i), AttemptID: e.AttemptID, Record: []byte("text")}
				if e.Erased {
					l.Record = nil
				}
				if _, ok := store.ReadErasure(e.Record); ok {
					l.AttemptID = kapsel.AttemptID{}
				}
				g.Leaves, g.Taken = append(g.Leaves, l), append(g.Taken, e.EntryKey)
			}
			stale, err := p.s.Append(ctx, []store.Growth{g})
			switch {
			case kapsel.CodeOf(err) == kapsel.Conflict: // an entry was erased since it was read
				next = store.EntryKey{}
			case err != nil:
				return err
			case len(stale) > 0:
				return errors.New("the log is not as it was")
			}
			after, done = next, next == store.EntryKey{}
		}
	}
}
