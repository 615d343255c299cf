package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestMarker_FoundInAnyBody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := marker{run: rapid.Uint32().Draw(t, "run"), seq: rapid.Uint32().Draw(t, "seq")}
		size := rapid.IntRange(MinSize, 5000).Draw(t, "size")
		body, at := newBody(size, rapid.Bool().Draw(t, "publish"))
		m.put(body[at:])
		if len(body) != size || !json.Valid(body) {
			t.Fatalf("body of %d bytes, want %d, valid JSON: %s", len(body), size, body)
		}
		got, ok := findMarker(body)
		if !ok || got != m {
			t.Fatalf("found %v (%v), want %v", got, ok, m)
		}
	})
}

func TestMarker_NotFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		cut := append(body, markerPrefix+"0123456789abcde"...) // one digit short
		if m, ok := findMarker(cut); ok {
			t.Fatalf("found %v in %q", m, cut)
		}
	})
}

func TestMessage(t *testing.T) {
	for _, c := range []struct {
		name, in   string
		line, body string
		close      bool
		err        error
	}{
		{name: "length", in: "POST /a HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabcX", line: "POST /a HTTP/1.1", body: "abc"},
		{name: "none", in: "GET / HTTP/1.1\r\nHost: x\r\n\r\nX", line: "GET / HTTP/1.1"},
		{name: "bare line feeds", in: "GET / HTTP/1.1\nConnection: Close\n\nX", line: "GET / HTTP/1.1", close: true},
		{name: "chunked", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\nX", line: "HTTP/1.1 200 OK", body: "abcde"},
		{name: "end", in: "", err: io.EOF},
		{name: "cut line", in: "GET /", err: io.ErrUnexpectedEOF},
		{name: "cut head", in: "GET / HTTP/1.1\r\n", err: io.ErrUnexpectedEOF},
		{name: "no colon", in: "GET / HTTP/1.1\r\nfoo\r\n\r\n", err: errHead},
		{name: "negative", in: "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", err: errHead},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(c.in))
			var m message
			if err := m.readHead(r, true); !errors.Is(err, c.err) {
				t.Fatalf("readHead: %v, want %v", err, c.err)
			}
			if c.err != nil {
				return
			}
			body, err := io.ReadAll(m.body(r))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.finish(r); err != nil {
				t.Fatal(err)
			}
			rest, _ := io.ReadAll(r)
			got := []any{string(m.line), string(body), m.close, string(rest)}
			want := []any{c.line, c.body, c.close, "X"}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}

			r.Reset(strings.NewReader(c.in))
			if err := errors.Join(m.readHead(r, false), m.discardBody(r)); err != nil {
				t.Fatal(err)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "X" {
				t.Errorf("discardBody left %q", rest)
			}
		})
	}
}
