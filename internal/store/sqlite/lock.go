package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// fileLock is the right to use a database, held through a lock on a file beside it. The
// kernel releases it when the process ends, however it ends.
type fileLock struct{ f *os.File }

// lockFile takes the lock, and waits up to wait for another process to release it. It writes this
// process's id to the file. It fails if the lock is still held then, and names the holder's
// process id, or if ctx ends.
func lockFile(ctx context.Context, path string, wait time.Duration) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := tryLock(f)
		if err == nil {
			break
		}
		if errors.Is(err, errLocked) && ctx.Err() == nil {
			if time.Since(start) < wait {
				continue
			}
			err = fmt.Errorf("the database is in use by process %s; stop it first", holder(f))
		}
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, ctx.Err()))
	}
	if err := errors.Join(f.Truncate(0), writeAt0(f, strconv.Itoa(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the lock file: %w", err)
	}
	return &fileLock{f}, nil
}

func writeAt0(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text+"\n"), 0)
	return err
}

// holder returns the process id in a lock file, "(unknown)" if there is none.
func holder(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 20))
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return pid
	}
	return "(unknown)"
}

// release gives the lock back. The file stays: removing it would let two processes hold a
// lock, one on the old file and one on a new one.
func (l *fileLock) release() {
	l.f.Close()
}
