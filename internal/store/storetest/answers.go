package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// reservation is the use of a key by an owner, for a day.
func (w *world) reservation(owner kapsel.TenantID, key string) store.Reservation {
	return store.Reservation{
		Owner: owner, Key: key, Request: sha256.Sum256([]byte(key)), Seed: kapsel.NewSecretID(w.now),
		CreatedAt: w.now, ExpiresAt: w.now.Add(24 * time.Hour),
	}
}

// reserve is Reserve, where it must work.
func (w *world) reserve(r store.Reservation) store.Reservation {
	w.t.Helper()
	there, err := w.store.Reserve(w.ctx, r, w.now)
	w.must(err)
	return there
}

// settled is a reservation with an answer.
func (w *world) settled(r store.Reservation, body string, sealed bool) store.Reservation {
	w.t.Helper()
	w.same("reserved", r, w.reserve(r))
	r.Status, r.Made, r.Body, r.Sealed = 201, "ep_01", []byte(body), sealed
	w.must(w.store.Settle(w.ctx, r))
	return r
}

// answering are the promises of Answers.
var answering = []promise{
	{"B-63 a key is reserved once, and its answer comes back until it expires", func(w *world) {
		for i, owner := range []kapsel.TenantID{{}, w.tenant.ID} {
			r := w.reservation(owner, `printable !"'~`)
			w.same("reserved", r, w.reserve(r))
			other := w.reservation(owner, r.Key)
			other.Request = sha256.Sum256([]byte("another"))
			w.same("reserved again", r, w.reserve(other))

			r.Status, r.Made, r.Body, r.Sealed = 201, "ten_01", []byte("{\"a\":\"\x00\xff\"}"), i == 1
			w.must(w.store.Settle(w.ctx, r))
			w.must(w.store.Settle(w.ctx, r))
			w.now = r.ExpiresAt.Add(-time.Microsecond)
			w.same("settled", r, w.reserve(other))

			w.now = r.ExpiresAt
			other = w.reservation(owner, r.Key)
			w.same("expired", other, w.reserve(other))
			w.same("expired, again", other, w.reserve(r))
		}
	}},

	{"B-62 keys of two owners are separate, and are compared byte by byte", func(w *world) {
		for _, owner := range []kapsel.TenantID{{}, w.tenant.ID, w.newTenant().ID} {
			for _, k := range []string{"k", "K", "k ", "%"} {
				r := w.reservation(owner, k)
				w.same(fmt.Sprintf("%q", k), r, w.reserve(r))
			}
		}
	}},

	{"what is settled or forgotten is the row of the seed", func(w *world) {
		r := w.reservation(w.tenant.ID, "k")
		w.same("reserved", r, w.reserve(r))
		for _, other := range []store.Reservation{w.reservation(w.tenant.ID, "k"), w.reservation(kapsel.TenantID{}, "k"), w.reservation(w.tenant.ID, "none")} {
			other.Status = 200
			w.must(w.store.Settle(w.ctx, other))
			w.must(w.store.Forget(w.ctx, other))
		}
		w.same("untouched", r, w.reserve(w.reservation(w.tenant.ID, "k")))
		w.must(w.store.Forget(w.ctx, r))
		w.must(w.store.Forget(w.ctx, r))
		next := w.reservation(w.tenant.ID, "k")
		w.same("after it was forgotten", next, w.reserve(next))
	}},

	{"B-63 one of many simultaneous reservations of a key succeeds, and the others see it", func(w *world) {
		for _, expired := range []bool{false, true} {
			if expired {
				w.pass(48 * time.Hour)
			}
			var mu sync.Mutex
			var seeds [][16]byte
			won := 0
			w.together(8, func(int) error {
				r := w.reservation(w.tenant.ID, "k")
				there, err := w.store.Reserve(w.ctx, r, w.now)
				mu.Lock()
				defer mu.Unlock()
				seeds = append(seeds, there.Seed)
				if there.Seed == r.Seed {
					won++
				}
				return err
			})
			w.same("who reserved", 1, won)
			w.same("rows", 1, len(slices.Compact(seeds)))
		}
	}},

	{"B-63 one of many simultaneous calls resumes a request whose answer is not known", func(w *world) {
		r := w.reservation(w.tenant.ID, "k")
		r.Status, r.Body = 503, []byte("{}")
		w.reserve(r)
		w.pass(time.Second)
		for _, other := range []func(*store.Reservation){
			func(r *store.Reservation) { r.Owner = kapsel.TenantID{} }, func(r *store.Reservation) { r.Key = "K" }, func(r *store.Reservation) { r.Seed = kapsel.NewSecretID(w.now) },
			func(r *store.Reservation) { r.Status = 0 }, func(r *store.Reservation) { r.CreatedAt = w.now },
		} {
			o := r
			other(&o)
			resumed, err := w.store.Resume(w.ctx, o, w.now)
			w.must(err)
			w.same("another row is resumed", false, resumed)
		}
		var won atomic.Int32
		w.together(8, func(int) error {
			resumed, err := w.store.Resume(w.ctx, r, w.now)
			if resumed {
				won.Add(1)
			}
			return err
		})
		w.same("who resumed", int32(1), won.Load())
		r.Status, r.CreatedAt = 0, w.now
		w.same("resumed", r, w.reserve(w.reservation(w.tenant.ID, "k")))
	}},

	{"expired answers are deleted, and secrets no longer kept, up to a limit", func(w *world) {
		for i := range 3 {
			w.settled(w.reservation(w.tenant.ID, fmt.Sprint("old ", i)), "{}", false)
		}
		w.pass(time.Hour)
		var secrets []store.Reservation
		for i := range 2 {
			secrets = append(secrets, w.settled(w.reservation(w.tenant.ID, fmt.Sprint("secret ", i)), "sealed", true))
		}
		plain := w.settled(w.reservation(w.tenant.ID, "plain"), "{}", false)
		changed := func(want ...int) {
			w.t.Helper()
			for _, n := range want {
				got, err := w.store.DeleteExpiredAnswers(w.ctx, w.now, 2)
				w.must(err)
				w.same("changed", n, got)
			}
		}
		w.pass(store.SecretKept - time.Microsecond)
		changed(0)
		w.same("a secret that is kept", secrets[0], w.reserve(secrets[0]))
		w.pass(time.Microsecond)
		changed(2, 0)
		for _, r := range secrets {
			there := w.reserve(r)
			if bytes.Contains(there.Body, []byte("sealed")) || there.Made != r.Made || !there.Sealed || there.Status != r.Status {
				w.t.Errorf("a secret no longer kept: %+v", there)
			}
		}
		w.same("an answer without one", plain, w.reserve(plain))
		w.now = noon.Add(24 * time.Hour)
		changed(2, 1, 0)
		w.same("one that has not expired", plain, w.reserve(plain))
		w.now = plain.ExpiresAt
		changed(2, 1, 0)
	}},
}
