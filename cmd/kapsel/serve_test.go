package main

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

// closes is a store that only closes.
type closes struct {
	store.Store
	closed chan struct{}
}

func (c closes) Close() error { close(c.closed); return nil }

// TestClose_BackgroundHangs checks that a duty whose call of the store hangs delays the end of the
// process no longer than a store that does not close, and that the store stays open during the
// call.
func TestClose_BackgroundHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{log: slog.New(slog.DiscardHandler), db: closes{closed: make(chan struct{})}}
		hangs := make(chan struct{})
		s.background.Go(func() { <-hangs })
		start := time.Now()
		s.close()
		if took := time.Since(start); took != closeGrace {
			t.Errorf("closing took %v, want %v", took, closeGrace)
		}
		db := s.db.(closes).closed
		select {
		case <-db:
			t.Error("the store was closed under a call")
		default:
		}
		close(hangs)
		<-db
	})
}
