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

	walStep    = 16 << 20  // a checkpoint follows this much that was written
	walRestart = 256 << 20 // a WAL of this size is begun anew
	walKept    = 64 << 20  // of its file when it was begun anew
	readPause  = 100 * time.Millisecond
	heldPause  = 10 * time.Second       // between looks at a WAL that another program holds
	lastWait   = 500 * time.Millisecond // for such a program, at the last checkpoint
)

// checkpointer copies pages of the WAL into the database file, beside the writer and
// without stopping it. The WAL is used again from its start once all of it was copied and
// nobody reads it, which a busy writer never lets happen: so a WAL that has grown too long
// is begun anew with reads and writes held back for a moment. The reads of other programs
// cannot be held back: while one of them reads in one transaction, the WAL grows.
type checkpointer struct {
	s *Store
	c *conn
	// every how many pages a checkpoint is due, and from how many on the WAL is begun anew.
	every, restartAt int

	// warned is how many pages the WAL had at the last warning that another program holds it;
	// 0: none holds it. It belongs to run's goroutine.
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

// start begins with what an earlier process may have left in the WAL.
func (k *checkpointer) start() {
	k.due <- struct{}{}
	k.wg.Go(k.run)
}

// stop waits for a checkpoint under way.
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
		if k.warned > 0 { // the other program's end is no write of ours
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
	// Each time only what was written meanwhile is left: restart is to find little.
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

// copy copies what the WAL has now, and returns how much that is.
func (k *checkpointer) copy() (pages int, err error) {
	k.pages.Store(0)
	for range 10 {
		// Busy: it looked at the WAL's header just as the writer changed it.
		if pages, _, err = k.c.checkpoint(checkpointPassive); !isBusy(err) {
			break
		}
	}
	return pages, err
}

// restart copies what is left of the WAL, on the writer's own connection between two
// transactions, with no read under way: then the next write begins the WAL anew. Reads that
// do not end within readPause leave it to the next time. It returns how many pages the WAL
// has, and whether a reader that is none of the store's kept some from being copied.
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

// Collectors are the metrics of SQLite, to be registered.
func (s *Store) Collectors() []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kapsel_sqlite_wal_bytes",
		Help: "Size of the SQLite database's WAL file. It grows beyond about 300 MiB while another program reads the database in one transaction.",
	}, func() float64 { return float64(s.walBytes()) })}
}
