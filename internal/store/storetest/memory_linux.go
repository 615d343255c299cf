package storetest

import (
	"sync"
	"syscall"
)

// memory is where Linux keeps files in memory.
const memory = "/dev/shm"

// inMemory reports whether files can be made in memory, with 1 GiB of room when it is first asked.
var inMemory = sync.OnceValue(func() bool {
	const tmpfs, room = 0x01021994, 1 << 30
	var s syscall.Statfs_t
	err := syscall.Statfs(memory, &s)
	return err == nil && int64(s.Type) == tmpfs && s.Bavail*uint64(s.Bsize) >= room
})
