package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/batch"
)

// accepting are the promises of Inbox.
var accepting = []promise{
	{"what was accepted is there when it returns", func(w *world) {
		for _, in := range []store.Acceptance{
			w.accept(w.endpoint),
			w.accept(w.endpoint, heldBy(w.node)),
			w.accept(w.endpoint, key("k"), func(in *store.Acceptance) {
				in.Event.Signature = kapsel.SignatureVerdict{Scheme: "stripe", Valid: true, KeyID: "sec_1", Skew: -3 * time.Second}
				in.Event.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
				in.Event.ReceivedAt = w.now.Add(123456 * time.Microsecond)
			}),
		} {
			got := w.event(in.Event.ID)
			w.same("event", in.Event, got.Event)
			w.same("its deliveries", []kapsel.Delivery{in.Deliveries[0]}, got.Deliveries)
			w.same("the delivery", in.Deliveries[0], w.delivery(in.Deliveries[0].ID))
			if in.Event.IdempotencyKey == nil && got.Event.IdempotencyKey != nil {
				w.t.Errorf("no key came back as the key %q", got.Event.IdempotencyKey)
			}
		}
	}},

	{"B-30 B-33 B-36 bodies of any bytes stay as they are", func(w *world) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		for name, b := range map[string][]byte{
			"every byte": all, "NUL": {0}, "invalid UTF-8": {0xff, 0xfe, 0xc0, 0x80}, "NUL in JSON": []byte(`{"a":"\u0000"}`),
			"huge number": []byte(`1e130000`), "lone surrogate": []byte(`"\ud800"`), "CR LF": []byte("\r\n \r\n"), "backslashes": []byte(`\x27\\'';--`),
		} {
			in := w.accept(w.endpoint, body(b))
			w.same(name, b, w.event(in.Event.ID).Event.Body)
		}
		for _, c := range w.claim(w.endpoint) {
			w.same("claimed", w.event(c.Event.ID).Event, c.Event)
		}
	}},

	{"B-23 B-48 bodies of 0 bytes to 10 MiB are stored", func(w *world) {
		random := rand.NewChaCha8([32]byte{1})
		for _, size := range []int{0, 1, 4095, 4096, batch.LargeBody, batch.LargeBody + 1, batch.Bytes + 1, 10 << 20} {
			b := make([]byte, size)
			random.Read(b)
			in := w.accept(w.endpoint, body(b))
			got := w.event(in.Event.ID).Event
			if !bytes.Equal(b, got.Body) || got.Size != size {
				w.t.Fatalf("a body of %d bytes came back with %d, and as size %d, or with others", size, len(got.Body), got.Size)
			}
		}
	}},

	{"a body of 64 MiB goes in and out", func(w *world) {
		b := make([]byte, 64<<20)
		rand.NewChaCha8([32]byte{2}).Read(b)
		in := w.accept(w.endpoint, body(b))
		if got := w.event(in.Event.ID).Event; !bytes.Equal(b, got.Body) || got.Size != len(b) {
			w.t.Fatalf("it was read as %d bytes, and as size %d, or with others", len(got.Body), got.Size)
		}
		claimed := w.claim(w.endpoint)
		if len(claimed) != 1 || !bytes.Equal(b, claimed[0].Event.Body) {
			w.t.Fatalf("%d deliveries were claimed, or with other bytes", len(claimed))
		}
		w.complete(claimed[0].Delivery, ok)
	}},

	{"B-9 header values keep every byte, lines their order", func(w *world) {
		var high []byte
		for b := 0x80; b <= 0xff; b++ {
			high = append(high, byte(b))
		}
		in := w.accept(w.endpoint, func(in *store.Acceptance) {
			in.Event.ContentType = "text/plain; name=" + string(high)
			in.Event.Query = "q=" + string(high) + "&%00=%ff"
			in.Event.Header = kapsel.Header{
				{Name: "X-High", Value: string(high)}, {Name: "x-b", Value: "2"}, {Name: "X-A", Value: "1"},
				{Name: "X-B", Value: "3"}, {Name: "x-b", Value: ""}, {Name: "X-Tab", Value: "a\tb: c, d"},
			}
		})
		w.same("event", in.Event, w.event(in.Event.ID).Event)
	}},

	{"memory is the caller's again when it returns", func(w *world) {
		in := w.acceptance(w.endpoint, key("mine"), body([]byte("mine too")))
		want := w.acceptance(w.endpoint, key("mine"), body([]byte("mine too")))
		want.Event.ID, want.Deliveries[0] = in.Event.ID, in.Deliveries[0]
		_, err := w.store.Accept(w.ctx, in)
		w.must(err)
		clear(in.Event.Body)
		clear(in.Event.IdempotencyKey)
		clear(in.Event.Header)
		w.same("event", want.Event, w.event(want.Event.ID).Event)
	}},

	{"B-70 a remembered key is a duplicate of the first, whatever its body", func(w *world) {
		first := w.accept(w.endpoint, key("k"), body([]byte("first")))
		w.pass(time.Hour)
		for _, b := range []string{"first", "second"} {
			in := w.acceptance(w.endpoint, key("k"), body([]byte(b)))
			got, err := w.store.Accept(w.ctx, in)
			w.must(err)
			w.same("accepted", store.Accepted{EventID: first.Event.ID, Duplicate: true}, got)
			_, err = w.store.Event(w.ctx, kapsel.TenantID{}, in.Event.ID)
			w.refused(err, kapsel.NotFound, "the duplicate's own event")
		}
		w.same("deliveries", []kapsel.Delivery{first.Deliveries[0]}, w.deliveries(w.endpoint))
	}},

	{"B-65 a key is forgotten at the end of its window, which begins with the first event", func(w *world) {
		first := w.accept(w.endpoint, key("k"))
		w.pass(24*time.Hour - time.Millisecond)
		got, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, key("k"))) // does not slide the window
		w.must(err)
		w.same("just before its end", store.Accepted{EventID: first.Event.ID, Duplicate: true}, got)

		w.pass(2 * time.Millisecond)
		second := w.accept(w.endpoint, key("k"))
		w.pass(24*time.Hour - time.Millisecond)
		got, err = w.store.Accept(w.ctx, w.acceptance(w.endpoint, key("k")))
		w.must(err)
		w.same("in the second's window", store.Accepted{EventID: second.Event.ID, Duplicate: true}, got)
		w.same("the first", first.Event, w.event(first.Event.ID).Event)
	}},

	{"each window is its acceptance's own", func(w *world) {
		w.accept(w.endpoint, key("short"), func(in *store.Acceptance) { in.Window = time.Minute })
		long := w.accept(w.endpoint, key("long"), func(in *store.Acceptance) { in.Window = 30 * 24 * time.Hour })
		w.pass(29 * 24 * time.Hour)
		w.accept(w.endpoint, key("short"))
		got, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, key("long")))
		w.must(err)
		w.same("accepted", store.Accepted{EventID: long.Event.ID, Duplicate: true}, got)
	}},

	{"B-63 of 100 calls with one key one is stored and the others are its duplicates", func(w *world) {
		const calls = 100
		var ins [calls]store.Acceptance
		var got [calls]store.Accepted
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key("k"), body(fmt.Appendf(nil, "body %d", i)))
		}
		w.together(calls, func(i int) (err error) {
			got[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		originals := 0
		for i := range got {
			if !got[i].Duplicate {
				originals++
				w.same("the original's id", ins[i].Event.ID, got[i].EventID)
				w.same("the original", ins[i].Event, w.event(got[i].EventID).Event)
			}
			w.same("everyone's id", got[0].EventID, got[i].EventID)
		}
		if n := len(w.deliveries(w.endpoint)); originals != 1 || n != 1 {
			w.t.Fatalf("%d originals, %d deliveries; want 1 and 1", originals, n)
		}
	}},

	{"of 50 calls with a key whose window is over one is stored, too", func(w *world) {
		w.accept(w.endpoint, key("k"))
		w.accept(w.endpoint, key("other"))
		w.pass(24*time.Hour + time.Millisecond)
		var ins [50]store.Acceptance
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key([]string{"k", "other"}[i%2]))
		}
		var originals [2]atomic.Int64
		w.together(len(ins), func(i int) error {
			got, err := w.store.Accept(w.ctx, ins[i])
			if !got.Duplicate {
				originals[i%2].Add(1)
			}
			return err
		})
		if a, b, n := originals[0].Load(), originals[1].Load(), len(w.deliveries(w.endpoint)); a != 1 || b != 1 || n != 4 {
			w.t.Errorf("%d and %d originals of two keys, and %d deliveries with the two before", a, b, n)
		}
	}},

	{"B-62 one key at two endpoints is two events", func(w *world) {
		for _, e := range []kapsel.Endpoint{w.endpoint, w.newEndpoint(w.tenant), w.newEndpoint(w.newTenant())} {
			w.accept(e, key("k"))
		}
	}},

	{"B-41 keys are compared byte by byte", func(w *world) {
		for _, k := range []string{
			"a", "A", "a ", " a", "a\x00", "a\x00b", "\x00", "\xff", "\xff\xfe", "\u00e9", "e\u0301", "%", "_", "'; DROP TABLE events; --", "\\x61",
			strings.Repeat("k", 255), strings.Repeat("k", 254) + "l", strings.Repeat("\xf0\x9f\x93\xa6", 63),
		} {
			in := w.accept(w.endpoint, key(k))
			w.same("key", []byte(k), w.event(in.Event.ID).Event.IdempotencyKey)
			got, err := w.store.Accept(w.ctx, w.acceptance(w.endpoint, key(k)))
			w.must(err)
			w.same("accepted", store.Accepted{EventID: in.Event.ID, Duplicate: true}, got)
		}
	}},

	{"F-A3 a call that is repeated with the same ids is the original, not its duplicate", func(w *world) {
		for _, in := range []store.Acceptance{
			w.accept(w.endpoint), w.accept(w.endpoint, key("k")), w.accept(w.endpoint, key("held"), heldBy(w.node)),
			w.accept(w.endpoint, guard("g")), w.accept(w.endpoint, key("both"), guard("both")),
		} {
			for range 2 {
				got, err := w.store.Accept(w.ctx, in)
				w.must(err)
				w.same("accepted", store.Accepted{EventID: in.Event.ID}, got)
			}
			w.same("event", store.EventRecord{Event: in.Event, Deliveries: []kapsel.Delivery{in.Deliveries[0]}}, w.event(in.Event.ID))
		}
	}},

	{"the same call again does not set back what became of it", func(w *world) {
		in := w.accept(w.endpoint, key("k"), heldBy(w.node))
		done := w.complete(in.Deliveries[0], ok)
		_, err := w.store.Accept(w.ctx, in)
		w.must(err)
		w.same("delivery", []kapsel.Delivery{done.Delivery}, w.deliveries(w.endpoint))
	}},

	{"a known guard is a duplicate of its event, whatever the key, and leaves the key free", func(w *world) {
		first := w.accept(w.endpoint, key("k"), guard("g"), body([]byte("first")))
		w.pass(25 * time.Hour) // the key is forgotten, the guard is not
		for _, changes := range [][]func(*store.Acceptance){{}, {key("k")}, {key("another")}} {
			w.duplicate(first.Event.ID, w.acceptance(w.endpoint, append(changes, guard("g"))...))
		}
		w.same("deliveries", []kapsel.Delivery{first.Deliveries[0]}, w.deliveries(w.endpoint))
		for _, k := range []string{"k", "another"} {
			w.accept(w.endpoint, key(k), guard("guard of "+k))
		}
	}},

	{"a guard is forgotten when its window, counted from the first, is over", func(w *world) {
		first := w.accept(w.endpoint, guard("g"))
		w.pass(96*time.Hour - time.Millisecond)
		w.duplicate(first.Event.ID, w.acceptance(w.endpoint, guard("g"))) // does not slide the window
		w.pass(2 * time.Millisecond)
		second := w.accept(w.endpoint, guard("g"))
		w.pass(96*time.Hour - time.Millisecond)
		w.duplicate(second.Event.ID, w.acceptance(w.endpoint, guard("g")))
	}},

	{"a duplicate by its key has its guard remembered for the key's event", func(w *world) {
		first := w.accept(w.endpoint, key("k"), guard("signed once"))
		w.duplicate(first.Event.ID, w.acceptance(w.endpoint, key("k"), guard("signed again")))
		w.duplicate(first.Event.ID, w.acceptance(w.endpoint, key("another"), guard("signed again")))
		w.duplicate(first.Event.ID, w.acceptance(w.endpoint, guard("signed once")))
		second := w.accept(w.endpoint, key("no guard"))
		w.duplicate(second.Event.ID, w.acceptance(w.endpoint, key("no guard"), guard("a guard")))
		w.duplicate(second.Event.ID, w.acceptance(w.endpoint, guard("a guard")))
	}},

	{"one guard at two endpoints is two events, and no key", func(w *world) {
		for _, e := range []kapsel.Endpoint{w.endpoint, w.newEndpoint(w.tenant), w.newEndpoint(w.newTenant())} {
			in := w.accept(e, guard("g"))
			w.accept(e, key("g"))
			if got := w.event(in.Event.ID).Event.IdempotencyKey; got != nil {
				w.t.Errorf("a guard became the key %q", got)
			}
		}
	}},

	{"of 100 calls with one guard and keys of their own one is stored", func(w *world) {
		var ins [100]store.Acceptance
		var got [100]store.Accepted
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key(fmt.Sprint(i)), guard("g"))
		}
		w.together(len(ins), func(i int) (err error) {
			got[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		originals := 0
		for i := range got {
			if !got[i].Duplicate {
				originals++
			}
			w.same("everyone's id", got[0].EventID, got[i].EventID)
		}
		w.same("originals", 1, originals)
		w.same("deliveries", 1, len(w.deliveries(w.endpoint)))
		for i := range ins { // the others' keys are free
			if ins[i].Event.ID != got[0].EventID {
				w.accept(w.endpoint, key(fmt.Sprint(i)))
			}
		}
	}},

	{"of calls of one moment a replayed one never takes the key of one that is new", func(w *world) {
		const calls = 60
		first := w.accept(w.endpoint, key("first"), guard("known"))
		var ins [2 * calls]store.Acceptance
		for i := range calls {
			k := key(fmt.Sprint(i))
			ins[2*i] = w.acceptance(w.endpoint, k, guard("known"))
			ins[2*i+1] = w.acceptance(w.endpoint, k, guard(fmt.Sprint(i)))
			if i%3 == 0 {
				ins[2*i+1] = w.acceptance(w.endpoint, k)
			}
		}
		var got [2 * calls]store.Accepted
		w.together(len(ins), func(i int) (err error) {
			got[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		for i := range calls {
			w.same("the replayed", store.Accepted{EventID: first.Event.ID, Duplicate: true}, got[2*i])
			w.same("the new", store.Accepted{EventID: ins[2*i+1].Event.ID}, got[2*i+1])
			w.same("its event", ins[2*i+1].Event, w.event(ins[2*i+1].Event.ID).Event)
		}
		w.same("deliveries", 1+calls, len(w.deliveries(w.endpoint)))
	}},

	{"calls of one moment with shared keys and shared guards agree on their events", func(w *world) {
		var ins [120]store.Acceptance
		var got [120]store.Accepted
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint)
			if i%4 != 0 {
				key(fmt.Sprint("k", i%5))(&ins[i])
			}
			if i%3 != 0 {
				guard(fmt.Sprint("g", i%7))(&ins[i])
			}
		}
		w.together(len(ins), func(i int) (err error) {
			got[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		stored, byGuard := 0, map[string]kapsel.EventID{}
		for i, in := range ins {
			if !got[i].Duplicate {
				stored++
				w.same("the original", store.EventRecord{Event: in.Event, Deliveries: []kapsel.Delivery{in.Deliveries[0]}}, w.event(got[i].EventID))
			}
			w.event(got[i].EventID)
			if in.Guard == nil {
				continue
			}
			if of, known := byGuard[string(in.Guard)]; known && of != got[i].EventID {
				w.t.Errorf("the guard %s stands for %s and %s", in.Guard, of, got[i].EventID)
			}
			byGuard[string(in.Guard)] = got[i].EventID
		}
		w.same("deliveries", stored, len(w.deliveries(w.endpoint)))
		again := got
		w.together(len(ins), func(i int) (err error) {
			again[i], err = w.store.Accept(w.ctx, ins[i])
			return err
		})
		w.same("the same calls again", got, again)
	}},

	{"calls of one moment all get their own answer", func(w *world) {
		const calls = 1500 // more than a group commit holds
		other := w.newEndpoint(w.tenant)
		var ins [calls]store.Acceptance
		for i := range ins {
			e := []kapsel.Endpoint{w.endpoint, other}[i%2]
			ins[i] = w.acceptance(e, body(fmt.Appendf(nil, "body %d", i)))
			if i%3 == 0 {
				key(fmt.Sprint(i))(&ins[i])
			}
		}
		w.together(calls, func(i int) error {
			got, err := w.store.Accept(w.ctx, ins[i])
			if err == nil && got != (store.Accepted{EventID: ins[i].Event.ID}) {
				err = fmt.Errorf("call %d: accepted %+v, want the original %s", i, got, ins[i].Event.ID)
			}
			return err
		})
		for i := range ins {
			w.same("event", store.EventRecord{Event: ins[i].Event, Deliveries: []kapsel.Delivery{ins[i].Deliveries[0]}}, w.event(ins[i].Event.ID))
		}
	}},

	{"a row's own fault fails its own call only", func(w *world) {
		const calls = 60
		var ins [calls]store.Acceptance
		var errs [calls]error
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key(fmt.Sprint(i)))
			if i%10 == 0 { // delivering, but held by no one
				ins[i].Deliveries[0].Status, ins[i].Deliveries[0].DueAt = kapsel.Delivering, time.Time{}
			}
		}
		w.together(calls, func(i int) error {
			accept := func() error { _, err := w.store.Accept(w.ctx, ins[i]); return err }
			if i%10 == 0 {
				errs[i] = accept()
			} else {
				errs[i] = w.patiently(accept)
			}
			return nil
		})
		for i := range ins {
			_, err := w.store.Event(w.ctx, kapsel.TenantID{}, ins[i].Event.ID)
			switch {
			case i%10 != 0 && errs[i] != nil:
				w.t.Errorf("a sound call failed with those that are not: %v", errs[i])
			case errs[i] == nil && err != nil:
				w.t.Errorf("accepted, but not there: %v", err)
			case errs[i] != nil && err == nil:
				w.t.Errorf("refused (%v), but there", errs[i])
			}
		}
	}},

	{"a caller that goes away leaves a whole event or none, and can ask again", func(w *world) {
		const calls = 50
		var ins [calls]store.Acceptance
		for i := range ins {
			ins[i] = w.acceptance(w.endpoint, key(fmt.Sprint(i)), body(bytes.Repeat([]byte{byte(i)}, 1000)))
		}
		var leaving sync.WaitGroup
		w.together(calls, func(i int) error {
			ctx, leave := context.WithCancel(w.ctx)
			leaving.Go(leave)
			in := ins[i]
			in.Event.Body = bytes.Clone(in.Event.Body)
			_, err := w.store.Accept(ctx, in)
			clear(in.Event.Body) // the caller's again
			if err != nil && kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
				return fmt.Errorf("error is %w, want %s", err, kapsel.DatabaseUnavailable)
			}
			if err == nil {
				_, err = w.store.Event(w.ctx, kapsel.TenantID{}, in.Event.ID)
				return err
			}
			return nil
		})
		leaving.Wait()
		for i := range ins {
			got, err := w.store.Accept(w.ctx, ins[i])
			w.must(err)
			w.same("accepted", store.Accepted{EventID: ins[i].Event.ID}, got)
			w.same("event", ins[i].Event, w.event(ins[i].Event.ID).Event)
		}
		if n := len(w.deliveries(w.endpoint)); n != calls {
			w.t.Errorf("%d deliveries, want %d", n, calls)
		}
	}},
}
