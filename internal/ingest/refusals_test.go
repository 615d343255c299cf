package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// countersOf keeps what is written, and fails while it is told to.
type countersOf struct {
	store.Counters
	mu      sync.Mutex // guards what follows
	written []map[store.StatsKey]store.Arrivals
	failing bool
}

func (c *countersOf) CountArrivals(_ context.Context, counts map[store.StatsKey]store.Arrivals) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing {
		return kapsel.Errorf(kapsel.DatabaseUnavailable, "down")
	}
	c.written = append(c.written, counts)
	return nil
}

// fail makes further calls fail, or not.
func (c *countersOf) fail(failing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing = failing
}

// writes returns how often something was written so far, and the sum of it for an endpoint.
func (c *countersOf) writes(id kapsel.EndpointID) (writes int, sum int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, counts := range c.written {
		for key, n := range counts {
			if key.Endpoint == id {
				sum += n.Refused
			}
		}
	}
	return len(c.written), sum
}

var forged = kapsel.Errorf(kapsel.InvalidSignature, "no signature of the request was made with a secret of this endpoint")

func TestRefusalsAreRemembered(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	start := now
	h := &Handler{}
	h.refusals.since = now
	id, other := kapsel.NewEndpointID(now), kapsel.NewEndpointID(now)
	h.noteRefusal(id, nil, now)
	if got := h.Refusals(id); len(got.Last)+len(got.Counts) > 0 || !got.Since.Equal(start) {
		t.Errorf("of none: %+v", got)
	}
	for i := range 120 {
		now = now.Add(time.Second)
		h.refusals.note(id, kapsel.Errorf(kapsel.InvalidSignature, "signed %d", i), now)
	}
	h.refusals.note(id, &kapsel.Error{Code: kapsel.InvalidRequest, Status: 405, Detail: "use POST", Fields: []kapsel.FieldError{{Field: "X-Key", Detail: "is too long"}}}, now)
	h.refusals.note(other, fmt.Errorf("wrapped: %w", &kapsel.Error{Code: kapsel.DatabaseUnavailable, Detail: strings.Repeat("ü", 1000), Err: errors.New("secret cause")}), now)
	h.refusals.note(other, errors.New("a bug with hunter2"), now)

	got := h.Refusals(id)
	if len(got.Last) != refusalsKept || got.Counts[kapsel.InvalidSignature] != 120 || got.Counts[kapsel.InvalidRequest] != 1 {
		t.Fatalf("%d are kept, counts %v", len(got.Last), got.Counts)
	}
	if diff := cmp.Diff(kapsel.Refusal{At: now, Status: 405, Code: kapsel.InvalidRequest, Detail: "use POST; X-Key is too long"}, got.Last[0]); diff != "" {
		t.Error(diff)
	}
	for i, r := range got.Last[1:] {
		if r.Detail != fmt.Sprint("signed ", 119-i) || r.Status != 401 || r.Code != kapsel.InvalidSignature {
			t.Fatalf("number %d is %+v", i, r)
		}
	}
	last := h.Refusals(other).Last
	if last[0].Status != 500 || last[0].Code != "" || strings.Contains(last[0].Detail, "hunter2") {
		t.Errorf("of a bug: %+v", last[0])
	}
	if last[1].Status != 503 || len(last[1].Detail) > refusalDetail || !strings.HasSuffix(last[1].Detail, "ü…") || strings.Contains(last[1].Detail, "cause") {
		t.Errorf("a long one: %+v", last[1])
	}
}

// TestRefusalsAreBounded checks that beyond 1,000 endpoints the one refused least recently is
// forgotten, and that the counts of a forgotten endpoint do not claim to be complete.
func TestRefusalsAreBounded(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	h := &Handler{}
	h.refusals.since = start
	ids := make([]kapsel.EndpointID, refusalsEndpoints+1)
	for i := range ids {
		ids[i] = kapsel.NewEndpointID(start)
		at := start.Add(time.Duration(i) * time.Second)
		if i == refusalsEndpoints {
			h.refusals.note(ids[0], forged, at)
		}
		h.refusals.note(ids[i], forged, at)
	}
	forgot := start.Add(refusalsEndpoints * time.Second)
	if got := h.Refusals(ids[0]); got.Counts[kapsel.InvalidSignature] != 2 || !got.Since.Equal(start) {
		t.Errorf("of one that refused again: %+v", got)
	}
	if got := h.Refusals(ids[1]); len(got.Last) != 0 || !got.Since.Equal(forgot) {
		t.Errorf("of the least recent: %+v", got)
	}
	later := forgot.Add(time.Minute)
	h.refusals.note(ids[1], forged, later)
	if got := h.Refusals(ids[1]); len(got.Last) != 1 || !got.Since.Equal(later) {
		t.Errorf("of one that came back: %+v", got)
	}
	if n := len(h.refusals.endpoints); n != refusalsEndpoints || h.refusals.order.Len() != n {
		t.Errorf("%d endpoints are remembered", n)
	}

	for range arrivalsPending + 10 {
		h.arrivals.add(kapsel.NewEndpointID(start), later, store.Arrivals{Refused: 1})
	}
	if n := len(h.arrivals.pending); n != arrivalsPending {
		t.Errorf("%d counts wait", n)
	}
}

// TestRefusalsAreCounted checks that refusals reach the store together, at most every 10 s, also
// after an error of the store, and at the end.
func TestRefusalsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var db countersOf
		h := &Handler{Config: Config{Counters: &db, Log: slog.New(slog.DiscardHandler)}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { h.CountArrivals(ctx); close(done) }()
		id := kapsel.NewEndpointID(time.Now())
		for range 1000 { // 9.99 s
			h.noteRefusal(id, forged, time.Now())
			time.Sleep(9990 * time.Microsecond)
		}
		wrote := func(when string, want int, total int64) {
			synctest.Wait()
			if writes, sum := db.writes(id); writes != want || sum != total {
				t.Errorf("%s: %d writes of %d, want %d of %d", when, writes, sum, want, total)
			}
		}
		wrote("in the first 10 s", 0, 0)
		time.Sleep(time.Second)
		wrote("after 10 s", 1, 1000)
		db.fail(true)
		h.noteRefusal(id, forged, time.Now())
		time.Sleep(15 * time.Second)
		h.noteRefusal(id, forged, time.Now())
		db.fail(false)
		time.Sleep(time.Minute)
		wrote("after trouble", 2, 1002)
		time.Sleep(59 * time.Minute)
		h.noteRefusal(id, forged, time.Now())
		stop()
		<-done
		wrote("at the end", 3, 1003)
	})
}
