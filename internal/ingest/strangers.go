package ingest

import (
	"time"

	"github.com/kapsel-hq/kapsel/internal/ratelimit"
)

// strangers bounds the requests for endpoints that this node does not know. The store must
// be asked for each, as the endpoint may have been made on another node a moment ago: so ids
// that nobody has are never answered from memory, and who makes them up could keep the store
// busy. What goes beyond the bounds is 503, not 404, for the store was not asked.
type strangers struct {
	asking chan struct{}
	rate   ratelimit.Limiter[struct{}]
}

// Of a new endpoint, many requests may come at once before the first has been looked up.
const (
	strangersAtOnce    = 8
	strangersPerSecond = 200
	strangersBurst     = 1000
	strangersWait      = time.Second
)

// enter waits for a place to ask the store; what is known needs none. Callers must call leave.
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
