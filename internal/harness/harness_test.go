package harness

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// childVar makes this test binary act as the kapsel binary.
const childVar = "HARNESS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Setenv(childVar, "1")
	os.Exit(m.Run())
}

// child stands in for `kapsel serve`: it is ready, and makes one tenant and one endpoint. With
// CHILD_FAULT it ends with that text as its error.
func child() error {
	if fault := os.Getenv("CHILD_FAULT"); fault != "" {
		return fmt.Errorf("%s", fault)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	made := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+os.Getenv("KAPSEL_ADMIN_KEY") {
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, `{"code":"E1007","detail":"no such key"}`)
				return
			}
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, answer)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/tenants", made(`{"id":"ten_1"}`))
	mux.HandleFunc("POST /v1/endpoints", made(fmt.Sprintf(`{"id":"ep_0","ingest_url":"http://%s/ingest/ep_0","signing_secret":"whsec_1"}`, os.Getenv("KAPSEL_LISTEN"))))
	server := &http.Server{Addr: os.Getenv("KAPSEL_LISTEN"), Handler: mux}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// newTestSink returns a sink on a free port that ends with the test.
func newTestSink(t *testing.T, mode Mode) *Sink {
	t.Helper()
	s, err := NewSink("127.0.0.1:0", mode)
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
