// Package batch implements the group commit of the hot path: calls that wait at the same moment
// are written in one transaction and share its sync, and each call gets its own result. A store
// supplies the writing. The queue, the limits of a batch, the time spent gathering one and the
// delivery of results are the same for all stores.
package batch

import (
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of a batch. Waiting calls are written together until Rows or Bytes is reached; Rows
// counts rows of deliveries and attempts. A call with more than LargeBody bytes of bodies is
// written in a batch of its own, so that it delays no other call.
const (
	Rows      = 512
	Bytes     = 4 << 20
	LargeBody = 1 << 20
)

// recent is how long after a batch Gather still expects more calls.
const recent = 5 * time.Millisecond

// Call is one caller's share of a batch. The writer may set Err until Commit returns.
type Call[T any] struct {
	In   T
	Err  error
	rows int           // number of rows that the call writes
	size int           // total bytes of the call's bodies
	done chan struct{} // capacity 1; receives once the call is answered
}

// Size returns the total bytes of the call's bodies.
func (c *Call[T]) Size() int { return c.size }

// Queue holds the calls that wait for the next batch. Any goroutine may call Do, Wake, Close and
// Len. Gather, Take, Commit, Observe and Fail belong to the single goroutine that writes.
type Queue[T any] struct {
	window  time.Duration        // longest time spent gathering a batch; 0: none
	observe store.CommitObserver // never nil
	closed  error                // returned by Do after Close

	mu      sync.Mutex // guards what follows
	calls   []*Call[T]
	rows    int // rows of the waiting calls
	bytes   int // bytes of the waiting calls' bodies
	target  int // number of waiting calls that ends the current Gather; 0: none under way
	closing bool

	wake chan struct{} // capacity 1; tells the writer that there is something to do
	free sync.Pool     // of *Call[T]; one pool per queue, as a channel belongs to one synctest bubble

	// What the last batch says about the next one. Only the writer uses these.
	expected int       // number of calls
	ended    time.Time // when the last batch was answered
}

// NewQueue returns a queue. Gather takes at most window. observe, unless nil, is called after
// every commit. After Close, Do returns closed.
func NewQueue[T any](window time.Duration, observe store.CommitObserver, closed error) *Queue[T] {
	if observe == nil {
		observe = func(int, time.Duration) {}
	}
	return &Queue[T]{
		window: window, observe: observe, closed: closed, wake: make(chan struct{}, 1),
		free: sync.Pool{New: func() any { return &Call[T]{done: make(chan struct{}, 1)} }},
	}
}

// Do adds a call that writes rows rows, with size bytes of bodies, to the next batch, and blocks
// until the call is answered. It cannot be canceled, because the writer reads the caller's memory
// until then.
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

// Wake wakes a writer that receives from Waiting.
func (q *Queue[T]) Wake() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Waiting returns a channel that receives when there may be something to write, or the queue was
// closed.
func (q *Queue[T]) Waiting() <-chan struct{} { return q.wake }

// Close makes every later Do fail. The writer must still write the calls in the queue.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.Wake()
}

// Len returns the number of waiting calls and whether the queue is closed.
func (q *Queue[T]) Len() (calls int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls), q.closing
}

// Gather waits for the calls that are likely to arrive in a moment, since a transaction costs
// about as much for many calls as for few. Callers that were just answered tend to call again, so
// Gather returns as soon as as many calls wait as the last batch held and left behind. It also
// returns when the batch is full, when the queue is closed, and when window has passed since the
// last batch ended.
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

// ready reports whether Gather should return. The caller must hold mu.
func (q *Queue[T]) ready() bool {
	return len(q.calls) >= q.target || q.rows >= Rows || q.bytes >= Bytes || q.closing
}

// Take moves the next batch, as large as the limits allow, from the queue to the end of batch, and
// returns the result.
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

// Commit writes a batch with write and answers its calls. If own reports that the error was caused
// by the values of a single call, Commit writes the batch again with separately, so that only that
// call fails; separately sets each call's Err and may report its own commits with Observe.
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

// Observe reports a commit of a number of calls that began at started, whether it succeeded or
// failed.
func (q *Queue[T]) Observe(calls int, started time.Time) { q.observe(calls, time.Since(started)) }

// Fail answers all waiting calls with an error, for a writer that cannot write now.
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
