package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStreamGoesOn: a stream that breaks off, in the middle of a message too, goes on behind
// the last whole one.
func TestStreamGoesOn(t *testing.T) {
	answers := []string{
		"retry: 1000\nid: 7\n\n:\n\nid: evt_1.8\ndata: {\"id\":\"evt_1\"}\n\nid: evt_2.9\ndata: {\"id\":\"evt",
		"503",
		":\r\nid: 8\r\n\r\nid: evt_2.9\r\ndata: {\"id\":\r\ndata: \"evt_2\"," + `"idempotency_key":"` + strings.Repeat("k", 10_000) + "\"}\r\n\r\n",
		"id: evt_3.10\ndata: {\"id\":\"evt_3\"}\n\n",
	}
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer "+testKey {
			t.Errorf("Authorization is %q", got)
		}
		asked = append(asked, r.URL.Path+" "+r.URL.RawQuery)
		answer := answers[0]
		answers = answers[1:]
		if answer == "503" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, answer)
	})
	var got, moved []string
	lost := 0
	o := StreamOptions{
		TenantID: "ten_1", EndpointID: "ep_1",
		Moved: func(p string) { moved = append(moved, p) },
		Lost:  func(error, time.Duration) { lost++ },
	}
	for e, err := range c.StreamEvents(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID+" "+e.Position); len(got) == 3 {
			break
		}
	}
	if diff := cmp.Diff([]string{"evt_1 evt_1.8", "evt_2 evt_2.9", "evt_3 evt_3.10"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"7", "8"}, moved); diff != "" {
		t.Error(diff)
	}
	const path = "/v1/events/stream endpoint_id=ep_1&tenant_id=ten_1"
	if diff := cmp.Diff([]string{path, "/v1/events/stream after=evt_1.8&endpoint_id=ep_1&tenant_id=ten_1", "/v1/events/stream after=evt_1.8&endpoint_id=ep_1&tenant_id=ten_1",
		"/v1/events/stream after=evt_2.9&endpoint_id=ep_1&tenant_id=ten_1"}, asked); diff != "" {
		t.Error(diff)
	}
	if lost != 3 {
		t.Errorf("%d connections were lost", lost)
	}
}

func TestStreamEndsWhenRefused(t *testing.T) {
	asked := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "id: 7\n\n")
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"detail":"send a valid key","code":"E1007"}`)
	})
	var last error
	for _, err := range c.StreamEvents(t.Context(), StreamOptions{}) {
		last = err
	}
	var refused *Error
	if !errors.As(last, &refused) || refused.Code != "E1007" || asked != 2 {
		t.Errorf("%v after %d requests", last, asked)
	}
}

// TestStreamFirstConnection: nothing is tried again before the stream was there once, and
// what is no stream is an error.
func TestStreamFirstConnection(t *testing.T) {
	asked := 0
	for _, status := range []int{200, 204, 302, 404, 429, 500, 503} {
		asked = 0
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.WriteHeader(status)
		})
		var got []string
		for _, err := range c.StreamEvents(t.Context(), StreamOptions{}) {
			got = append(got, fmt.Sprint(err))
		}
		if len(got) != 1 || !strings.Contains(got[0], fmt.Sprint(status)) || asked != 1 {
			t.Errorf("%d: %q after %d requests", status, got, asked)
		}
	}
	c, err := New("http://127.0.0.1:1", testKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range c.StreamEvents(t.Context(), StreamOptions{}) {
		if err == nil || strings.Contains(err.Error(), testKey) {
			t.Errorf("nobody there: %v", err)
		}
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "id: 7\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	var got error
	for _, err := range c.StreamEvents(ctx, StreamOptions{Moved: func(string) { cancel() }}) {
		got = err
	}
	if !errors.Is(got, context.Canceled) {
		t.Errorf("the error is %v", got)
	}
}
