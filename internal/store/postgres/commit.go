package postgres

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// call is one caller's part of a group commit. The committer sets err and closes done.
type call[T any] struct {
	in   T
	size int // of the body, for the batch's limits
	err  error
	done chan struct{}
}

// committer gathers the calls of the moment and writes them together: one goroutine (loop),
// one connection, one transaction at a time.
type committer[T any] struct {
	lane *lane
	// write stores a batch in one transaction and sets each call's result, and its err where
	// the call alone fails. It may run several times for one batch and must give the same
	// outcome where an earlier run was committed.
	write   func(context.Context, *lane, []*call[T]) error
	window  time.Duration // to gather more while there is much to do; 0: none
	observe store.CommitObserver
	log     *slog.Logger

	wake chan struct{} // the queue is not empty, or closed
	full chan struct{} // the queue holds a whole batch

	mu     sync.Mutex
	queue  []*call[T] // guarded by mu
	closed bool       // guarded by mu
}

func newCommitter[T any](l *lane, write func(context.Context, *lane, []*call[T]) error, window time.Duration, observe store.CommitObserver, log *slog.Logger) *committer[T] {
	return &committer[T]{
		lane: l, write: write, window: window, observe: observe, log: log,
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// do adds a call to the next batch and waits for its end. It does not end earlier: until
// then the writer reads what belongs to the caller.
func (c *committer[T]) do(in T, size int) error {
	call := &call[T]{in: in, size: size, done: make(chan struct{})}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return failed(errClosed)
	}
	c.queue = append(c.queue, call)
	n := len(c.queue)
	c.mu.Unlock()
	switch n {
	case 1:
		notify(c.wake)
	case store.BatchRows:
		notify(c.full)
	}
	<-call.done
	return failed(call.err)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// close lets loop end when it has written what waits. Calls that come later fail.
func (c *committer[T]) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	notify(c.wake)
	notify(c.full)
}

// busy is the size of a batch from which on the next one is worth waiting for.
const busy = 8

// loop writes batches until the committer is closed and its queue is empty.
func (c *committer[T]) loop() {
	defer c.lane.drop()
	var batch []*call[T]
	for {
		if c.window > 0 && len(batch) >= busy {
			c.gather()
		}
		batch = c.take(batch[:0])
		if len(batch) == 0 {
			return
		}
		c.commit(batch)
	}
}

// gather waits for the window, or until a batch is full.
func (c *committer[T]) gather() {
	c.mu.Lock()
	wait := len(c.queue) < store.BatchRows && !c.closed
	c.mu.Unlock()
	if wait {
		select {
		case <-time.After(c.window):
		case <-c.full:
		}
	}
}

// take moves the next batch from the queue to batch, waiting for one. None: closed.
func (c *committer[T]) take(batch []*call[T]) []*call[T] {
	c.mu.Lock()
	for len(c.queue) == 0 {
		if c.closed {
			c.mu.Unlock()
			return batch
		}
		c.mu.Unlock()
		<-c.wake
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	bytes := 0
	for i, call := range c.queue {
		bytes += call.size
		if i > 0 && (i == store.BatchRows || bytes > store.BatchBytes || call.size > store.LargeBody) {
			break
		}
		batch = append(batch, call)
		if call.size > store.LargeBody {
			break
		}
	}
	rest := copy(c.queue, c.queue[len(batch):])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	return batch
}

// commitTimeout bounds a batch, with all runs after an unknown outcome.
const commitTimeout = 5 * time.Second

// commit writes a batch and answers its calls.
func (c *committer[T]) commit(batch []*call[T]) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	started := time.Now()
	err := c.try(ctx, batch)
	switch {
	case err == nil:
		if c.observe != nil {
			c.observe(len(batch), time.Since(started))
		}
	case ownFault(err) && len(batch) > 1:
		c.commitEach(batch)
		return
	}
	for _, call := range batch {
		c.answer(call, err)
	}
}

// commitEach writes calls one by one, so that only the bad ones among them fail.
func (c *committer[T]) commitEach(batch []*call[T]) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	for i, call := range batch {
		started := time.Now()
		err := c.try(ctx, batch[i:i+1])
		if err == nil && c.observe != nil {
			c.observe(1, time.Since(started))
		}
		c.answer(call, err)
	}
}

func (c *committer[T]) answer(call *call[T], err error) {
	if err != nil {
		call.err = err
	}
	close(call.done)
}

// try writes a batch in one transaction. One that others got in the way of is run again at
// once; one whose commit is unknown is run again on a new connection, as it is harmless to
// store the same ids twice. When nil is returned all of it is stored, and when the error is
// one of the server, nothing is, unless an earlier run was unknown.
func (c *committer[T]) try(ctx context.Context, batch []*call[T]) error {
	maybe := false // whether an earlier run may have been committed
	for n := 1; ; n++ {
		err := c.lane.open(ctx)
		if err != nil {
			// Those that wait would fail alike, each after a time-out of its own.
			c.failWaiting(err)
			if !maybe {
				return err
			}
		} else {
			err = c.write(ctx, c.lane, batch)
			switch {
			case err == nil, ownFault(err):
				return err
			case contended(err) && (maybe || n < contentionAttempts):
			case lost(err):
				// (pgconn.SafeToRetry does not tell what was sent: a batch whose answer never
				// came ends with a "conn closed" that it calls safe.)
				maybe = true
				c.lane.drop()
			default:
				c.lane.drop()
				if !maybe {
					return err
				}
			}
		}
		if n == 1 {
			c.log.Warn("a group commit is run again", "calls", len(batch), "unknown", maybe, "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(min(n, 5)) * 10 * time.Millisecond):
		}
	}
}

// failWaiting answers all calls of the queue with an error.
func (c *committer[T]) failWaiting(err error) {
	c.mu.Lock()
	waiting := c.queue
	c.queue = nil
	c.mu.Unlock()
	for _, call := range waiting {
		c.answer(call, err)
	}
}
