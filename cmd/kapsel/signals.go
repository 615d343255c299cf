package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"

	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// hangups returns a channel that gets SIGHUP, which from now on does not end the process: not
// when its terminal closes, and not as process 1 either. One that was ignored at the start
// (nohup) stays ignored. The channel holds one signal: many mean the same.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	if hangup != nil && !signal.Ignored(hangup) {
		signal.Notify(c, hangup)
	}
	return c
}

// reload obeys hangups until ctx ends: it reads the certificate again, the one setting that
// changes while the process runs.
func (s *server) reload(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hangups:
		}
		if s.cert == nil {
			s.log.Info("SIGHUP: there is no certificate to read again")
			continue
		}
		s.cert.reload()
	}
}

// stackOnQuit lets SIGQUIT print all goroutines and end the process as Go's runtime does it,
// but without waiting for a reader. A second SIGQUIT is the runtime's.
func stackOnQuit(w io.Writer) {
	if quit == nil || signal.Ignored(quit) {
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, quit)
	go func() {
		<-c
		signal.Reset(quit)
		stacks := make([]byte, 1<<20)
		for n := runtime.Stack(stacks, true); ; n = runtime.Stack(stacks, true) {
			if n < len(stacks) || len(stacks) >= 64<<20 {
				stacks = stacks[:n]
				break
			}
			stacks = make([]byte, 2*len(stacks))
		}
		telemetry.LastWords(w, "SIGQUIT: quit\n\n"+string(stacks)+"\n")
		os.Exit(2)
	}()
}
