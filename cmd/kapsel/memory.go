package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryLimit returns how many bytes of memory the process may use: the limit of its cgroup (a container, a
// systemd unit) or the machine's memory, whichever is less. It returns 0 if neither is known.
func memoryLimit() int64 {
	var least int64
	for _, from := range []func() (uint64, error){memlimit.FromCgroup, memlimit.FromSystem} {
		if limit, err := from(); err == nil && limit < 1<<62 && (least == 0 || int64(limit) < least) {
			least = int64(limit)
		}
	}
	return least
}

// useMemory limits the process to the memory that the settings give it. It also has Go's garbage collector
// run less often, unless the environment sets GOGC: at high rates the collector takes much of the CPU, and
// the heap is small except for bodies, which have a limit of their own.
func (s *serveSettings) useMemory(log *slog.Logger) {
	s.caches = s.memory.Caches
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(s.memory.Heap)
	}
	if !s.memory.Fits() {
		log.Warn("KAPSEL_BODY_MEMORY is more than a quarter of the memory that this process may use, so it may run out of memory; lower it, or leave it out",
			"body_memory", s.memory.Bodies, "memory_limit", s.memory.Limit)
	}
}
