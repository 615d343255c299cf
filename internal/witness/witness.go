// Package witness is a witness of audit logs, and what logs and witnesses say to each other.
//
// A witness remembers the newest head of each log that it knows, and cosigns a head only if the log has just
// grown since (C2SP tlog-witness, tlog-cosignature). So nobody can be shown a history that differs from the one
// that others see, as long as one of the witnesses that they trust is honest. It gets heads in two ways: logs
// post them (ServeHTTP), and it asks the logs for them (Follow). Both go through Add, which keeps a head
// durably before it signs it: a witness that is killed at any moment has never signed what it does not
// remember.
//
// Two heads that a log has signed and that contradict each other are evidence against it. They are kept in
// files, and raise an alarm until an operator takes the file away.
package witness

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/receipt"
)

// maxLogs bounds how many logs of one key a witness remembers: who has the key of a Kapsel can make any number.
const maxLogs = 100_000

// Log is a log that a witness knows, or all logs of one Kapsel.
type Log struct {
	// Keys holds the keys that may sign, each after the other: all with the log's name; or all without a
	// name, which is every log of one Kapsel.
	Keys []receipt.Key
	URL  string // of the Kapsel, without a slash at the end; "": the log is not followed
}

// Name returns the name of the log, "" for all logs of one Kapsel.
func (l *Log) Name() string { return l.Keys[0].Name }

// Config holds what a witness needs.
type Config struct {
	Name string
	Key  ed25519.PrivateKey
	Dir  string // of its state
	// Fresh says that the key has signed nothing yet, so that a directory without state is no loss.
	Fresh bool
	Logs  []Log
	Now   func() time.Time
	Log   *slog.Logger
	// Do sends requests to logs that are followed; see egress.NewClient.
	Do func(*http.Request) (*http.Response, error)
}

// Witness cosigns heads of logs. Its methods may be called by many goroutines at once.
type Witness struct {
	cfg   Config
	state *state

	mu     sync.Mutex
	logs   map[string]*known // by origin; guarded by mu, as is what follows
	of     map[string]int    // how many of the logs were first signed by a public key
	alarms []Alarm

	cosigned, lost atomic.Int64 // signatures made; logs that could not be read in the last round
	refusals       *prometheus.CounterVec
}

// known is a log that was cosigned, or is about to be.
type known struct {
	users int // calls of Add that hold it; guarded by the witness's mu

	mu         sync.Mutex
	checkpoint string // guarded by mu, as is what follows; "": none yet
	head       receipt.Checkpoint
	key        ed25519.PublicKey // that signed the head; nil: none of those that the witness is given
	short      int               // rounds in a row in which the log showed less than the head
}

// Open returns the witness of a state directory. It waits up to 10 s for another process to leave the
// directory. Callers must close the witness.
func Open(ctx context.Context, cfg Config) (*Witness, error) {
	if err := receipt.CheckName(cfg.Name); err != nil {
		return nil, err
	}
	w := &Witness{cfg: cfg, logs: map[string]*known{}, of: map[string]int{}, refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kapsel_witness_refusals_total",
		Help: "Heads that were not cosigned, by the status of the answer.",
	}, []string{"status"})}
	s, heads, alarms, err := openState(ctx, cfg.Dir, w.Key(), cfg.Fresh)
	if err != nil {
		return nil, err
	}
	w.state, w.alarms = s, alarms
	for _, k := range heads {
		head, err := receipt.ReadCheckpoint(k.Checkpoint)
		if err == nil && head.Origin != k.Origin {
			err = errors.New("the head is of another log")
		}
		if err != nil {
			w.Close()
			return nil, fmt.Errorf("the state of this witness cannot be read: the head of %s: %w; restore the file, because a witness must remember what it has signed", k.Origin, err)
		}
		l := &known{checkpoint: k.Checkpoint, head: head, key: w.signer(&k)}
		w.logs[k.Origin] = l
		w.of[string(l.key)]++
	}
	return w, nil
}

// Close keeps evidence that could not be kept before, and lets another process have the state directory.
// Callers must call no method any more.
func (w *Witness) Close() {
	w.Alarms()
	w.state.lock.Release()
}

// Key returns the public key of the witness.
func (w *Witness) Key() receipt.Key { return KeyOf(w.cfg.Name, w.cfg.Key) }

// signer returns the key that signed a head; nil if the witness is not given that key.
func (w *Witness) signer(k *kept) ed25519.PublicKey {
	if len(k.Key) > 0 {
		return k.Key
	}
	// Releases before this one did not keep the key.
	var all []receipt.Key
	for _, l := range w.cfg.Logs {
		all = append(all, l.Keys...)
	}
	s, err := receipt.OpenCheckpoint(k.Checkpoint, all...)
	if err != nil {
		return nil
	}
	return s.Key.Public
}

// keysOf returns the keys that may sign the next head of a log: those with its name, and those of the Kapsel
// whose key has one of these or signed the head that is remembered. The keys of any Kapsel may sign a log that
// the witness does not remember. found says that the log is known. Callers hold the lock of l, if there is one.
func (w *Witness) keysOf(origin string, l *known) (keys []receipt.Key, found bool) {
	id, isKapsel := strings.CutPrefix(origin, "kapsel/")
	if _, err := kapsel.ParseLogID(id); err != nil {
		isKapsel = false
	}
	for i := range w.cfg.Logs {
		if log := &w.cfg.Logs[i]; log.Name() == origin {
			keys = append(keys, log.Keys...)
		}
	}
	owners := keys
	fresh := l == nil || l.checkpoint == ""
	if len(owners) == 0 && !fresh {
		owners = []receipt.Key{{Public: l.key}}
	}
	found = len(keys) > 0
	for i := range w.cfg.Logs {
		log := &w.cfg.Logs[i]
		if !isKapsel || log.Name() != "" {
			continue
		}
		found = true
		own := func(k receipt.Key) bool {
			return slices.ContainsFunc(owners, func(o receipt.Key) bool { return k.Public.Equal(o.Public) })
		}
		if len(owners) == 0 && fresh || slices.ContainsFunc(log.Keys, own) {
			keys = append(keys, log.Keys...)
		}
	}
	return keys, found
}

// refuse returns an error that is a status of HTTP and a text for people, and counts it.
func (w *Witness) refuse(status int, format string, args ...any) error {
	w.refusals.WithLabelValues(fmt.Sprint(status)).Inc()
	return &Answered{Status: status, Text: fmt.Sprintf(format, args...)}
}

// Add cosigns the head of a request if the log is known, its key has signed the head and the log has only
// grown since the head that was cosigned last; it returns the signature line. An *Answered error says why
// not, with the status that C2SP tlog-witness has for it. Any other error says that the head could not be
// kept; nothing was signed then.
func (w *Witness) Add(r Request) (line string, err error) {
	says, err := receipt.ReadCheckpoint(r.Checkpoint)
	if err != nil {
		return "", w.refuse(http.StatusBadRequest, "%v", err)
	}
	if _, found := w.keysOf(says.Origin, nil); !found {
		return "", w.refuse(http.StatusNotFound, "this witness does not know the log %s", quoted(says.Origin))
	}
	l := w.enter(says.Origin)
	defer w.leave(says.Origin, l)
	l.mu.Lock()
	defer l.mu.Unlock()
	keys, _ := w.keysOf(says.Origin, l)
	signed, err := receipt.OpenCheckpoint(r.Checkpoint, keys...)
	if errors.Is(err, receipt.ErrUnsigned) {
		return "", w.refuse(http.StatusForbidden, "%v: if the log has another key now, this witness must be given it beside the former one, in one --log", err)
	}
	if err != nil {
		return "", w.refuse(http.StatusBadRequest, "%v", err)
	}
	head := signed.Checkpoint
	if r.Old > head.Size {
		return "", w.refuse(http.StatusBadRequest, "the old size, %d, is above that of the checkpoint, %d", r.Old, head.Size)
	}
	if err := w.follows(l, &r, head); err != nil {
		return "", err
	}
	if l.checkpoint == "" || head != l.head {
		if err := w.keep(l, kept{head.Origin, r.Checkpoint, signed.Key.Public, w.cfg.Now().UTC()}); err != nil {
			return "", err
		}
		l.checkpoint, l.head, l.key = r.Checkpoint, head, signed.Key.Public
	}
	if line, err = receipt.Cosign(r.Checkpoint, w.cfg.Name, w.cfg.Key, w.cfg.Now()); err == nil {
		w.cosigned.Add(1)
	}
	return line, err
}

// enter returns what is remembered of a log, which may be nothing yet. Callers must leave it.
func (w *Witness) enter(origin string) *known {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[origin]
	if l == nil {
		l = &known{}
		w.logs[origin] = l
	}
	l.users++
	return l
}

// leave forgets a log that the witness has no head of, unless another call holds it. Callers do not hold the
// log's lock any more.
func (w *Witness) leave(origin string, l *known) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.users--; l.users == 0 && l.checkpoint == "" {
		delete(w.logs, origin)
	}
}

// keep keeps a head durably. Callers hold the log's lock.
func (w *Witness) keep(l *known, k kept) error {
	first := l.checkpoint == ""
	if first && !w.room(k.Key, 1) {
		return w.refuse(http.StatusForbidden, "this witness knows %d logs of this key, and takes no more", maxLogs)
	}
	if err := w.state.keep(k, first); err != nil {
		if first {
			w.room(k.Key, -1)
		}
		return fmt.Errorf("the head of %s could not be kept, so it was not signed: %w", k.Origin, err)
	}
	return nil
}

// room counts one more log of a key, or one less. It returns false if there are too many.
func (w *Witness) room(key ed25519.PublicKey, more int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if more > 0 && w.of[string(key)] >= maxLogs {
		return false
	}
	w.of[string(key)] += more
	return true
}

// emptyRoot is the root of a log without leaves.
var emptyRoot = receipt.Hash{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}

// follows returns nil if a head that the log has signed follows the one that is remembered. Callers hold the
// log's lock.
func (w *Witness) follows(l *known, r *Request, head receipt.Checkpoint) error {
	was := l.head
	if l.checkpoint == "" {
		was = receipt.Checkpoint{Origin: head.Origin, Root: emptyRoot}
	}
	if head.Size == was.Size && head.Root != was.Root {
		w.alarm(Alarm{Origin: head.Origin, Kind: Forked, Had: l.checkpoint, Got: r.Checkpoint,
			Text: fmt.Sprintf("the log %s has signed two different heads of %d leaves", head.Origin, head.Size)})
		return w.conflict(was.Size)
	}
	if r.Old != was.Size {
		return w.conflict(was.Size)
	}
	proof := receipt.ConsistencyProof{From: r.Old, To: head.Size, ProofHashes: r.Proof}
	if proof.Check(was.Root, head.Root) == nil {
		return nil
	}
	if old, ok := provenOld(r.Proof, r.Old, head.Size, head.Root); ok && old != was.Root {
		w.alarm(Alarm{Origin: head.Origin, Kind: Forked, Had: l.checkpoint, Got: r.Checkpoint, Proof: r.Proof,
			Text: fmt.Sprintf("the log %s has signed a head of %d leaves whose first %d are not those of the head that it signed before", head.Origin, head.Size, was.Size)})
	} else {
		// Anybody can send a good head with a wrong proof, so this is no alarm.
		w.cfg.Log.Warn("a head came with a wrong consistency proof", "log", head.Origin, "size", head.Size, "old_size", r.Old)
	}
	return w.refuse(http.StatusUnprocessableEntity, "the consistency proof does not show that the first %d of the %d leaves are those that this witness has cosigned", r.Old, head.Size)
}

// conflict refuses a head with the size that is remembered.
func (w *Witness) conflict(size int64) error {
	err := w.refuse(http.StatusConflict, "%d", size)
	var a *Answered
	if errors.As(err, &a) {
		a.Size = size
	}
	return err
}

// Head returns the newest head of a log that was cosigned, with a signature of now.
func (w *Witness) Head(origin string) (checkpoint string, ok bool, err error) {
	w.mu.Lock()
	l := w.logs[origin]
	w.mu.Unlock()
	if l == nil {
		return "", false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.checkpoint == "" {
		return "", false, nil
	}
	line, err := receipt.Cosign(l.checkpoint, w.cfg.Name, w.cfg.Key, w.cfg.Now())
	return l.checkpoint + line, err == nil, err
}

// size returns how many leaves are remembered of a log, and the head that says so.
func (w *Witness) size(origin string) (size int64, checkpoint string) {
	w.mu.Lock()
	l := w.logs[origin]
	w.mu.Unlock()
	if l == nil {
		return 0, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Size, l.checkpoint
}

// shows tells whether a log showed less in a round than is remembered. It returns in how many rounds in a row
// it did.
func (w *Witness) shows(origin string, less bool) int {
	w.mu.Lock()
	l := w.logs[origin]
	w.mu.Unlock()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.short++; !less {
		l.short = 0
	}
	return l.short
}

// Doubts returns how many logs showed less than they had in the last round, and not yet in so many rounds
// that it is an alarm.
func (w *Witness) Doubts() (n int) {
	w.mu.Lock()
	logs := slices.Collect(maps.Values(w.logs))
	w.mu.Unlock()
	for _, l := range logs {
		l.mu.Lock()
		if l.short > 0 && l.short < shortRounds {
			n++
		}
		l.mu.Unlock()
	}
	return n
}

// alarm keeps evidence and says so. The same evidence is kept once.
func (w *Witness) alarm(a Alarm) {
	a.At = w.cfg.Now().UTC()
	w.mu.Lock()
	defer w.mu.Unlock()
	of := 0
	for i := range w.alarms {
		b := &w.alarms[i]
		if b.Origin != a.Origin || !w.state.there(b) {
			continue
		}
		if of++; b.Kind == a.Kind && b.Got == a.Got {
			return
		}
	}
	if of >= maxEvidence {
		w.cfg.Log.Error("ALARM: "+a.Text+"; there is enough evidence of this log, so no more is kept", "log", a.Origin)
		return
	}
	a.unsaved = true
	w.alarms = append(w.alarms, a)
	w.save(&w.alarms[len(w.alarms)-1], true)
}

// save keeps evidence in a file. While that fails, the alarm stays in memory. Callers hold mu.
func (w *Witness) save(a *Alarm, first bool) {
	err := w.state.save(a)
	switch {
	case err == nil:
		w.cfg.Log.Error("ALARM: "+a.Text+"; both heads are kept as evidence", "log", a.Origin, "kind", string(a.Kind), "file", evidenceDir+"/"+a.file)
	case first:
		w.cfg.Log.Error("ALARM: "+a.Text+"; the evidence cannot be kept in a file, which is tried again: make the witness's directory writable", "log", a.Origin, "kind", string(a.Kind), "had", a.Had, "got", a.Got, "error", err)
	}
}

// Alarms returns the evidence that lies in the state directory, or could not be kept there yet: an operator
// ends an alarm by taking its file away.
func (w *Witness) Alarms() []Alarm {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.alarms {
		if w.alarms[i].unsaved {
			w.save(&w.alarms[i], false)
		}
	}
	w.alarms = slices.DeleteFunc(w.alarms, func(a Alarm) bool { return !w.state.there(&a) })
	return slices.Clone(w.alarms)
}

// Collectors returns the metrics of the witness.
func (w *Witness) Collectors() []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		gauge("kapsel_witness_logs", "Logs with a head that the witness remembers.", func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			n := 0
			for _, some := range w.of {
				n += some
			}
			return float64(n)
		}),
		gauge("kapsel_witness_alarms", "Heads of logs that contradict those that the witness has cosigned: a log forked or shrank. The evidence is in the state directory.", func() float64 {
			return float64(len(w.Alarms()))
		}),
		gauge("kapsel_witness_unreachable_logs", "Followed logs whose head could not be read or followed in the last round.", func() float64 {
			return float64(w.lost.Load())
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kapsel_witness_cosignatures_total",
			Help: "Heads that were cosigned.",
		}, func() float64 { return float64(w.cosigned.Load()) }),
		w.refusals,
	}
}
