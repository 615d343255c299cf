//go:build !unix

package telemetry

import (
	"io"
	"os"
)

// Stderr returns the process's standard error. On this system the Go runtime's own output cannot
// be redirected, so a panic waits for a reader of the log.
func Stderr() (w io.Writer, undo func(), err error) { return os.Stderr, func() {}, nil }
