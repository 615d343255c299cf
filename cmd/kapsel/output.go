package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// drainTime is how long the readers of the output have to read what is left at the end.
const drainTime = time.Second

// output is how a command that opens the database itself speaks: its log on standard error,
// and what it tells people on standard output. Neither waits for a reader.
type output struct {
	log     *slog.Logger
	console *telemetry.Queue // standard output
	end     func()           // must be called when nothing is logged any more
}

// output starts the process's output and makes it that of its libraries.
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

// guarded is a writer to the process's standard error from which a panic does not wait for a
// reader; any other writer as it is.
func guarded(w io.Writer) (_ io.Writer, restore func()) {
	if w == io.Writer(os.Stderr) {
		if stderr, restore, err := telemetry.Stderr(); err == nil {
			return stderr, restore
		}
	}
	return w, func() {}
}
