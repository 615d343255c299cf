package store_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// TestEventRecord_Digest: a digest has few deliveries, and the event the same status and the same
// first delivery.
func TestEventRecord_Digest(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first := func(r *store.EventRecord) (at time.Time) {
		for _, d := range r.Deliveries {
			if d.Status == kapsel.Delivered && (at.IsZero() || d.FinishedAt.Before(at)) {
				at = d.FinishedAt
			}
		}
		return at
	}
	rapid.Check(t, func(t *rapid.T) {
		r := store.EventRecord{Expanding: rapid.Bool().Draw(t, "expanding")}
		statuses := rapid.SliceOfNDistinct(rapid.SampledFrom([]kapsel.DeliveryStatus{
			kapsel.Pending, kapsel.Delivering, kapsel.Delivered, kapsel.Failed, kapsel.DeadLetter, kapsel.Canceled,
		}), 1, 6, rapid.ID[kapsel.DeliveryStatus]).Draw(t, "statuses")
		untried := rapid.Bool().Draw(t, "untried")
		for i := range rapid.IntRange(0, 3*kapsel.MaxInline).Draw(t, "deliveries") {
			d := kapsel.Delivery{EndpointID: kapsel.EndpointID{byte(i >> 8), byte(i), 1}, Status: statuses[i%len(statuses)]}
			if !untried {
				d.Attempts = i % 3
			}
			if d.Status.Terminal() {
				d.FinishedAt = noon.Add(time.Duration(i*7919%1000) * time.Second)
				if i%5 == 0 {
					d.ReplayedAs = kapsel.DeliveryID{1}
				}
			}
			r.Deliveries = append(r.Deliveries, d)
		}
		n, status, at := len(r.Deliveries), r.Status(), first(&r)
		all := slices.Clone(r.Deliveries)
		r.Digest()
		if got := r.Status(); got != status || !first(&r).Equal(at) {
			t.Fatalf("the digest is %s, first delivered at %v; want %s, %v", got, first(&r), status, at)
		}
		for _, d := range all {
			if !r.To(d.EndpointID) {
				t.Fatalf("the digest has nothing to %v", d.EndpointID)
			}
		}
		if n <= kapsel.MaxInline && len(r.Deliveries) != n || len(r.Deliveries) > min(n, kapsel.MaxInline) {
			t.Fatalf("of %d deliveries the digest has %d", n, len(r.Deliveries))
		}
	})
}
