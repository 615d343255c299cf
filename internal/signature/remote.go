package signature

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Fetch returns the document at an https URL. It must bound its own time.
type Fetch func(ctx context.Context, url string) ([]byte, error)

// Remote caches the keys and certificates that providers publish. It fetches one document at a
// time, and each URL at most once per fetchEvery, whatever requests ask for, so a signature that
// names an unknown key causes no more fetches. The number of new URLs is bounded for each verifier,
// too, because forged requests could name many. The documents are shared by all verifiers. A Remote
// is safe for concurrent use.
type Remote struct {
	*documents
	news []time.Time // times of the first fetches of URLs within the last fetchEvery; guarded by documents.mu
}

// documents are what all verifiers share.
type documents struct {
	fetch Fetch

	one  chan struct{} // capacity 1; held by the goroutine that fetches
	mu   sync.Mutex    // guards what follows
	docs map[string]document
}

// document is the result of the last fetch of a URL.
type document struct {
	body  []byte
	at    time.Time // time of the last success; zero: none
	tried time.Time
}

// Bounds of a Remote.
const (
	fetchEvery = time.Minute
	maxNews    = 10  // new URLs per fetchEvery for each verifier
	maxDocs    = 256 // URLs in the cache
)

// NewRemote returns a Remote. fetch must reach public hosts only (see package egress).
func NewRemote(fetch Fetch) *Remote {
	return &Remote{documents: &documents{fetch: fetch, one: make(chan struct{}, 1), docs: map[string]document{}}}
}

// own returns a Remote with the same documents and an allowance of new URLs of its own, so that requests that
// are forged for one verifier do not use up another's.
func (r *Remote) own() *Remote {
	if r == nil {
		return nil
	}
	return &Remote{documents: r.documents}
}

var errNotFetched = errors.New("it was not fetched")

// get returns the document at a URL. It uses the cache if the document there is younger than
// maxAge and good accepts it; otherwise it fetches. If no fetch is allowed now, or it fails, get
// returns the cached document, however old, or an error if there is none. fresh reports whether
// the document was fetched successfully within fetchEvery, so that anything missing from it does
// not exist.
func (r *Remote) get(url string, maxAge time.Duration, good func(body []byte) bool) (body []byte, fresh bool, err error) {
	return r.ask(url, maxAge, good, true)
}

// call requests a URL for the side effect, unless that succeeded within fetchEvery. It does not
// keep the response.
func (r *Remote) call(url string) error {
	_, _, err := r.ask(url, fetchEvery, func([]byte) bool { return true }, false)
	return err
}

func (r *Remote) ask(url string, maxAge time.Duration, good func([]byte) bool, keep bool) (body []byte, fresh bool, err error) {
	if r == nil {
		return nil, false, errNotFetched
	}
	if d, done := r.kept(url, maxAge, good); done {
		return d.result()
	}
	r.one <- struct{}{}
	defer func() { <-r.one }()
	d, done := r.kept(url, maxAge, good) // another goroutine may just have fetched it
	if done {
		return d.result()
	}
	// Not the context of the request that asks: the document is for all later requests, too.
	body, err = r.fetch(context.Background(), url)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	d.tried = now
	switch {
	case err == nil && keep:
		d.body, d.at = body, now
	case err == nil:
		d.at = now
	}
	r.docs[url] = d
	return d.result()
}

// kept returns the cached document of a URL. done reports that no fetch is needed or allowed;
// otherwise the caller must fetch. A URL that is not in the cache yet is counted as new.
func (r *Remote) kept(url string, maxAge time.Duration, good func([]byte) bool) (d document, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	d, known := r.docs[url]
	if !d.at.IsZero() && now.Sub(d.at) < maxAge && good(d.body) {
		return d, true
	}
	if now.Sub(d.tried) < fetchEvery && known {
		return d, true
	}
	if !known {
		for len(r.news) > 0 && now.Sub(r.news[0]) >= fetchEvery {
			r.news = r.news[1:]
		}
		if len(r.news) >= maxNews {
			return d, true
		}
		if len(r.docs) >= maxDocs {
			r.forget()
		}
		r.news = append(r.news, now)
		r.docs[url] = d // so that a concurrent request for the URL does not count it again
	}
	return d, false
}

func (d document) result() ([]byte, bool, error) {
	if d.at.IsZero() {
		return nil, false, errNotFetched
	}
	return d.body, time.Since(d.at) < fetchEvery, nil
}

// forget drops the document with the oldest try: one of those that were never fetched, if there are any,
// because forged requests may name any number of URLs at which there is nothing.
func (r *Remote) forget() {
	oldest := ""
	for url, d := range r.docs {
		was, empty := r.docs[oldest], len(d.body) == 0
		if oldest == "" || empty && len(was.body) > 0 || empty == (len(was.body) == 0) && d.tried.Before(was.tried) {
			oldest = url
		}
	}
	delete(r.docs, oldest)
}

// notFetched returns the error for the sender of a request that cannot be checked now and should
// be sent again.
func notFetched(what string) error {
	return &kapsel.Error{Code: kapsel.QueueFull, Detail: what + " could not be fetched; try again", RetryAfter: fetchEvery}
}
