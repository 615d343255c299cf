package egress

import (
	"context"
	"errors"
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

// ErrTooLong ends the reading of an answer that is longer than a client allows.
var ErrTooLong = errors.New("the answer is too long")

// NewSmallClient returns a client like NewClient's for exchanges with a service that the operator names.
// Each exchange, to the end of the body, takes at most timeout, and reading more than most bytes of an
// answer is ErrTooLong.
func NewSmallClient(cfg Config, timeout time.Duration, most int64) *http.Client {
	client := NewClient(cfg)
	client.Timeout, client.Transport = timeout, bounded{client.Transport, most}
	return client
}

// bounded bounds the bodies of answers.
type bounded struct {
	http.RoundTripper
	most int64
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, b.most}
	}
	return resp, err
}

// boundedBody fails once more than left bytes were read.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrTooLong
	}
	return n, err
}
