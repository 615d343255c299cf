package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func TestPasses(t *testing.T) {
	cause := errors.New("a cause that users do not see")
	for _, tt := range []struct {
		err    error
		passes bool
	}{
		{nil, false},
		{cause, false},
		{store.NotFound("key"), false},
		{store.Unavailable(cause), true},
		{fmt.Errorf("open: %w", store.Unavailable(cause)), true},
		{store.Lasting("a table is missing", cause), false},
		{store.Unavailable(store.Lasting("a table is missing", cause)), false},
	} {
		if got := store.Passes(tt.err); got != tt.passes {
			t.Errorf("%v passes: %t", tt.err, got)
		}
	}
	var e *kapsel.Error
	err := store.Lasting("a table is missing", cause)
	if !errors.As(err, &e) || e.Code != kapsel.DatabaseUnavailable || !strings.HasPrefix(e.Detail, "a table is missing") ||
		strings.Contains(e.Detail, cause.Error()) || !errors.Is(err, cause) || e.RetryAfter <= 0 {
		t.Errorf("a lasting error is %+v", e)
	}
}

func TestAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := store.NewAlarm(slog.New(slog.NewTextHandler(&log, nil)))
		for range 150 {
			a.Raise(errors.New("broken"))
			time.Sleep(time.Second)
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 3 {
			t.Errorf("%d lines in 150 s, want one a minute: %s", n, &log)
		}
		new(store.Alarm).Raise(errors.New("broken"))
	})
}
