// Package durable keeps small files through crashes and power cuts, and keeps two processes from using them at
// once.
package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Replace writes a file in place of the one at path, with mode 0600. When it returns nil, the file and its
// name are synced. After a crash the old file or the new one is there, whole. The error does not say
// which one. Callers must not call it for one path at the same time.
func Replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MakeDirs makes a directory, and those above it that are missing, with mode 0700. When it returns nil, the names
// of those it made are synced.
func MakeDirs(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := MakeDirs(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := SyncDir(parent); !errors.Is(err, os.ErrPermission) { // a directory may let one make what one may not list
		return err
	}
	return nil
}

// Lock is the right to use a database or a directory, held through a lock on a file. The kernel releases it
// when the process ends, however it ends.
type Lock struct{ f *os.File }

// TakeLock takes the lock on the file at path, which it makes if it is not there, and waits up to wait for
// another process to release it. It writes this process's id to the file. It fails if the lock is still held
// then, and names what is locked and the holder's process id, or if ctx ends.
func TakeLock(ctx context.Context, path, what string, wait time.Duration) (*Lock, error) {
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
			err = fmt.Errorf("%s is in use by process %s; stop it first", what, holder(f))
		}
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, ctx.Err()))
	}
	if err := errors.Join(f.Truncate(0), writeAt0(f, strconv.Itoa(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the lock file: %w", err)
	}
	return &Lock{f}, nil
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

// Release gives the lock back. The file stays: removing it would let two processes hold a lock, one on the
// old file and one on a new one.
func (l *Lock) Release() { l.f.Close() }
