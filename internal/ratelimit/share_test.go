package ratelimit

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// demands returns the demands of 1 to 12 nodes: none, small ones and far too large ones.
func demands(t *rapid.T) []float64 {
	one := rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 10), rapid.Float64Range(0, 1e6))
	return rapid.SliceOfN(one, 1, 12).Draw(t, "demands")
}

func total(of []float64) (sum float64) {
	for _, v := range of {
		sum += v
	}
	return sum
}

// TestShare checks that shares are never negative, add up to the limit, are enough for each node
// while all together demand less than nine tenths of it, and leave little unused by those who need
// it.
func TestShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := demands(t)
		limit := rapid.Float64Range(0.01, 1e5).Draw(t, "limit")
		all, granted, sum := total(d), 0.0, 0.0
		for i := range d {
			p := Share(limit, d, i)
			if p < 0 {
				t.Fatalf("node %d gets %v", i, p)
			}
			if all <= 0.9*limit && p < d[i] {
				t.Fatalf("node %d gets %v of the %v that it demands, of %v in all", i, p, d[i], all)
			}
			sum += p
			granted += min(p, d[i])
		}
		if math.Abs(sum-limit) > limit*1e-9 {
			t.Fatalf("the shares are %v together, the limit is %v", sum, limit)
		}
		if want := 0.9 * min(limit, all); granted < want {
			t.Fatalf("of %v demanded and %v allowed, %v is granted", all, limit, granted)
		}
	})
}

// TestShare_Newcomer checks that a node without a published demand gets its share of what is left
// over.
func TestShare_Newcomer(t *testing.T) {
	for _, tt := range []struct {
		limit   float64
		demands []float64
		want    []float64
	}{
		{100, nil, nil},
		{100, []float64{70}, []float64{100}},
		{100, []float64{0, 0}, []float64{50, 50}},
		{100, []float64{40, 0}, []float64{70, 30}},
		{100, []float64{1000, 0}, []float64{97.5, 2.5}},
		{100, []float64{300, 100}, []float64{73.75, 26.25}},
	} {
		var got []float64
		for i := range tt.demands {
			got = append(got, Share(tt.limit, tt.demands, i))
		}
		if !slices.EqualFunc(got, tt.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("Part(%v, %v) = %v, want %v", tt.limit, tt.demands, got, tt.want)
		}
	}
}

// TestPlaces checks that places add up to the limit, and never exceed what the other nodes leave
// free.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := demands(t)
		limit := rapid.IntRange(1, 1000).Draw(t, "limit")
		turn := rapid.IntRange(0, 255).Draw(t, "turn")
		none := make([]int, len(d))
		sum := 0
		for i := range d {
			p := Places(limit, d, none, i, turn)
			if p < 0 {
				t.Fatalf("node %d gets %d", i, p)
			}
			if off := math.Abs(float64(p) - Share(float64(limit), d, i)); off > 1 {
				t.Fatalf("node %d gets %d, its share is %v", i, p, Share(float64(limit), d, i))
			}
			sum += p
		}
		if sum != limit {
			t.Fatalf("%d places of %d", sum, limit)
		}
		held := rapid.SliceOfN(rapid.IntRange(0, limit), len(d), len(d)).Draw(t, "held")
		for i := range d {
			others := -held[i]
			for _, h := range held {
				others += h
			}
			if p := Places(limit, d, held, i, turn); len(d) > 1 && (p < 0 || p > 0 && p+others > limit) {
				t.Fatalf("node %d gets %d although others hold %d of %d", i, p, others, limit)
			}
		}
	})
}

// TestPlaces_Turn checks that different turns give the remainder to different nodes.
func TestPlaces_Turn(t *testing.T) {
	for turn := range 6 {
		got := []int{Places(1, make([]float64, 3), make([]int, 3), 0, turn), Places(1, make([]float64, 3), make([]int, 3), 1, turn), Places(1, make([]float64, 3), make([]int, 3), 2, turn)}
		want := []int{0, 0, 0}
		want[(3-turn%3)%3] = 1
		if !slices.Equal(got, want) {
			t.Errorf("turn %d: %v, want %v", turn, got, want)
		}
	}
}

// TestMeter checks that a Meter follows a demand that comes and goes within seconds, and stays near
// the mean of one that varies at random.
func TestMeter(t *testing.T) {
	var m Meter
	for i, tt := range []struct{ count, least, most float64 }{
		{0, 0, 0}, {100, 100, 100}, {100, 100, 100}, {110, 100, 110}, {0, 40, 60}, {0, 20, 30}, {0, 10, 15}, {200, 200, 200},
	} {
		if got := m.Note(tt.count); got < tt.least || got > tt.most {
			t.Errorf("count %d, %v: demand %v, want %v to %v", i, tt.count, got, tt.least, tt.most)
		}
	}
	for range 60 {
		m.Note(0)
	}
	if got := m.Note(0); got > 0.01 {
		t.Errorf("a minute after the last of it the demand is %v", got)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, mean := range []float64{5, 20, 100} {
		var m Meter
		var last float64
		changes := 0
		for i := range 1000 {
			got := m.Note(poisson(random, mean))
			if i >= 10 && (got < mean/3 || got > 3*mean) {
				t.Errorf("around %v the demand is %v", mean, got)
			}
			if got != last {
				changes++
			}
			last = got
		}
		if changes > 150 {
			t.Errorf("around %v the demand changed %d times in 1000", mean, changes)
		}
	}
}

// poisson returns how many random arrivals come in a second.
func poisson(r *rand.Rand, mean float64) (n float64) {
	for at := r.ExpFloat64(); at < mean; at += r.ExpFloat64() {
		n++
	}
	return n
}

// TestSharedLimit checks that nodes that publish and read in turn, as the engine has them do, grant
// together at least nine tenths of the limit and never more than it, also if requests come at
// random.
func TestSharedLimit(t *testing.T) {
	for _, tt := range []struct {
		limit float64
		loads []float64
	}{
		{20, []float64{20, 20}}, {20, []float64{10, 10}}, {20, []float64{38, 2}}, {20, []float64{40, 0}},
		{100, []float64{100, 100}}, {50, []float64{30, 30, 30}}, {20, []float64{30, 10}}, {10, []float64{20, 20, 20, 20}},
	} {
		n := len(tt.loads)
		random := rand.New(rand.NewPCG(3, 4))
		meters, told, before := make([]Meter, n), make([]float64, n), make([][]float64, n)
		sum, turns := 0.0, 0
		shares := make([]float64, n)
		for turn := range 1000 {
			for i := range n {
				mixed := slices.Clone(told)
				told[i] = meters[i].Note(poisson(random, tt.loads[i]))
				now := slices.Clone(told)
				shares[i] = min(Share(tt.limit, now, i), Share(tt.limit, mixed, i))
				if before[i] != nil {
					shares[i] = min(shares[i], Share(tt.limit, before[i], i))
				}
				before[i] = now
				if all := total(shares); turn > 10 && all > 1.1*tt.limit {
					t.Fatalf("limit %v, loads %v: in turn %d the shares are %v", tt.limit, tt.loads, turn, shares)
				}
			}
			if turn > 10 {
				turns++
				for i, p := range shares {
					sum += min(p, tt.loads[i])
				}
			}
		}
		if got := sum / float64(turns); got < 0.9*min(tt.limit, total(tt.loads)) {
			t.Errorf("limit %v, loads %v: %v is granted", tt.limit, tt.loads, got)
		}
	}
}
