package postgres

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestWalk_WaitsForWhatANodeLeft checks that a walk does not begin while a transaction that a dead node has
// left may still commit a delivery that the walk would not see.
func TestWalk_WaitsForWhatANodeLeft(t *testing.T) {
	ctx, now, url := t.Context(), time.Now().UTC(), pgtest.New(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tells, err := Open(ctx, url, Options{Migrate: true, Ledger: true})
	must(err)
	defer tells.Close()
	quiet, err := Open(ctx, url, Options{})
	must(err)
	defer quiet.Close()
	must(tells.Join(ctx, kapsel.NewNodeID(now), now, time.Hour))
	must(tells.KeepBooks(ctx, true))
	node := kapsel.NewNodeID(now)
	must(quiet.Join(ctx, node, now, time.Hour))
	left, err := quiet.engine.Begin(ctx)
	must(err)
	defer left.Rollback(ctx)
	_, err = left.Exec(ctx, "UPDATE settings_counter SET value = value")
	must(err)
	must(quiet.Leave(ctx, node))

	walk := func() (more, done bool) {
		t.Helper()
		_, more, err := tells.Walk(ctx, 1000)
		must(err)
		done, err = tells.Walked(ctx)
		must(err)
		return more, done
	}
	for range 2 {
		if more, done := walk(); more || done {
			t.Fatalf("beside a transaction of a dead node: more to look at %v, walked %v", more, done)
		}
	}
	must(left.Commit(ctx))
	steps, done := 0, false
	for waits := 0; !done && waits < 60; { // transactions in other databases of the server count, too
		var more bool
		if more, done = walk(); more {
			steps++
		} else {
			waits++
		}
	}
	if !done || steps < 255 {
		t.Errorf("after its end: walked %v in %d steps", done, steps)
	}
}
