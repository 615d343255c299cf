package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// anyTenant selects the rows of all tenants.
var anyTenant kapsel.TenantID

// Deliveries returns all deliveries of an endpoint, oldest first; those of all endpoints if ep is
// nil.
func (w *World) Deliveries(ep *kapsel.Endpoint) (all []kapsel.Delivery) {
	w.Helper()
	var f store.DeliveryFilter
	if ep != nil {
		f.EndpointID = ep.ID
	}
	p := store.Page[kapsel.DeliveryID]{Limit: 200}
	for {
		page, err := w.db.ListDeliveries(context.Background(), anyTenant, f, p)
		w.must(err)
		all = append(all, page...)
		if len(page) < p.Limit {
			break
		}
		p.Before = page[len(page)-1].ID
	}
	slices.Reverse(all)
	return all
}

// Delivery returns the newest delivery of an event.
func (w *World) Delivery(id kapsel.EventID) kapsel.Delivery {
	w.Helper()
	r, err := w.db.Event(context.Background(), anyTenant, id)
	w.must(err)
	return r.Deliveries[len(r.Deliveries)-1]
}

// Attempts returns all attempts of a delivery, in the order of their numbers.
func (w *World) Attempts(id kapsel.DeliveryID) (all []kapsel.Attempt) {
	w.Helper()
	for {
		after := 0
		if len(all) > 0 {
			after = all[len(all)-1].Number
		}
		page, err := w.db.ListAttempts(context.Background(), anyTenant, id, after, 200)
		w.must(err)
		all = append(all, page...)
		if len(page) < 200 {
			return all
		}
	}
}

// Circuit returns an endpoint's stored circuit.
func (w *World) Circuit(ep *kapsel.Endpoint) kapsel.Circuit {
	w.Helper()
	c, err := w.db.Circuit(context.Background(), ep.ID)
	w.must(err)
	return c
}

// Pass waits for d, and then until all goroutines of the bubble are idle.
func (w *World) Pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Until waits until ok returns true, and calls it after every step. It ends the test if limit has
// passed.
func (w *World) Until(what string, limit, step time.Duration, ok func() bool) {
	w.Helper()
	for start := time.Now(); ; w.Pass(step) {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Since(start) > limit {
			w.Fatalf("after %v still not so: %s", limit, what)
		}
	}
}

// UntilDone waits until every delivery is terminal. It ends the test if limit has passed.
func (w *World) UntilDone(limit time.Duration) {
	w.Helper()
	w.Until("every delivery is terminal", limit, max(limit/1000, 10*time.Millisecond), func() bool {
		for _, status := range []kapsel.DeliveryStatus{kapsel.Pending, kapsel.Delivering} {
			open, err := w.db.ListDeliveries(context.Background(), anyTenant, store.DeliveryFilter{Status: &status}, store.Page[kapsel.DeliveryID]{Limit: 1})
			w.must(err)
			if len(open) > 0 {
				return false
			}
		}
		return true
	})
}

// Acked returns the answers with 200 so far.
func (w *World) Acked() []Acked {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// Judge compares the acknowledged events, the requests on the wire and the stored rows, while the
// world is idle. It can be used several times: deliveries that were terminal the last time must
// not have changed.
type Judge struct {
	World *World
	// Max is the highest number of attempts of all retry policies; 0: do not check it.
	Max      int
	terminal map[kapsel.DeliveryID]kapsel.Delivery
}

// Faults returns a text for each violated invariant.
func (j *Judge) Faults() (faults []string) {
	w := j.World
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	deliveries := w.Deliveries(nil)
	byEvent := map[kapsel.EventID][]kapsel.Delivery{}
	attempts := map[kapsel.AttemptID]kapsel.Attempt{}
	held := map[kapsel.AttemptID]bool{}
	for _, d := range deliveries {
		byEvent[d.EventID] = append(byEvent[d.EventID], d)
		j.delivery(d, attempts, bad)
		if d.Status == kapsel.Delivering {
			held[d.Token] = true
		}
	}

	// Each acknowledged event is stored, with exactly one delivery of its own. Duplicates may have
	// added deliveries that repeat failed ones.
	fresh := map[kapsel.EventID]int{}
	for _, a := range w.Acked() {
		own := 0
		for _, d := range byEvent[a.Event] {
			if !d.ByDuplicate {
				own++
			}
		}
		if own != 1 {
			bad("event %s was acknowledged and has %d deliveries of its own, want 1", a.Event, own)
		}
		if !a.Duplicate {
			fresh[a.Event]++
		}
		if fresh[a.Event] > 1 {
			bad("event %s was acknowledged as new %d times", a.Event, fresh[a.Event])
		}
	}

	// Each request on the wire has an attempt, and each answered attempt was on the wire.
	requests := map[kapsel.AttemptID]*Request{}
	for _, r := range w.Net.Requests() {
		if before := requests[r.Attempt]; before != nil {
			bad("attempt %s was on the wire twice, at %s and %s", r.Attempt, before.At.Format(time.TimeOnly), r.At.Format(time.TimeOnly))
		}
		requests[r.Attempt] = r
		a, recorded := attempts[r.Attempt]
		switch {
		case len(byEvent[r.Event]) == 0:
			bad("event %s was on the wire and is not stored", r.Event)
		case recorded && a.Number != r.Number:
			bad("attempt %s is number %d and said %d on the wire", r.Attempt, a.Number, r.Number)
		case !recorded && !held[r.Attempt]:
			bad("attempt %s was on the wire at %s and has no row", r.Attempt, r.At.Format(time.TimeOnly))
		}
	}
	for id, a := range attempts {
		if a.StatusCode != 0 && requests[id] == nil {
			bad("attempt %s has status %d and was not on the wire", id, a.StatusCode)
		}
	}
	return faults
}

// delivery judges one delivery and its attempts, and adds the attempts to the map.
func (j *Judge) delivery(d kapsel.Delivery, attempts map[kapsel.AttemptID]kapsel.Attempt, bad func(string, ...any)) {
	if d.ByDuplicate && d.ReplayOf.IsZero() {
		bad("delivery %s was made by a duplicate and repeats nothing", d.ID)
	}
	rows := j.World.Attempts(d.ID)
	counted := 0
	for i, a := range rows {
		if a.Number != i+1 {
			bad("delivery %s: attempt %d has number %d", d.ID, i+1, a.Number)
		}
		if _, twice := attempts[a.ID]; twice {
			bad("attempt %s has two rows", a.ID)
		}
		attempts[a.ID] = a
		if a.ErrorCode != kapsel.OutcomeUnknown {
			counted++
		}
		if a.ErrorCode == "" && i != len(rows)-1 {
			bad("delivery %s was tried again after attempt %d had been answered 2xx", d.ID, a.Number)
		}
	}
	if d.Attempts != len(rows) || d.Counted != counted {
		bad("delivery %s says %d attempts, %d counted; its rows are %d, %d", d.ID, d.Attempts, d.Counted, len(rows), counted)
	}
	if j.Max > 0 && d.Counted > j.Max {
		bad("delivery %s has %d counted attempts, more than %d", d.ID, d.Counted, j.Max)
	}
	last := kapsel.Attempt{ErrorCode: "none"}
	if len(rows) > 0 {
		last = rows[len(rows)-1]
	}
	switch d.Status {
	case kapsel.Delivered:
		if last.ErrorCode != "" || last.StatusCode/100 != 2 {
			bad("delivery %s is delivered by an attempt of status %d, %s", d.ID, last.StatusCode, last.ErrorCode)
		}
	case kapsel.Failed, kapsel.DeadLetter:
		if last.ErrorCode == "" {
			bad("delivery %s is %s by an attempt that was answered 2xx", d.ID, d.Status)
		}
	}
	if was, ok := j.terminal[d.ID]; ok {
		was.ReplayedAs = d.ReplayedAs
		if was != d {
			bad("delivery %s was terminal and changed from %+v to %+v", d.ID, was, d)
		}
	}
	if d.Status.Terminal() {
		if j.terminal == nil {
			j.terminal = map[kapsel.DeliveryID]kapsel.Delivery{}
		}
		j.terminal[d.ID] = d
	}
}

// Check reports each violated invariant as an error of the test.
func (j *Judge) Check() {
	j.World.Helper()
	faults := j.Faults()
	slices.SortFunc(faults, cmp.Compare)
	for i, f := range faults {
		if i == 20 {
			j.World.Errorf("… and %d more", len(faults)-i)
			break
		}
		j.World.Error(f)
	}
}
