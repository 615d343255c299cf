package sqlite

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// writer owns the connection that writes. Callers put their calls into one of two queues and
// wait for their own answer:
//
//   - hot: what events wait for. The calls that have gathered are a batch, in one
//     transaction.
//   - cold: all the rest. Each is a transaction of its own, run between hot batches so that
//     neither queue waits long for the other.
type writer struct {
	c       *conn
	trouble trouble
	hot     *batch.Queue[call]
	written func(pages int) // called after each transaction with the number of pages written to the WAL; never nil
	undone  func()          // called after each rollback; never nil

	mu     sync.Mutex // guards what follows
	colds  []*coldCall
	closed bool

	done chan struct{} // the goroutine has ended
}

const (
	// window is the longest that a batch gathers calls while several are arriving. At
	// thousands of calls a second it costs each of them about a sync, and lets the cores do
	// twice the work: a commit's price is in the pages that it touches, which a batch shares.
	window = 2 * time.Millisecond
	// hotTurns is how many hot batches may pass, and coldWait how long, before a cold call
	// that waits gets its turn.
	hotTurns = 5
	coldWait = 100 * time.Millisecond
)

// call is one caller's part of a transaction.
type call interface {
	// write runs its statements, and counts in the conn's tally what they wrote, and adds to its
	// entries, after the last that can fail. It may run again after the transaction was rolled back. An error of
	// SQLite ends the transaction; any other is the caller's answer, and nothing was written
	// then.
	write(c *conn) error
}

// callFunc is a function as a call.
type callFunc func(c *conn) error

func (f callFunc) write(c *conn) error { return f(c) }

// coldCall is a call in the cold queue. The writer owns err until it has sent to done.
type coldCall struct {
	call call
	bare bool // no transaction around it
	err  error
	done chan struct{} // of capacity 1
}

func newWriter(c *conn, observe store.CommitObserver) *writer {
	return &writer{
		c: c, trouble: trouble{&store.Alarm{}}, hot: batch.NewQueue[call](window, observe, errClosed), written: func(int) {}, undone: func() {},
		done: make(chan struct{}),
	}
}

func (w *writer) start() { go w.run() }

// stop refuses new calls, waits until the queued calls are written, and waits for the goroutine's
// end.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.hot.Close()
	<-w.done
}

// do writes a call in the next hot batch and returns its error. It waits for the answer even if
// the caller's context ends: a queued call is always written.
func (w *writer) do(c call, rows, size int) error { return w.trouble.of(w.hot.Do(c, rows, size)) }

// hotly runs a function as do runs a call.
func (w *writer) hotly(f func(c *conn) error) error { return w.do(callFunc(f), 1, 0) }

// cold runs f in a transaction of its own. f should take at most 20 ms. If f fails, the
// transaction is rolled back and cold returns the error; for an error of SQLite it returns what
// trouble.of makes of that error. If f panics, the transaction is rolled back and cold panics in
// the caller's goroutine. cold fails with DatabaseUnavailable if ctx has ended or the writer is
// closed.
func (w *writer) cold(ctx context.Context, f func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return store.Unavailable(err)
	}
	return w.queueCold(&coldCall{call: callFunc(f)})
}

// alone runs f on the writer's connection as cold does, without a transaction.
func (w *writer) alone(f func(c *conn) error) error {
	return w.queueCold(&coldCall{call: callFunc(f), bare: true})
}

func (w *writer) queueCold(p *coldCall) error {
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
	w.hot.Wake()
	<-p.done
	if panicked != nil {
		panic(panicked) // in the goroutine of the function's caller
	}
	if isDB(p.err) {
		return w.trouble.of(p.err)
	}
	return p.err
}

var errPanicked = errors.New("the function panicked")

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.done)
	var (
		calls  []*batch.Call[call]
		turns  int       // hot batches since a cold call
		coldAt time.Time // when the last cold call ended
	)
	for {
		hot, _ := w.hot.Len()
		cold, closed := w.nextCold(hot == 0 || turns >= hotTurns || time.Since(coldAt) >= coldWait)
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
			w.hot.Gather()
			calls = w.hot.Take(calls[:0])
			w.hot.Commit(calls, w.together, w.separately, rowsFault)
			turns++
			clear(calls)
		case closed:
			return
		default:
			<-w.hot.Waiting()
		}
	}
}

// nextCold takes the next cold call from its queue and returns it, if it is the turn of a cold
// call and one waits; else it returns nil. It also reports whether the writer is closed.
func (w *writer) nextCold(turn bool) (next *coldCall, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if turn && len(w.colds) > 0 {
		next = w.colds[0]
		w.colds[0] = nil
		w.colds = w.colds[1:]
	}
	return next, w.closed
}

// together writes a batch in one transaction. An error of SQLite rolls back the whole batch; any
// other error is the answer of its own call only.
func (w *writer) together(calls []*batch.Call[call]) error {
	return w.transact(func() error {
		for _, p := range calls {
			if p.Err = p.In.write(w.c); isDB(p.Err) {
				return p.Err
			}
		}
		return nil
	})
}

// separately writes a batch that together could not write because of one call's values. It writes
// the batch in one transaction, in which it can undo each call alone.
func (w *writer) separately(calls []*batch.Call[call]) error {
	return w.transact(func() error {
		for _, p := range calls {
			if err := w.c.exec("SAVEPOINT call"); err != nil {
				return err
			}
			if p.Err = p.In.write(w.c); p.Err != nil {
				if isDB(p.Err) && !rowsFault(p.Err) {
					return p.Err
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
	})
}

// transact runs f in a transaction, writes the entries of the outbox that f made, and adds what f counted to the
// counters. If f fails, the
// transaction is rolled back. A crash before COMMIT is synced leaves nothing of the transaction; a
// later crash leaves all of it.
func (w *writer) transact(f func() error) error {
	before := w.c.written()
	err := w.c.exec("BEGIN IMMEDIATE")
	if err != nil && w.c.exec("ROLLBACK") == nil { // the connection was still in a transaction whose ROLLBACK had failed
		err = w.c.exec("BEGIN IMMEDIATE")
	}
	if err == nil {
		w.c.tally.Reset()
		w.c.entries.reset()
		if err = f(); err == nil {
			err = w.c.writeEntries()
		}
		if err == nil {
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
