package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/durable"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// HighWater is a file that remembers the newest head of each log that this instance has signed. It
// lies outside of the store, so that it is not restored with the store. Its methods may be called by
// many goroutines at once.
type HighWater struct {
	path string

	mu   sync.Mutex
	seen map[string]Mark // by the log's ID; guarded by mu
}

// Mark is the size and the root of a head.
type Mark struct {
	Size int64     `json:"size"`
	Root tlog.Hash `json:"root"`
}

// OpenHighWater reads the file at path. A file that does not exist is empty.
func OpenHighWater(path string) (*HighWater, error) {
	h := &HighWater{path: path, seen: map[string]Mark{}}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return h, nil
	case err != nil:
		return nil, fmt.Errorf("read the file of the audit log's heads: %w", err)
	}
	if err := json.Unmarshal(b, &h.seen); err != nil {
		return nil, fmt.Errorf("read the file of the audit log's heads, %s: %w", path, err)
	}
	return h, nil
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
	seen := maps.Clone(h.seen)
	if err := change(seen); err != nil {
		return err
	}
	b, err := json.MarshalIndent(seen, "", " ")
	if err != nil {
		return err
	}
	if err := durable.Replace(h.path, b); err != nil {
		return refuseHere("the file in which the heads of audit logs are remembered, %s, cannot be written: make its directory writable for Kapsel, or set KAPSEL_AUDIT_KEY_FILE to a key file in a directory that is (%v)", h.path, err)
	}
	h.seen = seen
	return nil
}
