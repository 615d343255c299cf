package harness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// newClient returns an HTTP client whose connections end with the test.
func newClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestSink_Modes(t *testing.T) {
	sink := newTestSink(t, Refuse)
	client := newClient(t)
	post := func() (int, error) {
		resp, err := client.Post(sink.URL(0), "text/plain", strings.NewReader("x"))
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	addr := sink.Addr()
	for range 2 {
		if _, err := post(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refuse: %v, want connection refused", err)
		}
		if err := sink.SetMode(OK); err != nil {
			t.Fatal(err)
		}
		if status, err := post(); status != 200 || err != nil {
			t.Errorf("ok: %d, %v", status, err)
		}
		if err := sink.SetMode(Fail); err != nil {
			t.Fatal(err)
		}
		if status, err := post(); status != 500 || err != nil {
			t.Errorf("500: %d, %v", status, err)
		}
		if err := sink.SetMode(Refuse); err != nil { // the idle connection is reset
			t.Fatal(err)
		}
	}
	if sink.Addr() != addr {
		t.Errorf("the address changed from %v to %v", addr, sink.Addr())
	}
	if err := sink.SetMode("odd"); err == nil || sink.Mode() != Refuse {
		t.Errorf("SetMode(odd): %v, mode %v", err, sink.Mode())
	}
}

func TestSink_HangReadsAndKeepsTheConnection(t *testing.T) {
	sink := newTestSink(t, Hang)
	read := make(chan struct{})
	sink.Watch(func(m Moment, _ SinkRequest) {
		if m == BodyRead {
			close(read)
		}
	})
	c, err := net.Dial("tcp", sink.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
	<-read
	// Nothing comes but the end, when the destination starts to refuse.
	if err := sink.SetMode(Refuse); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestSink_KeepsFacts(t *testing.T) {
	sink := newTestSink(t, OK)
	sink.Record(true)
	sink.Script(func(r SinkRequest) Answer {
		switch r.Path {
		case "/reset":
			return Answer{Reset: true}
		case "/raw":
			return Answer{Status: 204, Raw: "HTTP/1.1 204 None\r\n\r\n"}
		case "/busy":
			return Answer{Status: 429, Header: []string{"Retry-After: 7"}, Body: "later", Close: true}
		}
		return Answer{}
	})
	client := newClient(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	base := "http://" + sink.Addr().String()
	send := func(path string, body io.Reader) *http.Response {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, base+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Webhook-Id", "evt_1")
		req.Header.Set("X-Kapsel-Attempt-Id", "att_"+path[1:])
		req.Header.Set("X-Kapsel-Delivery-Attempt", "3")
		resp, err := client.Do(req)
		if err != nil {
			return nil
		}
		resp.Body.Close()
		return resp
	}
	send("/large", bytes.NewReader(large))
	send("/chunked", io.MultiReader(bytes.NewReader(large)))
	if resp := send("/busy", nil); resp == nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("busy: %+v", resp)
	}
	send("/raw", nil)
	if resp := send("/reset", nil); resp != nil {
		t.Errorf("reset: %+v", resp)
	}

	request := func(path string, body []byte, answered int, written bool) SinkRequest {
		return SinkRequest{
			To: sink.Addr(), Method: "POST", Path: path, Seq: -1,
			Size: int64(len(body)), SHA256: sha256.Sum256(body), Body: body[:min(len(body), keptBody)],
			EventID: "evt_1", AttemptID: "att_" + path[1:], Attempt: 3,
			Answered: answered, Written: written,
		}
	}
	want := []SinkRequest{
		request("/large", large, 200, true),
		request("/chunked", large, 200, true),
		request("/busy", nil, 429, true),
		request("/raw", nil, 204, true),
		request("/reset", nil, 0, false),
	}
	if err := sink.Close(); err != nil { // Written comes a moment after the client has the answer
		t.Fatal(err)
	}
	got := sink.Requests()
	opts := cmp.Options{
		cmpopts.IgnoreFields(SinkRequest{}, "At", "Header"), cmp.Comparer(bytes.Equal),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	}
	if d := cmp.Diff(want, got, opts); d != "" {
		t.Error(d)
	}
	if got[0].At.IsZero() || got[0].Get("x-kapsel-attempt-id") != "att_large" || got[0].Get("none") != "" {
		t.Errorf("%v, header %v", got[0].At, got[0].Header)
	}
}

func TestSink_MomentsInOrder(t *testing.T) {
	sink := newTestSink(t, OK)
	var mu sync.Mutex
	var got []string
	done := make(chan struct{})
	sink.Watch(func(m Moment, r SinkRequest) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s %d", m, r.Size))
		if m == AnswerOut {
			close(done)
		}
	})
	resp, err := newClient(t).Post(sink.URL(0), "text/plain", strings.NewReader("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-done
	want := []string{"head read 0", "half of the body read 5", "body read 10", "answer written 10"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSink_StandsForManyHosts(t *testing.T) {
	sink, err := NewSink("0.0.0.0:0", OK)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	sink.Record(true)
	client := newClient(t)
	for _, i := range []int{0, 300} {
		resp, err := client.Post(sink.URL(i), "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	var got []string
	for _, r := range sink.Requests() {
		got = append(got, r.To.Addr().String())
	}
	if d := cmp.Diff([]string{"127.1.0.0", "127.1.1.44"}, got); d != "" {
		t.Error(d)
	}
	if want := fmt.Sprintf("127.0.0.0/8:%d", sink.Addr().Port()); sink.Network() != want {
		t.Errorf("network %s, want %s", sink.Network(), want)
	}
}
