package delivery_test

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// late is how much later than its due time an attempt may start.
const late = 50 * time.Millisecond

// never is a circuit that does not open, for tests of what else decides when an attempt starts.
var never = kapsel.CircuitPolicy{Failures: 1000, Ratio: 1, Window: 1000, Minimum: 1000, OpenFor: time.Second, Successes: 1}

// gaps returns the times between a destination's requests.
func gaps(d *sim.Destination) (all []time.Duration) {
	requests := d.Requests()
	for i := 1; i < len(requests); i++ {
		all = append(all, requests[i].At.Sub(requests[i-1].At))
	}
	return all
}

// within ends the test unless each gap lies within the jitter of the delay before it.
func within(t *testing.T, got, want []time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d gaps between attempts, want %d: %v", len(got), len(want), got)
	}
	for i, g := range got {
		if low, high := want[i]*3/4, want[i]*5/4+late; g < low || g > high {
			t.Errorf("after attempt %d passed %v, want %v to %v", i+1, g, low, high)
		}
	}
}

func TestSchedule(t *testing.T) {
	for _, test := range []struct {
		name   string
		policy kapsel.RetryPolicy
		want   []time.Duration
	}{
		{"exponential", kapsel.RetryPolicy{Strategy: kapsel.RetryExponential, MaxAttempts: 9, Base: time.Second, Max: 40 * time.Second},
			[]time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 40e9, 40e9}},
		{"linear", kapsel.RetryPolicy{Strategy: kapsel.RetryLinear, MaxAttempts: 6, Base: 3 * time.Second, Max: 10 * time.Second},
			[]time.Duration{3e9, 6e9, 9e9, 10e9, 10e9}},
		{"fixed", kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 5, Base: 700 * time.Millisecond, Max: time.Hour},
			[]time.Duration{7e8, 7e8, 7e8, 7e8}},
		{"schedule", kapsel.RetryPolicy{Strategy: kapsel.RetrySchedule, MaxAttempts: 6, Base: time.Second, Max: time.Minute,
			Schedule: []time.Duration{5 * time.Second, 100 * time.Millisecond, 2 * time.Minute}},
			[]time.Duration{5e9, 1e8, 60e9, 60e9, 60e9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", sim.Always(500))
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Retry, e.Circuit = test.policy, never })
				p := w.Start()
				id := p.Event(ep, "x")
				w.UntilDone(10 * time.Minute)
				within(t, gaps(d), test.want)
				if got := w.Delivery(id); got.Status != kapsel.DeadLetter || got.LastErrorCode != kapsel.HTTPServerError || got.LastStatusCode != 500 {
					t.Errorf("the delivery is %+v", got)
				}
				balanced(t, p)
			})
		})
	}
}

// TestSchedule_Default is the whole default policy, which takes a day.
func TestSchedule_Default(t *testing.T) {
	in(t, sim.Options{Lease: time.Hour}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(500))
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Circuit = never })
		p := w.Start()
		p.Event(ep, "x")
		w.UntilDone(40 * time.Hour)
		want := make([]time.Duration, 19)
		for i := range want {
			want[i] = min(time.Second<<i, 4*time.Hour)
		}
		within(t, gaps(d), want)
		r := d.Requests()
		if took := r[19].At.Sub(r[0].At); took < 18*time.Hour || took > 30*time.Hour {
			t.Errorf("the last attempt was %v after the first, want about 24 h", took)
		}
		for i, r := range r {
			if r.Number != i+1 {
				t.Errorf("request %d says attempt %d", i+1, r.Number)
			}
		}
		balanced(t, p)
	})
}

// ask answers with a status and Retry-After the first time, then 200.
func ask(status int, after func() string) func(*sim.Request) sim.Answer {
	return func(r *sim.Request) sim.Answer {
		if r.N > 1 {
			return sim.Answer{Status: 200}
		}
		return sim.Answer{Status: status, Header: http.Header{"Retry-After": {after()}}}
	}
}

func seconds(n int) func() string { return func() string { return strconv.Itoa(n) } }

// TestRetryAfter_FD15 checks that a retry waits for the Retry-After of a 429 or 503, for 24
// hours at most, and a value which is malformed, past or shorter than the policy's delay
// changes nothing.
func TestRetryAfter_FD15(t *testing.T) {
	date := func(in time.Duration) func() string {
		return func() string { return time.Now().Add(in).UTC().Format(http.TimeFormat) }
	}
	text := func(s string) func() string { return func() string { return s } }
	const base = 10 * time.Second
	for _, test := range []struct {
		name   string
		status int
		after  func() string
		exact  time.Duration // 0: the policy's delay
	}{
		{"seconds", 503, seconds(100), 100 * time.Second},
		{"date", 503, date(2 * time.Minute), 2 * time.Minute},
		{"429", 429, seconds(100), 100 * time.Second},
		{"at most 24 h", 503, seconds(1_000_000), 24 * time.Hour},
		{"earlier than the policy", 503, seconds(2), 0},
		{"past date", 503, date(-time.Hour), 0},
		{"negative", 503, text("-5"), 0},
		{"zero", 503, seconds(0), 0},
		{"not a number", 503, text("NaN"), 0},
		{"exponent", 503, text("1e9"), 0},
		{"list", 503, text("120, 240"), 2 * time.Minute},
		{"fraction", 503, text("99.5"), 100 * time.Second},
		{"only on 429 and 503", 500, seconds(1000), 0},
		{"not on 408", 408, seconds(1000), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{Lease: time.Hour}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", ask(test.status, test.after))
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) {
					e.Retry = kapsel.RetryPolicy{Strategy: kapsel.RetryFixed, MaxAttempts: 3, Base: base, Max: base}
				})
				p := w.Start()
				p.Event(ep, "x")
				w.UntilDone(25 * time.Hour)
				got := gaps(d)
				if len(got) != 1 {
					t.Fatalf("%d requests, want 2", len(got)+1)
				}
				if test.exact == 0 {
					within(t, got, []time.Duration{base})
				} else if got[0] < test.exact || got[0] > test.exact+time.Second {
					t.Errorf("the second attempt came after %v, want %v", got[0], test.exact)
				}
				balanced(t, p)
			})
		})
	}
}

// TestRetryAfter_HoldsEndpoint checks that 429 with Retry-After keeps the whole endpoint quiet, for
// an hour at most, and uses up no attempts of waiting deliveries.
func TestRetryAfter_HoldsEndpoint(t *testing.T) {
	for _, test := range []struct {
		status, ask int
		want        time.Duration
	}{{429, 100, 100 * time.Second}, {429, 3 * 3600, time.Hour}, {503, 100, 0}} {
		t.Run(strconv.Itoa(test.status)+"/"+strconv.Itoa(test.ask), func(t *testing.T) {
			in(t, sim.Options{Lease: time.Hour}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", ask(test.status, seconds(test.ask)))
				ep := w.NewEndpoint(d, nil)
				p := w.Start()
				first := p.Event(ep, "first")
				w.Pass(time.Second)
				asked := d.Requests()[0].At
				others := []kapsel.EventID{p.Event(ep, "a"), p.Event(ep, "b")}
				if test.want > 0 {
					w.Pass(time.Second)
					if n := d.Count(); n != 1 {
						t.Fatalf("%d requests while the endpoint is held", n-1)
					}
					if why := p.Engine.Why(ep, w.Delivery(others[0])); why != "throttled" {
						t.Errorf("it waits for %q, want throttled", why)
					}
				}
				w.UntilDone(4 * time.Hour)
				second := d.Requests()[1].At.Sub(asked)
				if second < test.want || second > test.want+2*time.Second {
					t.Errorf("the next request came after %v, want %v", second, test.want)
				}
				for _, id := range others {
					if got := w.Delivery(id); got.Attempts != 1 {
						t.Errorf("a delivery that only waited has %d attempts", got.Attempts)
					}
				}
				if got := w.Delivery(first); got.Status != kapsel.Delivered || got.Attempts != 2 {
					t.Errorf("the first is %+v", got)
				}
				balanced(t, p)
			})
		})
	}
}

// TestRetried checks which outcomes are retried and how the other deliveries end.
func TestRetried(t *testing.T) {
	for _, test := range []struct {
		status int
		on     []int
		again  bool
	}{
		{200, nil, false}, {204, nil, false}, {299, nil, false},
		{301, nil, false}, {302, nil, false}, {304, nil, false}, {307, nil, false},
		{400, nil, false}, {401, nil, false}, {404, nil, false}, {409, nil, false}, {422, nil, false},
		{408, nil, true}, {425, nil, true}, {429, nil, true},
		{500, nil, true}, {502, nil, true}, {503, nil, true}, {504, nil, true}, {599, nil, true}, {600, nil, false}, {999, nil, false},
		{404, []int{404}, true}, {302, []int{302, 418}, true}, {418, []int{302, 418}, true}, {403, []int{404}, false},
	} {
		t.Run(strconv.Itoa(test.status), func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
					if r.N > 1 {
						return sim.Answer{Status: 200}
					}
					return sim.Answer{Status: test.status, Header: http.Header{"Location": {"http://shop.example/other"}}, Body: "body"}
				})
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.RetryOn = test.on })
				p := w.Start()
				id := p.Event(ep, "x")
				w.UntilDone(time.Minute)
				got, first := w.Delivery(id), w.Attempts(w.Delivery(id).ID)[0]
				want := kapsel.Delivered
				switch {
				case test.again:
					if d.Count() != 2 {
						t.Errorf("%d requests, want 2", d.Count())
					}
				case test.status >= 300:
					want = kapsel.Failed
					fallthrough
				default:
					if d.Count() != 1 {
						t.Errorf("%d requests, want 1", d.Count())
					}
				}
				if got.Status != want {
					t.Errorf("the delivery is %s, want %s", got.Status, want)
				}
				code := kapsel.Code("")
				switch {
				case test.status >= 500 && test.status < 600:
					code = kapsel.HTTPServerError
				case test.status >= 300:
					code = kapsel.HTTPClientError
				}
				if first.StatusCode != test.status || first.ErrorCode != code {
					t.Errorf("the attempt has status %d and code %q, want %d and %q", first.StatusCode, first.ErrorCode, test.status, code)
				}
				balanced(t, p)
			})
		})
	}
}

// TestTimeout_FD3_FD5_FD6 checks that the endpoint's time-out bounds the whole exchange,
// whether the destination never answers or drips its answer.
func TestTimeout_FD3_FD5_FD6(t *testing.T) {
	drip := func(head string) func(net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, head)
			for {
				<-time.After(300 * time.Millisecond)
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
			}
		}
	}
	for _, test := range []struct {
		name   string
		answer sim.Answer
		dial   sim.DialFault
		took   time.Duration
		status int
		code   kapsel.Code
	}{
		{"never answers", sim.Answer{Hang: true}, sim.Connects, 7 * time.Second, 0, kapsel.ConnectionTimeout},
		{"answers too late", sim.Answer{After: 8 * time.Second, Status: 200}, sim.Connects, 7 * time.Second, 0, kapsel.ConnectionTimeout},
		{"answers in time", sim.Answer{After: 6 * time.Second, Status: 200}, sim.Connects, 6 * time.Second, 200, ""},
		{"drips its header", sim.Answer{Raw: drip("HTTP/1.1 200 OK\r\nX: ")}, sim.Connects, 7 * time.Second, 0, kapsel.ConnectionTimeout},
		{"drips its body", sim.Answer{Raw: drip("HTTP/1.1 200 OK\r\n\r\n")}, sim.Connects, 7 * time.Second, 200, ""},
		{"cuts the connection", sim.Answer{}, sim.Connects, 0, 0, kapsel.BadResponse},
		{"speaks something else", sim.Answer{Raw: func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n") }}, sim.Connects, 0, 0, kapsel.BadResponse},
		{"refuses to connect", sim.Answer{}, sim.Refuses, 0, 0, kapsel.ConnectionRefused},
		{"connects never", sim.Answer{}, sim.Swallows, 7 * time.Second, 0, kapsel.ConnectionTimeout},
		{"does not exist", sim.Answer{}, sim.Unknown, 0, 0, kapsel.DNSError},
	} {
		t.Run(test.name, func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", func(*sim.Request) sim.Answer { return test.answer })
				d.Dial(func() sim.DialFault { return test.dial })
				ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Timeout, e.Retry.MaxAttempts = 7*time.Second, 1 })
				p := w.Start()
				id := p.Event(ep, "x")
				w.UntilDone(time.Minute)
				got := w.Attempts(w.Delivery(id).ID)
				if len(got) != 1 {
					t.Fatalf("%d attempts, want 1", len(got))
				}
				a := got[0]
				if a.StatusCode != test.status || a.ErrorCode != test.code || a.Duration < test.took || a.Duration > test.took+late {
					t.Errorf("the attempt took %v and has status %d, code %q; want %v, %d, %q",
						a.Duration, a.StatusCode, a.ErrorCode, test.took, test.status, test.code)
				}
				balanced(t, p)
			})
		})
	}
}

// TestConnectTimeout_FD2 checks that connecting takes at most 10 s of the exchange.
func TestConnectTimeout_FD2(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", sim.Always(200))
		d.Dial(func() sim.DialFault { return sim.Swallows })
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Retry.MaxAttempts = 1 })
		p := w.Start()
		id := p.Event(ep, "x")
		w.UntilDone(time.Minute)
		if a := w.Attempts(w.Delivery(id).ID)[0]; a.Duration != 10*time.Second || a.ErrorCode != kapsel.ConnectionTimeout {
			t.Errorf("the attempt took %v, code %q", a.Duration, a.ErrorCode)
		}
		balanced(t, p)
	})
}

// TestStaleConnection_FD19 checks that a destination that closes each connection after its
// answer, just as the next request may be on its way, gets no request twice, not even one with
// an idempotency key and no body.
func TestStaleConnection_FD19(t *testing.T) {
	in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
		d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
			if r.N%3 == 0 {
				return sim.Answer{} // read, then cut: it may have been worked on
			}
			return sim.Answer{Status: 200, Drop: r.N%3 == 1}
		})
		ep := w.NewEndpoint(d, func(e *kapsel.Endpoint) { e.Idempotency.Strategy, e.Circuit = kapsel.KeyNone, never })
		p := w.Start()
		for i := range 200 {
			body := ""
			if i%2 == 0 {
				body = "x"
			}
			p.Event(ep, body, "Idempotency-Key", strconv.Itoa(i), "X-Idempotency-Key", strconv.Itoa(i))
			if i%5 == 0 {
				w.Pass(time.Millisecond)
			}
		}
		w.UntilDone(10 * time.Minute)
		if d.Count() < 250 {
			t.Fatalf("only %d requests for 200 deliveries, a third of them cut off", d.Count())
		}
		balanced(t, p)
	})
}

// TestRetryAfter_SlowAnswer checks that the time that Retry-After asks for begins with the answer,
// however long the exchange took.
func TestRetryAfter_SlowAnswer(t *testing.T) {
	for _, status := range []int{429, 503} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			in(t, sim.Options{}, func(t *testing.T, w *sim.World) {
				d := w.Net.Destination("shop.example", func(r *sim.Request) sim.Answer {
					if r.N > 1 {
						return sim.Answer{Status: 200}
					}
					return sim.Answer{Status: status, Header: http.Header{"Retry-After": {"10"}}, After: 20 * time.Second}
				})
				ep := w.NewEndpoint(d, nil)
				p := w.Start()
				p.Event(ep, "x")
				w.UntilDone(time.Minute)
				answered := d.Requests()[0].At.Add(20 * time.Second)
				if after := d.Requests()[1].At.Sub(answered); after < 10*time.Second || after > 11*time.Second {
					t.Errorf("the second attempt came %v after the answer, want 10 s", after)
				}
				balanced(t, p)
			})
		})
	}
}
