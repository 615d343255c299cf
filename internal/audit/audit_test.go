package audit

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// TestText checks that the leaf of an attempt can be read whatever status a receiver answered with.
func TestText(t *testing.T) {
	now := time.UnixMilli(1732878003000)
	part := kapsel.PartOf(kapsel.NewEndpointID(now))
	e := store.Entry{Attempt: kapsel.Attempt{
		ID: kapsel.NewAttemptID(now, part), DeliveryID: kapsel.NewDeliveryID(now, part), EventID: kapsel.NewEventID(now, part),
		EndpointID: kapsel.NewEndpointID(now), Number: 1, StartedAt: now,
	}}
	for _, tt := range []struct{ status, want int }{{-1, 0}, {0, 0}, {42, 0}, {99, 0}, {100, 100}, {200, 200}, {999, 999}, {1000, 0}} {
		e.Attempt.StatusCode = tt.status
		l, err := receipt.ParseLeaf(string(text(&e)))
		if err != nil {
			t.Errorf("status %d: %v", tt.status, err)
			continue
		}
		a := l.(*receipt.Attempt)
		if a.StatusCode != tt.want {
			t.Errorf("status %d is %d in the leaf, want %d", tt.status, a.StatusCode, tt.want)
		}
		if !says(a, &e.Attempt) {
			t.Errorf("status %d: the leaf is taken for changed", tt.status)
		}
	}
}
