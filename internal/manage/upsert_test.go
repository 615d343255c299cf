package manage

import (
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestUpsert checks what becomes of a PUT when others make or remove the same thing meanwhile.
func TestUpsert(t *testing.T) {
	gone, taken := kapsel.Errorf(kapsel.NotFound, "no such thing"), kapsel.Errorf(kapsel.Conflict, "there is one")
	for _, tt := range []struct {
		name             string
		change, create   []error // of each call, in order; the last one goes on
		find             error
		made             bool
		want             error
		changed, created int // calls
	}{
		{name: "there", change: []error{nil}, changed: 1},
		{name: "not there", change: []error{gone}, create: []error{nil}, made: true, changed: 1, created: 1},
		{name: "made by another meanwhile", change: []error{gone, nil}, create: []error{taken}, changed: 2, created: 1},
		{name: "removed by another again and again", change: []error{gone}, create: []error{taken}, want: errBusy, changed: 3, created: 3},
		{name: "another conflict", change: []error{gone}, create: []error{taken}, find: gone, want: taken, changed: 1, created: 1},
		{name: "refused", change: []error{taken}, want: taken, changed: 1},
		{name: "cannot be made", change: []error{gone}, create: []error{errBusy}, find: gone, want: errBusy, changed: 1, created: 1},
	} {
		changed, created := 0, 0
		next := func(list []error, calls *int) (string, error) {
			*calls++
			return tt.name, list[min(*calls, len(list))-1]
		}
		v, made, err := upsert(
			func() (string, error) { return next(tt.change, &changed) },
			func() (string, error) { return next(tt.create, &created) },
			func() error { return tt.find })
		if v != tt.name || made != tt.made || err != tt.want || changed != tt.changed || created != tt.created {
			t.Errorf("%s: made %t, %v; %d changes and %d creations", tt.name, made, err, changed, created)
		}
	}
}
