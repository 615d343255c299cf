package telemetry

import "golang.org/x/sys/unix"

// unread returns how many bytes in a pipe were not read yet; 0 if fd is not a pipe.
func unread(fd int) int {
	var info unix.Stat_t
	if unix.Fstat(fd, &info) != nil || info.Mode&unix.S_IFMT != unix.S_IFIFO {
		return 0
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}
