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
	// queueBytes is how many bytes a Queue holds for a slow reader.
	queueBytes = 1 << 20
	// writeBytes is the most bytes per write, unless a single line is longer. A write of this size
	// (PIPE_BUF) to a pipe is atomic.
	writeBytes = 4 << 10
	// lastWordsWait is how long LastWords waits for a reader.
	lastWordsWait = time.Second
)

// linesLost counts the lines of this process that could not be written.
var linesLost atomic.Uint64

// Queue is a writer that never blocks and never fails, for a file whose reader may be slow or
// gone: a pipe, a terminal, a full disk. A single goroutine writes the queued lines in order.
// Lines that do not fit into the queue or cannot be written are dropped and counted
// (kapsel_log_lines_lost_total).
//
// Each Write must hold whole lines. The methods are safe for concurrent use.
type Queue struct {
	w    io.Writer
	wake chan struct{} // capacity 1
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards what follows
	waiting []byte     // whole lines that wait to be written
	closed  bool
	lost    uint64                // lines lost since they were last reported
	report  func(n uint64) []byte // returns the line that reports n lost lines; nil: do not report

	// Used only by the goroutine.
	spare  []byte // buffer that take swaps with waiting
	torn   bool   // the last line was written only in part (a full disk)
	failed bool   // the last write failed
}

// NewQueue returns a queue that writes to w, and starts its goroutine; Close ends it. It makes the
// process ignore SIGPIPE from now on, because Go would end a process that writes to a standard
// output without a reader.
func NewQueue(w io.Writer) *Queue {
	signal.Ignore(syscall.SIGPIPE)
	q := &Queue{w: w, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Write queues lines. It never blocks and never returns an error.
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

// Close refuses further lines and waits until the queued ones are written or ctx ends; lines that
// are still queued then may be lost.
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

// lose counts lost lines. The caller must hold q.mu.
func (q *Queue) lose(lines int) {
	q.lost += uint64(lines)
	linesLost.Add(uint64(lines))
}

// run writes queued lines until the queue is closed and empty.
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

// take removes and returns all waiting lines. If lines were lost, it queues the report of them,
// unless the last write failed: then the report would be lost, too.
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

// write writes lines in pieces of at most writeBytes.
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

// writeOnce writes lines with one call and counts those that were not written completely.
func (q *Queue) writeOnce(lines []byte) {
	if q.torn {
		// End the torn line first, or the next one would be appended to it and lost, too.
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

// countLines returns the number of lines; the last may lack its line feed.
func countLines(lines []byte) int {
	n := bytes.Count(lines, []byte{'\n'})
	if len(lines) > 0 && lines[len(lines)-1] != '\n' {
		n++
	}
	return n
}

// LastWords writes text directly, without a queue, for texts that must not wait behind others: why
// the process ends, or a key that is shown once. It waits at most a second and reports whether the
// text was written.
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
