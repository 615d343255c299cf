package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Expansions make the deliveries of events that go to more endpoints than one commit should hold.
// Accept stores the event, its first deliveries and an expansion in one commit. From then on Expand
// makes the others in steps, and keeps a cursor with the expansion, so that a crash loses nothing
// and repeats nothing. While its expansion is open an event is not deleted.
type Expansions interface {
	// OpenExpansions lists up to limit events with an open expansion, oldest first.
	OpenExpansions(ctx context.Context, limit int) ([]kapsel.EventID, error)
	// Expand goes on with an event's expansion. It looks at the endpoints behind the cursor, in the
	// order of their IDs, and makes a first delivery, pending, to each that gets the event by
	// rules.Expanded and has none. The deliveries, at most limit and fewer if they take long, and
	// the cursor are one transaction, which matches by its own settings. more is whether the
	// expansion is still open. If it is not open, Expand does nothing and returns no error.
	Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (made int, more bool, err error)
}
