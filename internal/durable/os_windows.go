package durable

import (
	"os"

	"golang.org/x/sys/windows"
)

// errLocked is returned by tryLock when another process holds the lock.
var errLocked error = windows.ERROR_LOCK_VIOLATION

// lockAt is the offset of the locked byte. It lies beyond the end of the file, because other
// processes cannot read a locked byte, and they read the holder's name from the file.
const lockAt = 1 << 20

// tryLock takes the lock on f without waiting. Closing f releases it.
func tryLock(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{Offset: lockAt})
}

// SyncDir does nothing: Windows does not sync directories; the journal of NTFS keeps new names.
func SyncDir(string) error { return nil }
