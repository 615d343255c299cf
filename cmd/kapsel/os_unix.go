//go:build unix

package main

import (
	"log/slog"
	"os"
	"syscall"
)

// hangup and quit are the signals that a terminal or a service manager sends beside those
// that stop the process.
var (
	hangup os.Signal = syscall.SIGHUP
	quit   os.Signal = syscall.SIGQUIT
)

// noCoreDumps keeps the memory of the process, which holds keys in the clear, out of core
// files, whatever the service manager or GOTRACEBACK asks for. Where the system has no such
// limit there is nothing to keep.
func noCoreDumps(log *slog.Logger) {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("core dumps cannot be turned off", "error", err)
	}
}
