package upkeep

import "context"

// Sweep is one turn of a janitor.
func (j *Janitor) Sweep(ctx context.Context) error { return j.sweep(ctx) }
