//go:build unix

package egress

import (
	"os"
	"syscall"
)

// mostFiles is how many descriptors the process may have (RLIMIT_NOFILE). It can change while
// the process runs.
func mostFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return int(^uint(0) >> 1)
	}
	return int(min(uint64(limit.Cur), uint64(^uint(0)>>1)))
}

// Descriptors are given out from the lowest number up, so the number of a new one says how many
// are in use at least. The last quarter, and no fewer than leastSpare, is left to what takes
// requests, to the database and to the files that a look-up reads.
const leastSpare = 16

// spare refuses a descriptor that is one of the last.
func spare(fd uintptr) error {
	if most := mostFiles(); int(fd) >= most-max(leastSpare, most/4) {
		return shortageOf(os.NewSyscallError("socket", syscall.EMFILE))
	}
	return nil
}

// reserve reports as a Shortage that no descriptor is left for a connection.
func reserve() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		if s := shortageOf(os.NewSyscallError("socket", err)); s != nil {
			return s
		}
		return nil // a system without IPv4: the dial will tell
	}
	defer syscall.Close(fd)
	return spare(uintptr(fd))
}
