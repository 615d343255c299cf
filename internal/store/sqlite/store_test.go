package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := openTest(t)
		t.Cleanup(func() { checkPlans(t, s) })
		t.Cleanup(func() { checkRuns(t, s) })
		return s
	})
}

// checkRuns checks that every run of a statement was ended. One that was not keeps the memory of all parameters
// that its connection binds from then on.
func checkRuns(t *testing.T, s *Store) {
	t.Helper()
	for range readers {
		select {
		case c := <-s.readers:
			if c.runs != 0 {
				t.Errorf("a connection for reads has %d runs of statements that were not ended", c.runs)
			}
			s.readers <- c
		default: // the test has closed the store
		}
	}
	if s.writer.c != nil && s.writer.c.runs != 0 {
		t.Errorf("the writer has %d runs of statements that were not ended", s.writer.c.runs)
	}
}

// TestErase_S28 checks that the bytes of an erased event are nowhere in the files of a database that was closed.
func TestErase_S28(t *testing.T) {
	path := newFile(t)
	s := openAt(t, path)
	now := time.Now().UTC()
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	if err := s.CreateTenant(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	needle := "what is to be forgotten"
	var events []kapsel.EventID
	for _, size := range []int{100, 100_000, 1_000} { // in a page, and in pages of its own
		part := kapsel.PartOf(tenant.ID)
		e := kapsel.Event{
			ID: kapsel.NewEventID(now, part), TenantID: tenant.ID, EndpointID: kapsel.NewEndpointID(now), ReceivedAt: now, Query: needle,
			Header: kapsel.Header{{Name: "A", Value: needle}}, Body: []byte(strings.Repeat(needle, size/len(needle))), Salt: kapsel.NewSalt(),
		}
		if _, err := s.Accept(t.Context(), store.Acceptance{Event: e}); err != nil {
			t.Fatal(err)
		}
		events = append(events, e.ID)
	}
	for _, id := range events {
		if _, err := s.EraseEvent(t.Context(), tenant.ID, id, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Dir(path) + "/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte(needle)); n > 0 {
			t.Errorf("%s has what was erased %d times", f, n)
		}
	}
}

func TestUntold(t *testing.T) {
	path := newFile(t)
	var was *Store
	storetest.RunUntold(t, func(tells bool) store.Store {
		if was != nil {
			was.Close()
		}
		var err error
		if was, err = Open(t.Context(), path, Options{Ledger: tells}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { was.Close() })
		return was
	})
}

// checkPlans looks at the plan of every statement that was used: none may read a table that
// grows with the events from end to end, or sort what it reads.
func checkPlans(t *testing.T, s *Store) {
	check := func(c *conn) error {
		for _, text := range slices.Collect(maps.Keys(c.stmts)) {
			q := c.query("EXPLAIN QUERY PLAN " + text)
			for q.next() {
				q.colInt()
				q.colInt()
				q.colInt()
				step := q.colText()
				scan := regexp.MustCompile(`^SCAN (events|deliveries|attempts|idempotency_keys|guards|[akde])\b`).MatchString(step)
				held := strings.HasSuffix(step, "INDEX deliveries_held") // has only what is held
				if scan && !held || strings.Contains(step, "TEMP B-TREE") {
					t.Errorf("%s: %s", step, text)
				}
			}
			if err := q.end(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.writer.alone(check); err != nil && !errors.Is(err, errClosed) {
		t.Error(err)
	}
	for range s.opened {
		c := <-s.readers
		if err := check(c); err != nil {
			t.Error(err)
		}
		defer func() { s.readers <- c }()
	}
}

// copyFiles copies a database as a crash would leave it, with the first wal bytes of its WAL
// (all of them when negative), and returns the copy's path.
func copyFiles(t *testing.T, s *Store, wal int) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(s.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if suffix == "-wal" && wal >= 0 {
			b = b[:wal]
		}
		if err := os.WriteFile(to+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func walSize(t *testing.T, s *Store) int {
	t.Helper()
	f, err := os.Stat(s.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return int(f.Size())
}

// TestCrash_FA3_WhatReturnedIsThere checks that what a call has returned is in the database
// after a crash. It opens copies of a database that was never closed.
func TestCrash_FA3_WhatReturnedIsThere(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Join(ctx, testNode, testTime, time.Minute))
	must(s.CreateTenant(ctx, kapsel.Tenant{ID: testTenant, CreatedAt: testTime}))
	in := acceptance(testEndpoint, testTime, []byte("body"))
	in.Event.IdempotencyKey = []byte("key")
	check := func(step string, want kapsel.Delivery) {
		t.Helper()
		c, err := Open(ctx, copyFiles(t, s, -1), Options{})
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		defer c.Close()
		got, err := c.Event(ctx, testTenant, in.Event.ID)
		if diff := cmp.Diff(store.EventRecord{Event: in.Event, Deliveries: []kapsel.Delivery{want}}, got); diff != "" || err != nil {
			t.Fatalf("%s: %v (-want +got):\n%s", step, err, diff)
		}
		attempts, err := c.ListAttempts(ctx, testTenant, want.ID, 0, 10)
		if err != nil || len(attempts) != want.Attempts {
			t.Fatalf("%s: %d attempts, %v", step, len(attempts), err)
		}
	}

	_, err := s.Accept(ctx, in)
	must(err)
	check("accepted", in.Deliveries[0])
	done := answer(t, in.Deliveries[0], 503, testTime)
	must(s.Complete(ctx, done))
	check("completed", done.Delivery)
	claimed, _, err := s.Claim(ctx, testNode, testTime.Add(time.Hour), []store.Want{{EndpointID: testEndpoint, Limit: 1}}, 1)
	must(err)
	check("claimed", claimed[0].Delivery)
	claimed[0].Delivery.DueAt = testTime
	must(s.GiveBack(ctx, []kapsel.Delivery{claimed[0].Delivery}))
	back := done.Delivery
	back.DueAt, back.Claims = testTime, claimed[0].Delivery.Claims
	check("given back", back)
	canceled, err := s.MoveDelivery(ctx, testTenant, back.ID, kapsel.Cancel{}, testTime)
	must(err)
	check("canceled", canceled)
}

// TestCrash_FA2_BatchIsWholeOrNotThere checks that a batch whose write was cut short is not
// there at all after a restart, and earlier ones are whole. It cuts the WAL inside the batch
// that was written last.
func TestCrash_FA2_BatchIsWholeOrNotThere(t *testing.T) {
	ctx := context.Background()
	var batches []int // written by the writer, read when all is done
	s := openTest(t, func(calls int, _ time.Duration) { batches = append(batches, calls) })
	first := acceptance(testEndpoint, testTime, nil)
	if _, err := s.Accept(ctx, first); err != nil {
		t.Fatal(err)
	}
	before := walSize(t, s)
	const calls = 100
	release := hold(s)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if _, err := s.Accept(ctx, acceptance(testEndpoint, testTime, make([]byte, 1000))); err != nil {
				t.Error(err)
			}
		})
	}
	for queued := 0; queued < calls; { // busy, but only until all of them have come
		queued, _ = s.writer.hot.Len()
	}
	release()
	wg.Wait()
	after := walSize(t, s)
	if len(batches) != 2 || after <= before {
		t.Fatalf("batches of %v, WAL from %d to %d", batches, before, after)
	}
	for i := range 21 {
		cut := before + (after-before)*i/20
		c, err := Open(ctx, copyFiles(t, s, cut), Options{})
		if err != nil {
			t.Fatal(err)
		}
		events, _, err := c.ListEvents(ctx, kapsel.TenantID{}, store.EventFilter{EndpointID: testEndpoint}, store.Page[kapsel.EventID]{Limit: 1000})
		deliveries, err2 := c.ListDeliveries(ctx, kapsel.TenantID{}, store.DeliveryFilter{}, store.Page[kapsel.DeliveryID]{Limit: 1000})
		want := 1
		if cut == after {
			want += calls
		}
		if err := errors.Join(err, err2); err != nil || len(events) != want || len(deliveries) != want {
			t.Errorf("cut at %d of %d to %d: %d events, %d deliveries, %v; want %d", cut, before, after, len(events), len(deliveries), err, want)
		}
		c.Close()
	}
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := openTest(t)
		start := time.Now()
		_, err := Open(ctx, s.path, Options{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Errorf("error is %v, want one that names process %d", err, os.Getpid())
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("waited %v, want 10s", d)
		}
		canceled, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := Open(canceled, s.path, Options{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want the context's", err)
		}

		time.AfterFunc(time.Second, func() { s.Close() })
		second, err := Open(ctx, s.path, Options{})
		if err != nil {
			t.Fatalf("after the first has left: %v", err)
		}
		second.Close()
	})
}

// exec runs a statement on a file that no store has open.
func exec(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestSchema(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		migrate bool
		want    string // of the error; "": none
	}{
		{"a new database", func(*testing.T, string) {}, true, ""},
		{"a new database, not to be migrated", func(*testing.T, string) {}, false, "there is no database at"},
		{"an empty file, not to be migrated", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, "is empty"},
		{"of an older version, not to be migrated", func(t *testing.T, path string) {
			openAt(t, path).Close()
			exec(t, path, `UPDATE schema_info SET version = 0`)
		}, false, "kapsel migrate"},
		{"of this version", func(t *testing.T, path string) { openAt(t, path).Close() }, false, ""},
		{"of a newer version that this one can use", func(t *testing.T, path string) {
			openAt(t, path).Close()
			exec(t, path, `UPDATE schema_info SET version = 99`)
		}, true, ""},
		{"of a newer version that this one cannot use", func(t *testing.T, path string) {
			openAt(t, path).Close()
			exec(t, path, `UPDATE schema_info SET version = version + 1, readable_by = version + 1`)
		}, true, "newer release"},
		{"another's database", func(t *testing.T, path string) {
			exec(t, path, `CREATE TABLE a (b); CREATE TABLE b (b); CREATE TABLE c (b)`)
		}, true, "not Kapsel's"},
		{"not a database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, make([]byte, 10_000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true, "not a database"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a ? # % dir", "kapsel.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			tt.prepare(t, path)
			s, err := Open(ctx, path, Options{Migrate: tt.migrate})
			if err == nil {
				s.Close()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	s := openTest(t)
	if _, err := s.Accept(context.Background(), acceptance(testEndpoint, testTime, nil)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		f, err := os.Stat(s.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if f.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), f.Mode())
		}
	}
}

// TestBackupOfNothing: what is no database of Kapsel's is not copied, and nothing is made.
func TestBackupOfNothing(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"no database":                func(*testing.T, string) {},
		"is empty":                   func(t *testing.T, path string) { exec(t, path, `PRAGMA user_version`) },
		"not a database of Kapsel's": func(t *testing.T, path string) { exec(t, path, `CREATE TABLE a (b)`) },
	} {
		path := filepath.Join(t.TempDir(), "kapsel.db")
		prepare(t, path)
		err := Backup(context.Background(), path, path+".copy")
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		for _, file := range []string{path + ".copy", path + ".copy.incomplete"} {
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s: %s was made", name, file)
			}
		}
	}
}

func TestBackup(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	before := acceptance(testEndpoint, testTime, make([]byte, 20<<20)) // takes several steps
	if _, err := s.Accept(ctx, before); err != nil {
		t.Fatal(err)
	}
	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for writing.Err() == nil {
			if _, err := s.Accept(ctx, acceptance(testEndpoint, testTime, make([]byte, 10_000))); err != nil {
				t.Error(err)
			}
		}
	})
	to := filepath.Join(t.TempDir(), "backup.db")
	if err := os.WriteFile(to+".incomplete", []byte("an earlier one was cut short"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.Backup(ctx, to)
	stop()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(to + "*")
	if err != nil || len(files) != 1 {
		t.Errorf("files are %v, %v; want the backup only", files, err)
	}
	b, err := Open(ctx, to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := b.Event(ctx, kapsel.TenantID{}, before.Event.ID)
	if err != nil || got.Event.Size != before.Event.Size {
		t.Errorf("event is of %d bytes, %v", got.Event.Size, err)
	}
	err = b.read(ctx, func(c *conn) error {
		_, err := c.query(`PRAGMA integrity_check`).one(func(s *stmt) {
			if text := s.colText(); text != "ok" {
				t.Error(text)
			}
		})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := b.Ping(ctx); err != nil {
		t.Errorf("the backup cannot be written: %v", err)
	}
}

func TestBackupLeavesOtherFilesAlone(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	to := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(to, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Backup(ctx, s.path, to); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("onto a file that is there: %v", err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := Backup(canceled, s.path, to+"2"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := Backup(ctx, s.path+"-missing", to+"2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no database: %v", err)
	}
	if files, _ := filepath.Glob(to + "*"); len(files) != 1 {
		t.Errorf("left %v", files)
	}
}

func TestFileShrinks(t *testing.T) {
	ctx := context.Background()
	s := openTest(t)
	if err := s.CreateTenant(ctx, kapsel.Tenant{ID: testTenant}); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateEndpoint(ctx, kapsel.Endpoint{ID: testEndpoint, TenantID: testTenant, State: kapsel.EndpointActive}, 0); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		in := acceptance(testEndpoint, testTime, make([]byte, 1<<20))
		if _, err := s.Accept(ctx, in); err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(ctx, answer(t, in.Deliveries[0], 200, testTime)); err != nil {
			t.Fatal(err)
		}
	}
	pages := func() (n int64) {
		t.Helper()
		err := s.read(ctx, func(c *conn) error {
			_, err := c.query(`PRAGMA page_count`).one(func(s *stmt) { n = s.colInt() })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	full := pages()
	if n, err := s.DeleteFinished(ctx, testTenant, testTime.Add(time.Second), 10); n != 5 || err != nil {
		t.Fatalf("deleted %d, %v", n, err)
	}
	for range 5 {
		if err := s.shrink(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	if left := pages(); left > full/2 {
		t.Errorf("the file has %d of %d pages after all events were deleted", left, full)
	}
}

// restartAt is from how many pages on openSmallWAL's WAL is begun anew.
const restartAt = 200

// openSmallWAL opens a new database with a WAL that is small enough for a test.
func openSmallWAL(t *testing.T, log *slog.Logger) *Store {
	s := openTest(t)
	s.ckpt.stop()
	s.log = log
	s.ckpt = newCheckpointer(s, s.ckpt.c)
	s.ckpt.every, s.ckpt.restartAt = 25, restartAt
	s.writer.written = s.ckpt.note // the writer has nothing to do yet
	s.ckpt.start()
	return s
}

// TestWALStaysBounded writes with reads going on: first without a pause, and then, since copying the WAL may take
// longer than writing it, at a pace that lets a slow disk follow.
func TestWALStaysBounded(t *testing.T) {
	ctx := context.Background()
	s := openSmallWAL(t, slog.New(slog.DiscardHandler))
	writing, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for writing.Err() == nil {
			if _, _, err := s.ListEvents(ctx, kapsel.TenantID{}, store.EventFilter{}, store.Page[kapsel.EventID]{Limit: 100}); err != nil {
				t.Error(err)
			}
		}
	})
	const least = 16 * restartAt * pageSize
	written, deadline := 0, time.Now().Add(time.Minute)
	for written < least || walSize(t, s) > written/2 && time.Now().Before(deadline) {
		if written += 100_000; written > least {
			time.Sleep(10 * time.Millisecond)
		}
		if _, err := s.Accept(ctx, acceptance(testEndpoint, testTime, make([]byte, 100_000))); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	if size := walSize(t, s); size > written/2 {
		t.Errorf("the WAL has %d bytes after %d were written; it is to be begun anew at %d", size, written, restartAt*pageSize)
	}
}

// TestWALHeld: while another program reads the database, its WAL grows. The log warns of that,
// again when as much has been added, and says when it is over.
func TestWALHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := openSmallWAL(t, slog.New(slog.NewTextHandler(&log, nil)))
		write := func(pages int) {
			for range pages / 10 {
				if _, err := s.Accept(t.Context(), acceptance(testEndpoint, time.Now(), make([]byte, 10*pageSize))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
		}
		other, err := open(s.path)
		if err != nil {
			t.Fatal(err)
		}
		defer other.close()
		if err := other.script("BEGIN; SELECT count(*) FROM events"); err != nil {
			t.Fatal(err)
		}
		write(restartAt / 4) // and as many pages again of what is beside the bodies
		if log.Len() > 0 {
			t.Errorf("warned of a small WAL: %s", log.String())
		}
		write(5 * restartAt)
		warnings, most := strings.Count(log.String(), "level=WARN msg=\"another program reads the database"), walSize(t, s)/(restartAt*pageSize)
		if warnings < 2 || warnings > most {
			t.Errorf("%d warnings, at most %d wanted: %s", warnings, most, log.String())
		}
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(s.Collectors()...)
		found, err := metrics.Gather()
		if err != nil || len(found) != 1 || found[0].GetName() != "kapsel_sqlite_wal_bytes" {
			t.Fatalf("metrics %v, %v", found, err)
		}
		size, gauge := walSize(t, s), found[0].GetMetric()[0].GetGauge().GetValue()
		if size < 5*restartAt*pageSize || int(gauge) != size {
			t.Errorf("the WAL has %d bytes, the gauge says %v", size, gauge)
		}

		log.Reset()
		if err := other.script("COMMIT"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(heldPause)
			synctest.Wait()
			if err := s.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(log.String(), "no longer held") {
			t.Errorf("the log does not say that it is over: %s", log.String())
		}
		write(2 * restartAt)
		if strings.Contains(log.String(), "WARN") {
			t.Errorf("warned of a WAL that nobody holds: %s", log.String())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestClose_WALHeld: another program that reads keeps the store from closing only for a moment,
// and nothing of what is in the WAL is lost.
func TestClose_WALHeld(t *testing.T) {
	s := openTest(t)
	other, err := open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := other.script("BEGIN; SELECT count(*) FROM events"); err != nil {
		t.Fatal(err)
	}
	in := acceptance(testEndpoint, testTime, []byte("body"))
	if _, err := s.Accept(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openAt(t, s.path)
	if _, err := again.Event(t.Context(), testTenant, in.Event.ID); err != nil {
		t.Error(err)
	}
}

// TestClaim_FB15_Damaged checks that an event which cannot be read from the file holds up nothing else.
func TestClaim_FB15_Damaged(t *testing.T) {
	path := newFile(t)
	s := openAt(t, path)
	exec := func(sql string, args ...any) {
		t.Helper()
		if err := s.writer.alone(func(c *conn) error { return c.exec(sql, args...) }); err != nil {
			t.Fatal(err)
		}
	}
	storetest.RunDamaged(t, s, map[string]func(kapsel.Event){
		"a value was changed": func(e kapsel.Event) { exec(`UPDATE events SET extra = '[]' WHERE id = ?`, e.ID) },
		"the row is gone":     func(e kapsel.Event) { exec(`DELETE FROM events WHERE id = ?`, e.ID) },
		"a page is damaged": func(e kapsel.Event) {
			err := s.writer.alone(func(c *conn) error { _, _, err := c.checkpoint(sqlite3.SQLITE_CHECKPOINT_TRUNCATE); return err })
			if err != nil {
				t.Fatal(err)
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(file, e.Body[len(e.Body)/2:][:32]) / pageSize * pageSize // a page of the body, which begins with the number of the next
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, int64(at)); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestErase_LostEntry checks that an event can be erased of which an attempt has lost its entry of the outbox
// before there was a leaf.
func TestErase_LostEntry(t *testing.T) {
	s := openTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in := acceptance(testEndpoint, testTime, []byte("{}"))
	if _, err := s.Accept(ctx, in); err != nil {
		t.Fatal(err)
	}
	d := in.Deliveries[0]
	after, err := d.After(kapsel.Answer{Status: 200, MaxAttempts: 1}, testTime)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Complete(ctx, store.Completion{Delivery: after, Attempt: kapsel.Attempt{
		ID: d.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, Number: 1, StartedAt: testTime, StatusCode: 200,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.writer.alone(func(c *conn) error { return c.exec(`DELETE FROM audit_outbox`) }); err != nil {
		t.Fatal(err)
	}
	if at, err := s.EraseEvent(ctx, kapsel.TenantID{}, d.EventID, testTime); err != nil || at.IsZero() {
		t.Fatalf("erased at %v, %v", at, err)
	}
	if e, err := s.Event(ctx, kapsel.TenantID{}, d.EventID); err != nil || len(e.Event.Body) > 0 {
		t.Errorf("after the erasure: %q, %v", e.Event.Body, err)
	}
}
