//go:build unix

package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errLocked is returned by tryLock when another process holds the lock.
var errLocked error = unix.EWOULDBLOCK

// tryLock takes the lock on f without waiting. Closing f releases it.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// SyncDir makes names that were created or changed in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
