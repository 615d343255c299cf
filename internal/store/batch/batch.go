// Package batch is the group commit of the hot path: the calls that wait at one moment are
// written in one transaction and share its sync, and each gets its own answer. A store brings
// the writing; the queue, the limits of a batch, the time to gather one and the answers are
// the same for all stores.
package batch

import (
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of a batch: what waits is written together until either is reached; rows are those of
// deliveries and attempts. A body above LargeBody is a batch of its own, so that it delays
// nobody else.
const (
	Rows      = 512
	Bytes     = 4 << 20
	LargeBody = 1 << 20
)

// recent is how long after a batch more calls are expected.
const recent = 5 * time.Millisecond

// Call is one caller's part of a batch. The writer may set Err until Commit returns.
type Call[T any] struct {
	In   T
	Err  error
	rows int           // that the call writes
	size int           // of the bodies that the call brings
	done chan struct{} // of capacity 1
}

// Size is how many bytes of bodies the call brings.
func (c *Call[T]) Size() int { return c.size }

// Queue holds the calls that wait for the next batch. Any goroutine may call Do; Gather, Take
// and Commit belong to the one goroutine that writes.
type Queue[T any] struct {
	window  time.Duration        // the longest time to gather a batch; 0: no waiting
	observe store.CommitObserver // never nil
	closed  error                // the answer to calls after Close

	mu      sync.Mutex // guards what follows
	calls   []*Call[T]
	rows    int // that calls write
	bytes   int // of the bodies in calls
	target  int // how many calls end the gathering under way
	closing bool

	wake chan struct{} // the writer has something to do
	free sync.Pool     // of *Call[T]; the queue's own, as their channels belong to its synctest bubble

	// What the last batch tells of the next one; the writer's own.
	expected int       // calls
	ended    time.Time // when the last batch was answered
}

// NewQueue makes a queue. Gathering takes at most window, and observe, unless nil, is told of
// every commit. Calls after Close fail with closed.
func NewQueue[T any](window time.Duration, observe store.CommitObserver, closed error) *Queue[T] {
	if observe == nil {
		observe = func(int, time.Duration) {}
	}
	return &Queue[T]{
		window: window, observe: observe, closed: closed, wake: make(chan struct{}, 1),
		free: sync.Pool{New: func() any { return &Call[T]{done: make(chan struct{}, 1)} }},
	}
}

// Do adds a call that writes some rows, with bodies of a size, to the next batch and waits for
// its answer. It does not end earlier: until then the writer reads what belongs to the caller.
func (q *Queue[T]) Do(in T, rows, size int) error {
	c := q.free.Get().(*Call[T])
	c.In, c.rows, c.size, c.Err = in, rows, size, nil
	q.mu.Lock()
	if q.closing {
		q.mu.Unlock()
		return q.closed
	}
	q.calls = append(q.calls, c)
	q.rows += rows
	q.bytes += size
	n := len(q.calls)
	wake := n == 1 || n == q.target || q.rows >= Rows || q.bytes >= Bytes
	q.mu.Unlock()
	if wake {
		q.Wake()
	}
	<-c.done
	err := c.Err
	var none T
	c.In, c.Err = none, nil
	q.free.Put(c)
	return err
}

// Wake wakes the writer, which waits at Waiting.
func (q *Queue[T]) Wake() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Waiting receives when there may be something to write, or the queue was closed.
func (q *Queue[T]) Waiting() <-chan struct{} { return q.wake }

// Close makes every further call fail. What was queued is still to be written.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.Wake()
}

// Len reports how many calls wait, and whether the queue is closed.
func (q *Queue[T]) Len() (calls int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls), q.closing
}

// Gather waits for the calls that are likely to come in a moment, since a transaction costs
// about as much for many calls as for few. Callers that were just answered tend to call again:
// when as many wait as the last batch held and left behind, nobody else is expected and there
// is nothing to wait for. The window bounds the wait, counted from the last batch's end.
func (q *Queue[T]) Gather() {
	left := q.window - time.Since(q.ended)
	if q.expected <= 1 || left <= 0 || time.Since(q.ended) > recent {
		return
	}
	q.mu.Lock()
	q.target = q.expected
	ready := q.ready()
	q.mu.Unlock()
	if ready {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	for !ready {
		select {
		case <-timer.C:
			return
		case <-q.wake:
		}
		q.mu.Lock()
		ready = q.ready()
		q.mu.Unlock()
	}
}

// ready reports whether gathering has come to its end. The caller holds mu.
func (q *Queue[T]) ready() bool {
	return len(q.calls) >= q.target || q.rows >= Rows || q.bytes >= Bytes || q.closing
}

// Take moves the next batch from the queue to batch, as much as its limits allow.
func (q *Queue[T]) Take(batch []*Call[T]) []*Call[T] {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.target = 0
	n, rows, bytes := 0, 0, 0
	for n < len(q.calls) {
		next := q.calls[n]
		alone := next.size > LargeBody
		if n > 0 && (alone || rows+next.rows > Rows || bytes+next.size > Bytes) {
			break
		}
		rows += next.rows
		bytes += next.size
		n++
		if alone {
			break
		}
	}
	batch = append(batch, q.calls[:n]...)
	rest := copy(q.calls, q.calls[n:])
	clear(q.calls[rest:])
	q.calls = q.calls[:rest]
	q.rows -= rows
	q.bytes -= bytes
	return batch
}

// Commit writes a batch with write and answers its calls. Where the values of one call bring
// the batch down (own tells by the error), separately writes it again so that only that call
// fails; it sets each call's Err and may observe commits of its own by Observe.
func (q *Queue[T]) Commit(batch []*Call[T], write, separately func([]*Call[T]) error, own func(error) bool) {
	started := time.Now()
	err := write(batch)
	q.Observe(len(batch), started)
	if len(batch) > 1 && own(err) {
		err = separately(batch)
	}
	for _, c := range batch {
		if err != nil {
			c.Err = err
		}
	}
	left, _ := q.Len()
	q.expected, q.ended = len(batch)+left, time.Now()
	for _, c := range batch {
		c.done <- struct{}{}
	}
}

// Observe tells of a commit that began at a time, also of one that failed.
func (q *Queue[T]) Observe(calls int, started time.Time) { q.observe(calls, time.Since(started)) }

// Fail answers all calls that wait with an error, for a writer that cannot write now.
func (q *Queue[T]) Fail(err error) {
	q.mu.Lock()
	waiting := q.calls
	q.calls, q.rows, q.bytes = nil, 0, 0
	q.mu.Unlock()
	for _, c := range waiting {
		c.Err = err
		c.done <- struct{}{}
	}
}
