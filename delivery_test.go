package kapsel_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

var (
	noon   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	nodeA  = kapsel.NewNodeID(noon)
	tokenA = kapsel.NewAttemptID(noon, 7)
)

// in returns a delivery in a state, with two attempts behind it.
func in(status kapsel.DeliveryStatus) kapsel.Delivery {
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(noon, 7), EventID: kapsel.NewEventID(noon, 7), EndpointID: kapsel.NewEndpointID(noon), TenantID: kapsel.NewTenantID(noon),
		Status: status, Claims: 3, Attempts: 2, Counted: 1, Takeovers: 1, LastStatusCode: 500, LastErrorCode: kapsel.HTTPServerError,
		Size: 10, CreatedAt: noon,
	}
	switch {
	case status == kapsel.Pending:
		d.DueAt = noon.Add(time.Minute)
	case status == kapsel.Delivering:
		d.Node, d.Token = nodeA, tokenA
	case status.Terminal():
		d.FinishedAt = noon
	}
	return d
}

// Every state against every transition: what changes of the delivery, or that it is a Conflict.
func TestDeliveryAfter(t *testing.T) {
	now := noon.Add(time.Hour)
	answer := kapsel.Answer{Status: 503, Code: kapsel.HTTPServerError, Retry: true, Delay: 10 * time.Second, MaxAttempts: 20}
	with := func(change func(*kapsel.Answer)) kapsel.Answer { a := answer; change(&a); return a }
	ended := func(d *kapsel.Delivery, status kapsel.DeliveryStatus) {
		d.Status, d.FinishedAt, d.DueAt, d.Node, d.Token = status, now, time.Time{}, kapsel.NodeID{}, kapsel.AttemptID{}
	}
	waits := func(d *kapsel.Delivery, due time.Time) {
		d.Status, d.DueAt, d.Node, d.Token = kapsel.Pending, due, kapsel.NodeID{}, kapsel.AttemptID{}
	}
	answered := func(d *kapsel.Delivery, status int, code kapsel.Code) {
		d.Attempts, d.Counted, d.Takeovers, d.LastStatusCode, d.LastErrorCode = 3, 2, 0, status, code
	}
	lost := func(d *kapsel.Delivery, takeovers int) {
		d.Attempts, d.Takeovers, d.LastStatusCode, d.LastErrorCode = 3, takeovers, 0, kapsel.OutcomeUnknown
	}

	for _, tt := range []struct {
		name string
		from kapsel.DeliveryStatus // in every other state it is a Conflict
		h    kapsel.Transition
		want func(*kapsel.Delivery)
	}{
		{"claimed", kapsel.Pending, kapsel.Claim{Node: nodeA, Token: tokenA}, func(d *kapsel.Delivery) {
			d.Status, d.DueAt, d.Node, d.Token, d.Claims = kapsel.Delivering, time.Time{}, nodeA, tokenA, 4
		}},
		{"retried by a person", kapsel.Pending, kapsel.Retry{}, func(d *kapsel.Delivery) { d.DueAt = now }},
		{"rescheduled", kapsel.Pending, kapsel.Replan{Policy: kapsel.DefaultRetry(), Ended: noon, Destination: 1}, func(*kapsel.Delivery) {}},
		{"canceled by a person", kapsel.Pending, kapsel.Cancel{}, func(d *kapsel.Delivery) { ended(d, kapsel.Canceled) }},
		{"given back", kapsel.Delivering, kapsel.GiveBack{Due: noon}, func(d *kapsel.Delivery) { waits(d, noon) }},
		{"delivered", kapsel.Delivering, kapsel.Answer{Status: 204, MaxAttempts: 20}, func(d *kapsel.Delivery) {
			answered(d, 204, "")
			ended(d, kapsel.Delivered)
		}},
		{"delivered at the last attempt, to a deleted endpoint", kapsel.Delivering, kapsel.Answer{Status: 200, MaxAttempts: 1, Gone: true}, func(d *kapsel.Delivery) {
			answered(d, 200, "")
			ended(d, kapsel.Delivered)
		}},
		{"refused", kapsel.Delivering, kapsel.Answer{Status: 410, Code: kapsel.HTTPClientError, MaxAttempts: 20}, func(d *kapsel.Delivery) {
			answered(d, 410, kapsel.HTTPClientError)
			ended(d, kapsel.Failed)
		}},
		{"blocked", kapsel.Delivering, kapsel.Answer{Code: kapsel.DialBlocked, MaxAttempts: 20}, func(d *kapsel.Delivery) {
			answered(d, 0, kapsel.DialBlocked)
			ended(d, kapsel.Failed)
		}},
		{"to retry", kapsel.Delivering, answer, func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			waits(d, now.Add(10*time.Second))
		}},
		{"to retry later, as the destination asks", kapsel.Delivering, with(func(a *kapsel.Answer) { a.NotBefore, a.Destination = now.Add(time.Hour), 3 }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			waits(d, now.Add(time.Hour))
			d.PutOffBy = 3
		}},
		{"not sooner, as the destination asks", kapsel.Delivering, with(func(a *kapsel.Answer) { a.NotBefore, a.Destination = now.Add(time.Second), 3 }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			waits(d, now.Add(10*time.Second))
		}},
		{"one attempt left", kapsel.Delivering, with(func(a *kapsel.Answer) { a.MaxAttempts = 3 }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			waits(d, now.Add(10*time.Second))
		}},
		{"out of attempts", kapsel.Delivering, with(func(a *kapsel.Answer) { a.MaxAttempts = 2 }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			ended(d, kapsel.DeadLetter)
		}},
		{"out of attempts, of fewer than there were", kapsel.Delivering, with(func(a *kapsel.Answer) { a.MaxAttempts = 1 }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			ended(d, kapsel.DeadLetter)
		}},
		{"to retry at a deleted endpoint", kapsel.Delivering, with(func(a *kapsel.Answer) { a.Gone = true }), func(d *kapsel.Delivery) {
			answered(d, 503, kapsel.HTTPServerError)
			ended(d, kapsel.Canceled)
		}},
		{"cut short", kapsel.Delivering, kapsel.Lost{}, func(d *kapsel.Delivery) {
			lost(d, 1)
			waits(d, now)
		}},
		{"taken over", kapsel.Delivering, kapsel.Lost{Takeover: true}, func(d *kapsel.Delivery) {
			lost(d, 2)
			waits(d, now)
		}},
	} {
		for status := kapsel.Pending; status <= kapsel.Canceled; status++ {
			t.Run(fmt.Sprintf("%s while %s", tt.name, status), func(t *testing.T) {
				before := in(status)
				want := before
				if status == tt.from {
					tt.want(&want)
				}
				got, err := before.After(tt.h, now)
				if status == tt.from && err != nil || status != tt.from && kapsel.CodeOf(err) != kapsel.Conflict {
					t.Errorf("error is %v", err)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("(-want +got)\n%s", d)
				}
			})
		}
	}
}

func TestDeliveryReplan(t *testing.T) {
	const minute = time.Minute
	now := noon.Add(time.Hour)
	ended := now.Add(-10 * minute)
	policy := kapsel.RetryPolicy{Strategy: kapsel.RetryLinear, Base: 20 * minute, Max: 24 * time.Hour} // 40 minutes after two attempts
	for _, tt := range []struct {
		name     string
		due      time.Duration // after the attempt, before and …
		putOffBy int
		want     time.Duration // … after it
		wantBy   int
	}{
		{"longer than the policy's", 120 * minute, 0, 40 * minute, 0},
		{"shorter", 20 * minute, 0, 20 * minute, 0},
		{"within its jitter", 49 * minute, 0, 49 * minute, 0},
		{"due already", 5 * minute, 0, 5 * minute, 0},
		{"put off by the present destination", 120 * minute, 2, 120 * minute, 2},
		{"put off by a former one", 120 * minute, 1, 40 * minute, 0},
		{"put off by a former one, within the jitter", 45 * minute, 1, 45 * minute, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := in(kapsel.Pending)
			d.Counted, d.DueAt, d.PutOffBy = 2, ended.Add(tt.due), tt.putOffBy
			want := d
			want.DueAt, want.PutOffBy = ended.Add(tt.want), tt.wantBy
			got, err := d.After(kapsel.Replan{Ended: ended, Policy: policy, Destination: 2, Random: 0.5}, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	d := in(kapsel.Pending)
	d.DueAt = now.Add(time.Hour)
	soon := kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, Base: time.Second, Max: time.Second}
	if got, _ := d.After(kapsel.Replan{Ended: ended, Policy: soon, Destination: 2}, now); !got.DueAt.Equal(now) {
		t.Errorf("by a policy by which it was due before now it is due at %v, want now", got.DueAt)
	}
	d.Counted = 0
	if got, _ := d.After(kapsel.Replan{Ended: ended, Policy: soon, Destination: 2}, now); got != d {
		t.Errorf("with no attempt that counts it became %+v", got)
	}
}

func TestDeliveryAfterNothingKnown(t *testing.T) {
	d := in(kapsel.Delivering)
	if got, err := d.After(nil, noon); err == nil || got != d {
		t.Errorf("nothing happened: %+v, %v", got, err)
	}
}

// TestDelivery_FF4_FiveTakeoversInARow checks that a delivery whose node dies five times in a
// row during an attempt becomes a dead letter, and any answer in between restarts the count.
func TestDelivery_FF4_FiveTakeoversInARow(t *testing.T) {
	d := kapsel.Delivery{DueAt: noon}
	happen := func(h kapsel.Transition) {
		t.Helper()
		var err error
		if d, err = d.After(kapsel.Claim{Node: nodeA, Token: tokenA}, noon); err != nil {
			t.Fatal(err)
		}
		if d, err = d.After(h, noon); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for range kapsel.MaxTakeovers - 1 {
			happen(kapsel.Lost{Takeover: true})
		}
		if d.Status != kapsel.Pending {
			t.Fatalf("%s after %d take-overs", d.Status, d.Takeovers)
		}
		happen(kapsel.Answer{Code: kapsel.ConnectionTimeout, Retry: true, MaxAttempts: 20}) // ends the row
	}
	for range kapsel.MaxTakeovers {
		happen(kapsel.Lost{Takeover: true})
	}
	if d.Status != kapsel.DeadLetter || d.LastErrorCode != kapsel.OutcomeUnknown || d.Counted != 2 || d.Attempts != 15 {
		t.Errorf("delivery is %+v", d)
	}
}

// Whatever happens in whatever order, a delivery keeps its promises.
func TestDeliveryInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxAttempts := rapid.IntRange(1, 6).Draw(t, "max attempts")
		now := noon
		d := kapsel.Delivery{ID: kapsel.NewDeliveryID(noon, 1), DueAt: noon, CreatedAt: noon, Size: 3}
		var claims, answers, losses int
		happen := func(t *rapid.T, h kapsel.Transition) bool {
			now = now.Add(time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "ns")))
			before := d
			next, err := d.After(h, now)
			if err != nil {
				if kapsel.CodeOf(err) != kapsel.Conflict || next != before {
					t.Fatalf("%T while %s: %v, and it is %+v", h, before.Status, err, next)
				}
				return false
			}
			if before.Status.Terminal() {
				t.Fatalf("%T moved a delivery that was %s", h, before.Status)
			}
			d = next
			return true
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				if happen(t, kapsel.Claim{Node: kapsel.NewNodeID(now), Token: kapsel.NewAttemptID(now, 1)}) {
					claims++
				}
			},
			"give back": func(t *rapid.T) { happen(t, kapsel.GiveBack{Due: now.Add(time.Second)}) },
			"answer": func(t *rapid.T) {
				a := kapsel.Answer{
					Code:  rapid.SampledFrom([]kapsel.Code{"", kapsel.HTTPServerError, kapsel.HTTPClientError, kapsel.DNSError}).Draw(t, "code"),
					Retry: rapid.Bool().Draw(t, "retry"), Gone: rapid.IntRange(0, 9).Draw(t, "gone") == 0, MaxAttempts: maxAttempts,
					Delay: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "delay")),
				}
				if rapid.Bool().Draw(t, "retry after") {
					a.NotBefore = now.Add(time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "not before")))
				}
				if happen(t, a) {
					answers++
					if (d.Status == kapsel.Delivered) != (a.Code == "") {
						t.Fatalf("%q led to %s", a.Code, d.Status)
					}
					if d.Status == kapsel.Pending && (d.DueAt.Before(now.Add(a.Delay)) || d.DueAt.Before(a.NotBefore)) {
						t.Fatalf("due at %v, %v after the answer; the delay is %v, not before %v", d.DueAt, d.DueAt.Sub(now), a.Delay, a.NotBefore)
					}
				}
			},
			"lost": func(t *rapid.T) {
				if happen(t, kapsel.Lost{Takeover: rapid.Bool().Draw(t, "take-over")}) {
					losses++
				}
			},
			"retry": func(t *rapid.T) { happen(t, kapsel.Retry{}) },
			"cancel": func(t *rapid.T) {
				if rapid.IntRange(0, 5).Draw(t, "really") == 0 {
					happen(t, kapsel.Cancel{})
				}
			},
			"": func(t *rapid.T) {
				if d.Claims != claims || d.Attempts != answers+losses || d.Counted != answers || d.Attempts > d.Claims {
					t.Fatalf("%d claims, %d answers, %d losses, but %+v", claims, answers, losses, d)
				}
				if d.Counted > maxAttempts || d.Takeovers > kapsel.MaxTakeovers {
					t.Fatalf("above its limits: %+v", d)
				}
				if (d.Counted == maxAttempts || d.Takeovers == kapsel.MaxTakeovers) && !d.Status.Terminal() {
					t.Fatalf("goes on at its limit: %+v", d)
				}
				if (d.Status == kapsel.Pending) == d.DueAt.IsZero() ||
					(d.Status == kapsel.Delivering) == d.Node.IsZero() || d.Node.IsZero() != d.Token.IsZero() ||
					d.Status.Terminal() == d.FinishedAt.IsZero() {
					t.Fatalf("not whole: %+v", d)
				}
			},
		})
	})
}

func TestDeliveryStatusNames(t *testing.T) {
	for want, status := range map[string]kapsel.DeliveryStatus{
		"pending": kapsel.Pending, "delivering": kapsel.Delivering, "delivered": kapsel.Delivered,
		"failed": kapsel.Failed, "dead_letter": kapsel.DeadLetter, "canceled": kapsel.Canceled,
	} {
		text, err := status.MarshalText()
		if err != nil || string(text) != want || status.String() != want {
			t.Errorf("%d is %s, %s, %v; want %s", status, status, text, err, want)
		}
		if got, err := kapsel.ParseDeliveryStatus(want); err != nil || got != status {
			t.Errorf("%s is %v, %v", want, got, err)
		}
		if terminal := status != kapsel.Pending && status != kapsel.Delivering; status.Terminal() != terminal {
			t.Errorf("%s is terminal: %v", status, status.Terminal())
		}
	}
	for _, name := range []string{"", "Pending", "received", "DeliveryStatus(6)"} {
		if got, err := kapsel.ParseDeliveryStatus(name); err == nil {
			t.Errorf("%q is %v", name, got)
		}
	}
	if got := kapsel.DeliveryStatus(6).String(); got != "DeliveryStatus(6)" {
		t.Errorf("an unknown status is %q", got)
	}
}
