//go:build unix

package telemetry

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stuckAfter is how long a write may take before its reader counts as gone.
	stuckAfter = time.Second
	// pipeBacklog is how much may be unread in a pipe that nothing was written to for that
	// long. A panic's text finds room beside it: a pipe holds 64 KiB.
	pipeBacklog = 16 << 10
)

// stderr writes to the process's standard error. When nobody reads that, descriptor 2 leads
// nowhere for as long: Go's runtime writes the text of a panic to that descriptor and waits
// for the reader, so that a process whose goroutine panicked would stop everything and not end.
type stderr struct {
	fd   int      // standard error under another descriptor
	file *os.File // of fd
	null *os.File

	mu    sync.Mutex  // of what follows
	busy  bool        // a write is under way
	away  bool        // descriptor 2 leads to null
	timer *time.Timer // calls check when nothing has begun or ended for stuckAfter
}

// Stderr returns a writer to the process's standard error for a Queue, which keeps a panic
// from waiting for a reader; see stderr. undo must be called when nothing is written any more.
func Stderr() (w io.Writer, undo func(), err error) {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	s := &stderr{fd: fd, file: os.NewFile(uintptr(fd), "standard error"), null: null}
	s.timer = time.AfterFunc(stuckAfter, s.check)
	return s, s.undo, nil
}

func (s *stderr) Write(lines []byte) (int, error) {
	s.note(true)
	defer s.note(false)
	return s.file.Write(lines)
}

// note says that a write begins, or ends.
func (s *stderr) note(busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = busy
	if s.away && !busy {
		s.point(unread(s.fd) > pipeBacklog)
	}
	s.timer.Reset(stuckAfter)
}

// check finds out whether somebody reads, after some time in which nothing was noted.
func (s *stderr) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.point(s.busy || unread(s.fd) > pipeBacklog)
	if s.away {
		s.timer.Reset(stuckAfter)
	}
}

// point leads descriptor 2 nowhere, or back. s.mu must be held. If it fails, the descriptor
// stays as it is.
func (s *stderr) point(away bool) {
	if away == s.away {
		return
	}
	to := s.fd
	if away {
		to = int(s.null.Fd())
	}
	if unix.Dup2(to, 2) == nil {
		s.away = away
	}
}

// undo leads descriptor 2 back. The files stay open: a write may still be under way.
func (s *stderr) undo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.point(false)
}
