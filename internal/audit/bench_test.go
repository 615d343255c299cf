package audit

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// leavesOfBench is how many leaves the log of the benchmarks has.
const leavesOfBench = 1_000_000

// BenchmarkLog measures a log of a million leaves: how long its making takes for a leaf, a writer needs to
// begin, fsck needs, and the proof of an attempt takes.
func BenchmarkLog(b *testing.B) {
	w := newWorld(b, 1)
	w.attempt(w.tenants[0], 1) // the others are made up from this one
	one := w.writer(w.db)
	entries, _, err := w.db.Entries(b.Context(), store.EntryKey{}, 1, nil)
	w.must(err)
	w.must(one.turn(b.Context()))
	h := one.held[w.tenants[0]]
	part := kapsel.PartOf(kapsel.NewEndpointID(w.now))
	ids := make([]kapsel.AttemptID, 0, leavesOfBench)
	begin := time.Now()
	for h.Size < leavesOfBench {
		g := growing{holding: h}
		for range min(1000, leavesOfBench-h.Size) {
			at := w.now.Add(time.Duration(len(ids)) * time.Millisecond) // IDs are in the order of their times
			r, err := store.ReadRecord(kapsel.NewAttemptID(at, part), entries[0].Record)
			w.must(err)
			one.text = r.Leaf().Append(one.text[:0])
			g.Leaves = append(g.Leaves, store.Leaf{Index: h.Size + int64(len(g.Leaves)), AttemptID: r.AttemptID, Hash: receipt.LeafHash(one.text), Record: entries[0].Record})
			ids = append(ids, r.AttemptID)
		}
		w.must(one.append(b.Context(), []growing{g}))
	}
	b.Logf("%v a leaf", time.Since(begin)/leavesOfBench)
	w.must(one.turn(b.Context()))
	w.must(w.db.Close())
	w.open()
	w.pass()

	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			w.pass()
			w.must(w.writer(w.db).turn(b.Context()))
		}
	})
	b.Run("proof", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			begin := time.Now()
			log, leaf, err := w.db.LeafOf(b.Context(), w.tenants[0], ids[rand.N(len(ids))])
			w.must(err)
			head, err := w.db.Head(b.Context(), log.ID)
			w.must(err)
			if _, _, err = Open(&leaf); err != nil {
				b.Fatal(err)
			}
			if _, err = (Tree{log.ID, w.db}).Inclusion(b.Context(), leaf.Index, head.Size); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	})
	b.Run("fsck", func(b *testing.B) {
		for b.Loop() {
			c := &Checker{Store: w.db, Keys: &Keys{Store: w.db}, Found: func(f Finding) { b.Fatal(f) }, Kept: func(kapsel.TenantID, time.Time) bool { return false }}
			checked, err := c.Check(b.Context())
			if w.must(err); checked.Leaves != leavesOfBench {
				b.Fatalf("%+v", checked)
			}
		}
	})
}
