package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// ask gets one of the handlers' answers.
func ask(t *testing.T, handler http.HandlerFunc) (status int, reasons map[string]string) {
	t.Helper()
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest("GET", "/", nil))
	var body struct {
		Status  string
		Reasons map[string]string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("answer %q: %v", w.Body, err)
	}
	if (w.Code == 200) != (body.Status == "ok") || (w.Code == 200) != (w.Header().Get("Retry-After") == "") {
		t.Errorf("status %d with %+v, Retry-After %q", w.Code, body, w.Header().Get("Retry-After"))
	}
	return w.Code, body.Reasons
}

func TestHealthPhases(t *testing.T) {
	h := NewHealth(quiet())
	want := func(when string, startup, ready int) {
		t.Helper()
		for name, c := range map[string]struct {
			handler http.HandlerFunc
			want    int
		}{"live": {h.Live, 200}, "startup": {h.Startup, startup}, "ready": {h.Ready, ready}} {
			if got, reasons := ask(t, c.handler); got != c.want {
				t.Errorf("%s: %s = %d %v, want %d", when, name, got, reasons, c.want)
			}
		}
	}
	want("before start", 503, 503)
	h.SetStarted()
	want("started", 200, 200)
	h.SetStopping()
	want("stopping", 200, 503)
}

func TestHealthReasonsTellNoSecrets(t *testing.T) {
	h := NewHealth(quiet())
	h.SetStarted()
	h.Add("ok", func(context.Context) error { return nil })
	h.Add("store", func(context.Context) error {
		return &kapsel.Error{Code: kapsel.DatabaseUnavailable, Detail: "the database does not answer", Err: errors.New("dial 10.0.0.7")}
	})
	h.Add("clock", func(context.Context) error { return errors.New("SELECT now() failed at /var/lib") })
	h.Add("broken", func(context.Context) error { panic("10.0.0.7") })
	status, got := ask(t, h.Ready)
	want := map[string]string{"store": "the database does not answer", "clock": "failed; the log says why", "broken": "failed; the log says why"}
	if diff := cmp.Diff(want, got); status != 503 || diff != "" {
		t.Errorf("status %d, reasons (-want +got):\n%s", status, diff)
	}
}

// A run that has ended in time is not taken for a slow one because its context has ended as well.
func TestHealthEndedRunIsNotSlow(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan struct{})
	close(done)
	c := &check{doing: &running{ctx: ended, done: done}}
	for range 100 { // a select between the two takes either
		if err := c.result(t.Context()); err != nil {
			t.Fatalf("a run without an error: %v", err)
		}
	}
}

func TestHealthCachesForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(quiet())
		h.SetStarted()
		runs := 0
		h.Add("count", func(context.Context) error { runs++; return nil })
		for range 5 {
			ask(t, h.Ready)
			time.Sleep(150 * time.Millisecond)
		}
		if runs != 1 {
			t.Errorf("%d runs in 750 ms, want 1", runs)
		}
		time.Sleep(time.Second)
		ask(t, h.Ready)
		if runs != 2 {
			t.Errorf("%d runs after a second more, want 2", runs)
		}
	})
}

func TestHealthOneRunForAllCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(quiet())
		h.SetStarted()
		runs := 0
		h.Add("slow", func(context.Context) error { runs++; time.Sleep(500 * time.Millisecond); return nil })
		hurried, cancel := context.WithCancel(t.Context())
		var patient, gone map[string]string
		go func() { gone = h.Reasons(hurried) }()
		synctest.Wait()
		go func() { patient = h.Reasons(t.Context()) }()
		synctest.Wait()
		cancel() // the caller that began the run hangs up
		time.Sleep(time.Second)
		synctest.Wait()
		if runs != 1 || len(patient) != 0 || len(gone) != 1 {
			t.Errorf("%d runs, patient %v, gone %v", runs, patient, gone)
		}
	})
}

func TestHealthLimitsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := NewHealth(slog.New(slog.NewTextHandler(&log, nil)))
		h.SetStarted()
		release := make(chan struct{})
		runs := 0
		h.Add("deaf", func(context.Context) error { runs++; <-release; return nil })
		h.Add("polite", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		want := map[string]string{"deaf": "no answer within 1s", "polite": "no answer within 1s"}
		for range 3 {
			begin := time.Now()
			if diff := cmp.Diff(want, h.Reasons(t.Context())); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			if took := time.Since(begin); took > checkLimit {
				t.Errorf("readiness took %v", took)
			}
			time.Sleep(checkFresh)
		}
		synctest.Wait()
		if runs != 1 {
			t.Errorf("a check that hangs was started %d times", runs)
		}
		close(release)
		synctest.Wait()
		if n := strings.Count(log.String(), "check=polite"); n != 1 {
			t.Errorf("the failure was logged %d times, want once:\n%s", n, log.String())
		}
	})
}
