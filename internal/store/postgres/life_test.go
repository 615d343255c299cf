package postgres_test

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
)

// BenchmarkLife writes the usual life of events: accepted by 256 callers at once, held by
// this node, and completed after one attempt. It reports the CPU time of an event in this
// process and in the server's.
func BenchmarkLife(b *testing.B) {
	for _, keyed := range []bool{false, true} {
		name := "without keys"
		if keyed {
			name = "with keys"
		}
		b.Run(name, func(b *testing.B) {
			server := pgtest.Start(b)
			var batches atomic.Int64
			s, err := postgres.Open(b.Context(), server.From(b, "schema", migrate), postgres.Options{
				Observe: func(int, time.Duration) { batches.Add(1) },
			})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			life := newLife(keyed)
			var begun atomic.Int64
			serverBefore, clientBefore := server.CPUTime(b), cpuTime(b)
			b.ResetTimer()
			var callers sync.WaitGroup
			for range 256 {
				callers.Go(func() {
					for n := begun.Add(1); n <= int64(b.N); n = begun.Add(1) {
						in := life.acceptance(n)
						if _, err := s.Accept(b.Context(), in); err != nil {
							b.Error(err)
							return
						}
						if err := s.Complete(b.Context(), life.completion(in.Deliveries[0])); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callers.Wait()
			b.StopTimer()
			per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
			b.ReportMetric(per(cpuTime(b)-clientBefore), "client-µs/event")
			b.ReportMetric(per(server.CPUTime(b)-serverBefore), "server-µs/event")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(2*float64(b.N)/float64(batches.Load()), "calls/commit")
		})
	}
}

// life makes events of one endpoint in each of eight parts.
type life struct {
	keyed     bool
	tenant    kapsel.TenantID
	endpoints [8]kapsel.EndpointID
	node      kapsel.NodeID
	body      []byte
	header    kapsel.Header
}

func newLife(keyed bool) *life {
	now := time.Now()
	l := &life{keyed: keyed, tenant: kapsel.NewTenantID(now), node: kapsel.NewNodeID(now)}
	for i := range l.endpoints {
		l.endpoints[i] = kapsel.NewEndpointID(now)
	}
	l.body = bytes.Repeat([]byte("0123456789abcdef"), 64)
	for i := range 8 {
		l.header = append(l.header, kapsel.HeaderField{Name: fmt.Sprintf("X-Header-%d", i), Value: "some value of it"})
	}
	return l
}

func (l *life) acceptance(n int64) store.Acceptance {
	now := time.Now().UTC()
	endpoint := l.endpoints[n%int64(len(l.endpoints))]
	part := kapsel.PartOf(endpoint)
	in := store.Acceptance{
		Window: 24 * time.Hour,
		Event: kapsel.Event{
			ID: kapsel.NewEventID(now, part), TenantID: l.tenant, EndpointID: endpoint, ReceivedAt: now,
			ContentType: "application/json", Header: l.header, Body: l.body, Size: len(l.body),
			Signature: kapsel.SignatureVerdict{Scheme: "none"},
		},
	}
	if l.keyed {
		in.Event.IdempotencyKey = fmt.Appendf(nil, "msg_%026d", n)
	}
	in.Deliveries = []kapsel.Delivery{{
		ID: kapsel.NewDeliveryID(now, part), EventID: in.Event.ID, EndpointID: endpoint, TenantID: l.tenant,
		Status: kapsel.Delivering, Node: l.node, Token: kapsel.NewAttemptID(now, part), Claims: 1,
		Size: len(l.body), CreatedAt: now,
	}}
	return in
}

func (l *life) completion(held kapsel.Delivery) store.Completion {
	now := time.Now().UTC()
	after, err := held.After(kapsel.Answer{Status: 200}, now)
	if err != nil {
		panic(err)
	}
	return store.Completion{
		Delivery: after,
		Attempt: kapsel.Attempt{
			ID: held.Token, DeliveryID: held.ID, EventID: held.EventID, EndpointID: held.EndpointID, TenantID: held.TenantID,
			Number: after.Attempts, StartedAt: now, Duration: time.Millisecond, StatusCode: 200,
			RequestHeaders: l.header, ResponseHeaders: l.header[:3], ResponseBody: l.body[:64],
		},
	}
}

// cpuTime is what this process has used so far.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
