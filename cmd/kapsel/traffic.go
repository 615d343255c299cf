package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// traffic prints the lines of --dev: one for each webhook that comes in, one for each attempt, and one when a
// circuit opens or closes.
//
//	20:15:32.120  in   orders                 18 B  200    3 ms
//	20:15:32.131  out  orders                 18 B  503    8 ms  E2004, attempt 1 of 20, the next in 1s
type traffic struct {
	out      io.Writer // takes whole lines and does not block
	settings *settings.Cache
	began    atomic.Bool // nothing is told of how circuits were before

	mu       sync.Mutex
	circuits map[kapsel.EndpointID]kapsel.CircuitState // as last told; guarded by mu
}

// line prints a line: the time, the direction, the name of the endpoint or the source, and the rest.
func (t *traffic) line(way, name string, size int64, status int, took time.Duration, notes ...string) {
	answer := "-"
	if status != 0 {
		answer = strconv.Itoa(status)
	}
	note := ""
	if len(notes) > 0 {
		note = "  " + strings.Join(notes, ", ")
	}
	fmt.Fprintf(t.out, "%s  %-3s  %s  %9s  %3s  %6s%s\n", time.Now().Format("15:04:05.000"), way, padded(clean(name), 16), sizeOr(size), answer, millis(took), clean(note))
}

// padded returns a text followed by blanks up to a width. It does not shorten a longer text.
func padded(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// sizeOr returns a size as people read it, "-" if it is not known.
func sizeOr(n int64) string {
	if n < 0 {
		return "-"
	}
	return size(n)
}

// millis returns a duration in whole milliseconds.
func millis(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// endpoint returns the name of an endpoint, or its ID if the name is not known.
func (t *traffic) endpoint(id kapsel.EndpointID) string {
	if t.settings.Knows(id) {
		if e, err := t.settings.AnyEndpoint(context.Background(), id); err == nil {
			return e.Name
		}
	}
	return id.String()
}

// ingest returns the name of the endpoint or the source to whose ingest URL a request was sent, by the ID in
// the URL. If it exists, it is in the cache, because answering the request looked it up.
func (t *traffic) ingest(id string) string {
	if endpoint, err := kapsel.ParseEndpointID(id); err == nil {
		return t.endpoint(endpoint)
	}
	if source, err := kapsel.ParseSourceID(id); err == nil && t.settings.KnowsSource(source) {
		if s, err := t.settings.Source(context.Background(), source); err == nil {
			return s.Name
		}
	}
	return id
}

// went prints an attempt. It is for delivery.Config.Recorded.
func (t *traffic) went(a *kapsel.Attempt, d *kapsel.Delivery) {
	var notes []string
	if a.ErrorCode != "" {
		what := string(a.ErrorCode)
		if a.StatusCode == 0 && a.Error != "" {
			what = a.Error + " (" + what + ")"
		}
		notes = append(notes, what)
	}
	if a.ErrorCode != "" || a.Number > 1 {
		attempt := fmt.Sprint("attempt ", a.Number)
		if e, err := t.settings.AnyEndpoint(context.Background(), a.EndpointID); err == nil && t.settings.Knows(a.EndpointID) {
			attempt += fmt.Sprint(" of ", e.Retry.MaxAttempts)
		}
		notes = append(notes, attempt)
	}
	switch {
	case d.Status == kapsel.Pending:
		next := "the next at once"
		if wait := time.Until(d.DueAt); wait > 0 {
			next = "the next in " + roughly(wait)
		}
		notes = append(notes, next)
	case a.ErrorCode != "":
		notes = append(notes, d.Status.String())
	}
	t.line("out", t.endpoint(a.EndpointID), int64(d.Size), a.StatusCode, a.Duration, notes...)
}

// changed prints that circuits have opened or closed. It is for settings.Cache.OnChange.
func (t *traffic) changed(s store.Settings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.circuits == nil {
		t.circuits = map[kapsel.EndpointID]kapsel.CircuitState{}
	}
	for _, c := range s.Circuits {
		before := t.circuits[c.EndpointID]
		t.circuits[c.EndpointID] = c.State
		text := ""
		switch {
		case !t.began.Load() || c.State == before:
		case c.State == kapsel.CircuitOpened:
			text = "the circuit is open: nothing is sent but a probe " + ago(c.RetryAt)
		case c.State == kapsel.CircuitClosed && before != "":
			text = "the circuit is closed: deliveries start again"
		}
		if text == "" {
			continue
		}
		fmt.Fprintf(t.out, "%s       %s  %s\n", time.Now().Format("15:04:05.000"), padded(clean(t.endpoint(c.EndpointID)), 16), text)
	}
}

// watch returns a handler that calls next and prints a line for each webhook that it answers.
func (t *traffic) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &arrival{traffic: t, ResponseWriter: w, start: time.Now(), size: r.ContentLength}
		var webhook bool
		if a.id, webhook = strings.CutPrefix(r.URL.Path, kapsel.IngestPath); !webhook {
			a.id = kapsel.Publish
		}
		if r.ContentLength < 0 {
			a.size = 0
			r.Body = &counted{r.Body, &a.size}
		}
		next.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), arrivalKey{}, a)))
		a.tell(http.StatusOK)
	})
}

// watchPublished is watch for the API. It prints lines only for requests to publish.
func (t *traffic) watchPublished(api http.Handler) http.Handler {
	watched := t.watch(api)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/v1/events" {
			watched.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// stored prints the line of a webhook that is stored but not yet answered, because its answer waits for the
// delivery.
func stored(ctx context.Context) {
	if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
		a.tell(http.StatusOK)
	}
}

type arrivalKey struct{}

// arrival is a webhook that is being answered.
type arrival struct {
	*traffic
	http.ResponseWriter
	start  time.Time
	id     string // of the endpoint or the source, as it was sent, or kapsel.Publish
	size   int64
	status int
	once   sync.Once
	notes  []string
}

// tell prints the line. Calls after the first do nothing.
func (a *arrival) tell(status int) {
	a.once.Do(func() {
		a.line("in", a.ingest(a.id), a.size, status, time.Since(a.start), a.notes...)
	})
}

// WriteHeader implements http.ResponseWriter. It prints the line of an answer that is not a problem document.
func (a *arrival) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
	if a.Header().Get("Content-Type") != problem.ContentType {
		if a.Header().Get("Idempotent-Replayed") != "" {
			a.notes = append(a.notes, "a duplicate")
		}
		a.tell(status)
	}
}

// Write implements http.ResponseWriter. It prints the line of a refusal, with the reason in the body.
func (a *arrival) Write(b []byte) (int, error) {
	if a.Header().Get("Content-Type") == problem.ContentType {
		a.notes = append(a.notes, detailOf(b))
		a.tell(a.status)
	} else {
		if a.Header().Get("Idempotent-Replayed") != "" {
			a.notes = append(a.notes, "a duplicate")
		}
		a.tell(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap returns the underlying writer, for http.ResponseController.
func (a *arrival) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// counted counts the bytes that are read of a body.
type counted struct {
	io.ReadCloser
	n *int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	*c.n += int64(n)
	return n, err
}

// told is a log handler that drops the records of what traffic prints.
type told struct{ slog.Handler }

func (h told) Handle(ctx context.Context, r slog.Record) error {
	if r.Level <= slog.LevelInfo && (r.Message == delivery.AttemptMessage || r.Message == ingest.RefusedMessage || strings.HasPrefix(r.Message, "circuit ")) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h told) WithAttrs(attrs []slog.Attr) slog.Handler { return told{h.Handler.WithAttrs(attrs)} }
func (h told) WithGroup(name string) slog.Handler       { return told{h.Handler.WithGroup(name)} }
