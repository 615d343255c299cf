package kapsel_test

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

func TestSameDestination(t *testing.T) {
	const url = "https://shop.example/hooks/a"
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{url, url, true},
		{url, "HTTPS://Shop.Example/hooks/a", true},
		{url, "https://shop.example:443/hooks/a", true},
		{url, url + "?key=1", true},
		{url + "?key=1", url + "?key=2", true},
		{"https://shop.example", "https://shop.example/", true},
		{"http://shop.example:80/", "http://shop.example", true},
		{"https://[2001:DB8::1]/", "https://[2001:db8::1]:443/", true},
		{url, "http://shop.example/hooks/a", false},
		{url, "https://shop.example:8443/hooks/a", false},
		{"https://shop.example:80/", "http://shop.example:80/", false},
		{url, "https://www.shop.example/hooks/a", false},
		{url, "https://shop.example/hooks/A", false},
		{url, url + "/", false},
		{"https://shop.example/a%2Fb", "https://shop.example/a/b", false},
		{url, "://", false},
		{"://", "://", true},
	} {
		if got := kapsel.SameDestination(tt.a, tt.b); got != tt.want {
			t.Errorf("SameDestination(%q, %q) = %v", tt.a, tt.b, got)
		}
		if got := kapsel.SameDestination(tt.b, tt.a); got != tt.want {
			t.Errorf("SameDestination(%q, %q) = %v", tt.b, tt.a, got)
		}
	}
}

func TestEndpointFollow(t *testing.T) {
	from := kapsel.Endpoint{Destination: 4, Replan: 7, Revision: 9, EndpointConfig: kapsel.DefaultEndpoint()}
	from.URL = "https://shop.example/"
	for _, tt := range []struct {
		name        string
		change      func(*kapsel.Endpoint)
		destination int
		replan      int64
	}{
		{"nothing", func(*kapsel.Endpoint) {}, 4, 7},
		{"something else", func(e *kapsel.Endpoint) { e.Timeout, e.Concurrency = time.Minute, 7 }, 4, 7},
		{"the query", func(e *kapsel.Endpoint) { e.URL += "?a" }, 4, 7},
		{"the path", func(e *kapsel.Endpoint) { e.URL += "a" }, 5, 12},
		{"the retry policy", func(e *kapsel.Endpoint) { e.Retry.Base++ }, 4, 12},
		{"its schedule", func(e *kapsel.Endpoint) { e.Retry.Schedule = []time.Duration{1} }, 4, 12},
		{"what nobody may set", func(e *kapsel.Endpoint) { e.Destination, e.Replan = 1, 0 }, 4, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := from
			tt.change(&e)
			e.Revision = 12
			e.Follow(&from)
			if e.Destination != tt.destination || e.Replan != tt.replan {
				t.Errorf("destination %d and mark %d, want %d and %d", e.Destination, e.Replan, tt.destination, tt.replan)
			}
		})
	}
}
