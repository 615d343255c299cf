//go:build !unix

package egress

import "syscall"

// canReceive is false because receive does not work on this system. Bytes that no Read has
// returned cannot be seen.
const canReceive = false

func receive(uintptr, []byte, bool) (int, error) { return 0, syscall.ENOSYS }
