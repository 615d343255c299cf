package store_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel/internal/store"
)

func TestDemandsAsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) store.Demand {
			return store.Demand{
				Limit:  store.Limit{Kind: store.LimitKind(rapid.Byte().Draw(t, "kind")), Of: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "of"))},
				Amount: rapid.Float64Min(0).Draw(t, "amount"), Held: rapid.IntRange(0, math.MaxInt32).Draw(t, "held"),
			}
		}), 0, 20).Draw(t, "demands")
		if got := store.DecodeDemands(store.EncodeDemands(all)); !slices.Equal(got, all) {
			t.Fatalf("read as %v", got)
		}
	})
}

func TestDemandsOfAnotherVersionAreNone(t *testing.T) {
	one := []store.Demand{{Limit: store.Limit{Kind: store.Concurrency}, Amount: 1}}
	value := store.EncodeDemands(one)
	for name, bad := range map[string][]byte{
		"nothing": nil, "another form": append([]byte{2}, value[1:]...), "cut": value[:len(value)-1], "longer": append(slices.Clone(value), 0),
		"not a number": store.EncodeDemands([]store.Demand{{Amount: math.NaN()}}), "infinite": store.EncodeDemands([]store.Demand{{Amount: math.Inf(1)}}),
		"negative": store.EncodeDemands([]store.Demand{{Amount: -1}}),
	} {
		if got := store.DecodeDemands(bad); len(got) != 0 {
			t.Errorf("%s: read as %v", name, got)
		}
	}
	if got := store.DecodeDemands(store.EncodeDemands(slices.Repeat(one, store.MaxDemands+1))); len(got) != store.MaxDemands {
		t.Errorf("%d demands are told, at most %d may be", len(got), store.MaxDemands)
	}
}
