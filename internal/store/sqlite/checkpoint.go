package sqlite

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

const (
	checkpointPassive  = sqlite3.SQLITE_CHECKPOINT_PASSIVE
	checkpointTruncate = sqlite3.SQLITE_CHECKPOINT_TRUNCATE

	walStep    = 16 << 20  // a checkpoint follows this much that was written
	walRestart = 256 << 20 // a WAL of this size is begun anew
	walKept    = 64 << 20  // of its file when it was begun anew
	readPause  = 100 * time.Millisecond
)

// checkpointer copies pages of the WAL into the database file, beside the writer and
// without stopping it. The WAL is used again from its start once all of it was copied and
// nobody reads it, which a busy writer never lets happen: so a WAL that has grown too long
// is begun anew with reads and writes held back for a moment.
type checkpointer struct {
	s *Store
	c *conn
	// every how many pages a checkpoint is due, and from how many on the WAL is begun anew.
	every, restartAt int

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
		select {
		case <-k.quit:
			return
		case <-k.due:
		}
		if err := k.step(); err != nil {
			k.s.log.Warn("checkpoint failed; it is tried again after more writes", "error", err)
		}
	}
}

func (k *checkpointer) step() error {
	pages, err := k.copy()
	if err != nil || pages < k.restartAt {
		return err
	}
	// Each time only what was written meanwhile is left: restart is to find little.
	for range 2 {
		if _, err := k.copy(); err != nil {
			return err
		}
	}
	return k.restart()
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
// do not end within readPause leave it to the next time.
func (k *checkpointer) restart() error {
	ctx, cancel := context.WithTimeout(context.Background(), readPause)
	defer cancel()
	var held []*conn
	defer func() {
		for _, r := range held {
			k.s.readers <- r
		}
	}()
	for range readers {
		select {
		case r := <-k.s.readers:
			held = append(held, r)
		case <-ctx.Done():
			return nil
		case <-k.quit:
			return nil
		}
	}
	return k.s.writer.alone(func(c *conn) error {
		_, _, err := c.checkpoint(checkpointPassive)
		return err
	})
}
