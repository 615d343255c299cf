package signature

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Fetch gets the document at an https URL. It must bound its own time.
type Fetch func(ctx context.Context, url string) ([]byte, error)

// Remote keeps the keys and certificates that providers publish. One document is fetched at a
// time, each URL at most once in fetchEvery, whatever requests ask for: a signature that names
// a key which nobody has forces no more. URLs that were never fetched are bounded together, as
// who makes requests up could name many. It is safe concurrently, and shared by all verifiers.
type Remote struct {
	fetch Fetch

	one  chan struct{} // has room for one: who fetches is in it, the others wait to be
	mu   sync.Mutex    // guards what follows
	docs map[string]document
	news []time.Time // when URLs were fetched for the first time, in the last fetchEvery
}

// document is what a URL had when it was last fetched.
type document struct {
	body  []byte
	at    time.Time // of the last success; zero: there was none
	tried time.Time
}

// Bounds of a Remote.
const (
	fetchEvery = time.Minute
	maxNews    = 10  // new URLs a minute
	maxDocs    = 256 // URLs kept
)

// NewRemote makes a Remote. fetch must reach public hosts only (package egress).
func NewRemote(fetch Fetch) *Remote {
	return &Remote{fetch: fetch, one: make(chan struct{}, 1), docs: map[string]document{}}
}

var errNotFetched = errors.New("it was not fetched")

// get returns what is at a URL: what is kept, if that is younger than maxAge and good is
// content with it, else what a fetch brings. Where no fetch may be made, or it fails, it
// returns what is kept, however old, or an error where there is nothing. fresh is whether the
// document was fetched, with success, within fetchEvery: what it lacks is not there.
func (r *Remote) get(url string, maxAge time.Duration, good func(body []byte) bool) (body []byte, fresh bool, err error) {
	return r.ask(url, maxAge, good, true)
}

// call asks a URL for what asking it does, unless that was done within fetchEvery. What it
// answers is not kept.
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
	d, done := r.kept(url, maxAge, good) // somebody may just have fetched it
	if done {
		return d.result()
	}
	// The request that asks may go away: what is fetched is for all that follow.
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

// kept is what is kept of a URL, and whether that is all that can be had now. If not, the
// caller fetches, and the URL counts among the new ones if it is one.
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
		r.docs[url] = d // of two that ask at the same time one counts
	}
	return d, false
}

func (d document) result() ([]byte, bool, error) {
	if d.at.IsZero() {
		return nil, false, errNotFetched
	}
	return d.body, time.Since(d.at) < fetchEvery, nil
}

// forget drops the document that was tried longest ago.
func (r *Remote) forget() {
	oldest := ""
	for url, d := range r.docs {
		if oldest == "" || d.tried.Before(r.docs[oldest].tried) {
			oldest = url
		}
	}
	delete(r.docs, oldest)
}

// notFetched is the error for who sent a request that cannot be checked now: to try again.
func notFetched(what string) error {
	return &kapsel.Error{Code: kapsel.QueueFull, Detail: what + " could not be fetched; try again", RetryAfter: fetchEvery}
}
