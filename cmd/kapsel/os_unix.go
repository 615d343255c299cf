//go:build unix

package main

import (
	"log/slog"
	"os"
	"syscall"
)

// hangup and quit are signals of a terminal or a service manager that do not stop the process gracefully.
var (
	hangup os.Signal = syscall.SIGHUP
	quit   os.Signal = syscall.SIGQUIT
)

// noCoreDumps keeps the process from writing core files, whatever the service manager or GOTRACEBACK asks for,
// because its memory holds keys in the clear. It does nothing on a system without such a limit.
func noCoreDumps(log *slog.Logger) {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("core dumps cannot be turned off", "error", err)
	}
}
