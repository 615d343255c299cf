package kapsel

import (
	"testing"
	"time"
)

// TestPublication_Part checks that events with the same ordering key, and without one those with
// the same key, have the same part, for ever, because stored IDs carry it.
func TestPublication_Part(t *testing.T) {
	tenant := TenantID{0x01, 0x9b, 0x6a, 15: 0x07}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		p    Publication
		want uint8
	}{
		{Publication{ID: "invoice-1042"}, 222},
		{Publication{ID: "invoice-1043"}, 214},
		{Publication{OrderingKey: "customer-17"}, 122},
		{Publication{OrderingKey: "customer-17", ID: "invoice-1042"}, 122},
		{Publication{OrderingKey: "customer-19", ID: "invoice-1042"}, 116},
	} {
		for _, day := range []time.Time{now, now.AddDate(1, 0, 0)} {
			if e := tt.p.Event(tenant, AppID{}, day); e.ID.Part() != tt.want || e.TenantID != tenant || !e.ID.Time().Equal(day) {
				t.Errorf("%+v is of part %d, want %d", tt.p, e.ID.Part(), tt.want)
			}
		}
	}
	parts := map[uint8]bool{}
	for range 100 {
		parts[new(Publication).Event(tenant, AppID{}, now).ID.Part()] = true
	}
	if len(parts) < 20 {
		t.Errorf("100 events without a key are of %d parts", len(parts))
	}
}

func TestPublication_Event(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := Publication{Type: "a", Body: []byte("{}"), ContentType: "application/json", Channels: []string{"x"}}
	e := p.Event(TenantID{1}, AppID{}, now)
	if e.IdempotencyKey != nil || e.Size != 2 || e.Signature.Scheme != "none" || !e.ReceivedAt.Equal(now) || e.Origin() != OriginID(e.TenantID) {
		t.Errorf("%+v", e)
	}
	p.ID = "k"
	if e := p.Event(TenantID{1}, AppID{}, now); string(e.IdempotencyKey) != "k" {
		t.Errorf("the key is %q", e.IdempotencyKey)
	}
}

// TestPublication_DeliverAt checks that an event may be scheduled up to 30 days ahead, and that a
// time in the past means at once.
func TestPublication_DeliverAt(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		at    time.Time
		valid bool
		due   time.Time
	}{
		{time.Time{}, true, now},
		{now.Add(-time.Hour), true, now},
		{now, true, now},
		{now.Add(time.Microsecond), true, now.Add(time.Microsecond)},
		{now.Add(time.Microsecond + 999), true, now.Add(time.Microsecond)}, // stores are no finer
		{now.Add(MaxDeliverAhead), true, now.Add(MaxDeliverAhead)},
		{now.Add(MaxDeliverAhead + 1), false, now.Add(MaxDeliverAhead)},
	} {
		p := Publication{Type: "a", ContentType: "application/json", DeliverAt: tt.at}
		wrong := p.Validate(now)
		if valid := len(wrong) == 0; valid != tt.valid || !valid && (len(wrong) != 1 || wrong[0].Field != "deliver_at") {
			t.Errorf("%v: %v", tt.at, wrong)
		}
		e := p.Event(TenantID{1}, AppID{}, now)
		if got := e.FirstDue(now); !got.Equal(tt.due) {
			t.Errorf("%v: due at %v, want %v", tt.at, got, tt.due)
		}
	}
}
