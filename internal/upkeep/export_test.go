package upkeep

import (
	"context"
	"time"
)

// Sweep is one turn of a janitor.
func (j *Janitor) Sweep(ctx context.Context) error { return j.sweep(ctx) }

// Turn finds and tells what there is at a time.
func (n *Notifier) Turn(ctx context.Context, now time.Time) error { return n.turn(ctx, now) }
