package storetest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// leads counts the calls that reach it.
type leads struct {
	store.Store
	calls int
}

func (l *leads) Lead(context.Context, string, kapsel.NodeID, time.Time, time.Duration) (bool, error) {
	l.calls++
	return true, nil
}

func TestFaulty(t *testing.T) {
	for _, tt := range []struct {
		fault storetest.Fault
		calls int // that reach the store; the second of three is at fault
	}{
		{storetest.NoFault, 3}, {storetest.NotPersisted, 2}, {storetest.Persisted, 3},
	} {
		real := &leads{}
		s := storetest.Faulty(real, storetest.Nth("Lead", 2, tt.fault))
		for n := 1; n <= 3; n++ {
			leader, err := s.Lead(t.Context(), "duty", kapsel.NodeID{}, time.Time{}, 0)
			bad := n == 2 && tt.fault != storetest.NoFault
			if bad != errors.Is(err, storetest.ErrInjected) || bad != (kapsel.CodeOf(err) == kapsel.DatabaseUnavailable) || leader == bad {
				t.Errorf("fault %d, call %d: %v, %v", tt.fault, n, leader, err)
			}
		}
		if real.calls != tt.calls {
			t.Errorf("fault %d: %d calls reached the store, want %d", tt.fault, real.calls, tt.calls)
		}
	}
}
