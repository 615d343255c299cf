package telemetry

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// foreign stands for what others sent and the log must not show.
const foreign = "hunter2"

// TestLibraries_FixedPart checks that the log gets the fixed texts of what libraries log and print
// by themselves, and nothing that came from outside.
func TestLibraries_FixedPart(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, to *slog.Logger)
		want []string // what the log holds
	}{
		{"answer that nobody asked for", unsolicited, []string{
			`"msg":"Unsolicited response received on idle HTTP channel"`, `"source":"http/transport.go:`,
		}},
		{"protocol that a client wants", wantedProtocol, []string{`"msg":"http: TLS handshake error"`, `"level":"DEBUG"`}},
		{"panic of a handler", panickingHandler, []string{
			`"level":"ERROR"`, `"msg":"http: panic serving"`, `"stack":"goroutine `, "panickingHandler",
		}},
		{"line that is not known", func(*testing.T, *slog.Logger) {
			log.Print(foreign + ": connection lost")
		}, []string{`"msg":"a library logged a line that is not shown`, `"source":"telemetry/library_test.go:`}},
		{"line that looks like a stack", func(*testing.T, *slog.Logger) {
			log.Print("unknown\ngoroutine " + foreign)
			log.Print("http2: invalid header: \ngoroutine " + foreign)
		}, []string{`"msg":"a library logged`, `"msg":"http2: invalid header"`}},
		{"slog's default logger", func(*testing.T, *slog.Logger) {
			slog.Warn("of ours")
		}, []string{`"level":"WARN","msg":"of ours"`}},
		{"print", func(*testing.T, *slog.Logger) {
			fmt.Fprintln(os.Stderr, "could not write error:", foreign)
			fmt.Fprintln(os.Stdout, foreign, strings.Repeat(foreign, 1<<10))
		}, []string{`"level":"DEBUG","msg":"could not write error"`, `"msg":"a library logged`}},
		{"header that OpenTelemetry cannot read", badHeader, []string{`"level":"ERROR","msg":"parse headers"`}},
		{"collector that refuses", refusingCollector, []string{`"msg":"cannot export traces","error":"the collector answered 401"`}},
		{"collector that refuses for now", busyCollector, []string{`"msg":"cannot export traces","error":"the `}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := logged("debug", "json", func(to *slog.Logger) {
				undo := AdoptLibraries(to)
				defer undo()
				tt.do(t, to)
			})
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("the log lacks %s", want)
				}
			}
			if strings.Contains(got, foreign) {
				t.Error("the log holds what others sent")
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}

// unsolicited gets an answer, and another one after it.
func unsolicited(t *testing.T, _ *slog.Logger) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	more := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		<-more
		io.WriteString(c, `{"access_token":"`+foreign+`"}`)
	}()
	closed := make(chan struct{})
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &closing{c, sync.OnceFunc(func() { close(closed) })}, err
	}}
	resp, err := (&http.Client{Transport: transport}).Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	close(more)
	<-closed // the line is logged before
}

// closing is a connection that says when it is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c *closing) Close() error {
	c.closed()
	return c.Conn.Close()
}

func wantedProtocol(t *testing.T, to *slog.Logger) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = LibraryLog(to, slog.LevelDebug)
	s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.StartTLS()
	c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{foreign}})
	if err == nil {
		c.Close()
		t.Error("the handshake succeeded")
	}
	s.Close() // waits for the connection
}

func panickingHandler(t *testing.T, to *slog.Logger) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(foreign) }))
	s.Config.ErrorLog = LibraryLog(to, slog.LevelDebug)
	s.Start()
	if resp, err := http.Post(s.URL, "", nil); err == nil {
		resp.Body.Close()
		t.Error("the handler that panicked answered")
	}
	s.Close()
}

func badHeader(t *testing.T, _ *slog.Logger) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", foreign)
	shutdown, err := StartTracing(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func refusingCollector(t *testing.T, to *slog.Logger) { exportTo(t, to, http.StatusUnauthorized) }

func busyCollector(t *testing.T, to *slog.Logger) {
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "100") // ms; it is asked again until then
	exportTo(t, to, http.StatusServiceUnavailable)
}

// exportTo exports a span to a collector that refuses it, and quotes a header.
func exportTo(t *testing.T, to *slog.Logger, status int) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, "refused: Authorization: "+foreign)
	}))
	defer s.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	shutdown, err := StartTracing(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	_, end := Span(sample, "refused")
	end(nil)
	if err := shutdown(t.Context()); err != nil {
		to.Warn("the last traces could not be sent", "error", err)
	}
}
