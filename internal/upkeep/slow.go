package upkeep

import (
	"maps"
	"slices"
	"time"
)

// slowWait is how long what failed slowly is left alone. A step of it may take as long as a statement of the store,
// which is several turns.
const slowWait = 30 * time.Second

// slow holds what failed slowly, so that it does not take the time of the others, and until when it is left alone,
// by the monotonic clock.
type slow[ID comparable] map[ID]time.Time

// note notes that a step of id failed, which began at start, in turns of at most turn.
func (s slow[ID]) note(id ID, start time.Time, turn time.Duration) {
	if time.Since(start) > turn/2 {
		s[id] = time.Now().Add(slowWait)
	}
}

// forget drops what has been left alone long enough.
func (s slow[ID]) forget() {
	maps.DeleteFunc(s, func(_ ID, until time.Time) bool { return time.Now().After(until) })
}

// behind returns all in another order: first those behind the one of the last step, if that one is among them.
func behind[T any](all []T, isLast func(T) bool) []T {
	i := slices.IndexFunc(all, isLast)
	return append(slices.Clone(all[i+1:]), all[:i+1]...)
}
