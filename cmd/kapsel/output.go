package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// drainTime is how long the process waits at its end for the readers of its output.
const drainTime = time.Second

// output is the output of a command that opens the database itself: a log on standard error, and text for
// people on standard output. Writing to either does not wait for a reader.
type output struct {
	log     *slog.Logger
	console *telemetry.Queue // standard output
	end     func()           // must be called when nothing is logged any more
}

// output starts the process's output. Libraries then log to it, too.
func (s *databaseSettings) output(streams streams) *output {
	stderr, restore := guarded(streams.err)
	lines, console := telemetry.NewQueue(stderr), telemetry.NewQueue(streams.out)
	log := telemetry.NewLogger(lines, s.LogLevel, s.LogFormat)
	undo := telemetry.AdoptLibraries(log)
	return &output{log: log, console: console, end: func() {
		undo()
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		lines.Close(ctx)
		console.Close(ctx)
		restore()
	}}
}

// guarded returns a writer to the process's standard error that a panic does not block; it returns any other
// writer as it is.
func guarded(w io.Writer) (_ io.Writer, restore func()) {
	if w == io.Writer(os.Stderr) {
		if stderr, restore, err := telemetry.Stderr(); err == nil {
			return stderr, restore
		}
	}
	return w, func() {}
}
