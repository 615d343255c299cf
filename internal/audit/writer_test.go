package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/receipt"
)

// world is a store with tenants whose events are attempted.
type world struct {
	testing.TB
	dir      string
	path     string // of the database
	db       *sqlite.Store
	now      time.Time
	node     kapsel.NodeID
	tenants  []kapsel.TenantID
	attempts map[kapsel.TenantID][]kapsel.AttemptID
	marks    *HighWater
	keyring  *secret.Keyring
	over     bool                      // the time of dropped logs is
	gone     map[kapsel.AttemptID]bool // attempts of erased events
}

func newWorld(t testing.TB, tenants int) *world {
	w := worldAt(t, schematest.SQLite(t), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	for range tenants {
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(w.now), Plan: kapsel.DefaultPlan, CreatedAt: w.now, UpdatedAt: w.now}
		w.must(w.db.CreateTenant(t.Context(), tenant))
		w.tenants = append(w.tenants, tenant.ID)
	}
	return w
}

// worldAt returns a world without tenants whose database exists.
func worldAt(t testing.TB, path string, now time.Time) *world {
	w := &world{TB: t, dir: filepath.Dir(path), path: path, now: now, attempts: map[kapsel.TenantID][]kapsel.AttemptID{}}
	w.open()
	var err error
	w.keyring, err = secret.NewKeyring(bytes.Repeat([]byte{7}, secret.KeySize))
	w.must(err)
	w.marks, err = OpenHighWater(filepath.Join(w.dir, "heads"))
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) open() {
	w.Helper()
	db, err := sqlite.Open(w.Context(), w.path, sqlite.Options{Log: slog.New(slog.DiscardHandler)})
	w.must(err)
	w.db = db
	w.Cleanup(func() { db.Close() })
	w.node = kapsel.NewNodeID(w.now)
	w.must(w.db.Join(w.Context(), w.node, w.now, time.Hour))
}

// attempt records n attempts of a tenant.
func (w *world) attempt(tenant kapsel.TenantID, n int) {
	w.Helper()
	ep := kapsel.NewEndpointID(w.now)
	part := kapsel.PartOf(ep)
	for range n {
		e := kapsel.Event{ID: kapsel.NewEventID(w.now, part), TenantID: tenant, EndpointID: ep, ReceivedAt: w.now, Salt: kapsel.NewSalt()}
		d := kapsel.Delivery{
			ID: kapsel.NewDeliveryID(w.now, part), EventID: e.ID, EndpointID: ep, TenantID: tenant, CreatedAt: w.now,
			Status: kapsel.Delivering, Node: w.node, Token: kapsel.NewAttemptID(w.now, part), Claims: 1,
		}
		_, err := w.db.Accept(w.Context(), store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}})
		w.must(err)
		after, err := d.After(kapsel.Answer{Status: 200}, w.now)
		w.must(err)
		a := kapsel.Attempt{ID: d.Token, DeliveryID: d.ID, EventID: e.ID, EndpointID: ep, TenantID: tenant, Number: 1, StartedAt: w.now, StatusCode: 200}
		w.must(w.db.Complete(w.Context(), store.Completion{Attempt: a, Delivery: after}))
		w.attempts[tenant] = append(w.attempts[tenant], a.ID)
	}
}

// writer returns a writer on a node of its own.
func (w *world) writer(db Store) *Writer {
	return NewWriter(Config{
		Store: db, Now: func() time.Time { return w.now }, Node: kapsel.NewNodeID(w.now), HighWater: w.marks, AtOnce: 10,
		Keys: &Keys{Store: db, Seal: w.keyring, FileName: "FILE"}, Log: slog.New(slog.DiscardHandler),
	})
}

// pass lets leases end.
func (w *world) pass() { w.now = w.now.Add(time.Minute) }

// signed ends the test unless each log has each attempt of its tenant as exactly one leaf, a head over
// all of its leaves, and only heads that its key signed and that are consistent.
func (w *world) signed() {
	w.Helper()
	if left, _, err := w.db.Entries(w.Context(), store.EntryKey{}, 1, nil); err != nil || len(left) > 0 {
		w.Fatalf("the outbox has %d entries left: %v", len(left), err)
	}
	for _, tenant := range w.tenants {
		if len(w.attempts[tenant]) > 0 {
			w.signedOf(tenant)
		}
	}
}

func (w *world) signedOf(tenant kapsel.TenantID) {
	w.Helper()
	ctx := w.Context()
	l, err := w.db.LogOf(ctx, tenant)
	w.must(err)
	leaves, err := w.db.Leaves(ctx, l.ID, 0, 1<<20)
	w.must(err)
	count := map[kapsel.AttemptID]int{}
	var hashes []store.Hash
	for i, leaf := range leaves {
		text, _, err := Open(&leaf)
		w.must(err)
		if gone := w.gone[leaf.AttemptID] || leaf.Index < l.TextsFrom; gone != (leaf.Record == nil) || leaf.Index != int64(i) || !gone && leaf.Hash != receipt.LeafHash(text) {
			w.Fatalf("leaf %d has index %d, hash %x and text %s", i, leaf.Index, leaf.Hash, text)
		}
		if leaf.Record != nil {
			if _, err := receipt.ParseLeaf(string(text)); err != nil {
				w.Fatal(err)
			}
		}
		if !leaf.AttemptID.IsZero() {
			count[leaf.AttemptID]++
		}
		hashes = append(hashes, leaf.Hash)
	}
	for _, id := range w.attempts[tenant] {
		if count[id] != 1 {
			w.Fatalf("attempt %s is %d leaves", id, count[id])
		}
	}
	if len(count) != len(w.attempts[tenant]) {
		w.Fatalf("%d attempts are leaves, want %d", len(count), len(w.attempts[tenant]))
	}
	heads, err := w.db.Heads(ctx, l.ID, 0, 1<<20)
	w.must(err)
	keys, err := (&Keys{Store: w.db}).All(ctx)
	w.must(err)
	for _, h := range heads {
		if h.Root != mth(hashes[:h.Size]) {
			w.Fatalf("the head over %d leaves has another root", h.Size)
		}
		signed, err := receipt.OpenCheckpoint(string(h.Note), keysOf(l.ID, keys)...)
		w.must(err)
		if want := fmt.Sprintf("%s\n%d\n%s\n", l.ID.Origin(), h.Size, tlog.Hash(h.Root)); signed.Checkpoint.String() != want {
			w.Fatalf("the head says %q, want %q", signed.Checkpoint, want)
		}
	}
	if len(heads) == 0 || heads[len(heads)-1].Size != int64(len(leaves)) {
		w.Fatalf("%d heads, and the newest is not over all %d leaves", len(heads), len(leaves))
	}
	if mark := w.marks.Marks()[l.ID.String()]; mark.Size != l.Size || store.Hash(mark.Root) != l.Root {
		w.Fatalf("the file remembers %+v of a log of %d leaves", mark, l.Size)
	}
}

// TestWriter checks that attempts of several tenants become leaves under signed heads, also after the
// writer has changed.
func TestWriter(t *testing.T) {
	w := newWorld(t, 3)
	one := w.writer(w.db)
	for round := range 4 {
		for i, tenant := range w.tenants {
			w.attempt(tenant, 7*i+round)
		}
		w.must(one.turn(t.Context()))
		w.signed()
	}
	if size := one.size.Load(); size != 4*(7+14)+3*(1+2+3) {
		t.Errorf("the trees have %d leaves together", size)
	}
	if lag := one.lagSeconds(); lag != 0 {
		t.Errorf("the lag is %v s, of heads that were published at once", lag)
	}
	two := w.writer(w.db)
	w.attempt(w.tenants[0], 300)
	w.must(two.turn(t.Context()))
	if left, _, _ := w.db.Entries(t.Context(), store.EntryKey{}, 1000, nil); len(left) != 300 {
		t.Errorf("a node that does not lead takes entries: %d are left", len(left))
	}
	w.pass()
	w.must(two.turn(t.Context()))
	w.signed()
}

// faulty is a store one of whose writes for the audit log meets a fault.
type faulty struct {
	*sqlite.Store
	calls  int
	failAt int
	fault  func(write func() error) error
}

var errFault = store.Unavailable(errors.New("made up"))

func (f *faulty) do(write func() error) error {
	f.calls++
	if f.calls != f.failAt {
		return write()
	}
	return f.fault(write)
}

// undone and done are faults of writes that fail without, or after, they were done.
func undone(func() error) error { return errFault }

func done(write func() error) error {
	if err := write(); err != nil {
		return err
	}
	return errFault
}

func (f *faulty) TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) (logs []store.Log, err error) {
	err = f.do(func() (err error) { logs, err = f.Store.TakeLogs(ctx, tenants, now); return err })
	return logs, err
}

func (f *faulty) Append(ctx context.Context, grown []store.Growth) (stale []kapsel.LogID, err error) {
	err = f.do(func() (err error) { stale, err = f.Store.Append(ctx, grown); return err })
	return stale, err
}

func (f *faulty) Publish(ctx context.Context, heads []store.SignedHead) (stale []kapsel.LogID, err error) {
	err = f.do(func() (err error) { stale, err = f.Store.Publish(ctx, heads); return err })
	return stale, err
}

func (f *faulty) SetMeta(ctx context.Context, name string, value []byte) (was []byte, err error) {
	err = f.do(func() (err error) { was, err = f.Store.SetMeta(ctx, name, value); return err })
	return was, err
}

func (f *faulty) Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (leads bool, err error) {
	err = f.do(func() (err error) { leads, err = f.Store.Lead(ctx, duty, node, now, lease); return err })
	return leads, err
}

// TestWriter_FH1 checks that after any write of the writer has failed, done or not, the same writer and
// one that takes its place go on with the same trees.
func TestWriter_FH1(t *testing.T) {
	for _, fault := range []func(func() error) error{undone, done} {
		for _, another := range []bool{false, true} {
			for failAt := 1; ; failAt++ {
				w := newWorld(t, 2)
				db := &faulty{Store: w.db, failAt: failAt, fault: fault}
				one := w.writer(db)
				failed := 0
				for range 2 {
					w.attempt(w.tenants[0], 13)
					w.attempt(w.tenants[1], 1)
					if err := one.turn(t.Context()); err != nil {
						failed++
						if another {
							w.pass()
							one = w.writer(db)
						}
					}
				}
				w.must(one.turn(t.Context()))
				w.signed()
				w.must(w.db.Close())
				if failed == 0 {
					if failAt < 8 {
						t.Fatalf("only %d writes", failAt-1)
					}
					break
				}
			}
		}
	}
}

// TestWriter_Killed checks that each attempt becomes exactly one leaf, and that all heads are consistent, when the
// writer's process is killed before, during or after any of its writes and another one goes on: with
// KAPSEL_CHAOS=full 40 times each.
func TestWriter_Killed(t *testing.T) {
	if path := os.Getenv("KAPSEL_TEST_VICTIM"); path != "" {
		turnUntilKilled(t, path)
		return
	}
	times := 1
	if os.Getenv("KAPSEL_CHAOS") == "full" {
		times = 40
	}
	kills := 0
	for _, moment := range []string{"before", "during", "after"} {
		for killAt := 1; ; killAt++ {
			ended := false
			for range times {
				w := newWorld(t, 2)
				w.attempt(w.tenants[0], 13)
				w.must(w.writer(w.db).turn(t.Context()))
				w.attempt(w.tenants[0], 13)
				w.attempt(w.tenants[1], 1)
				w.must(w.db.Close())
				w.pass()
				ended = !w.killed(moment, killAt)
				w.open()
				w.pass()
				w.attempt(w.tenants[1], 2)
				w.must(w.writer(w.db).turn(t.Context()))
				w.signed()
				if found, _ := w.check(); len(found) > 0 {
					t.Fatalf("killed %s write %d: the check finds %v", moment, killAt, found)
				}
				w.must(w.db.Close())
				if ended {
					break
				}
				kills++
			}
			if ended {
				if killAt < 5 {
					t.Fatalf("only %d writes", killAt-1)
				}
				break
			}
		}
	}
	t.Logf("%d processes were killed", kills)
}

// killed lets another process write the audit log, which is killed at one of its writes. It reports false if
// the process has ended before that write.
func (w *world) killed(moment string, killAt int) bool {
	w.Helper()
	program, err := os.Executable()
	w.must(err)
	c := exec.CommandContext(w.Context(), program, "-test.run=^TestWriter_Killed$")
	c.Env = append(os.Environ(), "KAPSEL_TEST_VICTIM="+w.path, "KAPSEL_TEST_MOMENT="+moment,
		"KAPSEL_TEST_KILL_AT="+strconv.Itoa(killAt), "KAPSEL_TEST_NOW="+w.now.Format(time.RFC3339Nano))
	out, err := c.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		w.Fatalf("the process that was to be killed %s write %d: %v\n%s", moment, killAt, err, out)
	}
	return true
}

// turnUntilKilled makes leaves and heads of what the outbox has, and kills its own process at the write that its environment
// names.
func turnUntilKilled(t *testing.T, path string) {
	now, err := time.Parse(time.RFC3339Nano, os.Getenv("KAPSEL_TEST_NOW"))
	if err != nil {
		t.Fatal(err)
	}
	killAt, err := strconv.Atoi(os.Getenv("KAPSEL_TEST_KILL_AT"))
	if err != nil {
		t.Fatal(err)
	}
	kill := func() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
	w := worldAt(t, path, now)
	db := &faulty{Store: w.db, failAt: killAt, fault: func(write func() error) error {
		switch os.Getenv("KAPSEL_TEST_MOMENT") {
		case "during":
			time.AfterFunc(rand.N(2*time.Millisecond), kill) // a write takes about as long
			write()
			select {}
		case "after":
			write()
		}
		kill()
		return nil
	}}
	w.must(w.writer(db).turn(t.Context()))
}

// TestWriter_FA9 checks that a writer that was frozen at any of its writes, and replaced, changes
// nothing when it goes on.
func TestWriter_FA9(t *testing.T) {
	for frozenAt := 1; ; frozenAt++ {
		w := newWorld(t, 2)
		db := &freezing{faulty: &faulty{Store: w.db}, at: frozenAt}
		old := w.writer(db)
		w.attempt(w.tenants[0], 3)
		w.must(old.turn(t.Context()))
		w.attempt(w.tenants[0], 12)
		w.attempt(w.tenants[1], 2)
		db.calls = 0
		db.thaw = func() {
			w.pass()
			next := w.writer(w.db)
			w.attempt(w.tenants[1], 5)
			w.must(next.turn(t.Context()))
			w.signed()
			old.leads = time.Now() // the clock of a frozen process may say that no time has passed
		}
		frozen := old.turn(t.Context())
		w.signed()
		w.pass()
		w.attempt(w.tenants[0], 1)
		last := w.writer(w.db)
		w.must(last.turn(t.Context()))
		w.signed()
		w.must(w.db.Close())
		if db.thaw != nil {
			if frozenAt < 4 {
				t.Fatalf("only %d writes", frozenAt-1)
			}
			break
		}
		_ = frozen // it may have noticed, or have had nothing left to do
	}
}

// TestWriter_FA9_Reads checks that a writer that was frozen at any of its reads, and replaced, changes nothing
// when it goes on: what it then reads is its own log and what the other one has written.
func TestWriter_FA9_Reads(t *testing.T) {
	for frozenAt := 1; ; frozenAt += 1 + frozenAt/8 {
		w := newWorld(t, 1)
		w.attempt(w.tenants[0], 300)
		w.must(w.writer(w.db).turn(t.Context()))
		w.attempt(w.tenants[0], 220) // beyond 512 leaves, so that a tile of tiles grows
		w.pass()
		db := &freezingReads{Store: w.db, left: frozenAt}
		old := w.writer(db)
		db.thaw = func() {
			w.pass()
			w.must(w.writer(w.db).turn(t.Context()))
			w.signed()
			old.leads = time.Now() // the clock of a frozen process may say that no time has passed
		}
		if err := old.turn(t.Context()); err != nil {
			t.Log(frozenAt, err) // it may notice
		}
		l, err := w.db.LogOf(t.Context(), w.tenants[0])
		w.must(err)
		if l.Fault != "" {
			t.Errorf("frozen at read %d: the log is told to contradict itself: %s", frozenAt, l.Fault)
		}
		w.attempt(w.tenants[0], 1)
		w.pass()
		w.must(w.writer(w.db).turn(t.Context()))
		w.signed()
		w.must(w.db.Close())
		if db.thaw != nil {
			if frozenAt < 5 {
				t.Fatalf("only %d reads", frozenAt-1)
			}
			break
		}
	}
}

// freezingReads is a store whose caller is frozen after one read of what a log is.
type freezingReads struct {
	*sqlite.Store
	left int    // reads until then
	thaw func() // what happens meanwhile; nil: it has happened
}

func (f *freezingReads) freeze() {
	if f.left--; f.left == 0 {
		thaw := f.thaw
		f.thaw = nil
		thaw()
	}
}

func (f *freezingReads) Entries(ctx context.Context, after store.EntryKey, limit int, without map[kapsel.TenantID]bool) ([]store.Entry, store.EntryKey, error) {
	entries, next, err := f.Store.Entries(ctx, after, limit, without)
	f.freeze()
	return entries, next, err
}

func (f *freezingReads) TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) ([]store.Log, error) {
	logs, err := f.Store.TakeLogs(ctx, tenants, now)
	f.freeze()
	return logs, err
}

func (f *freezingReads) Head(ctx context.Context, log kapsel.LogID) (store.SignedHead, error) {
	f.freeze()
	return f.Store.Head(ctx, log)
}

func (f *freezingReads) Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error) {
	f.freeze()
	return f.Store.Tile(ctx, log, level, n)
}

func (f *freezingReads) Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error) {
	f.freeze()
	return f.Store.Hashes(ctx, log, n, limit)
}

// freezing is a store whose caller is frozen before one write.
type freezing struct {
	*faulty
	at   int
	thaw func() // what happens meanwhile; nil: it has happened
}

func (f *freezing) freeze() {
	if f.calls++; f.calls == f.at && f.thaw != nil {
		thaw := f.thaw
		f.thaw = nil
		thaw()
	}
}

func (f *freezing) TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) ([]store.Log, error) {
	f.freeze()
	return f.Store.TakeLogs(ctx, tenants, now)
}

func (f *freezing) Append(ctx context.Context, grown []store.Growth) ([]kapsel.LogID, error) {
	f.freeze()
	return f.Store.Append(ctx, grown)
}

func (f *freezing) Publish(ctx context.Context, heads []store.SignedHead) ([]kapsel.LogID, error) {
	f.freeze()
	return f.Store.Publish(ctx, heads)
}

// TestWriter_FB14 checks that nothing is signed of a store that was restored from before what was
// published, that the refusal says what to do, and that a new log begins if that is accepted.
func TestWriter_FB14(t *testing.T) {
	w := newWorld(t, 2)
	one := w.writer(w.db)
	w.attempt(w.tenants[0], 5)
	w.must(one.turn(t.Context()))
	old, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	w.must(w.db.Close())
	backup, err := os.ReadFile(w.path)
	w.must(err)

	w.open()
	w.pass()
	w.attempt(w.tenants[0], 3)
	w.attempt(w.tenants[1], 1)
	one = w.writer(w.db)
	w.must(one.turn(t.Context()))
	w.signed()
	w.must(w.db.Close())
	w.must(os.WriteFile(w.path, backup, 0o600))

	w.open()
	w.pass()
	clear(w.attempts)
	w.attempt(w.tenants[0], 4) // other ones than before
	one = w.writer(w.db)
	w.must(one.turn(t.Context()))
	refused := one.Refused(t.Context())
	if refused == nil || !strings.Contains(refused.Error(), "--accept-rollback") {
		t.Fatalf("a store from before what was published: %v", refused)
	}
	if head, err := w.db.Head(t.Context(), old.ID); err != nil || head.Size != 5 {
		t.Errorf("the head is over %d leaves, %v", head.Size, err)
	}

	w.pass()
	one = w.writer(w.db)
	w.must(one.EndLogs(t.Context()))
	w.must(one.turn(t.Context()))
	w.must(one.Refused(t.Context()))
	w.signed()
	if l, err := w.db.LogOf(t.Context(), w.tenants[0]); err != nil || l.ID == old.ID {
		t.Errorf("the log goes on: %+v, %v", l, err)
	}
	w.pass()
	w.attempt(w.tenants[0], 1)
	one = w.writer(w.db)
	w.must(one.turn(t.Context()))
	w.signed()
}

// replace lets a test change the database's file, as a restore does, under a writer that goes on.
func (w *world) replace(one *Writer, change func(path string)) {
	w.Helper()
	w.must(w.db.Close())
	change(w.path)
	w.open()
	one.cfg.Store, one.cfg.Keys.Store = w.db, w.db
}

// TestWriter_Replaced checks that a writer whose database is replaced by an older one, while it leads,
// signs no head that contradicts those it has published.
func TestWriter_Replaced(t *testing.T) {
	for _, grown := range []int{1, 2, 7} { // fewer leaves than were published, as many, and more
		w := newWorld(t, 1)
		one := w.writer(w.db)
		w.attempt(w.tenants[0], 3)
		w.must(one.turn(t.Context()))
		var backup []byte
		w.replace(one, func(path string) {
			var err error
			backup, err = os.ReadFile(path)
			w.must(err)
		})
		w.attempt(w.tenants[0], 2)
		w.must(one.turn(t.Context()))
		w.signed()
		w.replace(one, func(path string) { w.must(os.WriteFile(path, backup, 0o600)) })
		w.attempt(w.tenants[0], grown)
		for range 3 {
			_ = one.turn(t.Context()) // the first may fail, because the log is not as the writer knows it
			one.tried = time.Time{}
		}
		if err := one.Refused(t.Context()); err == nil || !strings.Contains(err.Error(), "--accept-rollback") {
			t.Errorf("with %d other leaves: %v", grown, err)
		}
		l, err := w.db.LogOf(t.Context(), w.tenants[0])
		w.must(err)
		if head, err := w.db.Head(t.Context(), l.ID); err != nil || head.Size != 3 {
			t.Errorf("with %d other leaves the head is over %d, %v", grown, head.Size, err)
		}
	}
}

// TestHighWater checks that a head is remembered unless it contradicts the one that is remembered.
func TestHighWater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heads")
	marks, err := OpenHighWater(path)
	if err != nil {
		t.Fatal(err)
	}
	log := kapsel.NewLogID()
	for _, c := range []struct {
		size int64
		root store.Hash
		ok   bool
	}{{2, store.Hash{1}, true}, {2, store.Hash{1}, true}, {2, store.Hash{2}, false}, {1, store.Hash{1}, false}, {3, store.Hash{3}, true}} {
		err := marks.Raise([]store.SignedHead{{Log: log, Size: c.size, Root: c.root}})
		var refusal *Refusal
		if c.ok && err != nil || !c.ok && !errors.As(err, &refusal) {
			t.Errorf("%d leaves with the root %x: %v", c.size, c.root, err)
		}
	}
	if marks, err = OpenHighWater(path); err != nil {
		t.Fatal(err)
	}
	if m, ok := marks.Mark(log); !ok || m.Size != 3 || m.Root != (tlog.Hash{3}) {
		t.Errorf("the file remembers %+v, %v", m, ok)
	}
}

// TestWriter_HighWaterReadOnly checks that nothing is signed that cannot be remembered, that the refusal
// says what to do, and that heads are signed once the file can be written.
func TestWriter_HighWaterReadOnly(t *testing.T) {
	w := newWorld(t, 1)
	one := w.writer(w.db)
	w.marks.path = filepath.Join(w.dir, "missing", "heads")
	w.attempt(w.tenants[0], 3)
	for range 2 {
		w.must(one.turn(t.Context()))
		if err := one.Refused(t.Context()); err == nil || !strings.Contains(err.Error(), w.marks.path) || !strings.Contains(err.Error(), "writable") {
			t.Fatalf("a file that cannot be written: %v", err)
		}
		one.rests = time.Time{}
	}
	w.marks.path = filepath.Join(w.dir, "heads")
	w.must(one.turn(t.Context()))
	w.must(one.Refused(t.Context()))
	w.signed()
}

// lasting is a store whose leaves cannot be read while on is set.
type lasting struct {
	*sqlite.Store
	on bool
}

func (l *lasting) Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error) {
	if l.on {
		return nil, store.Lasting("the role may not read the leaves", errors.New("made up"))
	}
	return l.Store.Hashes(ctx, log, n, limit)
}

// TestWriter_Lasting checks that a store that refuses reads for long is not taken for one that was
// changed, neither when leaves are made nor when what was published is compared.
func TestWriter_Lasting(t *testing.T) {
	w := newWorld(t, 1)
	db := &lasting{Store: w.db}
	one := w.writer(db)
	one.cfg.AtOnce = 300
	w.attempt(w.tenants[0], 250)
	w.must(one.turn(t.Context()))
	db.on = true
	w.attempt(w.tenants[0], 10)
	if err := one.turn(t.Context()); !store.Lasts(err) {
		t.Errorf("leaves that cannot be read: %v", err)
	}
	w.pass()
	two := w.writer(db)
	if err := two.turn(t.Context()); !store.Lasts(err) {
		t.Errorf("leaves that cannot be compared: %v", err)
	}
	db.on = false
	w.must(two.turn(t.Context()))
	w.must(two.Refused(t.Context()))
	w.signed()
}

// TestWriter_Changed checks that nothing is signed of a log whose rows were changed, and that other
// logs go on.
func TestWriter_Changed(t *testing.T) {
	w := newWorld(t, 2)
	one := w.writer(w.db)
	w.attempt(w.tenants[0], 300)
	w.attempt(w.tenants[1], 3)
	w.must(one.turn(t.Context()))
	l, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	taken, err := w.db.TakeLogs(t.Context(), []kapsel.TenantID{w.tenants[0]}, w.now)
	w.must(err)
	tile, err := w.db.Tile(t.Context(), l.ID, 1, 0)
	w.must(err)
	tile[0]++
	_, err = w.db.Append(t.Context(), []store.Growth{{
		Log: l.ID, Was: taken[0].State, Size: l.Size, Root: l.Root, Edge: l.Edge, Tiles: []store.Tile{{Level: 1, Hashes: tile}},
	}})
	w.must(err)

	w.pass()
	w.attempt(w.tenants[0], 1)
	w.attempt(w.tenants[1], 1)
	one = w.writer(w.db)
	w.must(one.turn(t.Context()))
	if refused := one.Refused(t.Context()); refused == nil || !strings.Contains(refused.Error(), l.ID.String()) {
		t.Errorf("a log that is not what was published: %v", refused)
	}

	// A node without the file of the heads compares with the head in the store.
	w.pass()
	one = w.writer(w.db)
	one.cfg.HighWater = nil
	w.must(one.turn(t.Context()))
	if got, err := w.db.Log(t.Context(), l.ID); err != nil || got.Fault == "" || got.Size != l.Size {
		t.Errorf("the changed log is %+v, %v", got, err)
	}
	other, err := w.db.LogOf(t.Context(), w.tenants[1])
	w.must(err)
	if head, err := w.db.Head(t.Context(), other.ID); err != nil || head.Size != 4 {
		t.Errorf("the head of the other log is over %d leaves, %v", head.Size, err)
	}
}

// counting is a store that counts what is read of the outbox.
type counting struct {
	*sqlite.Store
	entries int
}

func (c *counting) Entries(ctx context.Context, after store.EntryKey, limit int, without map[kapsel.TenantID]bool) ([]store.Entry, store.EntryKey, error) {
	entries, next, err := c.Store.Entries(ctx, after, limit, without)
	c.entries += len(entries)
	return entries, next, err
}

// TestWriter_Faulty checks that a log with a fault is told once and counted, that its waiting entries are
// not read again, that other logs go on beside it, and that it goes on when the fault is taken back.
func TestWriter_Faulty(t *testing.T) {
	w := newWorld(t, 2)
	w.attempt(w.tenants[0], 1)
	w.must(w.writer(w.db).turn(t.Context()))
	l, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	w.must(w.db.ReplaceFault(t.Context(), l.ID, "", "made up"))

	w.pass()
	var text bytes.Buffer
	db := &counting{Store: w.db}
	one := w.writer(db)
	one.cfg.Log = slog.New(slog.NewTextHandler(&text, nil))
	w.attempt(w.tenants[0], 35)
	for range 3 {
		w.attempt(w.tenants[1], 1)
		one.pause = time.Time{}
		w.must(one.turn(t.Context()))
	}
	if want := 36 + one.cfg.AtOnce + 3; db.entries != want {
		t.Errorf("in three turns %d entries were read, want all to see how long they have waited, a page of those that wait, and the others: %d", db.entries, want)
	}
	if n := strings.Count(text.String(), l.ID.String()); n != 1 || one.faults.Load() != 1 {
		t.Errorf("the log with a fault is told %d times and counted as %d:\n%s", n, one.faults.Load(), &text)
	}
	w.now = w.now.Add(time.Minute)
	if lag := one.lagSeconds(); lag != 60 {
		t.Errorf("the lag is %v s, and attempts wait for 60 s", lag)
	}
	one.pause, one.passed = time.Time{}, time.Time{} // the logs with faults are read again, and what waits is not
	w.must(one.turn(t.Context()))
	w.signedOf(w.tenants[1])
	if lag := one.lagSeconds(); lag != 60 {
		t.Errorf("after another look the lag is %v s, and attempts wait for 60 s", lag)
	}

	w.must(w.db.ReplaceFault(t.Context(), l.ID, "made up", ""))
	one.pause, one.passed = time.Time{}, time.Time{}
	w.must(one.turn(t.Context()))
	w.signed()
	if one.faults.Load() != 0 {
		t.Error("a fault that was taken back is counted")
	}
}

// TestWriter_Unreadable checks that an entry that nobody can read stays in the outbox, is told once and
// found by fsck, and that all other attempts become leaves.
func TestWriter_Unreadable(t *testing.T) {
	w := newWorld(t, 2)
	w.attempt(w.tenants[0], 2)
	bad := w.attempts[w.tenants[0]][0]
	w.change(fmt.Sprintf("UPDATE audit_outbox SET entry = x'03' WHERE id = x'%x'", bad[:]))
	w.attempts[w.tenants[0]] = w.attempts[w.tenants[0]][1:]
	w.attempt(w.tenants[1], 3)
	var text bytes.Buffer
	one := w.writer(w.db)
	one.cfg.Log = slog.New(slog.NewTextHandler(&text, nil))
	for range 2 {
		w.must(one.turn(t.Context()))
		for _, tenant := range w.tenants {
			w.signedOf(tenant)
		}
	}
	if n := strings.Count(text.String(), bad.String()); n != 1 {
		t.Errorf("the entry is told %d times:\n%s", n, &text)
	}
	w.now = w.now.Add(time.Minute)
	if lag := one.lagSeconds(); lag != 60 {
		t.Errorf("the lag is %v s, and an attempt waits for 60 s", lag)
	}
	found, _ := w.check()
	if len(found) != 1 || !strings.Contains(found[0].Text, bad.String()) || found[0].Tree {
		t.Errorf("fsck finds %v", found)
	}
}

// TestWriter_UnreadableGone checks that an entry that could not be read and is gone is not waited for.
func TestWriter_UnreadableGone(t *testing.T) {
	w := newWorld(t, 1)
	w.attempt(w.tenants[0], 1)
	bad := w.attempts[w.tenants[0]][0]
	w.change(fmt.Sprintf("UPDATE audit_outbox SET entry = x'03' WHERE id = x'%x'", bad[:]))
	one := w.writer(w.db)
	w.must(one.turn(t.Context()))
	w.now = w.now.Add(time.Minute)
	if lag := one.lagSeconds(); lag != 60 {
		t.Errorf("the lag is %v s, and an attempt waits for 60 s", lag)
	}
	w.change(fmt.Sprintf("DELETE FROM audit_outbox WHERE id = x'%x'", bad[:]))
	again := w.writer(w.db) // the same, over the store that was opened anew
	again.unread = one.unread
	again.oldest.Store(one.oldest.Load())
	w.pass()      // the lease of the other
	for range 2 { // the first still shows how long it has waited
		w.must(again.turn(t.Context()))
	}
	if lag := again.lagSeconds(); lag != 0 {
		t.Errorf("the lag is %v s, and no entry waits", lag)
	}
}

// slow is a store in which it takes long to read a log, and another node waits for the lease.
type slow struct {
	*sqlite.Store
	world  *world
	writer *Writer
	other  kapsel.NodeID
	stolen bool
}

func (s *slow) Log(ctx context.Context, id kapsel.LogID) (store.Log, error) {
	took := 2 * leadFor / 3
	s.world.now, s.writer.leads = s.world.now.Add(took), s.writer.leads.Add(-took)
	leads, err := s.Store.Lead(ctx, "audit", s.other, s.world.now, leadFor)
	if s.stolen = s.stolen || leads; err != nil {
		return store.Log{}, err
	}
	return s.Store.Log(ctx, id)
}

// TestWriter_LongCheck checks that a node keeps the lease while it compares the logs, however long that takes.
func TestWriter_LongCheck(t *testing.T) {
	w := newWorld(t, 5)
	for _, tenant := range w.tenants {
		w.attempt(tenant, 1)
	}
	w.must(w.writer(w.db).turn(t.Context()))
	w.pass()
	db := &slow{Store: w.db, world: w, other: kapsel.NewNodeID(w.now)}
	db.writer = w.writer(db)
	w.attempt(w.tenants[0], 1)
	w.must(db.writer.turn(t.Context()))
	if db.stolen {
		t.Error("the lease ended during the check")
	}
	w.signed()
}

// TestWriter_RefusedLag checks that attempts which wait since a refusal at the start are seen in the lag.
func TestWriter_RefusedLag(t *testing.T) {
	w := newWorld(t, 1)
	w.attempt(w.tenants[0], 3)
	w.must(w.writer(w.db).turn(t.Context()))
	l, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	w.must(w.marks.Raise([]store.SignedHead{{Log: l.ID, Size: 50, Root: store.Hash{1}}}))
	w.pass()
	one := w.writer(w.db)
	w.must(one.turn(t.Context()))
	if one.Refused(t.Context()) == nil || one.lagSeconds() != 0 {
		t.Errorf("refused: %v, and the lag is %v s with nothing that waits", one.Refused(t.Context()), one.lagSeconds())
	}
	w.attempt(w.tenants[0], 3)
	w.must(one.turn(t.Context()))
	w.now = w.now.Add(time.Hour)
	w.must(one.turn(t.Context()))
	if lag := one.lagSeconds(); lag != 3600 {
		t.Errorf("attempts wait for an hour, and the lag is %v s", lag)
	}
}

// TestWriter_IsLeaf checks that an entry whose attempt is a leaf already stops no log, is told once and found by
// fsck.
func TestWriter_IsLeaf(t *testing.T) {
	w := newWorld(t, 2)
	w.attempt(w.tenants[0], 1)
	w.attempt(w.tenants[1], 1)
	bad := w.attempts[w.tenants[0]][0]
	w.change(`CREATE TABLE aside AS SELECT id, entry FROM audit_outbox`)
	w.must(w.writer(w.db).turn(t.Context()))
	w.change(fmt.Sprintf(`INSERT INTO audit_outbox (id, entry) SELECT id, entry FROM aside WHERE id = x'%x'`, bad[:]))
	w.pass()
	var text bytes.Buffer
	one := w.writer(w.db)
	one.cfg.Log = slog.New(slog.NewTextHandler(&text, nil))
	for range 3 {
		w.attempt(w.tenants[0], 2)
		w.attempt(w.tenants[1], 2)
		w.must(one.turn(t.Context()))
		w.must(one.Refused(t.Context()))
		for _, tenant := range w.tenants {
			w.signedOf(tenant)
		}
	}
	if n := strings.Count(text.String(), bad.String()); n != 1 || one.faults.Load() != 0 {
		t.Errorf("the entry is told %d times, with %d faults:\n%s", n, one.faults.Load(), &text)
	}
	found, _ := w.check()
	if len(found) != 1 || !strings.Contains(found[0].Text, bad.String()) || found[0].Tree {
		t.Errorf("fsck finds %v", found)
	}
}

// TestWriter_NoTenant checks that an entry that names a tenant which does not exist stops no log and becomes no
// leaf, is told once and found by fsck.
func TestWriter_NoTenant(t *testing.T) {
	w := newWorld(t, 2)
	w.attempt(w.tenants[0], 1)
	bad := w.attempts[w.tenants[0]][0]
	w.change(fmt.Sprintf(`UPDATE audit_outbox SET entry = CAST(substr(entry, 1, length(entry) - 16) || x'000102030405060708090a0b0c0d0e0f' AS BLOB) WHERE id = x'%x'`, bad[:]))
	w.attempts[w.tenants[0]] = nil
	var text bytes.Buffer
	one := w.writer(w.db)
	one.cfg.Log = slog.New(slog.NewTextHandler(&text, nil))
	for range 2 {
		w.attempt(w.tenants[0], 2)
		w.attempt(w.tenants[1], 2)
		w.must(one.turn(t.Context()))
		for _, tenant := range w.tenants {
			w.signedOf(tenant)
		}
	}
	if n := strings.Count(text.String(), bad.String()); n != 1 {
		t.Errorf("the entry is told %d times:\n%s", n, &text)
	}
	found, _ := w.check()
	if len(found) != 1 || !strings.Contains(found[0].Text, bad.String()) {
		t.Errorf("fsck finds %v", found)
	}
}

// TestHighWater_Shared checks that nodes which share the file keep each other's marks.
func TestHighWater_Shared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heads")
	one, err := OpenHighWater(path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenHighWater(path)
	if err != nil {
		t.Fatal(err)
	}
	first, second := kapsel.NewLogID(), kapsel.NewLogID()
	if err := errors.Join(one.Raise([]store.SignedHead{{Log: first, Size: 100}}), two.Raise([]store.SignedHead{{Log: second, Size: 5}})); err != nil {
		t.Fatal(err)
	}
	if err := two.Raise([]store.SignedHead{{Log: first, Size: 50}}); err == nil {
		t.Error("a head is remembered that is smaller than another node's")
	}
	if err := one.Read(); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*HighWater{one, two} {
		a, _ := h.Mark(first)
		b, _ := h.Mark(second)
		if a.Size != 100 || b.Size != 5 {
			t.Errorf("the marks are %+v", h.Marks())
		}
	}
}

// TestHighWater_Broken checks that a file that holds no heads is refused, and not overwritten.
func TestHighWater_Broken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "heads")
	h, err := OpenHighWater(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "null", "[]", `{"log":{"size":-1}}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenHighWater(path); err == nil {
			t.Errorf("%q is read", text)
		}
		var refusal *Refusal
		if err := h.Raise([]store.SignedHead{{Log: kapsel.NewLogID(), Size: 1}}); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "restore the file") {
			t.Errorf("over %q: %v", text, err)
		}
	}
}

// TestKeys checks who may sign, that a rotation is a leaf, and that former keys stay listed.
func TestKeys(t *testing.T) {
	w := newWorld(t, 1)
	one := w.writer(w.db)
	w.attempt(w.tenants[0], 2)
	w.must(one.turn(t.Context()))
	w.signed()

	// A node whose file has another key must not sign; nor may one with another encryption key.
	_, other, err := ed25519.GenerateKey(nil)
	w.must(err)
	w.attempt(w.tenants[0], 1)
	strange, err := secret.NewKeyring(bytes.Repeat([]byte{8}, secret.KeySize))
	w.must(err)
	for _, keys := range []*Keys{{Store: w.db, Seal: w.keyring, File: other, FileName: "FILE"}, {Store: w.db, Seal: strange, FileName: "FILE"}} {
		w.pass()
		two := w.writer(w.db)
		two.cfg.Keys = keys
		w.must(two.turn(t.Context()))
		if err := two.Refused(t.Context()); err == nil || kapsel.CodeOf(err) != kapsel.DatabaseUnavailable {
			t.Errorf("a node with another key: %v", err)
		}
	}

	w.pass()
	keys := &Keys{Store: w.db, Seal: w.keyring, File: other, FileName: "FILE"}
	if _, err := keys.Rotate(t.Context(), w.now); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Rotate(t.Context(), w.now); err == nil {
		t.Error("a key follows itself")
	}
	one = w.writer(w.db)
	one.cfg.Keys = keys
	w.must(one.turn(t.Context()))
	w.must(one.Refused(t.Context()))
	w.signed()
	all, err := keys.All(t.Context())
	if err != nil || len(all) != 2 || !all[0].RetiredAt.Equal(w.now) || all[0].Sealed != nil || !all[1].RetiredAt.IsZero() {
		t.Errorf("keys are %+v, %v", all, err)
	}
	l, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	leaves, err := w.db.Leaves(t.Context(), l.ID, 3, 10)
	w.must(err)
	if len(leaves) != 1 || !leaves[0].AttemptID.IsZero() || !strings.Contains(string(leaves[0].Record), fmt.Sprintf(`"public_key":"%x","former_key":"%x"`, all[1].Public, all[0].Public)) {
		t.Errorf("leaves after the attempts: %+v", leaves)
	}
	if _, err := (&Keys{Store: w.db, Seal: w.keyring, FileName: "FILE"}).Current(t.Context(), w.now); err == nil || !strings.Contains(err.Error(), "FILE") {
		t.Errorf("a node without the file: %v", err)
	}
}

// TestKeys_LeaseGivenBack checks that a node with a wrong key does not keep the lease from one with the
// right key, and that it signs once it has the right key.
func TestKeys_LeaseGivenBack(t *testing.T) {
	w := newWorld(t, 1)
	w.attempt(w.tenants[0], 1)
	w.must(w.writer(w.db).turn(t.Context()))
	_, other, err := ed25519.GenerateKey(nil)
	w.must(err)
	w.pass()
	bad := w.writer(w.db)
	bad.cfg.Keys = &Keys{Store: w.db, Seal: w.keyring, File: other, FileName: "FILE"}
	w.must(bad.turn(t.Context()))
	w.pass()
	bad.leads = time.Now().Add(-leadFor) // so that it renews the lease, if it may
	w.must(bad.turn(t.Context()))
	if bad.Refused(t.Context()) == nil {
		t.Error("a node with another key is not refused while it rests")
	}
	w.attempt(w.tenants[0], 1)
	good := w.writer(w.db)
	w.must(good.turn(t.Context()))
	w.signed()
	bad.rests = time.Time{}
	w.must(bad.turn(t.Context()))
	w.must(bad.Refused(t.Context())) // the other node signs
	w.pass()
	bad.cfg.Keys = good.cfg.Keys
	w.attempt(w.tenants[0], 1)
	w.must(bad.turn(t.Context()))
	w.signed()
}

// TestKeys_Announced checks that a key is announced by one leaf, however often the head over that leaf
// cannot be published, and although attempts become leaves meanwhile.
func TestKeys_Announced(t *testing.T) {
	w := newWorld(t, 1)
	one := w.writer(w.db)
	w.attempt(w.tenants[0], 2)
	w.must(one.turn(t.Context()))
	keys := &Keys{Store: w.db, Seal: w.keyring, FileName: "FILE"}
	_, err := keys.Rotate(t.Context(), w.now)
	w.must(err)
	w.marks.path = filepath.Join(w.dir, "missing", "heads")
	for range 3 {
		w.attempt(w.tenants[0], 1)
		w.pass()
		one = w.writer(w.db)
		w.must(one.turn(t.Context()))
	}
	_, err = keys.Rotate(t.Context(), w.now)
	w.must(err)
	w.marks.path = filepath.Join(w.dir, "heads")
	w.pass()
	w.must(w.writer(w.db).turn(t.Context()))
	w.signed()
	l, err := w.db.LogOf(t.Context(), w.tenants[0])
	w.must(err)
	if l.Size != 2+3+2 {
		t.Errorf("of 5 attempts and 2 new keys there are %d leaves", l.Size)
	}
}

// TestKeys_Reseal checks that a sealed key can be opened with the new key of the instance alone.
func TestKeys_Reseal(t *testing.T) {
	w := newWorld(t, 0)
	before, err := (&Keys{Store: w.db, Seal: w.keyring}).Current(t.Context(), w.now)
	w.must(err)
	both, err := secret.NewKeyring(bytes.Repeat([]byte{9}, secret.KeySize), bytes.Repeat([]byte{7}, secret.KeySize))
	w.must(err)
	w.must((&Keys{Store: w.db, Seal: both}).Reseal(t.Context()))
	alone, err := secret.NewKeyring(bytes.Repeat([]byte{9}, secret.KeySize))
	w.must(err)
	after, err := (&Keys{Store: w.db, Seal: alone}).Current(t.Context(), w.now)
	if err != nil || !after.Equal(before) {
		t.Errorf("another key, or %v", err)
	}
}
