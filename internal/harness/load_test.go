package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// gateway answers as answer says and forwards each body so many times to a sink.
func gateway(t *testing.T, sink *Sink, answer func(n int, r *http.Request) (status, deliveries int)) *httptest.Server {
	t.Helper()
	var n atomic.Int64
	var forwards sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read an event: %v", err)
		}
		status, deliveries := answer(int(n.Add(1)), r)
		for range deliveries {
			forwards.Go(func() {
				resp, err := http.Post(sink.URL(0), "application/json", bytes.NewReader(body))
				if err != nil {
					t.Errorf("forward: %v", err)
					return
				}
				resp.Body.Close()
			})
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{"event_id":"evt_1"}`)
	}))
	t.Cleanup(func() { s.Close(); forwards.Wait() })
	return s
}

func TestLoad_CountsEveryEvent(t *testing.T) {
	sink := newTestSink(t, OK)
	var keys sync.Map
	gw := gateway(t, sink, func(n int, r *http.Request) (int, int) {
		if _, seen := keys.LoadOrStore(r.Header.Get("Idempotency-Key"), n); seen {
			t.Errorf("key %q came twice", r.Header.Get("Idempotency-Key"))
		}
		if r.ContentLength != 700 || r.Header.Get("X-Test") != "yes" {
			t.Errorf("length %d, X-Test %q", r.ContentLength, r.Header.Get("X-Test"))
		}
		return 200, 1
	})
	r, err := Load(t.Context(), LoadConfig{
		URLs:        []string{gw.URL + "/a", gw.URL + "/b"},
		Events:      1000,
		Connections: 8,
		Size:        700,
		Keys:        true,
		Header:      []string{"X-Test: yes"},
		Sink:        sink,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []int{r.Sent, r.Acked, r.Errors, r.Status[200], r.Delivered, r.Requests, r.Lost, r.Duplicates, r.UnackedDelivered, r.Foreign}
	if d := cmp.Diff([]int{1000, 1000, 0, 1000, 1000, 1000, 0, 0, 0, 0}, got); d != "" {
		t.Error(d)
	}
	if r.AckPerS <= 0 || r.DeliveredPerS <= 0 || r.AckMS.Max <= 0 || r.E2EMS.P50 <= 0 || r.E2EMS.Max < r.E2EMS.P50 {
		t.Errorf("implausible: %+v", r)
	}
}

func TestLoad_FindsLossesAndDuplicates(t *testing.T) {
	sink := newTestSink(t, OK)
	gw := gateway(t, sink, func(n int, _ *http.Request) (int, int) {
		switch {
		case n%100 == 1:
			return 200, 0 // lost
		case n%100 == 2:
			return 200, 3 // duplicated, twice
		case n%100 == 3:
			return 503, 1 // not known, delivered
		case n%100 == 4:
			return 429, 0
		}
		return 202, 1
	})
	r, err := Load(t.Context(), LoadConfig{
		URLs: []string{gw.URL}, Events: 500, Connections: 4, Sink: sink, Drain: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{
		"acked": r.Acked, "lost": r.Lost, "duplicates": r.Duplicates, "unacked_delivered": r.UnackedDelivered,
		"delivered": r.Delivered, "requests": r.Requests,
	}
	want := map[string]int{
		"acked": 490, "lost": 5, "duplicates": 10, "unacked_delivered": 5, "delivered": 490, "requests": 500,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[int]int{200: 10, 202: 480, 429: 5, 503: 5}, r.Status); d != "" {
		t.Error(d)
	}
}

func TestLoad_OtherRunsAreForeign(t *testing.T) {
	sink := newTestSink(t, OK)
	var stale []byte
	gw := gateway(t, sink, func(int, *http.Request) (int, int) {
		resp, err := http.Post(sink.URL(0), "application/json", bytes.NewReader(stale))
		if err != nil {
			t.Error(err)
			return 500, 0
		}
		resp.Body.Close()
		return 200, 1
	})
	body, at := newBody(MinSize, false)
	marker{run: 1, seq: 0}.put(body[at:])
	stale = body
	r, err := Load(t.Context(), LoadConfig{URLs: []string{gw.URL}, Events: 10, Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	if r.Foreign != 10 || r.Delivered != 10 || r.Duplicates != 0 {
		t.Errorf("foreign %d, delivered %d, duplicates %d", r.Foreign, r.Delivered, r.Duplicates)
	}
}

func TestLoad_ErrorsAreNotAnswers(t *testing.T) {
	gw := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	defer gw.Close()
	var seen atomic.Int64
	r, err := Load(t.Context(), LoadConfig{
		URLs: []string{gw.URL}, Events: 5,
		OnAnswer: func(a Answered) {
			if a.Err != nil && a.Status == 0 {
				seen.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 5 || r.Errors != 5 || r.Acked != 0 || r.FirstError == "" || seen.Load() != 5 {
		t.Errorf("%+v, OnAnswer saw %d", r, seen.Load())
	}
}

func TestLoad_OnAnswerHasTheBody(t *testing.T) {
	gw := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // chunked
		fmt.Fprint(w, "answer")
	}))
	defer gw.Close()
	var got []Answered
	if _, err := Load(t.Context(), LoadConfig{
		URLs: []string{gw.URL}, Events: 3,
		OnAnswer: func(a Answered) { a.Body = bytes.Clone(a.Body); got = append(got, a) },
	}); err != nil {
		t.Fatal(err)
	}
	want := []Answered{{0, 200, []byte("answer"), nil}, {1, 200, []byte("answer"), nil}, {2, 200, []byte("answer"), nil}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLoad_RefusesNonsense(t *testing.T) {
	ok := LoadConfig{URLs: []string{"http://127.0.0.1:1/"}, Events: 1}
	for name, change := range map[string]func(*LoadConfig){
		"no URL":       func(c *LoadConfig) { c.URLs = nil },
		"bad URL":      func(c *LoadConfig) { c.URLs = []string{"ftp://x/"} },
		"no events":    func(c *LoadConfig) { c.Events = 0 },
		"small":        func(c *LoadConfig) { c.Size = MinSize - 1 },
		"header":       func(c *LoadConfig) { c.Header = []string{"no colon"} },
		"split header": func(c *LoadConfig) { c.Header = []string{"A: b\r\nC: d"} },
		"negative":     func(c *LoadConfig) { c.Rate = -1 },
		"nobody there": func(c *LoadConfig) {},
	} {
		c := ok
		change(&c)
		if r, err := Load(t.Context(), c); err == nil || r.Sent != 0 {
			t.Errorf("%s: sent %d, error %v", name, r.Sent, err)
		}
	}
}

func TestLoad_StopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	gw := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}))
	defer gw.Close()
	defer close(release)
	r, err := Load(ctx, LoadConfig{URLs: []string{gw.URL}, Events: 100, Connections: 2})
	if !errors.Is(err, context.Canceled) || r.Acked != 0 || r.Sent < 1 || r.Sent > 2 {
		t.Errorf("%v, %+v", err, r)
	}
}

// pipeGateway answers each request over in-memory connections, after delay(n).
func pipeGateway(t *testing.T, delay func(n int) time.Duration) func(context.Context, string, string) (net.Conn, error) {
	n := 0
	var servers sync.WaitGroup
	t.Cleanup(servers.Wait)
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		servers.Go(func() {
			defer server.Close()
			r := bufio.NewReader(server)
			var m message
			for m.readHead(r, false) == nil && m.discardBody(r) == nil {
				time.Sleep(delay(n))
				n++
				if _, err := io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
					return
				}
			}
		})
		return client, nil
	}
}

// A gateway that stalls for a second makes all events late that fell due meanwhile: a
// generator that waited with them would see one slow request of twenty.
func TestLoad_OpenLoopCountsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lateness []time.Duration
		start := time.Now()
		r, err := Load(t.Context(), LoadConfig{
			URLs:   []string{"http://gateway.test/"},
			Events: 20,
			Rate:   10,
			dial: pipeGateway(t, func(n int) time.Duration {
				if n == 0 {
					return time.Second
				}
				return 0
			}),
			OnAnswer: func(a Answered) {
				lateness = append(lateness, time.Since(start)-time.Duration(a.Seq)*100*time.Millisecond)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := make([]time.Duration, 20)
		for i := range 10 {
			want[i] = time.Second - time.Duration(i)*100*time.Millisecond
		}
		if d := cmp.Diff(want, lateness); d != "" {
			t.Errorf("lateness: %s", d)
		}
		// In order: ten times 0, then 100 ms to 1 s.
		near(t, "p50", r.AckMS.P50, 0)
		near(t, "p90", r.AckMS.P90, 800)
		near(t, "max", r.AckMS.Max, 1000)
		near(t, "seconds", r.Seconds, 1.9)
	})
}

func TestLoad_ClosedLoopAndDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last Progress
		r, err := Load(t.Context(), LoadConfig{
			URLs:       []string{"http://gateway.test/"},
			Events:     1000,
			Duration:   time.Second,
			dial:       pipeGateway(t, func(int) time.Duration { return 30 * time.Millisecond }),
			OnProgress: func(p Progress) { last = p },
		})
		if err != nil {
			t.Fatal(err)
		}
		// The 34th begins before the second is over and is waited for.
		if r.Sent != 34 || r.Acked != 34 || last.Acked != 34 || last.Events != 1000 {
			t.Errorf("sent %d, acked %d, progress %+v", r.Sent, r.Acked, last)
		}
		near(t, "p50", r.AckMS.P50, 30)
		near(t, "max", r.AckMS.Max, 30)
		near(t, "ack_per_s", r.AckPerS, 34/1.02)
	})
}

func TestLoad_RateAndDurationGiveTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Load(t.Context(), LoadConfig{
			URLs: []string{"http://gateway.test/"}, Rate: 50, Duration: 2 * time.Second,
			dial: pipeGateway(t, func(int) time.Duration { return 0 }),
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Acked != 100 {
			t.Errorf("acked %d, want 100", r.Acked)
		}
	})
}

func TestLoad_TimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Load(t.Context(), LoadConfig{
			URLs: []string{"http://gateway.test/"}, Events: 1, Timeout: 5 * time.Second,
			dial: pipeGateway(t, func(int) time.Duration { return time.Minute }),
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Errors != 1 || r.FirstError == "" {
			t.Errorf("%+v", r)
		}
	})
}

func near(t *testing.T, name string, got, want float64) {
	t.Helper()
	if d := got - want; d < -0.001*want || d > 0.001*want {
		t.Errorf("%s = %v, want %v within 0.1 %%", name, got, want)
	}
}
