//go:build unix

package egress

import "syscall"

// canReceive says that receive works on this system.
const canReceive = true

// receive reads from a socket without blocking; peek leaves the bytes unread. It returns EAGAIN if
// nothing has arrived, and 0 bytes at the end of the stream.
func receive(fd uintptr, p []byte, peek bool) (n int, err error) {
	for {
		if peek {
			n, _, err = syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK)
		} else {
			n, err = syscall.Read(int(fd), p)
		}
		if err != syscall.EINTR {
			return n, err
		}
	}
}
