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
	// stuckAfter is how long a write may take before the reader counts as gone.
	stuckAfter = time.Second
	// pipeBacklog is how many bytes may be unread in a pipe to which nothing was written for
	// stuckAfter. The text of a panic still fits beside them: a pipe holds 64 KiB.
	pipeBacklog = 16 << 10
)

// stderr writes to the process's standard error. While nobody reads that, it makes descriptor 2
// refer to /dev/null. Otherwise a panic could hang the whole process: Go's runtime writes the
// panic's text to descriptor 2 and blocks until it is read.
type stderr struct {
	fd   int      // duplicate of the descriptor of standard error
	file *os.File // of fd
	null *os.File

	mu    sync.Mutex  // guards what follows
	busy  bool        // a write is under way
	away  bool        // descriptor 2 refers to null
	timer *time.Timer // calls check when no write has begun or ended for stuckAfter
}

// Stderr returns a writer to the process's standard error, for a Queue, that also keeps a panic
// from waiting for a reader; see stderr. Callers must call undo when they write nothing more.
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

// note records that a write begins (busy) or has ended.
func (s *stderr) note(busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = busy
	if s.away && !busy {
		s.point(unread(s.fd) > pipeBacklog)
	}
	s.timer.Reset(stuckAfter)
}

// check finds out whether somebody reads. It runs when nothing was noted for stuckAfter.
func (s *stderr) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.point(s.busy || unread(s.fd) > pipeBacklog)
	if s.away {
		s.timer.Reset(stuckAfter)
	}
}

// point makes descriptor 2 refer to /dev/null (away) or to standard error. If that fails, the
// descriptor stays as it is. The caller must hold s.mu.
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

// undo restores descriptor 2. It leaves the files open, because a write may still be under way.
func (s *stderr) undo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.point(false)
}
