package postgres

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes the kernel give up on a connection whose other side acknowledges nothing
// (RFC 5482), so that Kapsel notices a server that has vanished.
func setUserTimeout(network, _ string, c syscall.RawConn) (err error) {
	if network == "unix" {
		return nil
	}
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
	if cerr != nil {
		return cerr
	}
	return err
}
