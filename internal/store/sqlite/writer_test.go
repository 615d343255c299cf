package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// hold keeps the writer busy until release is called, so that calls gather.
func hold(s *Store) (release func()) {
	held, free := make(chan struct{}), make(chan struct{})
	go s.writer.alone(func(*conn) error {
		close(held)
		<-free
		return nil
	})
	<-held
	return func() { close(free) }
}

func TestColdCallsGetTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns []string // written by the writer, read when all is done
		s := openTest(t, func(int, time.Duration) { turns = append(turns, "hot") })
		release := hold(s)
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() { // each is a batch
				if _, err := s.Accept(context.Background(), acceptance(testEndpoint, testTime, make([]byte, batch.LargeBody+1))); err != nil {
					t.Error(err)
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				err := s.writer.cold(context.Background(), func(*conn) error {
					turns = append(turns, "cold")
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		var want []string
		for _, hot := range []int{hotTurns, hotTurns, 2} {
			want = append(want, slices.Repeat([]string{"hot"}, hot)...)
			if hot == hotTurns {
				want = append(want, "cold")
			}
		}
		if !slices.Equal(turns, want) {
			t.Errorf("turns are %v, want %v", turns, want)
		}
	})
}

func TestBadRowInBatchFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t)
		release := hold(s)
		errs := make([]error, 100)
		ins := make([]store.Acceptance, len(errs))
		var wg sync.WaitGroup
		for i := range errs {
			ins[i] = acceptance(testEndpoint, testTime, fmt.Append(nil, i))
			if i == 50 {
				ins[i].Deliveries[0].Node = kapsel.NodeID{} // held by no one
			}
			wg.Go(func() { _, errs[i] = s.Accept(context.Background(), ins[i]) })
		}
		synctest.Wait()
		release()
		wg.Wait()
		for i, err := range errs {
			if bad := i == 50; bad != (err != nil) || kapsel.CodeOf(err) != "" {
				t.Errorf("call %d: %v", i, err)
			}
			_, err := s.Event(context.Background(), kapsel.TenantID{}, ins[i].Event.ID)
			if bad := i == 50; bad != (kapsel.CodeOf(err) == kapsel.NotFound) {
				t.Errorf("event %d: %v", i, err)
			}
		}
	})
}

// TestSkewSurvivesRollback writes an event whose times are far apart together with a bad row,
// which rolls back what both of them wrote first.
func TestSkewSurvivesRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := openTest(t)
		in, bad := acceptance(testEndpoint, testTime, nil), acceptance(testEndpoint, testTime, nil)
		in.Event.ReceivedAt = testTime.Add(time.Hour)
		bad.Deliveries[0].Node = kapsel.NodeID{}
		release := hold(s)
		var wg sync.WaitGroup
		for _, in := range []store.Acceptance{in, bad} {
			wg.Go(func() { _, _ = s.Accept(ctx, in) })
			synctest.Wait()
		}
		release()
		wg.Wait()
		for _, when := range []string{"at once", "after a restart"} {
			got, _, err := s.ListEvents(ctx, kapsel.TenantID{}, store.EventFilter{Since: in.Event.ReceivedAt}, store.Page[kapsel.EventID]{Limit: 10})
			if err != nil || len(got) != 1 {
				t.Errorf("%s: %d events, %v", when, len(got), err)
			}
			s.Close()
			s = openAt(t, s.path)
		}
	})
}

// TestFull_FB6 checks that calls fail as unavailable while the disk is full, what was
// acknowledged stays, what was refused is not stored, and the same call succeeds when there is
// space again. A limit on the database's pages stands for the disk.
func TestFull_FB6(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	limit := func(pages int) {
		t.Helper()
		err := s.writer.alone(func(c *conn) error { return c.exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(100)
	accepted := map[kapsel.EventID]bool{}
	var last store.Acceptance
	for range 200 {
		last = acceptance(testEndpoint, testTime, make([]byte, 10_000))
		_, err := s.Accept(ctx, last)
		accepted[last.Event.ID] = err == nil
		if err != nil && kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Fatal(err)
		}
	}
	if accepted[last.Event.ID] {
		t.Fatal("it never got full")
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("what needs no room: %v", err)
	}
	limit(1 << 30)
	if got, err := s.Accept(ctx, last); err != nil || got.Duplicate {
		t.Errorf("the same call with room: %+v, %v", got, err)
	}
	accepted[last.Event.ID] = true
	for id, want := range accepted {
		_, err := s.Event(ctx, kapsel.TenantID{}, id)
		if got := err == nil; got != want {
			t.Errorf("accepted: %t, there: %t (%v)", want, got, err)
		}
	}
}

func TestPanicIsTheCallers(t *testing.T) {
	s := openTest(t)
	ctx := context.Background()
	tenant := kapsel.Tenant{ID: testTenant, Name: "a"}
	if err := s.CreateTenant(ctx, tenant); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if got := recover(); got != "oops" {
				t.Errorf("recovered %v", got)
			}
		}()
		_, _ = s.UpdateTenant(ctx, testTenant, func(t *kapsel.Tenant) error { t.Name = "b"; panic("oops") })
	}()
	got, err := s.UpdateTenant(ctx, testTenant, func(*kapsel.Tenant) error { return nil })
	if err != nil || got.Name != "a" {
		t.Errorf("tenant is %+v, %v", got, err)
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // ends only when all goroutines of the store have
		ctx := context.Background()
		s := openTest(t)
		release := hold(s)
		in := acceptance(testEndpoint, testTime, nil)
		var accepted error
		var wg sync.WaitGroup
		wg.Go(func() { _, accepted = s.Accept(ctx, in) })
		synctest.Wait()
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		_, late := s.Accept(ctx, acceptance(testEndpoint, testTime, nil))
		release()
		wg.Wait()
		if accepted != nil {
			t.Errorf("a call that was queued: %v", accepted)
		}
		_, read := s.Event(ctx, kapsel.TenantID{}, in.Event.ID)
		_, cold := s.SetMeta(ctx, "a", nil)
		for _, err := range []error{late, read, cold, s.Ping(ctx)} {
			if kapsel.CodeOf(err) != kapsel.DatabaseUnavailable || !errors.Is(err, errClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
		again, err := Open(ctx, s.path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if _, err := again.Event(ctx, kapsel.TenantID{}, in.Event.ID); err != nil {
			t.Error(err)
		}
	})
}
