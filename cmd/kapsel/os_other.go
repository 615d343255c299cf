//go:build !unix

package main

import (
	"log/slog"
	"os"
)

// hangup and quit are nil: the system has no such signals.
var hangup, quit os.Signal

// noCoreDumps does nothing: the system writes no core files.
func noCoreDumps(*slog.Logger) {}
