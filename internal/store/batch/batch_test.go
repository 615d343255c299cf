package batch_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

const window = 2 * time.Millisecond

var (
	errClosed = errors.New("closed")
	errBad    = errors.New("a bad value")
	errDown   = errors.New("the store is down")
)

// bench is a queue, whose calls are numbers, with a writer that takes as long as it is told.
type bench struct {
	queue   *batch.Queue[int]
	takes   time.Duration
	fails   func(calls []int) error // nil: never
	written [][]int                 // the batches so far; the writer's own until it has ended
	seen    []int                   // the sizes that were observed
	ended   chan struct{}
}

func newBench(takes time.Duration) *bench {
	b := &bench{takes: takes, ended: make(chan struct{})}
	b.queue = batch.NewQueue[int](window, func(calls int, _ time.Duration) { b.seen = append(b.seen, calls) }, errClosed)
	return b
}

func (b *bench) start() { go b.run() }

func (b *bench) run() {
	defer close(b.ended)
	for {
		n, closed := b.queue.Len()
		switch {
		case n > 0:
			b.queue.Gather()
			b.queue.Commit(b.queue.Take(nil), b.write, b.separately, func(err error) bool { return errors.Is(err, errBad) })
		case closed:
			return
		default:
			<-b.queue.Waiting()
		}
	}
}

func (b *bench) write(calls []*batch.Call[int]) error {
	time.Sleep(b.takes)
	var in []int
	for _, c := range calls {
		c.Err = nil
		in = append(in, c.In)
	}
	if b.fails != nil {
		if err := b.fails(in); err != nil {
			return err
		}
	}
	b.written = append(b.written, in)
	return nil
}

func (b *bench) separately(calls []*batch.Call[int]) error {
	for i, c := range calls {
		c.Err = b.write(calls[i : i+1])
	}
	return nil
}

func (b *bench) stop() {
	b.queue.Close()
	<-b.ended
}

// TestLimits: a batch ends at its limits, in the order of the calls, and a large body is alone.
func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		bodies  []int
		batches []int
	}{
		{"rows", slices.Repeat([]int{100}, batch.Rows+88), []int{batch.Rows, 88}},
		{"bytes", slices.Repeat([]int{batch.LargeBody}, 9), []int{4, 4, 1}},
		{"a large body", []int{100, 100, batch.LargeBody + 1, 100, 100}, []int{2, 1, 2}},
		{"large bodies", []int{batch.LargeBody + 1, 10 << 20, 100}, []int{1, 1, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(0)
				var wg sync.WaitGroup
				for i, size := range tt.bodies {
					wg.Go(func() {
						if err := b.queue.Do(i, 1, size); err != nil {
							t.Error(err)
						}
					})
					synctest.Wait() // they queue in this order
				}
				b.start()
				wg.Wait()
				b.stop()
				next := 0
				for i, n := range tt.batches {
					if i >= len(b.written) || len(b.written[i]) != n {
						t.Fatalf("batches are %v, want lengths %v", b.written, tt.batches)
					}
					for _, in := range b.written[i] {
						if in != next {
							t.Fatalf("call %d was written where %d was due", in, next)
						}
						next++
					}
				}
				if !slices.Equal(b.seen, tt.batches) {
					t.Errorf("observed were %v, want %v", b.seen, tt.batches)
				}
			})
		})
	}
}

// TestGather: a call that is alone waits for nobody. Callers that call again and again are
// written together, and a batch does not wait for others once all of them are back.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(time.Millisecond)
		b.start()
		took := func() time.Duration {
			start := time.Now()
			if err := b.queue.Do(0, 1, 0); err != nil {
				t.Error(err)
			}
			return time.Since(start)
		}
		for range 3 {
			if d := took(); d != time.Millisecond {
				t.Errorf("a call that is alone took %v, its commit 1ms", d)
			}
		}
		const callers, rounds, pause = 10, 50, 100 * time.Microsecond
		var wg sync.WaitGroup
		start := time.Now()
		for range callers {
			wg.Go(func() {
				for range rounds {
					time.Sleep(pause)
					took()
				}
			})
		}
		wg.Wait()
		if all := time.Since(start); all > (rounds+2)*(time.Millisecond+pause+pause/2) {
			t.Errorf("%d rounds took %v: batches wait although all callers are back", rounds, all)
		}
		if n := len(b.written); n > rounds+callers {
			t.Errorf("%d calls of %d callers were %d batches", callers*rounds, callers, n)
		}
		time.Sleep(time.Second)
		if d := took(); d != time.Millisecond {
			t.Errorf("a call a second later took %v, its commit 1ms", d)
		}
		b.stop()
	})
}

// TestGather_Window: a batch waits at most the window for callers that do not come back.
func TestGather_Window(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { _ = b.queue.Do(i, 1, 0) })
		}
		synctest.Wait()
		b.start()
		wg.Wait()
		start := time.Now()
		if err := b.queue.Do(3, 1, 0); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != window {
			t.Errorf("a call right after a batch of 3 waited %v, want %v", d, window)
		}
		b.stop()
	})
}

// TestAnswers: a call whose own values bring a batch down fails alone; trouble of the store is
// everybody's. Every commit is observed, also one that failed.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0)
		b.fails = func(calls []int) error {
			if slices.Contains(calls, 5) {
				return errBad
			}
			return nil
		}
		together := func() []error {
			errs := make([]error, 10)
			var wg sync.WaitGroup
			for i := range errs {
				wg.Go(func() { errs[i] = b.queue.Do(i, 1, 0) })
			}
			wg.Wait()
			return errs
		}
		b.start()
		for i, err := range together() {
			if bad := i == 5; bad != (err != nil) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		commits := len(b.seen)
		b.fails = func([]int) error { return errDown }
		for i, err := range together() {
			if err != errDown {
				t.Errorf("call %d while the store is down: %v", i, err)
			}
		}
		if len(b.seen) == commits {
			t.Error("a commit that failed was not observed")
		}
		b.stop()
	})
}

// TestClose: what was queued is written, what comes later is refused.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(time.Second)
		b.start()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if err := b.queue.Do(i, 1, 0); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		b.queue.Close()
		if err := b.queue.Do(9, 1, 0); err != errClosed {
			t.Errorf("after Close: %v", err)
		}
		wg.Wait()
		<-b.ended
	})
}

// TestFail: a writer that cannot write answers all that wait.
func TestFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := batch.NewQueue[int](0, nil, errClosed)
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if err := q.Do(i, 1, 10); err != errDown {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		q.Fail(errDown)
		wg.Wait()
		if n, _ := q.Len(); n != 0 {
			t.Errorf("%d calls are left", n)
		}
	})
}
