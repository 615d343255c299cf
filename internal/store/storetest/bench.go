package storetest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// BenchmarkStore measures the hot path of a store, with many callers at once, and what the
// claim looks at every second. open gives a new, empty store, and closes it when its
// benchmark ends.
func BenchmarkStore(b *testing.B, open func(b *testing.B) store.Store) {
	const callers = 64 // for each processor
	kib := make([]byte, 1024)
	run := func(name string, f func(b *testing.B, w *world)) {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, open(b))
			b.ReportAllocs()
			f(b, w)
		})
	}
	// parallel calls f from many goroutines until the benchmark has enough.
	parallel := func(b *testing.B, f func() error) {
		b.SetParallelism(callers)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	}

	run("accept", func(b *testing.B, w *world) {
		parallel(b, func() error {
			_, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, body(kib)))
			return err
		})
	})
	run("accept with a key", func(b *testing.B, w *world) {
		var n atomic.Int64
		parallel(b, func() error {
			_, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, body(kib), key(fmt.Sprint(n.Add(1)))))
			return err
		})
	})
	run("accept and complete", func(b *testing.B, w *world) {
		parallel(b, func() error {
			in := w.acceptance(w.endpoint, body(kib), heldBy(w.node))
			if _, err := w.store.Accept(w.ctx, in); err != nil {
				return err
			}
			return w.store.Complete(w.ctx, w.completion(in.Deliveries[0], ok))
		})
	})
	run("claim and complete", func(b *testing.B, w *world) {
		const batch = 100
		w.together(b.N, func(int) error {
			_, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, body(kib)))
			return err
		})
		wants := []store.Want{{EndpointID: w.endpoint.ID, Limit: batch}}
		b.ResetTimer()
		for left := b.N; left > 0; {
			got, _, err := w.store.Claim(w.ctx, w.node, w.now, wants, 4<<20)
			w.must(err)
			if len(got) == 0 {
				b.Fatalf("%d are left, and none is due", left)
			}
			w.together(len(got), func(i int) error { return w.store.Complete(w.ctx, w.completion(got[i].Delivery, ok)) })
			left -= len(got)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	run("backlog of 500 endpoints, 20,000 pending", func(b *testing.B, w *world) {
		var all [500]kapsel.Endpoint
		w.together(len(all), func(i int) error {
			all[i] = w.endpointOf(w.tenant)
			return w.store.CreateEndpoint(w.ctx, all[i], 0)
		})
		w.together(40*len(all), func(i int) error {
			at := w.now.Add(time.Duration(i) * time.Millisecond)
			_, err := w.store.Accept(w.ctx, w.acceptance(all[i%len(all)], due(at)))
			return err
		})
		b.ResetTimer()
		for range b.N {
			got, err := w.store.Backlog(w.ctx)
			w.must(err)
			if len(got) != len(all) {
				b.Fatalf("%d endpoints are waiting", len(got))
			}
		}
	})
	run("settings unchanged", func(b *testing.B, w *world) {
		revision := w.settings(0).Revision
		b.ResetTimer()
		for range b.N {
			w.settings(revision)
		}
	})
}
