package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// storm is a queue that several workers empty at the same time, each as one node after
// another: nodes take over, claim, complete, give back, and die with what they hold.
type storm struct {
	*world
	clock atomic.Int64 // µs since noon
	left  atomic.Int64 // deliveries not known to have been delivered
}

func checkStorm(w *world) {
	const workers, events = 4, 120
	for range events {
		w.accept(w.endpoint)
	}
	s := &storm{world: w}
	s.left.Store(events)
	w.together(workers, func(i int) error { return s.work(rand.New(rand.NewPCG(7, uint64(i)))) })

	for _, d := range w.deliveries(w.endpoint) {
		attempts := w.attempts(d.ID)
		w.same("attempts", d.Attempts, len(attempts))
		known, delivered := 0, 0
		for i, a := range attempts {
			w.same("number", i+1, a.Number)
			if a.ErrorCode != kapsel.OutcomeUnknown {
				known++
			}
			if a.ErrorCode == "" {
				delivered++
			}
		}
		w.same("attempts with a known outcome", d.Counted, known)
		switch {
		case d.Status == kapsel.Delivered && delivered == 1 && attempts[len(attempts)-1].ErrorCode == "":
		case d.Status == kapsel.DeadLetter && delivered == 0 && d.Takeovers == kapsel.MaxTakeovers:
		default:
			w.t.Errorf("delivered %d times: %+v", delivered, d)
		}
	}
	w.counted()
}

func (s *storm) now() time.Time { return noon.Add(time.Duration(s.clock.Add(1)) * time.Microsecond) }

func (s *storm) join() (kapsel.NodeID, error) {
	id := kapsel.NewNodeID(noon)
	return id, s.store.Join(s.ctx, id, s.now(), 24*time.Hour)
}

// work is one worker's, until every delivery has ended.
func (s *storm) work(r *rand.Rand) error {
	node, err := s.join()
	for err == nil {
		err = s.store.Renew(s.ctx, node, s.now(), 24*time.Hour)
		if kapsel.CodeOf(err) == kapsel.Conflict { // marked dead
			node, err = s.join()
			continue
		}
		if err != nil {
			return err
		}
		took, err := s.turn(r, node)
		if err != nil {
			return err
		}
		if took > 0 && r.IntN(8) > 0 {
			continue
		}
		if ended, err := s.ended(); ended || err != nil {
			return err
		}
		if err := s.store.Leave(s.ctx, node); err != nil { // and die with what it holds
			return err
		}
		if node, err = s.join(); err != nil {
			return err
		}
	}
	return err
}

// turn takes over, claims and ends some deliveries, and returns how many it claimed.
func (s *storm) turn(r *rand.Rand, node kapsel.NodeID) (int, error) {
	if moved, err := s.store.TakeOver(s.ctx, s.now(), 5); err != nil {
		return 0, err
	} else if moved > 5 {
		return 0, fmt.Errorf("a take-over of at most 5 moved %d", moved)
	}
	got, _, err := s.store.Claim(s.ctx, node, s.now(), []store.Want{{EndpointID: s.endpoint.ID, Limit: 5}}, 1<<20)
	if err != nil {
		return 0, err
	}
	for _, c := range got {
		switch n := r.IntN(10); {
		case n == 0: // stays held until the node dies
		case n == 1:
			c.Delivery.DueAt = s.now()
			err = s.store.GiveBack(s.ctx, []kapsel.Delivery{c.Delivery})
		case n < 4:
			err = s.end(c.Delivery, kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1 << 20})
		default:
			err = s.end(c.Delivery, ok)
		}
		if err != nil {
			return 0, err
		}
	}
	return len(got), nil
}

// end completes an attempt, unless the delivery was taken over meanwhile.
func (s *storm) end(held kapsel.Delivery, a kapsel.Answer) error {
	at := s.now()
	after, err := held.After(a, at)
	if err != nil {
		return err
	}
	attempt := kapsel.Attempt{
		ID: held.Token, DeliveryID: held.ID, EventID: held.EventID, EndpointID: held.EndpointID, TenantID: held.TenantID,
		Number: after.Attempts, StartedAt: at, StatusCode: a.Status, ErrorCode: a.Code,
	}
	err = s.store.Complete(s.ctx, store.Completion{Attempt: attempt, Delivery: after})
	switch {
	case kapsel.CodeOf(err) == kapsel.Conflict:
		return nil
	case err == nil && after.Status == kapsel.Delivered:
		s.left.Add(-1)
	}
	return err
}

// ended reports whether all are delivered, or dead letters because they were taken over too
// often.
func (s *storm) ended() (bool, error) {
	left, status := s.left.Load(), kapsel.DeadLetter
	f := store.DeliveryFilter{EndpointID: s.endpoint.ID, Status: &status}
	dead, err := s.store.ListDeliveries(s.ctx, s.tenant.ID, f, store.Page[kapsel.DeliveryID]{Limit: 200})
	return int64(len(dead)) >= left, err
}
