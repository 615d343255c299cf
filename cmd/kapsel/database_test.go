package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store"
)

func TestPatience(t *testing.T) {
	away := store.Unavailable(errors.New("connection refused"))
	wrong := errors.New("no such database")
	for _, tt := range []struct {
		name  string
		comes time.Duration // when the database is there; negative: never
		then  error         // what the step fails with from then on
		takes time.Duration // of each try
		want  error
		most  time.Duration
	}{
		{"it is there", 0, nil, 0, nil, 0},
		{"it comes", 20 * time.Second, nil, 0, nil, 21 * time.Second},
		{"it comes late, and each try takes long", 29 * time.Second, nil, 4 * time.Second, nil, databaseWait + 5*time.Second},
		{"it never comes", -1, nil, 0, away, databaseWait + time.Second},
		{"it never answers", -1, nil, 4 * time.Second, away, databaseWait + 5*time.Second},
		{"it is wrong", 0, wrong, 0, wrong, 0},
		{"it comes and is wrong", 10 * time.Second, wrong, 0, wrong, 11 * time.Second},
		{"what is wrong with it lasts", 0, store.Lasting("a table is missing", wrong), 0, wrong, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				wait := &patience{log: slog.New(slog.NewTextHandler(&log, nil))}
				start := time.Now()
				err := wait.try(t.Context(), func() error {
					time.Sleep(tt.takes)
					if tt.comes < 0 || time.Since(start) < tt.comes {
						return away
					}
					return tt.then
				})
				took := time.Since(start)
				if !errors.Is(err, tt.want) {
					t.Errorf("error is %v, want %v", err, tt.want)
				}
				if took < tt.comes || took > tt.most || tt.want == away && took < databaseWait {
					t.Errorf("it took %v", took)
				}
				if n, want := strings.Count(log.String(), "level=WARN"), min(1, int(tt.most)); n != want {
					t.Errorf("%d warnings: %s", n, &log)
				}
			})
		})
	}
}

// TestPatience_AfterLongStep checks that the wait begins anew when the database goes away in the middle of a step.
func TestPatience_AfterLongStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := &patience{log: slog.New(slog.DiscardHandler)}
		start, tries := time.Now(), 0
		err := wait.try(t.Context(), func() error {
			if tries++; tries == 1 {
				time.Sleep(5 * time.Minute)
			}
			if time.Since(start) < 5*time.Minute+20*time.Second {
				return store.Unavailable(errors.New("connection refused"))
			}
			return nil
		})
		if err != nil {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

// All steps of a start share one wait, and a stop ends it.
func TestPatience_IsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := store.Unavailable(errors.New("connection refused"))
		wait := &patience{log: slog.New(slog.DiscardHandler)}
		start, tries := time.Now(), 0
		for range 2 {
			if err := wait.try(t.Context(), func() error { tries++; return away }); !errors.Is(err, away) {
				t.Errorf("error is %v", err)
			}
		}
		if took := time.Since(start); took > databaseWait+time.Second {
			t.Errorf("two steps waited %v", took)
		}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		start = time.Now()
		if err := (&patience{log: wait.log}).try(ctx, func() error { return away }); err == nil {
			t.Error("no error after a stop")
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("a stop after 5s took %v", took)
		}
	})
}
