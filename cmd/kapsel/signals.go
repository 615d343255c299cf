package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"

	"github.com/kapsel-hq/kapsel/internal/telemetry"
)

// hangups returns a channel that receives SIGHUP. From now on SIGHUP does not end the process, not even when
// its terminal closes. If SIGHUP was ignored at the start (nohup), it stays ignored. The channel holds one
// signal, because several have the same effect as one.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	if hangup != nil && !signal.Ignored(hangup) {
		signal.Notify(c, hangup)
	}
	return c
}

// reload reads the certificate again at each SIGHUP, until ctx ends. No other setting can change while the
// process runs.
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

// stackOnQuit has SIGQUIT print all goroutines and end the process as Go's runtime does, but without waiting
// for a reader. A second SIGQUIT goes to the runtime.
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
