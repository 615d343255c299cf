package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/durable"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// HighWater is a file that remembers the newest head of each log that this instance has signed. It
// lies outside of the store, so that it is not restored with the store. Nodes may share the file: each
// change takes a lock beside it and reads what the others have written. Its methods may be called by many
// goroutines at once.
type HighWater struct {
	path string

	mu   sync.Mutex
	seen map[string]Mark // by the log's ID, as the file was read last; guarded by mu
}

// Mark is the size and the root of a head.
type Mark struct {
	Size int64     `json:"size"`
	Root tlog.Hash `json:"root"`
}

// OpenHighWater reads the file at path. A file that does not exist is empty.
func OpenHighWater(path string) (*HighWater, error) {
	h := &HighWater{path: path, seen: map[string]Mark{}}
	if err := h.Read(); err != nil {
		return nil, err
	}
	return h, nil
}

// Read reads the file again, which another node may have changed. If it was removed, what was read before
// still counts.
func (h *HighWater) Read() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.read()
}

func (h *HighWater) read() error {
	b, err := os.ReadFile(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var seen map[string]Mark
	if err == nil {
		err = json.Unmarshal(b, &seen)
	}
	if err == nil && seen == nil {
		err = errors.New("it holds null")
	}
	for log, m := range seen {
		if m.Size < 0 {
			err = fmt.Errorf("the size of %q is below 0", log)
		}
	}
	if err != nil {
		return fmt.Errorf("read the file of the audit log's heads, %s: %w", h.path, err)
	}
	h.seen = seen
	return nil
}

// Marks returns what the file remembers, by the logs' IDs.
func (h *HighWater) Marks() map[string]Mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.seen)
}

// Mark returns what the file remembers of a log.
func (h *HighWater) Mark(log kapsel.LogID) (m Mark, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok = h.seen[log.String()]
	return m, ok
}

// Raise remembers heads. When it returns nil, they are synced. The error is a Refusal, and nothing is
// remembered, if the file cannot be written, or if one of them is smaller than the head that is
// remembered of its log, or has as many leaves and another root.
func (h *HighWater) Raise(heads []store.SignedHead) error {
	return h.change(func(seen map[string]Mark) error {
		for i := range heads {
			head := &heads[i]
			log, root := head.Log.String(), tlog.Hash(head.Root)
			if was := seen[log]; head.Size < was.Size || head.Size == was.Size && root != was.Root {
				return refuse("a head of audit log %s over %d leaves was published, and the database has another log of %d; %s", log, was.Size, head.Size, advice)
			}
			seen[log] = Mark{head.Size, root}
		}
		return nil
	})
}

// Forget forgets all heads.
func (h *HighWater) Forget() error {
	return h.change(func(seen map[string]Mark) error {
		clear(seen)
		return nil
	})
}

// change replaces the file by one in which change has changed what is remembered. If change fails, the
// file stays as it is.
func (h *HighWater) change(change func(map[string]Mark) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	lock, err := durable.TakeLock(context.Background(), h.path+".lock", "the file of the audit log's heads", lockWait)
	if err != nil {
		return h.unwritten(err)
	}
	defer lock.Release()
	if err := h.read(); err != nil {
		return refuseHere("%v: restore the file, because what was published must be remembered", err)
	}
	seen := maps.Clone(h.seen)
	if err := change(seen); err != nil {
		return err
	}
	b, err := json.MarshalIndent(seen, "", " ")
	if err != nil {
		return err
	}
	if err := durable.Replace(h.path, b); err != nil {
		return h.unwritten(err)
	}
	h.seen = seen
	return nil
}

// lockWait is how long a change waits for that of another node.
const lockWait = 2 * time.Second

func (h *HighWater) unwritten(err error) error {
	return refuseHere("the file in which the heads of audit logs are remembered, %s, cannot be written: make its directory writable for Kapsel, or set KAPSEL_AUDIT_KEY_FILE to a key file in a directory that is (%v)", h.path, err)
}
