package egress

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Limits of a fetcher.
const (
	fetchTimeout = 5 * time.Second // for the whole fetch, from the DNS lookup to the end of the body
	fetchMost    = 256 << 10       // size of a document in bytes
)

// NewFetcher returns a function that fetches small documents by HTTPS from hosts that cfg allows,
// such as the keys and certificates of providers. The function follows no redirects; any status
// but 200, and a document above 256 KiB, is an error. Callers must decide which hosts to trust.
// The function is safe for concurrent use.
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
