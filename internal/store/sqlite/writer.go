package sqlite

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// writer owns the connection that writes. Callers put their calls into one of two queues and
// wait for their own answer:
//
//   - hot: what events wait for. All calls that have gathered are written in one
//     transaction, so that they share one sync.
//   - cold: all the rest. Each is a transaction of its own, run between hot batches so that
//     neither queue waits long for the other.
type writer struct {
	c       *conn
	observe store.CommitObserver
	written func(pages int) // is told after each transaction how much went to the WAL; never nil
	undone  func()          // is told of each rollback; never nil

	mu     sync.Mutex // guards what follows
	hot    []*waiter
	bytes  int // of the bodies in hot
	colds  []*waiter
	closed bool

	wake chan struct{} // something was queued, or a window need not be waited out
	done chan struct{} // the goroutine has ended
	free sync.Pool     // of *waiter; the writer's own, as their channels belong to its synctest bubble
}

const (
	// window is how long a batch gathers calls while several are arriving. At thousands of
	// calls a second it costs each of them about a sync, and lets the cores do twice the work:
	// a commit's price is in the pages that it touches, which batches share.
	window = 2 * time.Millisecond
	// busy is how long after a batch of several calls another one is expected.
	busy = 5 * time.Millisecond
	// hotTurns is how many hot batches may pass, and coldWait how long, before a cold call
	// that waits gets its turn.
	hotTurns = 5
	coldWait = 100 * time.Millisecond
)

// call is one caller's part of a transaction.
type call interface {
	// write runs its statements, and counts in the conn's tally what they wrote, after the
	// last that can fail. It may run again after the transaction was rolled back. An error of
	// SQLite ends the transaction; any other is the caller's answer, and nothing was written
	// then.
	write(c *conn) error
}

// callFunc is a call that is a function.
type callFunc func(c *conn) error

func (f callFunc) write(c *conn) error { return f(c) }

// waiter is a call in a queue. err belongs to the writer until done has been sent to.
type waiter struct {
	call call
	size int  // of the bodies it brings
	bare bool // no transaction around it
	err  error
	done chan struct{} // of capacity 1
}

func newWriter(c *conn, observe store.CommitObserver) *writer {
	if observe == nil {
		observe = func(int, time.Duration) {}
	}
	return &writer{
		c: c, observe: observe, written: func(int) {}, undone: func() {},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		free: sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }},
	}
}

func (w *writer) start() { go w.run() }

// stop lets the queued calls be written, refuses new ones and waits for the goroutine.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.poke()
	<-w.done
}

func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// do writes a call in the next hot batch. It waits for the answer, whatever the caller's
// context does: what is queued is written.
func (w *writer) do(c call, size int) error {
	p := w.free.Get().(*waiter)
	p.call, p.size, p.err = c, size, nil
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return store.Unavailable(errClosed)
	}
	w.hot = append(w.hot, p)
	w.bytes += size
	// The writer is asleep without a call, or in a window that ends early with a full batch.
	poke := len(w.hot) == 1 || len(w.hot) == store.BatchRows || w.bytes >= store.BatchBytes
	w.mu.Unlock()
	if poke {
		w.poke()
	}
	<-p.done
	err := p.err
	p.call, p.err = nil, nil
	w.free.Put(p)
	return store.Unavailable(err)
}

// hotly is do for a function.
func (w *writer) hotly(f func(c *conn) error) error { return w.do(callFunc(f), 0) }

// cold runs a function in a transaction of its own. It should take at most 20 ms. An error
// rolls it back and is returned; SQLite's own become DatabaseUnavailable. A panic rolls it
// back, too, and is the caller's.
func (w *writer) cold(ctx context.Context, f func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return store.Unavailable(err)
	}
	return w.queueCold(&waiter{call: callFunc(f)})
}

// alone is cold without a transaction.
func (w *writer) alone(f func(c *conn) error) error {
	return w.queueCold(&waiter{call: callFunc(f), bare: true})
}

func (w *writer) queueCold(p *waiter) error {
	f, panicked := p.call, any(nil)
	p.call = callFunc(func(c *conn) (err error) {
		defer func() {
			if panicked = recover(); panicked != nil {
				err = errPanicked
			}
		}()
		return f.write(c)
	})
	p.done = make(chan struct{}, 1)
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return store.Unavailable(errClosed)
	}
	w.colds = append(w.colds, p)
	w.mu.Unlock()
	w.poke()
	<-p.done
	if panicked != nil {
		panic(panicked) // where the function came from
	}
	if isDB(p.err) {
		return store.Unavailable(p.err)
	}
	return p.err
}

var errPanicked = errors.New("the function panicked")

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.done)
	var (
		batch    []*waiter
		turns    int       // hot batches since a cold call
		coldAt   time.Time // when the last cold call ended
		lastSize int       // of the last hot batch
		lastAt   time.Time // and when it ended
	)
	gather := time.NewTimer(window)
	defer gather.Stop()
	for {
		w.mu.Lock()
		hot, full := len(w.hot), len(w.hot) >= store.BatchRows || w.bytes >= store.BatchBytes
		var cold *waiter
		if len(w.colds) > 0 && (hot == 0 || turns >= hotTurns || time.Since(coldAt) >= coldWait) {
			cold = w.colds[0]
			w.colds[0] = nil
			w.colds = w.colds[1:]
		}
		closed := w.closed
		w.mu.Unlock()

		switch {
		case cold != nil:
			if cold.bare {
				cold.err = cold.call.write(w.c)
			} else {
				cold.err = w.transact(func() error { return cold.call.write(w.c) })
			}
			cold.done <- struct{}{}
			turns, coldAt = 0, time.Now()
		case hot > 0:
			if now := time.Now(); lastSize > 1 && !full && !closed && now.Sub(lastAt) < busy {
				if wait := window - now.Sub(lastAt); wait > 0 {
					gather.Reset(wait)
					w.gather(gather)
				}
			}
			batch = w.take(batch[:0])
			w.commit(batch)
			turns++
			lastSize, lastAt = len(batch), time.Now()
			clear(batch)
		case closed:
			return
		default:
			<-w.wake
		}
	}
}

// gather waits until the timer fires or a batch is full.
func (w *writer) gather(timer *time.Timer) {
	for {
		select {
		case <-timer.C:
			return
		case <-w.wake:
			w.mu.Lock()
			full := len(w.hot) >= store.BatchRows || w.bytes >= store.BatchBytes || w.closed
			w.mu.Unlock()
			if full {
				timer.Stop()
				return
			}
		}
	}
}

// take moves the next batch out of the hot queue.
func (w *writer) take(batch []*waiter) []*waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, n := 0, 0
	for n < len(w.hot) && n < store.BatchRows {
		next := w.hot[n].size
		alone := next > store.LargeBody
		if n > 0 && (alone || size+next > store.BatchBytes) {
			break
		}
		size += next
		n++
		if alone {
			break
		}
	}
	batch = append(batch, w.hot[:n]...)
	rest := copy(w.hot, w.hot[n:])
	clear(w.hot[rest:])
	w.hot = w.hot[:rest]
	w.bytes -= size
	return batch
}

// commit writes a batch and gives each caller its answer.
func (w *writer) commit(batch []*waiter) {
	start := time.Now()
	err := w.transact(func() error {
		for _, p := range batch {
			if p.err = p.call.write(w.c); isDB(p.err) {
				return p.err
			}
		}
		return nil
	})
	if rowsFault(err) && len(batch) > 1 {
		err = w.transact(func() error { return w.separately(batch) })
	}
	if err != nil {
		for _, p := range batch {
			p.err = err
		}
	}
	w.observe(len(batch), time.Since(start))
	for _, p := range batch {
		p.done <- struct{}{}
	}
}

// separately writes a batch that one call's values brought down, so that only it fails.
func (w *writer) separately(batch []*waiter) error {
	for _, p := range batch {
		if err := w.c.exec("SAVEPOINT call"); err != nil {
			return err
		}
		if p.err = p.call.write(w.c); p.err != nil {
			if isDB(p.err) && !rowsFault(p.err) {
				return p.err
			}
			if err := w.c.exec("ROLLBACK TO call"); err != nil {
				return err
			}
			w.undone()
		}
		if err := w.c.exec("RELEASE call"); err != nil {
			return err
		}
	}
	return nil
}

// transact runs a function in a transaction, and adds what it counted to the counters. After
// an error it is rolled back; a crash before COMMIT is synced leaves nothing of it, a crash
// after it all.
func (w *writer) transact(f func() error) error {
	before := w.c.written()
	err := w.c.exec("BEGIN IMMEDIATE")
	if err != nil && w.c.exec("ROLLBACK") == nil { // one that could not be rolled back was still open
		err = w.c.exec("BEGIN IMMEDIATE")
	}
	if err == nil {
		w.c.tally.Reset()
		if err = f(); err == nil {
			err = w.c.count()
		}
		if err == nil {
			err = w.c.exec("COMMIT")
		}
		if err != nil {
			_ = w.c.exec("ROLLBACK") // fails where SQLite has rolled back already
			w.undone()
		}
	}
	w.written(int(w.c.written() - before))
	return err
}

// isDB reports whether an error is SQLite's.
func isDB(err error) bool {
	var e *dbError
	return err != nil && errors.As(err, &e)
}
