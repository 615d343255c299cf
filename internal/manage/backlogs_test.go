package manage

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestBacklog_B129 checks that a short backlog is counted at each read and a long one seldom,
// and no count is without a limit.
func TestBacklog_B129(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	waiting, failing := 0, false
	var reads []int
	b := backlogs{of: func(ctx context.Context, _ kapsel.EndpointID, _ time.Time, atMost int) (int, time.Time, error) {
		reads = append(reads, atMost)
		if _, ok := ctx.Deadline(); !ok {
			t.Error("a read without a limit")
		}
		if failing {
			return 0, time.Time{}, kapsel.Errorf(kapsel.DatabaseUnavailable, "down")
		}
		return min(waiting, atMost), now, nil
	}}
	for _, step := range []struct {
		waiting int
		failing bool
		pass    time.Duration
		want    int // -1: not known
		reads   []int
	}{
		{waiting: 0, want: 0, reads: []int{backlogExact}},
		{waiting: 99, want: 99, reads: []int{backlogExact}},
		{waiting: 20_000, want: backlogMost, reads: []int{backlogExact, backlogMost}},
		{waiting: 5_000, want: backlogMost, reads: []int{backlogExact}}, // not yet old
		{waiting: 99, want: 99, reads: []int{backlogExact}},
		{waiting: 100, want: backlogMost, reads: []int{backlogExact}},
		{waiting: 100, pass: backlogAge, want: 100, reads: []int{backlogExact, backlogMost}},
		{failing: true, want: 100, reads: []int{backlogExact}},
		{failing: true, pass: backlogAge, want: -1, reads: []int{backlogExact}},
		{waiting: 3, want: -1}, // the store is left alone for a while
		{waiting: 3, pass: backlogAge, want: 3, reads: []int{backlogExact}},
	} {
		waiting, failing, reads = step.waiting, step.failing, nil
		now = now.Add(step.pass)
		got, at := b.get(t.Context(), kapsel.EndpointID{}, now)
		if step.want < 0 && (got != nil || !at.IsZero()) || step.want >= 0 && (got == nil || *got != step.want) {
			t.Errorf("%+v: the backlog is %v", step, got)
		}
		if !slices.Equal(reads, step.reads) {
			t.Errorf("%+v: %d were asked for", step, reads)
		}
	}
}
