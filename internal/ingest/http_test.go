package ingest_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestMalformed checks that a malformed request gets an error and stores nothing, and an
// accepted one is stored with the body that its framing says.
func TestMalformed(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	// P stands for the endpoint's path.
	const head = "POST P HTTP/1.1\r\nHost: in.example\r\n"
	const two = "Content-Length: 2\r\n"
	for _, tt := range []struct {
		name, text string
		status     int
		body       string // where status is 200
	}{
		{"B-1 length and chunks", head + "Content-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "{}"},
		{"B-2 two lengths", head + two + "Content-Length: 3\r\n\r\n{}x", 400, ""},
		{"B-2 two lengths in one", head + "Content-Length: 2, 2\r\n\r\n{}", 400, ""},
		{"B-2 a sign", head + "Content-Length: +2\r\n\r\n{}", 400, ""},
		{"B-2 negative", head + "Content-Length: -1\r\n\r\n{}", 400, ""},
		{"B-2 hexadecimal", head + "Content-Length: 0x2\r\n\r\n{}", 400, ""},
		{"B-2 20 digits", head + "Content-Length: 99999999999999999999\r\n\r\n{}", 400, ""},
		{"B-2 empty", head + "Content-Length:\r\n\r\n{}", 400, ""},
		{"B-3 the same length twice", head + two + two + "\r\n{}", 200, "{}"},
		{"B-4 another coding", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, ""},
		{"B-4 two codings", head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501, ""},
		{"B-4 two coding lines", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, ""},
		{"B-4 a vertical tab", head + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", 400, ""},
		{"B-5 chunks in HTTP/1.0", "POST P HTTP/1.0\r\nHost: in.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, ""},
		{"B-6 a space before the colon", head + two + "X-A : b\r\n\r\n{}", 400, ""},
		{"B-6 an empty name", head + two + ": b\r\n\r\n{}", 400, ""},
		{"B-6 no colon", head + two + "X-A\r\n\r\n{}", 400, ""},
		{"B-6 NUL in a name", head + two + "X-\x00A: b\r\n\r\n{}", 400, ""},
		{"B-6 NUL in a value", head + two + "X-A: b\x00c\r\n\r\n{}", 400, ""},
		{"B-6 a control character in a value", head + two + "X-A: b\x01c\r\n\r\n{}", 400, ""},
		{"B-6 a lone CR in a value", head + two + "X-A: b\rc\r\n\r\n{}", 400, ""},
		{"B-6 not ASCII in a name", head + two + "X-\xe9: b\r\n\r\n{}", 400, ""},
		{"B-7 a folded line", head + two + "X-A: a\r\n b\r\n\r\n{}", 200, "{}"},
		{"B-7 a folded first line", "POST P HTTP/1.1\r\n Host: in.example\r\n" + two + "\r\n{}", 400, ""},
		{"B-8 lines that end with LF", "POST P HTTP/1.1\nHost: in.example\nContent-Length: 2\n\n{}", 200, "{}"},
		{"B-9 any bytes in a value", head + two + "X-A: \xff\xfe\x80\r\n\r\n{}", 200, "{}"},
		{"B-10 no host", "POST P HTTP/1.1\r\n" + two + "\r\n{}", 400, ""},
		{"B-10 two hosts", head + "Host: other.example\r\n" + two + "\r\n{}", 400, ""},
		{"B-10 a malformed host", "POST P HTTP/1.1\r\nHost: a b\r\n" + two + "\r\n{}", 400, ""},
		{"B-10 HTTP/2.0 in HTTP/1.1's form", "POST P HTTP/2.0\r\nHost: in.example\r\n" + two + "\r\n{}", 505, ""},
		{"B-10 HTTP/0.9", "POST P\r\n\r\n", 400, ""},
		{"B-10 an unknown expectation", head + two + "Expect: 200-ok\r\n\r\n{}", 417, ""},
		{"B-10 TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400, ""},
		{"B-10 a method with a space", "PO ST P HTTP/1.1\r\nHost: in.example\r\n\r\n", 400, ""},
		{"B-11 another host's URL", "POST http://other.example:99P HTTP/1.1\r\nHost: in.example\r\n" + two + "\r\n{}", 200, "{}"},
		{"B-14 a broken escape", "POST /ingest/%zz HTTP/1.1\r\nHost: in.example\r\n" + two + "\r\n{}", 400, ""},
		{"B-15 a chunk extension", chunked("P", "2;a=b\r\n{}\r\n0\r\n\r\n"), 200, "{}"},
		{"B-15 leading zeros", chunked("P", "0002\r\n{}\r\n0\r\n\r\n"), 200, "{}"},
		{"B-15 a hexadecimal prefix", chunked("P", "0x2\r\n{}\r\n0\r\n\r\n"), 400, ""},
		{"B-15 17 digits", chunked("P", "00000000000000002\r\n{}\r\n0\r\n\r\n"), 400, ""},
		{"B-15 negative", chunked("P", "-2\r\n{}\r\n0\r\n\r\n"), 400, ""},
		{"B-15 empty size", chunked("P", "\r\n{}\r\n0\r\n\r\n"), 400, ""},
		{"B-15 no CRLF after the data", chunked("P", "2\r\n{}0\r\n\r\n"), 400, ""},
		{"B-15 data longer than its size", chunked("P", "2\r\n{}}\r\n0\r\n\r\n"), 400, ""},
		{"B-15 a lone LF after a size", chunked("P", "2\n{}\r\n0\r\n\r\n"), 400, ""},
		{"B-16 shorter than its length", head + "Content-Length: 3\r\n\r\n{}", 400, ""},
		{"B-16 no body at all", head + two + "\r\n", 400, ""},
		{"B-16 cut before the last chunk", chunked("P", "2\r\n{}\r\n"), 400, ""},
		{"B-16 cut in a chunk", chunked("P", "3\r\n{}"), 400, ""},
		{"B-16 cut in a size", chunked("P", "2\r\n{}\r\n0"), 400, ""},
		{"B-16 cut in the trailer", chunked("P", "2\r\n{}\r\n0\r\n"), 400, ""},
		{"B-17 a trailer that changes the framing", head + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n", 400, ""},
		{"B-19 an upgrade", head + two + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n{}", 200, "{}"},
		{"B-19 the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, ""},
		{"B-23 empty", head + "Content-Length: 0\r\n\r\n", 200, ""},
		{"B-23 no length", head + "\r\n", 200, ""},
		{"B-23 no chunk", chunked("P", "0\r\n\r\n"), 200, ""},
	} {
		w.run(tt.name, func(t *testing.T) {
			before := w.stored()
			a := w.raw(strings.ReplaceAll(strings.ReplaceAll(tt.text, " P", " "+path(ep)), "99P", "99"+path(ep)))
			if a.status != tt.status {
				t.Fatalf("answered %v, want %d", a, tt.status)
			}
			if a.status != 200 {
				if n := w.stored(); n != before {
					t.Errorf("%d events are stored of what was refused", n-before)
				}
				return
			}
			got := w.event(a.event()).Event
			if string(got.Body) != tt.body {
				t.Errorf("the body is %q, want %q", got.Body, tt.body)
			}
			for _, f := range got.Header {
				if strings.ContainsAny(f.Name+f.Value, "\r\n\x00") {
					t.Errorf("header %q: %q", f.Name, f.Value)
				}
			}
			if v := got.Header.Get("X-A"); strings.HasPrefix(tt.name, "B-7") && v != "a b" {
				t.Errorf("the folded value is %q", v)
			}
			if n := w.stored(); n != before+1 {
				t.Errorf("%d events are stored of one request", n-before)
			}
			w.atRest()
		})
	}
}

// TestPipelined_B1 checks that a request with a length and chunks is read by its chunks, and
// what follows them is never a part of it.
func TestPipelined_B1(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	c := w.dial()
	c.write("POST " + path(ep) + " HTTP/1.1\r\nHost: in.example\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" +
		request("POST", path(ep), "second"))
	bodies := []string{}
	for {
		a, err := c.read("POST")
		if err != nil {
			break
		}
		if a.status != 200 {
			t.Fatalf("answered %v", a)
		}
		bodies = append(bodies, string(w.event(a.event()).Event.Body))
		if len(bodies) == 2 {
			break
		}
	}
	if got := strings.Join(bodies, ","); got != "{}" && got != "{},second" {
		t.Errorf("the bodies are %s", got)
	}
}

// TestTruncated_B16 checks that a body that ends early is never stored, whether the connection
// is closed or reset.
func TestTruncated_B16(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(active)
	body := strings.Repeat("0123456789", 20)
	for _, text := range []string{request("POST", path(ep), body), chunked(path(ep), chunks(body, 50))} {
		for cut := 1; cut < len(text); cut++ {
			if cut%7 != 0 && cut < len(text)-40 {
				continue
			}
			c := w.dial()
			c.write(text[:cut])
			if cut%2 == 0 {
				w.must(c.SetLinger(0))
				c.Close()
				continue
			}
			w.must(c.CloseWrite())
			a, err := c.read("POST")
			if err == nil && a.status != 400 {
				t.Errorf("cut after %d of %d bytes: answered %v", cut, len(text), a)
			} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			c.Close()
		}
	}
	w.atRest()
	if n := w.stored(); n != 0 {
		t.Errorf("%d events are stored of bodies that were cut", n)
	}
	if n := len(w.wire.sent); n != 0 {
		t.Errorf("%d of them were delivered", n)
	}
	w.accepted(ep, body)
	w.delivered()
}

// TestHeaders_B18 checks that more than 100 header lines or 16 KiB of them get 431. Far more
// are refused by the HTTP server itself.
func TestHeaders_B18(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	many := func(n int) (h []string) { // the request has one more: Content-Length
		for range n {
			h = append(h, "X-Many: v")
		}
		return h
	}
	if got := w.accepted(ep, "", many(99)...).Event.Header; len(got) != 100 {
		t.Errorf("%d header lines are stored, want 100", len(got))
	}
	w.refused(431, kapsel.InvalidRequest, ep, "", many(100)...)
	w.refused(431, kapsel.InvalidRequest, ep, "", many(1000)...)
	w.accepted(ep, "", "X-Long: "+strings.Repeat("v", 16<<10-40))
	w.refused(431, kapsel.InvalidRequest, ep, "", "X-Long: "+strings.Repeat("v", 16<<10))
	for name, text := range map[string]string{
		"100 KiB of headers":           request("POST", path(ep), "", "X-Long: "+strings.Repeat("v", 100<<10)),
		"10,000 header lines":          request("POST", path(ep), "", many(10_000)...),
		"100 KiB of a request's first": request("POST", path(ep)+"?"+strings.Repeat("q", 100<<10), ""),
	} {
		c := w.dial()
		// The server answers before it has read all: a write may fail, the answer counts.
		_, _ = io.WriteString(c, text)
		if a, err := c.read("POST"); !errors.Is(err, syscall.ECONNRESET) && (err != nil || a.status != http.StatusRequestHeaderFieldsTooLarge) {
			t.Errorf("%s: answered %v, %v", name, a, err)
		}
	}
	w.accepted(ep, "")
}

// TestHeaders_B93_Hops checks that an event that has come through Kapsel too many times is
// refused as a loop.
func TestHeaders_B93_Hops(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(active)
	w.accepted(ep, "", "X-Kapsel-Event-Id: evt_01hf6b2z6ye0ar0000000000zz")
	if got := w.delivered().Header.Get("X-Kapsel-Hops"); got != "2" {
		t.Errorf("an event that came from Kapsel goes on with X-Kapsel-Hops %q", got)
	}
	w.accepted(ep, "", "X-Kapsel-Hops: 4")
	w.refused(422, kapsel.InvalidRequest, ep, "", "X-Kapsel-Hops: 5")
}

// TestHeaders_B9_Kept checks that header values keep every byte, and lines of one name keep
// their order.
func TestHeaders_B9_Kept(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(active)
	all := make([]byte, 0, 256)
	for b := range 256 {
		if b == '\t' || b >= ' ' && b != 0x7f {
			all = append(all, byte(b))
		}
	}
	value := "x" + string(all) + "x"
	got := w.accepted(ep, "{}", "X-Bytes: "+value, "x-oRDER: 2", "X-Order: 1", "X-Empty:").Event
	if v := got.Header.Get("X-Bytes"); v != value {
		t.Errorf("stored is %q", v)
	}
	r := w.delivered()
	if v := r.Header.Get("X-Bytes"); v != value {
		t.Errorf("delivered is %q", v)
	}
	if v := r.Header["X-Order"]; strings.Join(v, ",") != "2,1" {
		t.Errorf("the order is %v", v)
	}
	if v, ok := r.Header["X-Empty"]; !ok || v[0] != "" {
		t.Errorf("the empty header is %v", v)
	}
}

// TestBodies_B22 checks that any content type is accepted, or none, and bodies are stored as
// they are and never decompressed or parsed. This holds for compressed bodies (B-21) and odd
// JSON (B-34 to B-37).
func TestBodies_B22(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	gzip := "\x1f\x8b\x08\x00not really gzip"
	for _, tt := range []struct{ contentType, encoding, body string }{
		{"", "", "no type"},
		{"application/json", "", "no JSON"},
		{"application/json", "", `{"a":1e130000,"a":1.10e1,"\u0000":"\ud800"}`},
		{"application/json", "", strings.Repeat("[", 1_000_000)},
		{"multipart/form-data; boundary=x", "", "--x\r\nno end"},
		{"application/x-www-form-urlencoded", "", "a=%zz&&&"},
		{"application/json", "gzip", gzip},
		{"application/json", "br, deflate", gzip},
		{"text/plain; charset=\"utf-16\"", "", "\xff\xfea\x00"},
		{strings.Repeat("t", 255), "", "a long type"},
		{"no type at all \xe9", "", ""},
	} {
		var header []string
		if tt.contentType != "" {
			header = append(header, "Content-Type: "+tt.contentType)
		}
		if tt.encoding != "" {
			header = append(header, "Content-Encoding: "+tt.encoding)
		}
		got := w.accepted(ep, tt.body, header...).Event
		if string(got.Body) != tt.body || got.ContentType != tt.contentType || got.Header.Get("Content-Encoding") != tt.encoding {
			t.Errorf("%q: stored as %q with %q", tt.contentType, got.ContentType, got.Header)
		}
	}
	w.refused(400, kapsel.InvalidRequest, ep, "", "Content-Type: "+strings.Repeat("t", 256))
}

// TestTrailers_B17 checks that a trailer is read and dropped, and becomes no header.
func TestTrailers_B17(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	a := w.raw(chunked(path(ep), "2\r\n{}\r\n0\r\nIdempotency-Key: k\r\nX-Late: v\r\n\r\n", "Trailer: Idempotency-Key, X-Late"))
	if a.status != 200 {
		t.Fatalf("answered %v", a)
	}
	got := w.event(a.event()).Event
	if got.IdempotencyKey != nil || got.Header.Get("X-Late") != "" || got.Header.Get("Idempotency-Key") != "" {
		t.Errorf("the trailer is in the header: %v, key %q", got.Header, got.IdempotencyKey)
	}
}

// TestKeepAlive checks that one connection carries one request after the other, also after refused
// ones.
func TestKeepAlive(t *testing.T) {
	w := newWorld(t)
	ep := w.endpoint(nil)
	c := w.dial()
	for range 3 {
		for _, want := range []struct {
			status int
			text   string
		}{
			{200, request("POST", path(ep), "{}")},
			{400, request("POST", path(ep), "{}", "Idempotency-Key: \xff")},
			{404, request("POST", "/ingest/no", "{}")},
			{405, request("PUT", path(ep), "{}")},
			{200, chunked(path(ep), chunks("{}", 1))},
		} {
			c.write(want.text)
			a, err := c.read("POST")
			if err != nil || a.status != want.status {
				t.Fatalf("answered %v, %v, want %d", a, err, want.status)
			}
		}
	}
}
