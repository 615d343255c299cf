package rules_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
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

func (s *shelf) Read(at rules.Cursor, n, most int) (out rules.Read, err error) {
	for _, id := range s.candidates[at.Endpoint] {
		if bytes.Compare(id[:], at.Candidate[:]) <= 0 {
			continue
		}
		if out.Seen == n || len(out.Set) == most {
			out.More = true
			break
		}
		out.Set = append(out.Set, kapsel.Delivery{ID: id, EndpointID: at.Endpoint})
		out.Seen, out.Last = out.Seen+1, id
	}
	return out, nil
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
		steps, n, most := 0, rapid.IntRange(1, 10).Draw(t, "a step"), rapid.IntRange(1, 10).Draw(t, "of the set")
		for end := false; !end; {
			var set []kapsel.Delivery
			var err error
			if set, at, end, err = rules.Walk(s, at, n, most); err != nil {
				t.Fatal(err)
			}
			if len(set) > min(n, most) {
				t.Fatalf("a step of %d and %d found %d", n, most, len(set))
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
	if _, _, end, err := rules.Walk(s, rules.Cursor{}, 10, 10); err != s.failing || end {
		t.Errorf("end %t, %v", end, err)
	}
}

// TestReplayable_Meant checks which delivery a replay repeats that names none: never one of several by chance.
func TestReplayable_Meant(t *testing.T) {
	made := func(status kapsel.DeliveryStatus, replayed bool) (d kapsel.Delivery) {
		d = kapsel.Delivery{ID: kapsel.NewDeliveryID(noon, 7), EndpointID: kapsel.NewEndpointID(noon), Status: status}
		if replayed {
			d.ReplayedAs = kapsel.NewDeliveryID(noon, 7)
		}
		return d
	}
	delivered, failed, dead, canceled, waits := made(kapsel.Delivered, false), made(kapsel.Failed, false), made(kapsel.DeadLetter, false), made(kapsel.Canceled, false), made(kapsel.Pending, false)
	repeated := made(kapsel.DeadLetter, true)
	for _, tt := range []struct {
		all  []kapsel.Delivery
		want kapsel.DeliveryID // zero: an error with the code
		code kapsel.Code
	}{
		{[]kapsel.Delivery{delivered}, delivered.ID, ""},
		{[]kapsel.Delivery{repeated, delivered}, delivered.ID, ""},
		{[]kapsel.Delivery{delivered, failed}, failed.ID, ""},
		{[]kapsel.Delivery{dead, delivered, waits, canceled}, dead.ID, ""},
		{[]kapsel.Delivery{waits}, kapsel.DeliveryID{}, kapsel.Conflict},
		{[]kapsel.Delivery{repeated}, kapsel.DeliveryID{}, kapsel.Conflict},
		{[]kapsel.Delivery{failed, dead, delivered}, kapsel.DeliveryID{}, kapsel.InvalidRequest},
		{[]kapsel.Delivery{delivered, made(kapsel.Delivered, false)}, kapsel.DeliveryID{}, kapsel.InvalidRequest},
		{nil, kapsel.DeliveryID{}, kapsel.InvalidRequest},
	} {
		got, err := rules.Replayable(tt.all, kapsel.DeliveryID{}, nil)
		if kapsel.CodeOf(err) != tt.code || err == nil && got.ID != tt.want {
			t.Errorf("of %v: %v, %v, want %v %s", tt.all, got.ID, err, tt.want, tt.code)
		}
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

// TestLacking checks which events a replay of what is missing delivers, when the deliveries are due,
// and where a step that has enough ends.
func TestLacking(t *testing.T) {
	tenant := kapsel.NewTenantID(noon)
	e := kapsel.Endpoint{ID: kapsel.NewEndpointID(noon), TenantID: tenant}
	e.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish, EventTypes: []string{"a.*"}}}
	r := kapsel.Replay{TenantID: tenant, Missing: true, Since: noon, CreatedAt: noon.Add(time.Hour)}
	var events []kapsel.Event
	event := func(change func(*kapsel.Event)) kapsel.EventID {
		ev := kapsel.Event{ID: kapsel.NewEventID(noon.Add(time.Duration(len(events))*time.Second), 7), TenantID: tenant, Type: "a.b", ReceivedAt: noon, Size: 3}
		change(&ev)
		events = append(events, ev)
		return ev.ID
	}
	had := event(func(*kapsel.Event) {})
	first := event(func(*kapsel.Event) {})
	event(func(ev *kapsel.Event) { ev.Type = "b" })
	event(func(ev *kapsel.Event) { ev.SourceID = kapsel.NewSourceID(noon) })
	event(func(ev *kapsel.Event) { ev.ReceivedAt = noon.Add(-1) })
	event(func(ev *kapsel.Event) { ev.ReceivedAt = r.CreatedAt.Add(1) })
	scheduled := event(func(ev *kapsel.Event) { ev.DeliverAt = noon.Add(24 * time.Hour) })
	event(func(*kapsel.Event) {})

	set, last, more := rules.Lacking(&r, &e, events, 2, func(id kapsel.EventID) bool { return id == had })
	if len(set) != 2 || set[0].EventID != first || set[1].EventID != scheduled || last != [16]byte(scheduled) || !more {
		t.Fatalf("%d lack, up to %v, more %t: %+v", len(set), kapsel.EventID(last), more, set)
	}
	now := r.CreatedAt
	for i, due := range []time.Time{now, noon.Add(24 * time.Hour)} {
		if d := rules.NewMissing(&set[i], now); d.ID.Part() != 7 || d.Status != kapsel.Pending || !d.DueAt.Equal(due) || !d.CreatedAt.Equal(now) || d.EndpointID != e.ID || d.Size != 3 {
			t.Errorf("made: %+v", d)
		}
	}
	if set, last, more = rules.Lacking(&r, &e, events, 9, func(kapsel.EventID) bool { return false }); len(set) != 4 || last != [16]byte(events[7].ID) || more {
		t.Errorf("%d lack, up to %v, more %t", len(set), kapsel.EventID(last), more)
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

// origins is a directory in which any origin exists, and has so many subscribers.
type origins struct{ subscribers, mentions int }

func (o origins) Endpoint(id kapsel.EndpointID) (kapsel.Endpoint, error) {
	e := kapsel.Endpoint{ID: id}
	e.Shared = true
	return e, nil
}
func (o origins) App(id kapsel.AppID) (kapsel.App, error)          { return kapsel.App{ID: id}, nil }
func (o origins) Source(id kapsel.SourceID) (kapsel.Source, error) { return kapsel.Source{ID: id}, nil }
func (o origins) Subscribers(kapsel.OriginID) (int, error)         { return o.subscribers, nil }
func (o origins) Mentions(kapsel.OriginID) (int, error)            { return o.mentions, nil }
func (o origins) Share(*kapsel.Endpoint) error                     { return nil }
func (o origins) Current() error                                   { return nil }

// TestSubscribe_Most: what comes in somewhere, and what a tenant publishes, goes to a bounded number
// of endpoints, and an endpoint that subscribes beyond it is refused in words.
func TestSubscribe_Most(t *testing.T) {
	const most = kapsel.MaxDestinations
	for _, tt := range []struct {
		source  string
		o       origins
		allowed bool
	}{
		{kapsel.Publish, origins{most - 1, most - 1}, true},
		{kapsel.Publish, origins{most - 1, most}, true}, // one mentions it and does not subscribe
		{kapsel.Publish, origins{most, most}, false},
		{kapsel.NewSourceID(noon).String(), origins{most - 1, most - 1}, true},
		{kapsel.NewSourceID(noon).String(), origins{most, most}, false},
		{kapsel.NewEndpointID(noon).String(), origins{most - 2, most - 2}, true},
		{kapsel.NewEndpointID(noon).String(), origins{most - 1, most - 1}, false}, // its own endpoint is one
	} {
		e := kapsel.Endpoint{ID: kapsel.EndpointID{1}, TenantID: kapsel.TenantID{2}}
		e.Subscriptions = []kapsel.Subscription{{Source: tt.source}}
		err := rules.Subscribe(tt.o, &e, nil)
		if tt.allowed {
			if err != nil {
				t.Errorf("%s with %+v: %v", tt.source, tt.o, err)
			}
			continue
		}
		var refused *kapsel.Error
		if !errors.As(err, &refused) || refused.Status != 422 || len(refused.Fields) != 1 || !strings.Contains(refused.Fields[0].Detail, "10000 endpoints get its events, which is the most that may") {
			t.Errorf("%s with %+v: %v", tt.source, tt.o, err)
		}
	}
}

// TestExpanded: who gets an event whose deliveries are made after it was stored.
func TestExpanded(t *testing.T) {
	ev := kapsel.Event{ID: kapsel.NewEventID(noon, 7), TenantID: kapsel.TenantID{2}, Type: "a", ReceivedAt: noon, Size: 3}
	now := noon.Add(time.Second)
	for _, tt := range []struct {
		name   string
		change func(*kapsel.Endpoint)
		gets   bool
	}{
		{"a subscriber", func(*kapsel.Endpoint) {}, true},
		{"a paused one", func(e *kapsel.Endpoint) { e.State = kapsel.EndpointPaused }, true},
		{"one made with the event", func(e *kapsel.Endpoint) { e.CreatedAt = noon }, true},
		{"one made after it", func(e *kapsel.Endpoint) { e.CreatedAt = noon.Add(time.Microsecond) }, false},
		{"a deleted one", func(e *kapsel.Endpoint) { e.DeletedAt = noon }, false},
		{"one that wants other types", func(e *kapsel.Endpoint) { e.Subscriptions[0].EventTypes = []string{"b"} }, false},
		{"one that wants channels", func(e *kapsel.Endpoint) { e.Subscriptions[0].Channels = []string{"x"} }, false},
		{"one that subscribes elsewhere", func(e *kapsel.Endpoint) { e.Subscriptions[0].Source = "src_" }, false},
		{"another tenant's", func(e *kapsel.Endpoint) { e.TenantID = kapsel.TenantID{3} }, false},
	} {
		e := kapsel.Endpoint{ID: kapsel.EndpointID{1}, TenantID: ev.TenantID, CreatedAt: noon.Add(-time.Hour)}
		e.Subscriptions = []kapsel.Subscription{{Source: kapsel.Publish}}
		tt.change(&e)
		d, gets := rules.Expanded(&ev, &e, now)
		if gets != tt.gets {
			t.Errorf("%s gets it: %t", tt.name, gets)
		}
		if gets && (d.Status != kapsel.Pending || !d.DueAt.Equal(now) || d.ID.Part() != 7 || d.EndpointID != e.ID || d.Size != 3) {
			t.Errorf("%s gets %+v", tt.name, d)
		}
	}
}

// TestThin checks which events stay, and that each event that does not is counted once.
func TestThin(t *testing.T) {
	a, b := kapsel.TenantID{1}, kapsel.TenantID{2}
	tenants := []kapsel.TenantID{a, a, b, a, a, b}
	for n, want := range [][]int{
		{0, 0, 0, 0, 0, 0},
		{-1, -1, -1, -1, 3, 1},
		{-1, -1, 0, 2, 0, 0},
		{-1, 1, 0, 0, 0, 0},
		{0, 0, 0, 0, 0, 0},
	} {
		if got := rules.Thin(tenants, n); !slices.Equal(got, want) {
			t.Errorf("the newest %d: %v, want %v", n, got, want)
		}
	}
}

// TestCounted checks that number and noun agree in what stands in the way.
func TestCounted(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{rules.AppUnused(1), "the app has 1 endpoint; delete it first"},
		{rules.AppUnused(2), "the app has 2 endpoints; delete them first"},
		{rules.TenantUnused(0, 1, 3), "the tenant has 1 source; delete it first"},
		{rules.TenantUnused(0, 0, 3), "the tenant has 3 apps; delete them first"},
		{rules.EndpointRoom(1, 1), "the tenant has 1 endpoint, which is its limit; delete one or ask for more"},
		{rules.EndpointRoom(2, 2), "the tenant has 2 endpoints, which is its limit; delete one or ask for more"},
		{rules.OlderNodes(1), "1 node of an older release, which would not carry this out, is alive; stop or replace it first"},
		{rules.OlderNodes(2), "2 nodes of an older release, which would not carry this out, are alive; stop or replace them first"},
	} {
		var refused *kapsel.Error
		if !errors.As(tt.err, &refused) || refused.Detail != tt.want {
			t.Errorf("%v, want %q", tt.err, tt.want)
		}
	}
}
