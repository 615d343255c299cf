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

// maxLogs bounds how many logs a witness remembers: who has the key of a Kapsel can make any number.
const maxLogs = 100_000

// Log is a log that a witness knows.
type Log struct {
	Key receipt.Key // without a name: of every log of one Kapsel
	URL string      // of the Kapsel, without a slash at the end; "": the log is not followed
}

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
	logs   map[string]*known // by origin; guarded by mu
	alarms []Alarm           // guarded by mu

	cosigned, lost atomic.Int64 // signatures made; logs that could not be read in the last round
	refusals       *prometheus.CounterVec
}

// known is a log that was cosigned.
type known struct {
	mu         sync.Mutex
	checkpoint string // guarded by mu; "": none yet
	head       receipt.Checkpoint
}

// Open returns the witness of a state directory. It waits up to 10 s for another process to leave the
// directory. Callers must close the witness.
func Open(ctx context.Context, cfg Config) (*Witness, error) {
	if err := receipt.CheckName(cfg.Name); err != nil {
		return nil, err
	}
	w := &Witness{cfg: cfg, logs: map[string]*known{}, refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
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
		w.logs[k.Origin] = &known{checkpoint: k.Checkpoint, head: head}
	}
	return w, nil
}

// Close lets another process have the state directory. Callers must call no method any more.
func (w *Witness) Close() { w.state.lock.Release() }

// Key returns the public key of the witness.
func (w *Witness) Key() receipt.Key { return KeyOf(w.cfg.Name, w.cfg.Key) }

// keysOf returns the keys that may sign the heads of a log; nil: the log is not known.
func (w *Witness) keysOf(origin string) (keys []receipt.Key) {
	id, isKapsel := strings.CutPrefix(origin, "kapsel/")
	if _, err := kapsel.ParseLogID(id); err != nil {
		isKapsel = false
	}
	for _, l := range w.cfg.Logs {
		if l.Key.Name == origin || l.Key.Name == "" && isKapsel {
			keys = append(keys, l.Key)
		}
	}
	return keys
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
	keys := w.keysOf(says.Origin)
	if keys == nil {
		return "", w.refuse(http.StatusNotFound, "this witness does not know the log %s", quoted(says.Origin))
	}
	signed, err := receipt.OpenCheckpoint(r.Checkpoint, keys...)
	if errors.Is(err, receipt.ErrUnsigned) {
		return "", w.refuse(http.StatusForbidden, "%v: if the log has another key now, this witness must be given it", err)
	}
	if err != nil {
		return "", w.refuse(http.StatusBadRequest, "%v", err)
	}
	head := signed.Checkpoint
	if r.Old > head.Size {
		return "", w.refuse(http.StatusBadRequest, "the old size, %d, is above that of the checkpoint, %d", r.Old, head.Size)
	}
	l, err := w.log(head.Origin)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := w.follows(l, &r, head); err != nil {
		return "", err
	}
	if l.checkpoint == "" || head != l.head {
		if err := w.state.keep(kept{head.Origin, r.Checkpoint, w.cfg.Now().UTC()}); err != nil {
			return "", fmt.Errorf("the head of %s could not be kept, so it was not signed: %w", head.Origin, err)
		}
		l.checkpoint, l.head = r.Checkpoint, head
	}
	if line, err = receipt.Cosign(r.Checkpoint, w.cfg.Name, w.cfg.Key, w.cfg.Now()); err == nil {
		w.cosigned.Add(1)
	}
	return line, err
}

// log returns what is remembered of a log, which may be nothing yet.
func (w *Witness) log(origin string) (*known, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[origin]
	if l == nil {
		if len(w.logs) >= maxLogs {
			return nil, w.refuse(http.StatusForbidden, "this witness knows %d logs, and takes no more", maxLogs)
		}
		l = &known{}
		w.logs[origin] = l
	}
	return l, nil
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
	name, err := w.state.save(&a)
	a.file = name
	w.alarms = append(w.alarms, a)
	if err != nil {
		w.cfg.Log.Error("the evidence against a log could not be kept", "log", a.Origin, "had", a.Had, "got", a.Got, "error", err)
	}
	w.cfg.Log.Error("ALARM: "+a.Text+"; both heads are kept as evidence", "log", a.Origin, "kind", string(a.Kind), "file", evidenceDir+"/"+name)
}

// Alarms returns the evidence that lies in the state directory: an operator ends an alarm by taking its file
// away.
func (w *Witness) Alarms() []Alarm {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarms = slices.DeleteFunc(w.alarms, func(a Alarm) bool { return !w.state.there(&a) })
	return slices.Clone(w.alarms)
}

// Collectors returns the metrics of the witness.
func (w *Witness) Collectors() []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return []prometheus.Collector{
		gauge("kapsel_witness_logs", "Logs of which the witness remembers a head.", func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return float64(len(w.logs))
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
