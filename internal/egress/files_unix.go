//go:build unix

package egress

import (
	"os"
	"syscall"
)

// mostFiles returns the process's limit of descriptors (RLIMIT_NOFILE), which can change while the
// process runs.
func mostFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return int(^uint(0) >> 1)
	}
	return int(min(uint64(limit.Cur), uint64(^uint(0)>>1)))
}

// leastSpare is the least number of descriptors that connections to destinations leave unused.
// They leave a quarter of the limit, if that is more, to incoming requests, the database and the
// files that a DNS lookup reads. The system hands out the lowest free number, so the number of a
// new descriptor is a lower bound of how many are in use.
const leastSpare = 16

// spare returns a Shortage if a new descriptor is one of the last, which must stay unused.
func spare(fd uintptr) error {
	if most := mostFiles(); int(fd) >= most-max(leastSpare, most/4) {
		return shortageOf(os.NewSyscallError("socket", syscall.EMFILE))
	}
	return nil
}

// reserve returns a Shortage if no descriptor is left for a connection.
func reserve() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		if s := shortageOf(os.NewSyscallError("socket", err)); s != nil {
			return s
		}
		return nil // a system without IPv4: the dial will report any problem
	}
	defer syscall.Close(fd)
	return spare(uintptr(fd))
}
