package ingest

import (
	"time"

	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// strangers limits the requests for endpoints and sources that this node does not know. The node
// must ask the store about each of them, because another node may have created the endpoint a
// moment ago. The node therefore never answers from memory that an ID does not exist, and without
// a limit a sender that invents IDs could keep the store busy. A request beyond the limit gets
// 503, not 404, because the store was not asked.
type strangers struct {
	asking chan struct{}
	rate   ratelimit.Limiter[struct{}]
}

// Limits of strangers. The burst is large because many requests for a new endpoint may arrive
// before the first of them has been looked up.
const (
	strangersAtOnce    = 8
	strangersPerSecond = 200
	strangersBurst     = 1000
	strangersWait      = time.Second
)

// enter waits up to strangersWait for a place to ask the store. A request for a known endpoint or
// source needs no place and does not wait. enter returns QueueFull if the rate is used up or no
// place becomes free. If err is nil, callers must call leave once the store has answered.
func (s *strangers) enter(known bool) (leave func(), err error) {
	if known {
		return func() {}, nil
	}
	if ok, _, _ := s.rate.Allow(struct{}{}, strangersPerSecond, strangersBurst, time.Now()); ok {
		wait := time.NewTimer(strangersWait)
		defer wait.Stop()
		select {
		case s.asking <- struct{}{}:
			return func() { <-s.asking }, nil
		case <-wait.C:
		}
	}
	return nil, full("too many requests name endpoints that are not known here; try again")
}
