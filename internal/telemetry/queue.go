package telemetry

import (
	"bytes"
	"context"
	"io"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// queueBytes is how much a Queue holds for a reader that is behind.
	queueBytes = 1 << 20
	// writeBytes is how much of it goes out in one write, unless a single line is longer. A
	// write of this size (PIPE_BUF) goes into a pipe whole or not at all.
	writeBytes = 4 << 10
	// lastWordsWait is how long LastWords waits for a reader.
	lastWordsWait = time.Second
)

// linesLost counts the lines of this process that could not be written.
var linesLost atomic.Uint64

// Queue is a writer that never waits and never fails, for a file whose reader may be slow or
// gone: a pipe, a terminal, a full disk. One goroutine writes what is queued, in order. What
// does not fit into the queue, and what cannot be written, is dropped and counted
// (kapsel_log_lines_lost_total).
//
// Each Write must hold whole lines. Any goroutine may call the methods.
type Queue struct {
	w    io.Writer
	wake chan struct{} // of capacity 1
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // of what follows
	waiting []byte     // whole lines that are not being written yet
	closed  bool
	lost    uint64                // lines lost since they were last reported
	report  func(n uint64) []byte // makes the line that says so; nil: nobody is told

	// The goroutine's own.
	spare  []byte // the buffer that waiting was swapped with
	torn   bool   // the last line was written in part (a full disk)
	failed bool   // the last write failed
}

// NewQueue makes a queue before w and starts its goroutine; Close ends it. SIGPIPE is ignored
// from now on: Go ends a process that writes to a standard output whose reader has gone.
func NewQueue(w io.Writer) *Queue {
	signal.Ignore(syscall.SIGPIPE)
	q := &Queue{w: w, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Write queues lines. It never blocks, and returns no error.
func (q *Queue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting)+len(lines) > queueBytes {
		q.lose(countLines(lines))
		return len(lines), nil
	}
	q.waiting = append(q.waiting, lines...)
	q.poke()
	return len(lines), nil
}

// Close refuses further lines and waits until those queued are written, or until ctx ends;
// then the rest is lost.
func (q *Queue) Close(ctx context.Context) {
	q.mu.Lock()
	q.closed = true
	q.poke()
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-ctx.Done():
	}
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// lose counts lines that nobody will read. q.mu must be held.
func (q *Queue) lose(lines int) {
	q.lost += uint64(lines)
	linesLost.Add(uint64(lines))
}

// run writes what is queued until the queue is closed and empty.
func (q *Queue) run() {
	defer close(q.done)
	for {
		lines, closed := q.take()
		switch {
		case len(lines) > 0:
			q.write(lines)
		case closed:
			return
		default:
			<-q.wake
		}
	}
}

// take returns all that waits. After lines were lost it leaves the line that says so in their
// place, unless the last write failed, too: then that line would be lost as well.
func (q *Queue) take() (lines []byte, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, q.waiting, q.spare = q.waiting, q.spare[:0], q.waiting
	if q.lost > 0 && q.report != nil && !q.failed {
		q.waiting = append(q.waiting, q.report(q.lost)...)
		q.lost = 0
		if len(lines) == 0 {
			lines, q.waiting, q.spare = q.waiting, q.spare[:0], q.waiting
		}
	}
	return lines, q.closed
}

// write writes lines, a few at a time.
func (q *Queue) write(lines []byte) {
	for len(lines) > 0 {
		n := len(lines)
		if n > writeBytes {
			if n = bytes.LastIndexByte(lines[:writeBytes], '\n') + 1; n == 0 {
				n = writeBytes + bytes.IndexByte(lines[writeBytes:], '\n') + 1
			}
		}
		q.writeOnce(lines[:n])
		lines = lines[n:]
	}
}

// writeOnce writes lines in one piece and counts those that did not go out whole.
func (q *Queue) writeOnce(lines []byte) {
	if q.torn {
		// Without this the next line would be glued to the torn one and lost with it.
		if _, err := q.w.Write([]byte{'\n'}); err == nil {
			q.torn = false
		}
	}
	written, err := 0, error(nil)
	if !q.torn {
		written, err = q.w.Write(lines)
	}
	q.failed = q.torn || err != nil
	if !q.failed {
		return
	}
	whole := bytes.LastIndexByte(lines[:written], '\n') + 1
	q.torn = q.torn || written > whole
	q.mu.Lock()
	q.lose(countLines(lines[whole:]))
	q.mu.Unlock()
}

// countLines is how many lines there are, the last perhaps without its end.
func countLines(lines []byte) int {
	n := bytes.Count(lines, []byte{'\n'})
	if len(lines) > 0 && lines[len(lines)-1] != '\n' {
		n++
	}
	return n
}

// LastWords writes text directly, for what must be said though nobody may read it: why the
// process ends, or a key that is shown once. It waits at most a second and reports whether
// the text was written.
func LastWords(w io.Writer, text string) bool {
	written := make(chan bool, 1)
	go func() {
		_, err := w.Write([]byte(text))
		written <- err == nil
	}()
	select {
	case ok := <-written:
		return ok
	case <-time.After(lastWordsWait):
		return false
	}
}
