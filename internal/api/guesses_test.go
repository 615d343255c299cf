package api

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/secret"
)

// TestBruteForce_B74 checks that a client that tries a thousand wrong keys a minute soon gets
// 429 and costs one line of the log a minute, while other clients and a right key from its
// address still get in.
func TestBruteForce_B74(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	from := func(addr string) func(*http.Request) {
		return func(r *http.Request) { r.RemoteAddr = addr + ":1234" }
	}
	answers := map[int]int{}
	begin := w.now
	for i := range 1000 {
		key, _, _ := secret.NewAPIKey()
		a := w.do("GET", "/v1/endpoints", key.Reveal(), nil, from("198.51.100.7"))
		answers[a.status]++
		if a.status == 429 {
			if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 {
				t.Fatalf("429 with Retry-After %q", a.header.Get("Retry-After"))
			}
		}
		if i%50 == 0 {
			if a := w.do("GET", "/v1/endpoints", h.read, nil, from("203.0.113.9")); a.status != 200 {
				t.Fatalf("another client is answered %d", a.status)
			}
			if a := w.do("GET", "/v1/endpoints", "wrong", nil, from("203.0.113.9")); a.status != 401 {
				t.Fatalf("another client's wrong key is answered %d", a.status)
			}
		}
		w.now = w.now.Add(60 * time.Millisecond)
	}
	if answers[401] < 100 || answers[401] > 160 || answers[401]+answers[429] != 1000 {
		t.Errorf("a thousand wrong keys in a minute are answered %v", answers)
	}
	if n := strings.Count(w.log.String(), "too many wrong keys"); n != 1 {
		t.Errorf("%d lines in the log within %v, want 1:\n%s", n, w.now.Sub(begin), &w.log)
	}
	w.now = w.now.Add(time.Second)
	if a := w.do("GET", "/v1/endpoints", h.read, nil, from("198.51.100.7")); a.status != 200 {
		t.Errorf("a right key behind the same address is answered %d", a.status)
	}
	// No key is no guess.
	for range 300 {
		if a := w.do("GET", "/v1/endpoints", "", nil, from("192.0.2.77")); a.status != 401 {
			t.Fatalf("a request without a key is answered %d", a.status)
		}
	}
	// Of IPv6, a network counts as one.
	answers = map[int]int{}
	for i := range 300 {
		a := w.do("GET", "/v1/endpoints", "wrong", nil, from(fmt.Sprintf("[2001:db8:0:1::%x]", i+1)))
		answers[a.status]++
	}
	if answers[429] != 200 {
		t.Errorf("300 wrong keys of one IPv6 network are answered %v, want 200 times 429", answers)
	}
	if a := w.do("GET", "/v1/endpoints", "wrong", nil, from("[2001:db8:0:2::1]")); a.status != 401 {
		t.Errorf("another network is answered %d", a.status)
	}
	w.now = w.now.Add(2 * time.Minute)
	if a := w.do("GET", "/v1/endpoints", "wrong", nil, from("198.51.100.7")); a.status != 401 {
		t.Errorf("two minutes later a wrong key is answered %d", a.status)
	}
}
