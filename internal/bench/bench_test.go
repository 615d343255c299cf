package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// childVar makes this test binary act as the kapsel binary: it runs the relay, or a stand-in
// for `kapsel serve`.
const childVar = "BENCH_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		if err := child(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Setenv(childVar, "1")
	os.Exit(m.Run())
}

func child(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if args[0] == "serve" {
		return standIn(ctx)
	}
	flags := map[string]string{}
	for i := 1; i+1 < len(args); i += 2 {
		flags[args[i]] = args[i+1]
	}
	l, err := net.Listen("tcp", flags["--serve-relay"])
	if err != nil {
		return err
	}
	return ServeRelay(ctx, l, flags["--dest"], filepath.Join(flags["--dir"], "relay.journal"))
}

// standIn speaks as much of Kapsel's contract as a measurement uses. STANDIN_FAULT makes it
// "lose" or "repeat" every hundredth event, or "crash" at one.
func standIn(ctx context.Context) error {
	fault := os.Getenv("STANDIN_FAULT")
	if fault == "refuse to start" {
		return fmt.Errorf("KAPSEL_EGRESS_ALLOW: wrong")
	}
	base := "http://" + os.Getenv("KAPSEL_LISTEN")
	var mu sync.Mutex
	dests := map[string]string{}
	count := 0

	admin := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+os.Getenv("KAPSEL_ADMIN_KEY") {
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, `{"code":"E1007","detail":"no such key"}`)
				return
			}
			f(w, r)
		}
	}
	var forwards sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/tenants", admin(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"ten_1"}`)
	}))
	mux.HandleFunc("POST /v1/endpoints", admin(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ URL string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Query().Get("tenant_id") != "ten_1" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		id := fmt.Sprintf("ep_%d", len(dests))
		dests[id] = in.URL
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%q,"ingest_url":%q,"signing_secret":"whsec_1"}`, id, base+"/ingest/"+id)
	}))
	mux.HandleFunc("POST /ingest/{id}", func(w http.ResponseWriter, r *http.Request) {
		var body strings.Builder
		if _, err := fmt.Fprint(&body, readAll(r)); err != nil {
			return
		}
		mu.Lock()
		count++
		dest, odd := dests[r.PathValue("id")], count%100 == 0
		mu.Unlock()
		times := 1
		switch {
		case odd && fault == "lose":
			times = 0
		case odd && fault == "repeat":
			times = 2
		case odd && fault == "crash":
			os.Exit(3)
		}
		for range times {
			forwards.Go(func() {
				resp, err := http.Post(dest, "application/json", strings.NewReader(body.String()))
				if err == nil {
					resp.Body.Close()
				}
			})
		}
		fmt.Fprint(w, `{"event_id":"evt_1","status":"received"}`)
	})
	server := &http.Server{Addr: os.Getenv("KAPSEL_LISTEN"), Handler: mux}
	context.AfterFunc(ctx, func() { server.Close() })
	err := server.ListenAndServe()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func readAll(r *http.Request) string {
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}

// testBin returns the path of this test binary, which childVar makes a stand-in.
func testBin(t *testing.T) string {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// newTestSink returns a sink on a free port that ends with the test.
func newTestSink(t *testing.T, mode harness.Mode) *harness.Sink {
	t.Helper()
	s, err := harness.NewSink("127.0.0.1:0", mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the sink: %v", err)
		}
	})
	return s
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{3, 1}, 1}, {[]float64{9, 1, 5}, 5},
	} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}
