// Package sqlite keeps the store contract in one SQLite file, used by one process at a time.
//
// Beyond the contract of package store, it promises: a lock beside the file keeps a second process
// out; a write is synced (WAL, synchronous=FULL) when its method returns; a backup can be taken at
// any time; the WAL stays below about 300 MiB, except for what is written while a backup or
// another program reads the file in one transaction.
//
// One goroutine owns the one connection that writes. Callers hand their calls to that goroutine
// and wait; it writes the calls that have gathered in one transaction (writer.go). Reads have
// connections of their own and are short, because an old snapshot keeps SQLite from using the WAL
// again.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"github.com/kapsel-hq/kapsel/internal/durable"
	"github.com/kapsel-hq/kapsel/internal/store"
)

var _ store.Store = (*Store)(nil)

// Options holds how a database is opened. The zero value refuses a database that is new or has an
// older schema.
type Options struct {
	// Migrate brings a new or older database to this binary's schema.
	Migrate bool
	// OnlyEmpty makes Migrate refuse, and not change, a database that has an older schema and holds
	// data.
	OnlyEmpty bool
	// LockWait is how long to wait for another process to leave the database; 0: 10 s.
	LockWait time.Duration
	// Observe is told of the group commits; nil: nothing is.
	Observe store.CommitObserver
	// Ledger makes the store tell the facts of deliveries; see store.Ledger.
	Ledger bool
	// Caches is how many bytes the page caches of all connections may take; 0: 72 MiB.
	Caches int64
	// Log gets what cannot be returned to a caller, such as a checkpoint that failed; nil:
	// slog.Default.
	Log *slog.Logger
}

const (
	readers     = 4 // connections for reads
	mostCaches  = 72 << 20
	writerShare = 4 // of the page caches, where any other connection has one
	pageSize    = 8 << 10
)

// Store is a store.Store on a SQLite file.
type Store struct {
	*core
	by *store.Author // whose changes are written down; nil: nobody's
}

// By implements store.Changes.
func (s *Store) By(a store.Author) store.Store { return &Store{s.core, &a} }

// core is the database, which all Stores on it share.
type core struct {
	path    string
	log     *slog.Logger
	trouble trouble
	lock    *durable.Lock
	writer  *writer
	ckpt    *checkpointer
	readers chan *conn    // readers that are free
	opened  int           // how many readers there are
	pages   chan struct{} // holds an element for each page of a list that is being read

	eventSkew    skew         // between an event's id and its receipt
	deliverySkew skew         // between the ids of an event and of its first delivery
	lastN        atomic.Int64 // the n that the writer gave to an event last, committed or not
	orphans      atomic.Bool  // deliveries may be held by nodes that are dead

	closing sync.Once
	closed  chan struct{}
}

// Open opens the database at path. If Options.Migrate is set, Open makes the database and its
// directory if they do not exist. Callers must call Close to end the store's goroutines and to
// release the lock. An error for which store.Passes is true may be gone a moment later: the disk
// is full, or another program is at the database.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	s, err := openStore(ctx, path, opts)
	if err != nil {
		return nil, opening(err)
	}
	return s, nil
}

func openStore(ctx context.Context, path string, opts Options) (_ *Store, err error) {
	if opts.LockWait == 0 {
		opts.LockWait = 10 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Caches == 0 {
		opts.Caches = mostCaches
	}
	cache := opts.Caches / (writerShare + readers + 1) // and one connection for checkpoints
	// Fdatasync is as durable as fsync, and takes half the time on a journaling file system. The
	// setting holds for the whole process. SQLite uses fsync where there is no fdatasync.
	_, _ = sqlite.Fdatasync(true)

	if !opts.Migrate {
		if err := MustExist(path); err != nil {
			return nil, fmt.Errorf("%w, and with KAPSEL_MIGRATE=off none is made: start once without it", err)
		}
	}
	dir := filepath.Dir(path)
	if err := durable.MakeDirs(dir); err != nil {
		return nil, fmt.Errorf("make the database's directory: %w", err)
	}
	s := &Store{core: &core{
		path: path, log: opts.Log, trouble: trouble{store.NewAlarm(opts.Log)}, readers: make(chan *conn, readers), pages: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), closed: make(chan struct{}),
		eventSkew: skew{counter: "event_skew"}, deliverySkew: skew{counter: "delivery_skew"},
	}}
	if s.lock, err = durable.TakeLock(ctx, path+".lock", "the database", opts.LockWait); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("make the database: %w", err)
	}
	if err := prepareSchema(ctx, path, opts); err != nil {
		return nil, err
	}
	w, err := connect(path, writerShare*cache, false)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if opts.Ledger {
		w.tally.Told = store.NewTold()
	}
	s.writer = newWriter(w, opts.Observe)
	s.writer.trouble = s.trouble
	for range readers {
		r, err := connect(path, cache, true)
		if err != nil {
			return nil, fmt.Errorf("open the database to read: %w", err)
		}
		s.readers <- r
		s.opened++
	}
	c, err := connect(path, cache, false)
	if err != nil {
		return nil, fmt.Errorf("open the database for checkpoints: %w", err)
	}
	s.ckpt = newCheckpointer(s, c)
	if err := s.loadSkews(w); err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	if err := s.loadLastN(w); err != nil {
		return nil, fmt.Errorf("read the database: %w", err)
	}
	// The rehearsal finds a schema that lacks something. An error that may pass is left to Ping.
	err = s.writer.transact(func() error { return errors.Join(s.rehearse(w), errRehearsed) })
	if lasting(err) {
		return nil, fmt.Errorf("%s: %w", whatToDo(codeOf(err)), err)
	}
	s.writer.written = s.ckpt.note
	s.writer.undone = func() {
		if err := s.loadSkews(w); err != nil {
			s.log.Warn("reading the database after a rollback failed", "error", err)
		}
	}
	s.orphans.Store(true)
	s.writer.start()
	s.ckpt.start()
	return s, nil
}

func (s *Store) loadSkews(c *conn) error {
	return errors.Join(s.eventSkew.load(c), s.deliverySkew.load(c))
}

// connect opens a connection with the settings that all connections share, and a page cache of
// cache bytes.
func connect(path string, cache int64, readOnly bool) (*conn, error) {
	c, err := open(path)
	if err != nil {
		return nil, err
	}
	err = c.script(fmt.Sprintf(`
		PRAGMA synchronous = FULL;
		PRAGMA wal_autocheckpoint = 0;
		PRAGMA journal_size_limit = %d;
		PRAGMA cache_size = -%d;
		PRAGMA temp_store = MEMORY;
		PRAGMA trusted_schema = OFF;
		PRAGMA query_only = %t`, walKept, cache>>10, readOnly))
	if err == nil {
		err = readBack(c)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// readBack fails if the commits of a connection would not be as durable as connect asked for.
// SQLite does not say so by itself: a file system without shared memory keeps SQLite from using a
// WAL.
func readBack(c *conn) error {
	var mode string
	var synchronous int64
	_, err := c.query("PRAGMA journal_mode").one(func(s *stmt) { mode = s.colText() })
	if err == nil {
		_, err = c.query("PRAGMA synchronous").one(func(s *stmt) { synchronous = s.colInt() })
	}
	const full = 2
	switch {
	case err != nil:
		return err
	case mode != "wal":
		return fmt.Errorf("its journal_mode is %q, not wal; put it on a local file system", mode)
	case synchronous != full:
		return fmt.Errorf("its synchronous is %d, not %d", synchronous, full)
	}
	return nil
}

// createFile makes the file if it does not exist, readable by its owner only (the WAL gets the
// same mode), and makes the names of the file and of its directory durable. It fails if path is
// there and is no regular file, or if this process may not read and write the file.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is there and is no file", path)
		}
		return mayUse(path)
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := durable.SyncDir(dir); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(dir)); !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil // a parent directory that cannot be read was not made just now
}

// Close waits for calls under way, moves all of the WAL into the database file and releases the
// file; the WAL stays if another program reads it. Later calls fail with DatabaseUnavailable.
// Close always returns nil.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		s.ckpt.stop()
		s.writer.stop()
		s.release()
	})
	return nil
}

// release gives back what openStore took, as far as openStore came. Callers must have stopped the
// goroutines of the writer and the checkpointer.
func (s *Store) release() {
	if s.ckpt != nil {
		s.ckpt.c.close()
	}
	for range s.opened {
		(<-s.readers).close() // waits for reads under way
	}
	if s.writer != nil {
		s.writer.c.waitFor(lastWait)
		if _, _, err := s.writer.c.checkpoint(checkpointTruncate); err != nil {
			s.log.Warn("the last checkpoint failed; the next start reads the WAL", "error", err)
		}
		s.writer.c.close()
	}
	if s.lock != nil {
		s.lock.Release()
	}
}

var (
	errClosed    = errors.New("the store is closed")
	errRehearsed = errors.New("a rehearsal is taken back")
)

// read runs f in one transaction, on a connection that only reads. It fails with
// DatabaseUnavailable if ctx ends before a connection is free, or if the store is closed.
func (s *Store) read(ctx context.Context, f func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return store.Unavailable(err)
	}
	var c *conn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return store.Unavailable(ctx.Err())
	case <-s.closed:
		return store.Unavailable(errClosed)
	}
	defer func() { s.readers <- c }()
	select {
	case <-s.closed: // select may take a free connection of a closed store
		return store.Unavailable(errClosed)
	default:
	}
	if err := c.exec("BEGIN"); err != nil {
		return s.trouble.of(err)
	}
	err := f(c)
	if end := c.exec("ROLLBACK"); err == nil {
		err = end
	}
	return s.trouble.of(err)
}

// Time returns the time of the process's own clock.
func (s *Store) Time(context.Context) (time.Time, error) { return time.Now().UTC(), nil }

// Ping writes an event that belongs to nobody and takes it back, and then writes and syncs a row.
// It fails if the store takes no writes.
func (s *Store) Ping(ctx context.Context) error {
	return s.writer.cold(ctx, func(c *conn) error {
		if err := s.rehearse(c); err != nil {
			return err
		}
		return c.exec(`INSERT INTO counters VALUES ('pings', 1) ON CONFLICT DO UPDATE SET value = value + 1`)
	})
}
