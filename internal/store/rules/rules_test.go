package rules_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// shelf is what a walk reads: candidates by endpoint, in the order of their ids.
type shelf struct {
	endpoints  []kapsel.EndpointID
	candidates map[kapsel.EndpointID][][16]byte
	failing    error
}

func (s *shelf) Endpoint(from kapsel.EndpointID) (kapsel.EndpointID, bool, error) {
	for _, id := range s.endpoints {
		if bytes.Compare(id[:], from[:]) >= 0 {
			return id, true, s.failing
		}
	}
	return kapsel.EndpointID{}, false, s.failing
}

func (s *shelf) Read(at rules.Cursor, n int) (set []kapsel.Delivery, seen int, last [16]byte, err error) {
	for _, id := range s.candidates[at.Endpoint] {
		if seen < n && bytes.Compare(id[:], at.Candidate[:]) > 0 {
			set = append(set, kapsel.Delivery{ID: id, EndpointID: at.Endpoint})
			seen, last = seen+1, id
		}
	}
	return set, seen, last, nil
}

// TestWalk: whatever the size of the steps, a walk finds every candidate once, in order, and
// ends. A step is bounded also where endpoints have nothing.
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &shelf{candidates: map[kapsel.EndpointID][][16]byte{}}
		id := func(n byte) (id [16]byte) { id[0], id[15] = n, 0xff; return id }
		var want [][16]byte
		for i := range rapid.IntRange(0, 12).Draw(t, "endpoints") {
			e := kapsel.EndpointID(id(byte(i)))
			s.endpoints = append(s.endpoints, e)
			for c := range rapid.IntRange(0, 7).Draw(t, "candidates") {
				s.candidates[e] = append(s.candidates[e], id(byte(c+1)))
				want = append(want, id(byte(c+1)))
			}
		}
		var at rules.Cursor
		var got [][16]byte
		steps, n := 0, rapid.IntRange(1, 10).Draw(t, "a step")
		for end := false; !end; {
			var set []kapsel.Delivery
			var err error
			if set, at, end, err = rules.Walk(s, at, n); err != nil {
				t.Fatal(err)
			}
			if len(set) > n {
				t.Fatalf("a step of %d found %d", n, len(set))
			}
			for _, d := range set {
				got = append(got, d.ID)
			}
			if steps++; steps > 2*len(want)+2*len(s.endpoints)+2 {
				t.Fatal("the walk does not end")
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("found %d candidates, want %d", len(got), len(want))
		}
	})
}

func TestWalk_Fails(t *testing.T) {
	s := &shelf{endpoints: []kapsel.EndpointID{{1}}, failing: errors.New("no answer")}
	if _, _, end, err := rules.Walk(s, rules.Cursor{}, 10); err != s.failing || end {
		t.Errorf("end %t, %v", end, err)
	}
}

// TestNewReplay: the new delivery sorts after the old one, whatever the clocks say.
func TestNewReplay(t *testing.T) {
	old := kapsel.Delivery{ID: kapsel.NewDeliveryID(noon, 7), Status: kapsel.Failed, Size: 3}
	for _, now := range []time.Time{noon, noon.Add(-time.Hour), noon.Add(time.Hour)} {
		d := rules.NewReplay(&old, now)
		if bytes.Compare(d.ID[:], old.ID[:]) <= 0 || d.ID.Part() != 7 {
			t.Errorf("at %v the id is %v, of part %d; it repeats %v", now, d.ID, d.ID.Part(), old.ID)
		}
		if d.ReplayOf != old.ID || !d.DueAt.Equal(now) || d.Status != kapsel.Pending || d.Size != 3 {
			t.Errorf("at %v it is %+v", now, d)
		}
	}
}

// TestRedeliveries: each endpoint is judged by its own deliveries.
func TestRedeliveries(t *testing.T) {
	a, b := kapsel.EndpointID{1}, kapsel.EndpointID{2}
	n := 0
	delivery := func(e kapsel.EndpointID, status kapsel.DeliveryStatus, age time.Duration, byDuplicate bool) kapsel.Delivery {
		n++
		return kapsel.Delivery{ID: kapsel.DeliveryID{byte(n)}, EndpointID: e, Status: status, CreatedAt: noon.Add(-age), ByDuplicate: byDuplicate}
	}
	replayed := delivery(a, kapsel.Failed, time.Hour, false)
	replayed.ReplayedAs = kapsel.DeliveryID{9} // by a transaction whose row is not visible yet
	for _, tt := range []struct {
		name       string
		deliveries []kapsel.Delivery
		want       []kapsel.EndpointID
	}{
		{"none", nil, nil},
		{"failed at one, delivered at another", []kapsel.Delivery{delivery(a, kapsel.Failed, time.Hour, false), delivery(b, kapsel.Delivered, time.Hour, false)}, []kapsel.EndpointID{a}},
		{"given up at both", []kapsel.Delivery{delivery(a, kapsel.DeadLetter, time.Hour, false), delivery(b, kapsel.Failed, time.Hour, false)}, []kapsel.EndpointID{a, b}},
		{"canceled after it failed", []kapsel.Delivery{delivery(a, kapsel.Failed, time.Hour, false), delivery(a, kapsel.Canceled, time.Hour, false)}, nil},
		{"another's is a minute old, its own is not", []kapsel.Delivery{
			delivery(a, kapsel.Failed, time.Minute, true), delivery(b, kapsel.Failed, time.Minute-1, true),
		}, []kapsel.EndpointID{a}},
		{"replayed meanwhile", []kapsel.Delivery{replayed}, nil},
	} {
		var got []kapsel.EndpointID
		for _, d := range rules.Redeliveries(tt.deliveries, noon) {
			got = append(got, d.EndpointID)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: to %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestDeletedTogether(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		sizes []int
		want  int
	}{
		{nil, 0}, {[]int{0}, 1}, {[]int{64 * mib}, 1}, {[]int{64 * mib, 1}, 1}, {[]int{1, 64 * mib}, 1},
		{[]int{8 * mib, 8 * mib, 1}, 2}, {make([]int, 500), 500},
	} {
		if got := rules.DeletedTogether(tt.sizes); got != tt.want {
			t.Errorf("%d of the first %v", got, tt.sizes[:min(3, len(tt.sizes))])
		}
	}
}

func TestStatusBits(t *testing.T) {
	all := []kapsel.DeliveryStatus{kapsel.Pending, kapsel.Delivering, kapsel.Delivered, kapsel.Failed, kapsel.DeadLetter, kapsel.Canceled}
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.SliceOfDistinct(rapid.SampledFrom(all), func(s kapsel.DeliveryStatus) kapsel.DeliveryStatus { return s }).Draw(t, "set")
		got := rules.StatusesOf(rules.StatusBits(set))
		slices.Sort(set)
		if !slices.Equal(got, set) {
			t.Fatalf("%v came back as %v", set, got)
		}
	})
}
