package storetest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// world is a store with a tenant, an endpoint and a living node in it. Its methods do what
// must work and end the test when it does not; they are for the test's own goroutine.
type world struct {
	t        rapid.TB // what *testing.T, *testing.B and *rapid.T have in common
	ctx      context.Context
	store    store.Store
	now      time.Time
	tenant   kapsel.Tenant
	endpoint kapsel.Endpoint
	node     kapsel.NodeID
	books    bool // see booking
}

// noon is when every test begins.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB, s store.Store) *world {
	w := &world{t: t, ctx: t.Context(), store: s, now: noon}
	w.tenant = w.newTenant()
	w.endpoint = w.newEndpoint(w.tenant)
	w.node = w.join(24 * time.Hour)
	return w
}

// pass lets time pass.
func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

// must ends the test unless a call succeeded.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused ends the test unless a call failed with a code.
func (w *world) refused(err error, want kapsel.Code, what string) {
	w.t.Helper()
	if got := kapsel.CodeOf(err); err == nil || got != want {
		w.t.Fatalf("%s: error is %v, want %s %s", what, err, want, want.Name())
	}
}

// refusedAs ends the test unless a call failed as a rule of all stores says, word for word.
func (w *world) refusedAs(err, want error, what string) {
	w.t.Helper()
	w.refused(err, kapsel.CodeOf(want), what)
	w.same(what, want.Error(), err.Error())
}

// same compares, and ends the test at a difference.
func (w *world) same(what string, want, got any) {
	w.t.Helper()
	if d := diff(want, got); d != "" {
		w.t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}),
		cmp.FilterValues(func(a, b []byte) bool { return len(a)+len(b) > 0 }, cmp.Comparer(bytes.Equal)),
		idText[kapsel.TenantID](), idText[kapsel.KeyID](), idText[kapsel.EndpointID](), idText[kapsel.SourceID](), idText[kapsel.EventID](),
		idText[kapsel.DeliveryID](), idText[kapsel.AttemptID](), idText[kapsel.SecretID](), idText[kapsel.NodeID](), idText[kapsel.ReplayID](), idText[kapsel.ChangeID]())
}

// idText shows ids as people read them.
func idText[ID interface {
	~[16]byte
	fmt.Stringer
}]() cmp.Option {
	return cmp.FilterPath(
		func(p cmp.Path) bool { return p.Last().Type() == reflect.TypeFor[ID]() }, // not bare bytes, which could be any of them
		cmp.Transformer("text", func(id ID) string { return id.String() }))
}

// together calls f(0) to f(n-1) at the same time, patiently, and ends the test if one fails.
func (w *world) together(n int, f func(i int) error) {
	w.t.Helper()
	var all errgroup.Group
	start := make(chan struct{})
	for i := range n {
		all.Go(func() error {
			<-start
			return w.patiently(func() error { return f(i) })
		})
	}
	close(start)
	w.must(all.Wait())
}

// patiently repeats a call for at most a minute while the store is unavailable: on a busy machine, one of many calls
// of a moment may find no connection in time, or a row locked for too long.
func (w *world) patiently(call func() error) error {
	for end := time.Now().Add(time.Minute); ; {
		if err := call(); kapsel.CodeOf(err) != kapsel.DatabaseUnavailable || time.Now().After(end) {
			return err
		}
	}
}

func (w *world) newTenant() kapsel.Tenant {
	w.t.Helper()
	t := kapsel.Tenant{
		ID: kapsel.NewTenantID(w.now), Name: "acme", Plan: kapsel.DefaultPlan,
		DataKey: []byte("sealed \x00\xff"), CreatedAt: w.now, UpdatedAt: w.now,
	}
	w.must(w.store.CreateTenant(w.ctx, t))
	return t
}

func (w *world) newEndpoint(t kapsel.Tenant) kapsel.Endpoint {
	w.t.Helper()
	e := w.endpointOf(t)
	w.must(w.store.CreateEndpoint(w.ctx, e, 0))
	return e
}

// endpointOf is an endpoint to create.
func (w *world) endpointOf(t kapsel.Tenant) kapsel.Endpoint {
	e := kapsel.Endpoint{
		ID: kapsel.NewEndpointID(w.now), TenantID: t.ID, State: kapsel.EndpointActive,
		CreatedAt: w.now, UpdatedAt: w.now, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint(),
	}
	e.Name, e.URL = "orders", "https://destination.example/hook"
	e.Part = kapsel.PartOf(e.ID)
	return e
}

// join makes a new node known. On a store of one process the nodes before it are dead now.
func (w *world) join(lease time.Duration) kapsel.NodeID {
	w.t.Helper()
	id := kapsel.NewNodeID(w.now)
	w.must(w.store.Join(w.ctx, id, w.now, lease))
	return id
}

// several joins up to n nodes that are alive together: one on a store of one process.
func (w *world) several(n int) []kapsel.NodeID {
	w.t.Helper()
	for range n {
		w.node = w.join(24 * time.Hour)
	}
	alive, err := w.store.Nodes(w.ctx, w.now)
	w.must(err)
	return alive
}

// acceptance is an event to accept, pending and due now.
func (w *world) acceptance(e kapsel.Endpoint, changes ...func(*store.Acceptance)) store.Acceptance {
	in := store.Acceptance{
		Event: kapsel.Event{
			ID: kapsel.NewEventID(w.now, e.Part), TenantID: e.TenantID, EndpointID: e.ID,
			ReceivedAt: w.now, ContentType: "application/json",
			Header: kapsel.Header{{Name: "Content-Type", Value: "application/json"}},
			Query:  "a=1&b=%20", Body: []byte(`{"hello":"kapsel"}`),
			Signature: kapsel.SignatureVerdict{Scheme: "none"},
		},
		Window: 24 * time.Hour,
	}
	to(e)(&in)
	for _, change := range changes {
		change(&in)
	}
	in.Event.Size = len(in.Event.Body)
	for i := range in.Deliveries {
		in.Deliveries[i].Size = in.Event.Size
	}
	return in
}

// What an acceptance can have.

func key(k string) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Event.IdempotencyKey = []byte(k) }
}

// guard is for a call with a guard, kept for longer than a key.
func guard(g string) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Guard, in.GuardWindow = []byte(g), 96*time.Hour }
}

// to is for an event that goes to these endpoints, too.
func to(endpoints ...kapsel.Endpoint) func(*store.Acceptance) {
	return func(in *store.Acceptance) {
		for _, e := range endpoints {
			in.Deliveries = append(in.Deliveries, kapsel.Delivery{
				ID: kapsel.NewDeliveryID(in.Event.ReceivedAt, in.Event.ID.Part()), EventID: in.Event.ID,
				EndpointID: e.ID, TenantID: e.TenantID, Status: kapsel.Pending, DueAt: in.Event.ReceivedAt, CreatedAt: in.Event.ReceivedAt,
			})
		}
	}
}

// nowhere is for an event that goes to no endpoint.
func nowhere(in *store.Acceptance) { in.Deliveries = nil }

func body(b []byte) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Event.Body = b }
}

func due(at time.Time) func(*store.Acceptance) {
	return func(in *store.Acceptance) { in.Deliveries[0].DueAt = at }
}

// heldBy is for a delivery that the accepting node sends itself.
func heldBy(node kapsel.NodeID) func(*store.Acceptance) {
	return func(in *store.Acceptance) {
		token := kapsel.NewAttemptID(in.Event.ReceivedAt, in.Event.ID.Part())
		in.Deliveries[0], _ = in.Deliveries[0].After(kapsel.Claim{Node: node, Token: token}, in.Event.ReceivedAt)
	}
}

// duplicate accepts a call that is a duplicate of an event. Nothing of its own is stored.
func (w *world) duplicate(of kapsel.EventID, in store.Acceptance) {
	w.t.Helper()
	got, err := w.store.Accept(w.ctx, in)
	w.must(err)
	w.same("accepted", store.Accepted{EventID: of, Duplicate: true}, got)
	_, err = w.store.Event(w.ctx, kapsel.TenantID{}, in.Event.ID)
	w.refused(err, kapsel.NotFound, "the duplicate's own event")
}

// accept stores a new event.
func (w *world) accept(e kapsel.Endpoint, changes ...func(*store.Acceptance)) store.Acceptance {
	w.t.Helper()
	in := w.acceptance(e, changes...)
	got, err := w.store.Accept(w.ctx, in)
	w.must(err)
	w.same("accepted", store.Accepted{EventID: in.Event.ID}, got)
	return in
}

// claim takes what is due of some endpoints, all of it.
func (w *world) claim(endpoints ...kapsel.Endpoint) []store.Claimed {
	w.t.Helper()
	var wants []store.Want
	for _, e := range endpoints {
		wants = append(wants, store.Want{EndpointID: e.ID, Limit: 1000})
	}
	got, _, err := w.store.Claim(w.ctx, w.node, w.now, wants, 1<<30)
	w.must(err)
	return got
}

// claimOne takes the one delivery of the world's endpoint that is due.
func (w *world) claimOne() kapsel.Delivery {
	w.t.Helper()
	got := w.claim(w.endpoint)
	if len(got) != 1 {
		w.t.Fatalf("%d deliveries are due, want 1", len(got))
	}
	return got[0].Delivery
}

// The answers that an attempt can end with.
var (
	ok      = kapsel.Answer{Status: 200}
	refusal = kapsel.Answer{Status: 404, Code: kapsel.HTTPClientError}
	again   = kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, Retry: true, Delay: time.Minute, MaxAttempts: 20}
	useless = kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1}
)

// completion is the end of the attempt for which a delivery is held.
func (w *world) completion(held kapsel.Delivery, a kapsel.Answer) store.Completion {
	w.t.Helper()
	after, err := held.After(a, w.now)
	w.must(err)
	return store.Completion{
		Attempt: kapsel.Attempt{
			ID: held.Token, DeliveryID: held.ID, EventID: held.EventID, EndpointID: held.EndpointID, TenantID: held.TenantID,
			Number: after.Attempts, StartedAt: w.now.Add(-time.Second), Duration: time.Second,
			StatusCode: a.Status, ErrorCode: a.Code,
			RequestHeaders: kapsel.Header{{Name: "User-Agent", Value: "Kapsel"}},
		},
		Delivery: after,
	}
}

// complete ends an attempt.
func (w *world) complete(held kapsel.Delivery, a kapsel.Answer) store.Completion {
	w.t.Helper()
	done := w.completion(held, a)
	w.must(w.store.Complete(w.ctx, done))
	return done
}

// finished is an event of an endpoint whose one delivery has ended.
func (w *world) finished(e kapsel.Endpoint, a kapsel.Answer) store.Completion {
	w.t.Helper()
	in := w.accept(e, heldBy(w.node))
	return w.complete(in.Deliveries[0], a)
}

func (w *world) event(id kapsel.EventID) store.EventRecord {
	w.t.Helper()
	r, err := w.store.Event(w.ctx, kapsel.TenantID{}, id)
	w.must(err)
	return r
}

func (w *world) delivery(id kapsel.DeliveryID) kapsel.Delivery {
	w.t.Helper()
	d, err := w.store.Delivery(w.ctx, kapsel.TenantID{}, id)
	w.must(err)
	return d
}

func (w *world) attempts(id kapsel.DeliveryID) []kapsel.Attempt {
	w.t.Helper()
	all, err := w.store.ListAttempts(w.ctx, kapsel.TenantID{}, id, 0, 1000)
	w.must(err)
	return all
}

// deliveries are all deliveries of an endpoint, newest first.
func (w *world) deliveries(e kapsel.Endpoint) (all []kapsel.Delivery) {
	w.t.Helper()
	p := store.Page[kapsel.DeliveryID]{Limit: 200}
	for {
		page, err := w.store.ListDeliveries(w.ctx, kapsel.TenantID{}, store.DeliveryFilter{EndpointID: e.ID}, p)
		w.must(err)
		all = append(all, page...)
		if len(page) < p.Limit {
			return all
		}
		p.Before = page[len(page)-1].ID
	}
}

func (w *world) settings(since int64) store.Settings {
	w.t.Helper()
	s, err := w.store.Settings(w.ctx, since)
	w.must(err)
	return s
}
