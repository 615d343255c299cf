package witness

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel/internal/durable"
	"github.com/kapsel-hq/kapsel/receipt"
)

// The files of a state directory.
const (
	identityFile = "witness.json" // which witness the directory belongs to
	lockFile     = "lock"
	logsDir      = "logs"     // the newest head of each log that was cosigned
	evidenceDir  = "evidence" // two heads of one log that contradict each other, a file for each pair
	fileSuffix   = ".json"
)

// maxEvidence is how many files of evidence are kept of one log: who has its key can make any number.
const maxEvidence = 20

// identity is which witness a state directory belongs to.
type identity struct {
	Key string `json:"key"` // a vkey
	// Logs is the number of logs with a head. There may be one more in logs/; nothing of it was signed.
	Logs int `json:"logs"`
}

// kept is the newest head of a log that was cosigned. It is kept before it is cosigned, so a witness that
// is killed in between has signed nothing that it does not remember.
type kept struct {
	Origin     string    `json:"origin"`
	Checkpoint string    `json:"checkpoint"` // as the log has signed it
	Key        []byte    `json:"key"`        // that signed it
	SeenAt     time.Time `json:"seen_at"`
}

// Alarm is evidence that the key of a log has signed two heads that do not fit together.
type Alarm struct {
	Origin string    `json:"origin"`
	Kind   Kind      `json:"kind"`
	Text   string    `json:"text"` // for people
	At     time.Time `json:"at"`
	// Had is the head that the witness has cosigned, and Got the one that contradicts it; both are signed by
	// the log.
	Had string `json:"had"`
	Got string `json:"got"`
	// Proof is the consistency proof that came with Got, if one did.
	Proof []receipt.Hash `json:"proof,omitempty"`

	file    string
	unsaved bool // there is no file yet
}

// Kind is what a log has done.
type Kind string

// What a log can do.
const (
	Forked Kind = "forked" // it has two histories
	Shrank Kind = "shrank" // it shows fewer leaves than it had
)

// state is the directory in which a witness remembers what it has signed.
type state struct {
	dir  string
	lock *durable.Lock

	mu sync.Mutex
	id identity // guarded by mu
}

// openState locks a directory and returns what it holds. A directory without a witness becomes that of the
// key if fresh.
func openState(ctx context.Context, dir string, key receipt.Key, fresh bool) (s *state, heads []kept, alarms []Alarm, err error) {
	if err := durable.MakeDirs(dir); err != nil {
		return nil, nil, nil, err
	}
	lock, err := durable.TakeLock(ctx, filepath.Join(dir, lockFile), "the state of this witness", 10*time.Second)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			lock.Release()
		}
	}()
	s = &state{dir: dir, lock: lock}
	if err := s.identify(key, fresh); err != nil {
		return nil, nil, nil, err
	}
	heads, _, err = readAll[kept](filepath.Join(dir, logsDir))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(heads) < s.id.Logs {
		err = fmt.Errorf("the witness has signed heads of %d logs, and %s holds %d: %w", s.id.Logs, filepath.Join(dir, logsDir), len(heads), errLost)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if len(heads) > s.id.Logs { // a crash came between a head and its count
		if err := s.write(identity{s.id.Key, len(heads)}); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := durable.MakeDirs(filepath.Join(dir, evidenceDir)); err != nil {
		return nil, nil, nil, err
	}
	alarms, names, err := readAll[Alarm](filepath.Join(dir, evidenceDir))
	for i := range alarms {
		alarms[i].file = names[i]
	}
	return s, heads, alarms, err
}

// errLost says what to do when a part of the state is gone.
var errLost = errors.New("a witness that forgot must not go on: it could sign two heads that contradict each other. Restore what is missing; or begin with a new key, another name and an empty directory")

// identify compares whose directory this is with the key of this witness.
func (s *state) identify(key receipt.Key, fresh bool) error {
	b, err := os.ReadFile(filepath.Join(s.dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		if !fresh {
			return ErrForgotten
		}
		if err := durable.MakeDirs(filepath.Join(s.dir, logsDir)); err != nil {
			return err
		}
		if err := s.write(identity{Key: key.String()}); err != nil {
			return err
		}
		return durable.SyncDir(filepath.Dir(s.dir))
	}
	if err == nil {
		err = json.Unmarshal(b, &s.id)
	}
	if err != nil {
		return fmt.Errorf("read whose state this is: %w", err)
	}
	if s.id.Key != key.String() {
		return fmt.Errorf("the state belongs to the witness %s, and this one is %s: give it its own directory, or the key and the name that made this one", s.id.Key, key)
	}
	return nil
}

// write replaces the identity. Callers hold mu, or have the state alone.
func (s *state) write(id identity) error {
	b, err := json.Marshal(id)
	if err == nil {
		err = durable.Replace(filepath.Join(s.dir, identityFile), append(b, '\n'))
	}
	if err == nil {
		s.id = id
	}
	return err
}

// ErrForgotten says that there is a key, and no state: the witness may have signed heads that it does not
// remember.
var ErrForgotten = errors.New("there is a key, but no state of what it has signed. A witness that forgot must not go on: it could sign two heads that contradict each other. Restore the directory; or, if this key has never signed, say so with --new-state; else make a new key")

// readAll reads the files of a directory.
func readAll[T any](dir string) (all []T, names []string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), fileSuffix) { // what a crash has left half-written
			continue
		}
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		var v T
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the state of this witness cannot be read: %s: %w; restore the file, because a witness must remember what it has signed", path, err)
		}
		all, names = append(all, v), append(names, f.Name())
	}
	return all, names, nil
}

// nameOf returns the name of the file of a text, such as an origin.
func nameOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:32] }

// keep remembers a head; first says that it is the first of its log. When it returns nil, that lasts. The
// head is kept before it is counted, so a crash in between leaves a head too many, and never one too few.
func (s *state) keep(k kept, first bool) error {
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Replace(filepath.Join(s.dir, logsDir, nameOf(k.Origin)+fileSuffix), append(b, '\n')); err != nil || !first {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(identity{s.id.Key, s.id.Logs + 1})
}

// save keeps evidence in a file, which it names in the alarm.
func (s *state) save(a *Alarm) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, evidenceDir)
	if err := durable.MakeDirs(dir); err != nil {
		return err
	}
	a.file = nameOf(a.Origin)[:16] + "-" + nameOf(string(a.Kind) + a.Got)[:16] + fileSuffix
	if err := durable.Replace(filepath.Join(dir, a.file), append(b, '\n')); err != nil {
		return err
	}
	a.unsaved = false
	return nil
}

// there reports whether evidence still lies where it was kept, or is still to be kept.
func (s *state) there(a *Alarm) bool {
	if a.unsaved {
		return true
	}
	_, err := os.Stat(filepath.Join(s.dir, evidenceDir, a.file))
	return !errors.Is(err, fs.ErrNotExist)
}

// KeyOf returns the public key of a witness.
func KeyOf(name string, key ed25519.PrivateKey) receipt.Key {
	return receipt.Key{Name: name, Public: key.Public().(ed25519.PublicKey), Witness: true}
}
