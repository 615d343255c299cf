package kapsel

import (
	"testing"
	"time"
)

func TestReplayMove(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	all := []ReplayStatus{ReplayRunning, ReplayPaused, ReplayCanceled, ReplayDone}
	for _, from := range all {
		for _, to := range all {
			final := from == ReplayCanceled || from == ReplayDone
			r, err := Replay{Status: from}.Move(to, now)
			switch {
			case from == to:
				if err != nil || r.Status != from || !r.FinishedAt.IsZero() {
					t.Errorf("%s to %s: %+v, %v", from, to, r, err)
				}
			case final:
				if CodeOf(err) != Conflict || r.Status != from {
					t.Errorf("%s to %s: %+v, %v", from, to, r, err)
				}
			default:
				if err != nil || r.Status != to || r.FinishedAt.IsZero() != (to == ReplayRunning || to == ReplayPaused) {
					t.Errorf("%s to %s: %+v, %v", from, to, r, err)
				}
			}
		}
	}
}

func TestReplayHas(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tenant, endpoint := NewTenantID(now), NewEndpointID(now)
	r := Replay{
		TenantID: tenant, EndpointID: endpoint, Since: now, Until: now.Add(time.Hour), Statuses: DefaultReplayStatuses(), CreatedAt: now.Add(2 * time.Hour),
	}
	fits := Delivery{TenantID: tenant, EndpointID: endpoint, Status: Failed, FinishedAt: r.CreatedAt}
	for name, tt := range map[string]struct {
		change func(*Delivery)
		at     time.Time
		want   bool
	}{
		"first":             {at: now, want: true},
		"last":              {at: now.Add(time.Hour - 1), want: true},
		"too early":         {at: now.Add(-1)},
		"too late":          {at: now.Add(time.Hour)},
		"another tenant":    {change: func(d *Delivery) { d.TenantID = NewTenantID(now) }, at: now},
		"another endpoint":  {change: func(d *Delivery) { d.EndpointID = NewEndpointID(now) }, at: now},
		"another state":     {change: func(d *Delivery) { d.Status = Canceled }, at: now},
		"not ended":         {change: func(d *Delivery) { d.Status, d.FinishedAt = Pending, time.Time{} }, at: now},
		"ended since":       {change: func(d *Delivery) { d.FinishedAt = r.CreatedAt.Add(time.Microsecond) }, at: now},
		"replayed":          {change: func(d *Delivery) { d.ReplayedAs = NewDeliveryID(now, 0) }, at: now},
		"ended long before": {change: func(d *Delivery) { d.FinishedAt = now }, at: now, want: true},
	} {
		d := fits
		if tt.change != nil {
			tt.change(&d)
		}
		if got := r.Has(&d, tt.at); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	r.Until, r.EndpointID = time.Time{}, EndpointID{}
	if fits.EndpointID = NewEndpointID(now); !r.Has(&fits, now.Add(100*time.Hour)) {
		t.Error("without an end and an endpoint")
	}
}

func TestReplayValidate(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	fine := Replay{Since: now, Statuses: DefaultReplayStatuses(), Rate: DefaultReplayRate}
	for name, tt := range map[string]struct {
		change func(*Replay)
		field  string
	}{
		"fine":        {func(*Replay) {}, ""},
		"until":       {func(r *Replay) { r.Until = now.Add(1) }, ""},
		"no since":    {func(r *Replay) { r.Since = time.Time{} }, "since"},
		"empty span":  {func(r *Replay) { r.Until = now }, "until"},
		"no rate":     {func(r *Replay) { r.Rate = 0 }, "rate"},
		"high rate":   {func(r *Replay) { r.Rate = MaxReplayRate + 1 }, "rate"},
		"no statuses": {func(r *Replay) { r.Statuses = nil }, "statuses"},
		"open ones":   {func(r *Replay) { r.Statuses = []DeliveryStatus{Failed, Pending} }, "statuses"},
	} {
		r := fine
		tt.change(&r)
		wrong := r.Validate()
		if tt.field == "" && wrong != nil || tt.field != "" && (len(wrong) != 1 || wrong[0].Field != tt.field) {
			t.Errorf("%s: %v", name, wrong)
		}
	}
}

// TestReplayHasWaiting checks that only what was tried before the replay was made, and waits, is
// moved.
func TestReplayHasWaiting(t *testing.T) {
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := made.Add(time.Minute)
	r := Replay{CreatedAt: made, Statuses: []DeliveryStatus{Pending}}
	for name, tt := range map[string]struct {
		due, ended time.Time
		want       bool
	}{
		"tried before":     {now.Add(1), made, true},
		"due":              {now, made, false},
		"tried since":      {now.Add(1), made.Add(1), false},
		"never tried":      {now.Add(1), time.Time{}, false},
		"tried long ago":   {now.Add(24 * time.Hour), made.Add(-time.Hour), true},
		"overdue for long": {made.Add(-time.Hour), made.Add(-2 * time.Hour), false},
	} {
		if got := r.HasWaiting(&Delivery{DueAt: tt.due}, tt.ended, now); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// TestReplayValidate_Sets checks which sets a replay may name.
func TestReplayValidate_Sets(t *testing.T) {
	for _, tt := range []struct {
		statuses []DeliveryStatus
		missing  bool
		ok       bool
	}{
		{DefaultReplayStatuses(), false, true},
		{[]DeliveryStatus{Pending}, false, true},
		{nil, true, true},
		{nil, false, false},
		{[]DeliveryStatus{Pending, Failed}, false, false},
		{[]DeliveryStatus{Delivering}, false, false},
		{[]DeliveryStatus{Failed}, true, false},
		{[]DeliveryStatus{Pending}, true, false},
	} {
		r := Replay{Since: time.Now(), Rate: 1, Statuses: tt.statuses, Missing: tt.missing}
		if wrong := r.Validate(); (len(wrong) == 0) != tt.ok {
			t.Errorf("%v, missing %t: %v", tt.statuses, tt.missing, wrong)
		}
	}
}
