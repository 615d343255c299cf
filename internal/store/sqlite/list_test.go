package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// TestLists compares lists with what a look at every row gives. The ids of events, the ids of
// deliveries and the times of receipt are apart by random times, as lists rely on bounds of these.
func TestLists(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	var all []store.EventRecord // of all rounds
	rapid.Check(t, func(rt *rapid.T) {
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		offset := rapid.Custom(func(t *rapid.T) time.Duration {
			ms := rapid.OneOf(rapid.Just(0), rapid.IntRange(-3, 3), rapid.IntRange(-5000, 5000)).Draw(t, "ms")
			return time.Duration(ms) * time.Millisecond
		})
		var tenants []kapsel.TenantID
		var endpoints []kapsel.Endpoint
		for range 2 {
			tenant := kapsel.NewTenantID(testTime)
			must(s.CreateTenant(ctx, kapsel.Tenant{ID: tenant}))
			tenants = append(tenants, tenant)
			for range 2 {
				e := kapsel.Endpoint{ID: kapsel.NewEndpointID(testTime), TenantID: tenant, State: kapsel.EndpointActive}
				must(s.CreateEndpoint(ctx, e, 0))
				endpoints = append(endpoints, e)
			}
		}
		keys := [][]byte{nil, []byte("a"), []byte("b")}
		now := testTime
		for range rapid.IntRange(1, 25).Draw(rt, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "passed")) * time.Millisecond)
			e := rapid.SampledFrom(endpoints).Draw(rt, "endpoint")
			in := acceptance(e.ID, now, nil)
			in.Event.ID = kapsel.NewEventID(now.Add(offset.Draw(rt, "event id")), 0)
			in.Event.TenantID, in.Event.IdempotencyKey = e.TenantID, rapid.SampledFrom(keys).Draw(rt, "key")
			in.Window = 0
			in.Deliveries[0] = kapsel.Delivery{
				ID: kapsel.NewDeliveryID(now.Add(offset.Draw(rt, "delivery id")), 0), EventID: in.Event.ID,
				EndpointID: e.ID, TenantID: e.TenantID, DueAt: now, CreatedAt: now,
			}
			r := store.EventRecord{Event: in.Event}
			in.Deliveries[0] = outcome(rt, in.Deliveries[0], now)
			_, err := s.Accept(ctx, in)
			must(err)
			r.Deliveries = append(r.Deliveries, in.Deliveries[0])
			for d := &r.Deliveries[0]; d.Status.Terminal() && rapid.Bool().Draw(rt, "replay"); {
				replay, err := s.Replay(ctx, kapsel.TenantID{}, d.EventID, d.ID, now.Add(offset.Draw(rt, "replay id").Abs()))
				must(err)
				d.ReplayedAs = replay.ID
				if rapid.Bool().Draw(rt, "canceled") {
					replay, err = s.MoveDelivery(ctx, kapsel.TenantID{}, replay.ID, kapsel.Cancel{}, now)
					must(err)
				}
				r.Deliveries = append(r.Deliveries, replay)
				d = &r.Deliveries[len(r.Deliveries)-1]
			}
			r.Event.Header, r.Event.Body = nil, nil
			all = append(all, r)
		}

		if rapid.IntRange(0, 9).Draw(rt, "open again") == 0 {
			must(s.Close())
			s = openAt(t, s.path)
		}
		tenant := rapid.SampledFrom(append(tenants, kapsel.TenantID{})).Draw(rt, "of tenant")
		endpoint := rapid.SampledFrom(append(endpoints, kapsel.Endpoint{})).Draw(rt, "of endpoint").ID
		limit := rapid.IntRange(1, 5).Draw(rt, "limit")

		f := store.EventFilter{EndpointID: endpoint, IdempotencyKey: rapid.SampledFrom(keys).Draw(rt, "of key")}
		f.Status = rapid.SampledFrom([]kapsel.EventStatus{"", "", "received", "pending", "delivering", "delivered", "failed", "dead_letter", "canceled"}).Draw(rt, "event status")
		if rapid.Bool().Draw(rt, "since") {
			f.Since = rapid.SampledFrom(all).Draw(rt, "since").Event.ReceivedAt
		}
		if rapid.Bool().Draw(rt, "until") {
			f.Until = rapid.SampledFrom(all).Draw(rt, "until").Event.ReceivedAt
		}
		p := store.Page[kapsel.EventID]{Limit: limit}
		if rapid.Bool().Draw(rt, "before") {
			p.Before = rapid.SampledFrom(all).Draw(rt, "before").Event.ID
		}
		var want []store.EventRecord
		for _, r := range all {
			if (tenant.IsZero() || r.Event.TenantID == tenant) && meets(f, &r) && bytes.Compare(r.Event.ID[:], before(p.Before)) < 0 {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, func(a, b store.EventRecord) int { return bytes.Compare(b.Event.ID[:], a.Event.ID[:]) })
		want = want[:min(limit, len(want))]
		got, _, err := s.ListEvents(ctx, tenant, f, p)
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			rt.Fatalf("ListEvents: %v (-want +got):\n%s", err, diff)
		}

		df := store.DeliveryFilter{EndpointID: endpoint}
		if status := kapsel.DeliveryStatus(rapid.IntRange(0, 7).Draw(rt, "delivery status")); status <= kapsel.Canceled {
			df.Status = &status
		}
		if replayed := rapid.SampledFrom([]*bool{nil, new(bool), new(true)}).Draw(rt, "replayed"); replayed != nil {
			df.Replayed = replayed
		}
		dp := store.Page[kapsel.DeliveryID]{Limit: limit}
		var wantDeliveries []kapsel.Delivery
		if rapid.Bool().Draw(rt, "before") {
			dp.Before = rapid.SampledFrom(all).Draw(rt, "before").Deliveries[0].ID
		}
		for _, r := range all {
			for _, d := range r.Deliveries {
				if (tenant.IsZero() || d.TenantID == tenant) && (endpoint.IsZero() || d.EndpointID == endpoint) &&
					(df.Status == nil || d.Status == *df.Status) && (df.Replayed == nil || d.ReplayedAs.IsZero() != *df.Replayed) &&
					bytes.Compare(d.ID[:], before(dp.Before)) < 0 {
					wantDeliveries = append(wantDeliveries, d)
				}
			}
		}
		slices.SortFunc(wantDeliveries, func(a, b kapsel.Delivery) int { return cmp.Compare(b.ID.String(), a.ID.String()) })
		wantDeliveries = wantDeliveries[:min(limit, len(wantDeliveries))]
		gotDeliveries, err := s.ListDeliveries(ctx, tenant, df, dp)
		if diff := gocmp.Diff(wantDeliveries, gotDeliveries, cmpopts.EquateEmpty()); diff != "" || err != nil {
			rt.Fatalf("ListDeliveries: %v (-want +got):\n%s", err, diff)
		}
	})
	checkPlans(t, s)
}

// outcome is a pending delivery in any state.
func outcome(t *rapid.T, d kapsel.Delivery, now time.Time) kapsel.Delivery {
	claim := kapsel.Claim{Node: testNode, Token: kapsel.NewAttemptID(now, 0)}
	for _, h := range rapid.SampledFrom([][]kapsel.Transition{
		nil, {claim}, {kapsel.Cancel{}},
		{claim, kapsel.Answer{Status: 200}},
		{claim, kapsel.Answer{Status: 400, Code: kapsel.HTTPClientError}},
		{claim, kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 1}},
		{claim, kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 2}},
		{claim, kapsel.Answer{Status: 500, Code: kapsel.HTTPServerError, Retry: true, MaxAttempts: 2}, claim},
	}).Draw(t, "outcome") {
		var err error
		if d, err = d.After(h, now); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestMerged checks that the source of many owners returns the highest ids of all of them, however unequally
// these are distributed.
func TestMerged(t *testing.T) {
	idOf := func(n int) (id [16]byte) {
		binary.BigEndian.PutUint64(id[8:], uint64(n))
		return id
	}
	rapid.Check(t, func(rt *rapid.T) {
		numbers := rapid.SliceOfNDistinct(rapid.IntRange(1, 1000), 0, 150, rapid.ID[int])
		var owners []kapsel.EndpointID
		has, all := map[kapsel.EndpointID][][16]byte{}, [][16]byte{}
		for range rapid.IntRange(0, 9).Draw(rt, "owners") {
			owner := kapsel.NewEndpointID(testTime)
			owners = append(owners, owner)
			for _, n := range numbers.Draw(rt, "ids") {
				has[owner] = append(has[owner], idOf(n))
			}
			all = append(all, has[owner]...)
		}
		before, floor := idOf(rapid.IntRange(500, 1001).Draw(rt, "before")), idOf(rapid.IntRange(0, 600).Draw(rt, "floor"))
		n := rapid.IntRange(1, 200).Draw(rt, "n")
		from := mergedBy(owners, func(owner kapsel.EndpointID) source { return among(has[owner]) })
		got, err := from(nil, before[:], floor[:], n)
		if err != nil {
			rt.Fatal(err)
		}
		want, _ := among(all)(nil, before[:], floor[:], n) // never fails
		if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			rt.Errorf("the %d highest of %d owners (-want +got):\n%s", n, len(owners), diff)
		}
	})
}
