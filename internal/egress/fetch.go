package egress

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Limits of what a fetcher gets.
const (
	fetchTimeout = 5 * time.Second // looking up, connecting, asking and reading together
	fetchMost    = 256 << 10       // bytes of a document
)

// NewFetcher makes a function that gets small documents by HTTPS from what cfg allows: the
// keys and certificates of providers. It follows no redirect, and all but a 200 is an error.
// Callers must decide which hosts may be asked; the function is safe concurrently.
func NewFetcher(cfg Config) func(ctx context.Context, url string) ([]byte, error) {
	client := NewClient(cfg)
	return func(ctx context.Context, url string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, fmt.Errorf("make the request: %w", err)
		}
		if req.URL.Scheme != "https" {
			return nil, fmt.Errorf("only https is fetched")
		}
		resp, err := client.Do(req)
		if err != nil {
			_, text := Classify(err)
			return nil, fmt.Errorf("fetch from %s: %s", req.URL.Host, text)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("fetch from %s: it answered %d", req.URL.Host, resp.StatusCode)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, fetchMost+1))
		switch {
		case err != nil:
			return nil, fmt.Errorf("fetch from %s: the answer was cut", req.URL.Host)
		case len(body) > fetchMost:
			return nil, fmt.Errorf("fetch from %s: the answer is longer than %d bytes", req.URL.Host, fetchMost)
		}
		return body, nil
	}
}
