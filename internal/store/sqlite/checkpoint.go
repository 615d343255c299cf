package sqlite

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	checkpointPassive  = sqlite3.SQLITE_CHECKPOINT_PASSIVE
	checkpointTruncate = sqlite3.SQLITE_CHECKPOINT_TRUNCATE

	walStep    = 16 << 20  // bytes written after which a checkpoint is due
	walRestart = 256 << 20 // size from which a WAL is begun anew
	walKept    = 64 << 20  // bytes that stay of the WAL's file after it was begun anew
	readPause  = 100 * time.Millisecond
	heldPause  = 10 * time.Second       // between looks at a WAL that another program holds
	lastWait   = 500 * time.Millisecond // how long the last checkpoint waits for such a program
)

// checkpointer copies pages of the WAL into the database file, beside the writer and without
// stopping the writer. SQLite uses the WAL again from its start once all of it is copied and
// nobody reads it, which a busy writer never lets happen. So the checkpointer holds reads and
// writes back for a moment when the WAL has grown too long, and the WAL begins anew. It cannot
// hold back the reads of other programs: while one of them reads in one transaction, the WAL
// grows.
type checkpointer struct {
	s *Store
	c *conn
	// every is the number of written pages after which a checkpoint is due; restartAt is the number of
	// pages from which the WAL is begun anew.
	every, restartAt int

	// warned is how many pages the WAL had at the last warning that another program holds it; 0: no
	// program holds it. Only run's goroutine uses warned.
	warned int

	pages atomic.Int64  // written since the last checkpoint
	due   chan struct{} // of capacity 1
	quit  chan struct{}
	wg    sync.WaitGroup
}

func newCheckpointer(s *Store, c *conn) *checkpointer {
	return &checkpointer{
		s: s, c: c, every: walStep / pageSize, restartAt: walRestart / pageSize,
		due: make(chan struct{}, 1), quit: make(chan struct{}),
	}
}

// start starts the goroutine, with a checkpoint of what an earlier process may have left in the
// WAL.
func (k *checkpointer) start() {
	k.due <- struct{}{}
	k.wg.Go(k.run)
}

// stop waits for a checkpoint under way, and ends the goroutine.
func (k *checkpointer) stop() {
	close(k.quit)
	k.wg.Wait()
}

// note counts pages written to the WAL. The writer calls it.
func (k *checkpointer) note(pages int) {
	if k.pages.Add(int64(pages)) >= int64(k.every) {
		select {
		case k.due <- struct{}{}:
		default:
		}
	}
}

func (k *checkpointer) run() {
	for {
		var again <-chan time.Time
		if k.warned > 0 { // when the other program ends, no write of this store says so
			again = time.After(heldPause)
		}
		select {
		case <-k.quit:
			return
		case <-k.due:
		case <-again:
		}
		if err := k.step(); err != nil {
			k.s.log.Warn("checkpoint failed; it is tried again after more writes", "error", err)
		}
	}
}

func (k *checkpointer) step() error {
	pages, err := k.copy()
	if err != nil {
		return err
	}
	if pages < k.restartAt {
		if k.warned > 0 {
			k.s.log.Info("the database's WAL is no longer held and was begun anew")
			k.warned = 0
		}
		return nil
	}
	// Each copy leaves only what was written meanwhile, so restart will find little.
	for range 2 {
		if _, err := k.copy(); err != nil {
			return err
		}
	}
	pages, held, err := k.restart()
	if held && (k.warned == 0 || pages >= k.warned+k.restartAt) {
		k.s.log.Warn("another program reads the database file in a long transaction, so its WAL grows and takes space; end that program, or that transaction",
			"wal_bytes", pages*pageSize)
		k.warned = pages
	}
	return err
}

// copy copies what the WAL holds now, and returns how many pages that is.
func (k *checkpointer) copy() (pages int, err error) {
	k.pages.Store(0)
	for range 10 {
		// SQLite is busy if it read the WAL's header just as the writer changed it.
		if pages, _, err = k.c.checkpoint(checkpointPassive); !isBusy(err) {
			break
		}
	}
	return pages, err
}

// restart copies the rest of the WAL on the writer's own connection, between two transactions and
// with no read of the store under way: the next write then begins the WAL anew. If a read does not
// end within readPause, restart does nothing and leaves the WAL to the next time. It returns how
// many pages the WAL has, and whether a reader outside of the store kept some of them from being
// copied.
func (k *checkpointer) restart() (pages int, held bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), readPause)
	defer cancel()
	var resting []*conn
	defer func() {
		for _, r := range resting {
			k.s.readers <- r
		}
	}()
	for range readers {
		select {
		case r := <-k.s.readers:
			resting = append(resting, r)
		case <-ctx.Done():
			return 0, false, nil
		case <-k.quit:
			return 0, false, nil
		}
	}
	err = k.s.writer.alone(func(c *conn) error {
		var copied int
		pages, copied, err = c.checkpoint(checkpointPassive)
		held = copied < pages
		return err
	})
	return pages, held, err
}

// walBytes returns the size of the WAL's file, 0 if there is none.
func (s *Store) walBytes() int64 {
	info, err := os.Stat(s.path + "-wal")
	if err != nil {
		return 0
	}
	return info.Size()
}

// Collectors returns the metrics of SQLite. Callers must register them.
func (s *Store) Collectors() []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kapsel_sqlite_wal_bytes",
		Help: "Size of the SQLite database's WAL file. It grows beyond about 300 MiB while another program reads the database in one transaction.",
	}, func() float64 { return float64(s.walBytes()) })}
}
