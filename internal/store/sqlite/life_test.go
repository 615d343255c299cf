package sqlite

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// openTest opens an empty database and closes it at the test's end; observers are told of its
// commits.
func openTest(t testing.TB, observers ...store.CommitObserver) *Store {
	t.Helper()
	return openAt(t, newFile(t), observers...)
}

// newFile makes a database file that has the schema.
var newFile = storetest.Template(func(path string) error {
	s, err := Open(context.Background(), path, Options{Migrate: true})
	if err != nil {
		return err
	}
	return s.Close()
})

func openAt(t testing.TB, path string, observers ...store.CommitObserver) *Store {
	t.Helper()
	observe := func(calls int, took time.Duration) {
		for _, o := range observers {
			o(calls, took)
		}
	}
	s, err := Open(context.Background(), path, Options{Migrate: true, Observe: observe, Ledger: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

var (
	testTenant   = kapsel.NewTenantID(testTime)
	testEndpoint = kapsel.NewEndpointID(testTime)
	testNode     = kapsel.NewNodeID(testTime)
)

// acceptance makes an event of an endpoint with a delivery that testNode holds.
func acceptance(endpoint kapsel.EndpointID, now time.Time, body []byte) store.Acceptance {
	part := kapsel.PartOf(endpoint)
	e := kapsel.Event{
		ID: kapsel.NewEventID(now, part), TenantID: testTenant, EndpointID: endpoint, ReceivedAt: now,
		ContentType: "application/json",
		Header: kapsel.Header{
			{Name: "Content-Type", Value: "application/json"}, {Name: "User-Agent", Value: "Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
			{Name: "Accept", Value: "*/*; q=0.5, application/xml"}, {Name: "Cache-Control", Value: "no-cache"},
			{Name: "Stripe-Signature", Value: "t=1492774577,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd"},
		},
		Body: body, Size: len(body),
		Signature: kapsel.SignatureVerdict{Scheme: "stripe", Valid: true, KeyID: "sec_01h2xcejqtf2nbrexx3vqjhp41", Skew: time.Second},
	}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, TenantID: e.TenantID, EndpointID: e.EndpointID,
		Status: kapsel.Delivering, Node: testNode, Token: kapsel.NewAttemptID(now, part), Claims: 1, Size: e.Size, CreatedAt: now,
	}
	return store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: 24 * time.Hour}
}

// answer is the completion of a held delivery by a status code.
func answer(t testing.TB, d kapsel.Delivery, status int, now time.Time) store.Completion {
	a := kapsel.Answer{Status: status, Retry: status >= 500, Delay: time.Second, MaxAttempts: 20}
	if status >= 300 {
		a.Code = kapsel.HTTPServerError
	}
	after, err := d.After(a, now)
	if err != nil {
		t.Fatal(err)
	}
	return store.Completion{Delivery: after, Attempt: kapsel.Attempt{
		ID: d.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID,
		Number: after.Attempts, StartedAt: now, Duration: 23 * time.Millisecond, StatusCode: status, ErrorCode: a.Code,
		RequestHeaders:  kapsel.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "X-Kapsel-Event-Id", Value: d.EventID.String()}, {Name: "webhook-signature", Value: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="}},
		ResponseHeaders: kapsel.Header{{Name: "Content-Length", Value: "2"}, {Name: "Date", Value: "Mon, 02 Jan 2006 15:04:05 GMT"}},
		ResponseBody:    []byte("ok"),
	}}
}

// BenchmarkLife is the two commits of an event's life, 1 KiB each, under many callers at once.
func BenchmarkLife(b *testing.B) {
	for _, bench := range []struct {
		callers, endpoints int
		keys               bool
	}{{256, 1, false}, {256, 1000, false}, {256, 1, true}, {1024, 1, false}} {
		b.Run(fmt.Sprintf("callers=%d/endpoints=%d/keys=%t", bench.callers, bench.endpoints, bench.keys), func(b *testing.B) {
			var commits atomic.Int64
			s := openTest(b, func(int, time.Duration) { commits.Add(1) })
			endpoints := make([]kapsel.EndpointID, bench.endpoints)
			for i := range endpoints {
				endpoints[i] = kapsel.NewEndpointID(testTime)
			}
			body := make([]byte, 1024)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			cpu := cpuTime(b)
			for range bench.callers {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						now := time.Now()
						in := acceptance(endpoints[i%int64(len(endpoints))], now, body)
						if bench.keys {
							in.Event.IdempotencyKey = []byte(in.Event.ID.String())
						}
						if _, err := s.Accept(context.Background(), in); err != nil {
							b.Error(err)
							return
						}
						if err := s.Complete(context.Background(), answer(b, in.Deliveries[0], 200, now)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(2*float64(b.N)/float64(commits.Load()), "calls/commit")
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// cpuTime is what the process has used, in user and kernel.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
