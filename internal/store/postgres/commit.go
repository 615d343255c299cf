package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// committer writes the calls of a queue in batches: one goroutine (loop), one connection, one
// transaction at a time.
type committer[T any] struct {
	*batch.Queue[T]
	lane *lane
	// write stores a batch in one transaction and sets each call's result, and a call's Err if that
	// call alone fails. It may run several times for one batch, and must give the same outcome if an
	// earlier run was committed.
	write func(context.Context, *lane, []*batch.Call[T]) error
	// rehearsal does all that write does and undoes it; nil if there is no rehearsal.
	rehearsal func(context.Context, *lane) error
	// patience is how long a batch whose outcome is unknown is written again while no connection can be
	// made. Its calls fail then, and may be stored.
	patience time.Duration

	last error // error of the last batch; only loop's goroutine uses it

	mu     sync.Mutex
	asking []chan<- error // callers that wait in rehearse; guarded by mu
}

func newCommitter[T any](l *lane, write func(context.Context, *lane, []*batch.Call[T]) error, window time.Duration, observe store.CommitObserver) *committer[T] {
	return &committer[T]{Queue: batch.NewQueue[T](window, observe, errClosed), lane: l, write: write, patience: commitTimeout}
}

// do writes a call in the next batch; see batch.Queue.Do.
func (c *committer[T]) do(in T, rows, size int) error {
	return c.lane.from.failed(c.Do(in, rows, size))
}

// loop writes batches until the queue is closed and empty.
func (c *committer[T]) loop() {
	defer c.lane.close()
	var calls []*batch.Call[T]
	for {
		asking := c.takeAsking()
		waiting, closed := c.Len()
		switch {
		case waiting > 0:
			c.Gather()
			calls = c.Take(calls[:0])
			c.Commit(calls, c.together, c.separately, ownFault)
			clear(calls)
			if len(asking) > 0 && ownFault(c.last) {
				c.last = c.rehearseNow()
			}
			answer(asking, c.last)
		case closed:
			answer(asking, errClosed)
			return
		case len(asking) > 0:
			answer(asking, c.rehearseNow())
		default:
			<-c.Waiting()
		}
	}
}

// rehearse fails if a call could not be written now. It gets its answer from the next batch, or
// from the rehearsal if there is no batch.
func (c *committer[T]) rehearse(ctx context.Context) error {
	if _, closed := c.Len(); closed {
		return c.lane.from.failed(errClosed)
	}
	asking := make(chan error, 1)
	c.mu.Lock()
	c.asking = append(c.asking, asking)
	c.mu.Unlock()
	c.Wake()
	select {
	case err := <-asking:
		return c.lane.from.failed(err)
	case <-ctx.Done():
		return c.lane.from.failed(ctx.Err())
	}
}

func (c *committer[T]) takeAsking() []chan<- error {
	c.mu.Lock()
	defer c.mu.Unlock()
	asking := c.asking
	c.asking = nil
	return asking
}

func answer(asking []chan<- error, err error) {
	for _, c := range asking {
		c <- err
	}
}

// rehearseNow runs the rehearsal. It runs it once more if the connection was lost, as it may be
// while it is idle.
func (c *committer[T]) rehearseNow() error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	for n := 1; ; n++ {
		err := c.lane.open(ctx)
		if err != nil {
			return err
		}
		if err = c.rehearsal(ctx, c.lane); err == nil {
			return nil
		}
		c.lane.drop() // and end the transaction that may be open on it
		if !lost(err) || n == 2 {
			return err
		}
	}
}

// commitTimeout bounds a batch, with all runs after an unknown outcome. A large body, which is a
// batch of its own, has more time.
const commitTimeout = 5 * time.Second

// acceptPatience is the patience for events. Senders wait for the answer, and 503 says no more than that an
// event is not known to be stored.
const acceptPatience = 1500 * time.Millisecond

// together writes a batch in one transaction and keeps the error in last.
func (c *committer[T]) together(calls []*batch.Call[T]) error {
	bytes := 0
	for _, call := range calls {
		bytes += call.Size()
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout+store.BodyTime(int64(bytes)))
	defer cancel()
	c.last = c.try(ctx, calls)
	return c.last
}

// separately writes a batch that together could not write because of one call's values. It writes
// each call in a transaction of its own.
func (c *committer[T]) separately(calls []*batch.Call[T]) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	for i, call := range calls {
		started := time.Now()
		if err := c.try(ctx, calls[i:i+1]); err != nil {
			call.Err = err
		}
		c.Observe(1, started)
	}
	return nil
}

// try writes calls in one transaction. It tries again soon after a serialization failure or a
// deadlock. If the outcome of COMMIT is unknown, it writes the calls again on a new connection:
// storing the same ids twice is harmless. While no connection can be made, c.patience bounds that. If
// try returns nil, all of the calls are stored. If it returns an error of the server, none of them
// are, unless the outcome of an earlier run was unknown.
func (c *committer[T]) try(ctx context.Context, calls []*batch.Call[T]) error {
	var since time.Time // when the outcome of a run was first unknown
	maybe := false      // whether an earlier run may have been committed
	for n := 1; ; n++ {
		err := c.lane.open(ctx)
		if err != nil {
			// The calls that wait would fail too, each after a time-out of its own.
			c.Fail(err)
			if !maybe || lasting(err) || time.Since(since) >= c.patience {
				return err
			}
		} else {
			err = c.write(ctx, c.lane, calls)
			switch {
			case err == nil, ownFault(err):
				return err
			case contended(err) && (maybe || n < contentionAttempts):
			case lost(err):
				// (pgconn.SafeToRetry does not tell what was sent: it calls safe the "conn closed" with which a
				// batch ends whose answer never came.)
				if !maybe {
					maybe, since = true, time.Now()
				}
				c.lane.drop()
			default:
				c.lane.drop()
				if !maybe {
					return err
				}
			}
		}
		if n == 1 {
			c.lane.from.log.Warn("a group commit is run again", "calls", len(calls), "unknown", maybe, "error", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(min(n, 5)) * 10 * time.Millisecond):
		}
	}
}
