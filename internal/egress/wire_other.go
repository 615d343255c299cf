//go:build !unix

package egress

import "syscall"

// canReceive says that receive does not work on this system: of bytes that nobody has read,
// only those are seen that a Read has returned.
const canReceive = false

func receive(uintptr, []byte, bool) (int, error) { return 0, syscall.ENOSYS }
