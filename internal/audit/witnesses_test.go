package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/witness"
	"github.com/kapsel-hq/kapsel/receipt"
)

// far is a witness that the test can break.
type far struct {
	*witness.Witness
	client *witness.Client
	away   atomic.Bool
	answer atomic.Pointer[http.Handler] // instead of the witness's own
	asked  atomic.Int64
}

// witnessOf returns a witness that knows the logs of a key.
func (w *world) witnessOf(name string, logKey ed25519.PublicKey) *far {
	w.Helper()
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat(name[:1], ed25519.SeedSize)))
	open, err := witness.Open(w.Context(), witness.Config{
		Name: name, Key: key, Dir: w.TempDir(), Fresh: true, Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
		Logs: []witness.Log{{Keys: []receipt.Key{{Public: logKey}}}},
	})
	w.must(err)
	w.Cleanup(open.Close)
	f := &far{Witness: open}
	f.client = &witness.Client{URL: "http://" + name, Key: open.Key(), Do: func(r *http.Request) (*http.Response, error) {
		f.asked.Add(1)
		if f.away.Load() {
			return nil, errors.New("connection refused")
		}
		answer, h := httptest.NewRecorder(), open.Handler()
		if other := f.answer.Load(); other != nil {
			h = *other
		}
		h.ServeHTTP(answer, r)
		return answer.Result(), nil
	}}
	return f
}

// witnessed returns a writer whose heads the witnesses are asked to sign. Its rounds run in the test.
func (w *world) witnessed(wanted int, all ...*far) *Writer {
	w.Helper()
	cfg := WitnessesConfig{
		Store: w.db, Keys: &Keys{Store: w.db}, Wanted: func(kapsel.TenantID) int { return wanted },
		Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range all {
		cfg.Clients = append(cfg.Clients, f.client)
	}
	writer := w.writer(w.db)
	writer.cfg.Witnesses = NewWitnesses(cfg)
	ctx, stop := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() { // what begins a writer waits for; the rounds by the clock are left to the test
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case asked := <-writer.cfg.Witnesses.wake:
				if err := writer.cfg.Witnesses.round(ctx); err != nil && ctx.Err() == nil {
					w.Error(err)
				}
				close(asked)
			}
		}
	}()
	w.Cleanup(func() { stop(); <-done })
	return writer
}

// head returns the size of a tenant's newest head, and of the newest that enough witnesses have signed, with
// the number of witnesses.
func (w *world) sizes(all ...*far) (head, witnessed int64, by int) {
	w.Helper()
	l, err := w.db.LogOf(w.Context(), w.tenants[0])
	w.must(err)
	h, err := w.db.Head(w.Context(), l.ID)
	w.must(err)
	row, err := w.db.Witnessed(w.Context(), l.ID)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return h.Size, 0, 0
	}
	w.must(err)
	if row.Size > 0 {
		keys, err := (&Keys{Store: w.db}).All(w.Context())
		w.must(err)
		known := []receipt.Key{{Public: keys[0].Public}}
		for _, f := range all {
			known = append(known, f.Key())
		}
		s, err := receipt.OpenCheckpoint(string(row.Note), known...)
		w.must(err)
		if s.Size != row.Size || receipt.Hash(row.Root) != s.Root {
			w.Errorf("the row is of %d leaves, and its note of %d", row.Size, s.Size)
		}
		by = s.Witnesses()
	}
	return h.Size, row.Size, by
}

// logKey makes the key of the logs.
func (w *world) logKey() ed25519.PublicKey {
	w.Helper()
	key, err := (&Keys{Store: w.db, Seal: w.keyring}).Current(w.Context(), w.now)
	w.must(err)
	return key.Public().(ed25519.PublicKey)
}

// TestWitnesses checks that heads are published whatever the witnesses do, and are shown as witnessed when
// enough have signed.
func TestWitnesses(t *testing.T) {
	w := newWorld(t, 1)
	key := w.logKey()
	one, two, three := w.witnessOf("one.example", key), w.witnessOf("two.example", key), w.witnessOf("six.example", key)
	all := []*far{one, two, three}
	writer := w.witnessed(2, all...)
	ctx := t.Context()
	step := func(what string, wantHead, wantWitnessed int64, wantBy int) {
		t.Helper()
		w.attempt(w.tenants[0], 3)
		w.must(writer.turn(ctx))
		w.must(writer.cfg.Witnesses.round(ctx))
		if head, witnessed, by := w.sizes(all...); head != wantHead || witnessed != wantWitnessed || by != wantBy {
			t.Errorf("%s: a head of %d leaves, witnessed %d by %d; want %d, %d, %d", what, head, witnessed, by, wantHead, wantWitnessed, wantBy)
		}
	}
	step("at first", 3, 3, 3)
	one.away.Store(true)
	step("with one away", 6, 6, 2)
	two.away.Store(true)
	step("with two away", 9, 6, 2)
	no := http.Handler(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", http.StatusForbidden) }))
	two.away.Store(false)
	two.answer.Store(&no)
	step("with one that refuses", 12, 6, 2)
	two.answer.Store(nil)
	step("with two again", 15, 15, 2)
	one.away.Store(false)
	step("with all again", 18, 18, 3)

	l, err := w.db.LogOf(ctx, w.tenants[0])
	w.must(err)
	row, err := w.db.Witnessed(ctx, l.ID)
	w.must(err)
	states, err := ReadWitnessStates(&row)
	if err != nil || len(states) != 3 || slices.ContainsFunc(states, func(s WitnessState) bool { return s.Size != 18 || s.Error != "" || s.At.IsZero() }) {
		t.Errorf("the states are %+v, %v", states, err)
	}
	asked := one.asked.Load()
	w.must(writer.cfg.Witnesses.round(ctx))
	if again := one.asked.Load(); again != asked {
		t.Errorf("a witness that has signed was asked %d times more", again-asked)
	}
	// The next writer asks what they remember, and goes on from there.
	w.pass()
	next := w.witnessed(2, all...)
	w.attempt(w.tenants[0], 1)
	w.must(next.turn(ctx))
	w.must(next.cfg.Witnesses.round(ctx))
	if head, witnessed, by := w.sizes(all...); head != 19 || witnessed != 19 || by != 3 {
		t.Errorf("the next writer: a head of %d leaves, witnessed %d by %d", head, witnessed, by)
	}
	w.signed()
	for _, f := range all {
		if alarms := f.Alarms(); len(alarms) > 0 {
			t.Errorf("%s has the alarms %v", f.Key().Name, alarms)
		}
	}
}

// TestWitnesses_NoneWanted checks that witnesses are not told of logs that want none.
func TestWitnesses_NoneWanted(t *testing.T) {
	w := newWorld(t, 1)
	one := w.witnessOf("one.example", w.logKey())
	writer := w.witnessed(0, one)
	w.attempt(w.tenants[0], 3)
	w.must(writer.turn(t.Context()))
	w.must(writer.cfg.Witnesses.round(t.Context()))
	if n := one.asked.Load(); n != 0 {
		t.Errorf("the witness was asked %d times", n)
	}
}

// TestWitnesses_Rollback checks that nothing is signed of a database that lacks what a witness has signed, with
// no file of heads to tell, and that the refusal ends with its reason.
func TestWitnesses_Rollback(t *testing.T) {
	for name, c := range map[string]struct {
		later int    // attempts after the restore
		want  string // of the refusal
	}{
		"fewer leaves":          {0, "remembers a head of 6 leaves"},
		"fewer leaves, growing": {1, "remembers a head of 6 leaves"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.marks = nil
			one := w.witnessOf("one.example", w.logKey())
			writer := w.witnessed(1, one)
			ctx := t.Context()
			w.attempt(w.tenants[0], 3)
			w.must(writer.turn(ctx))
			backup := w.dir + "/backup"
			w.must(w.db.Backup(ctx, backup))
			w.attempt(w.tenants[0], 3)
			w.must(writer.turn(ctx))
			w.must(writer.cfg.Witnesses.round(ctx))
			if head, witnessed, _ := w.sizes(one); head != 6 || witnessed != 6 {
				t.Fatalf("a head of %d leaves, witnessed %d", head, witnessed)
			}
			w.restore(backup)
			w.pass()
			w.attempt(w.tenants[0], c.later)
			after := w.witnessed(1, one)
			for range 2 {
				w.must(after.turn(ctx))
			}
			err := after.Refused(ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--accept-rollback") || !strings.Contains(err.Error(), "KAPSEL_AUDIT_WITNESSES") {
				t.Errorf("the refusal is %v", err)
			}
			if head, _, _ := w.sizes(one); head != 3 {
				t.Errorf("a head of %d leaves was signed", head)
			}
			// New logs begin. The witness remembers nothing of them.
			w.must(w.writer(w.db).EndLogs(ctx))
			w.attempt(w.tenants[0], 2)
			w.pass()
			fresh := w.witnessed(1, one)
			w.must(fresh.turn(ctx))
			w.must(fresh.turn(ctx))
			w.must(fresh.cfg.Witnesses.round(ctx))
			if err := fresh.Refused(ctx); err != nil {
				t.Errorf("after the logs were ended: %v", err)
			}
			if head, witnessed, _ := w.sizes(one); head != int64(2+c.later) || witnessed != head {
				t.Errorf("after the logs were ended: a head of %d leaves, witnessed %d", head, witnessed)
			}
		})
	}
}

// TestWitnesses_Fork checks that a head that contradicts a witness's is the last one, when the writer could not
// ask the witness before.
func TestWitnesses_Fork(t *testing.T) {
	w := newWorld(t, 1)
	w.marks = nil
	one := w.witnessOf("one.example", w.logKey())
	writer := w.witnessed(1, one)
	ctx := t.Context()
	w.attempt(w.tenants[0], 3)
	w.must(writer.turn(ctx))
	backup := w.dir + "/backup"
	w.must(w.db.Backup(ctx, backup))
	w.attempt(w.tenants[0], 3)
	w.must(writer.turn(ctx))
	w.must(writer.cfg.Witnesses.round(ctx))
	w.restore(backup)
	w.pass()
	one.away.Store(true)
	w.attempt(w.tenants[0], 5) // others than before
	after := w.witnessed(1, one)
	w.must(after.turn(ctx))
	if head, _, _ := w.sizes(one); head != 8 {
		t.Fatalf("a witness that is away keeps heads from being published: %d leaves", head)
	}
	one.away.Store(false)
	w.must(after.cfg.Witnesses.round(ctx))
	w.attempt(w.tenants[0], 1)
	w.must(after.turn(ctx))
	if err := after.Refused(ctx); err == nil || !strings.Contains(err.Error(), "does not fit the 8 leaves") {
		t.Errorf("the refusal is %v", err)
	}
	if head, _, _ := w.sizes(one); head != 8 {
		t.Errorf("a head of %d leaves was signed", head)
	}
	if alarms := one.Alarms(); len(alarms) != 1 || alarms[0].Kind != witness.Forked {
		t.Errorf("the witness has the alarms %v", alarms)
	}
}

// restore replaces the database by a backup.
func (w *world) restore(backup string) {
	w.Helper()
	w.must(w.db.Close())
	w.dir = backup + ".d"
	w.must(os.Mkdir(w.dir, 0o700))
	w.must(os.Rename(backup, w.path))
	w.open()
}

// TestWitnesses_Slow checks that what a witness has signed is kept while another one does not answer.
func TestWitnesses_Slow(t *testing.T) {
	w := newWorld(t, 1)
	key := w.logKey()
	good, slow := w.witnessOf("good.example", key), w.witnessOf("slow.example", key)
	writer := w.witnessed(1, good, slow)
	w.attempt(w.tenants[0], 3)
	w.must(writer.turn(t.Context()))
	goOn := make(chan struct{})
	h := http.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-goOn }))
	slow.answer.Store(&h)
	done := make(chan error, 1)
	go func() { done <- writer.cfg.Witnesses.round(t.Context()) }()
	kept := int64(0)
	for began := time.Now(); kept == 0 && time.Since(began) < 30*time.Second; time.Sleep(5 * time.Millisecond) {
		_, kept, _ = w.sizes(good)
	}
	close(goOn)
	w.must(<-done)
	if kept != 3 {
		t.Errorf("a head of %d leaves is kept as witnessed while the other witness does not answer, want 3", kept)
	}
}
