package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/witness"
	"github.com/kapsel-hq/kapsel/receipt"
)

const (
	// witnessEvery is how often witnesses are asked for signatures of new heads.
	witnessEvery = 10 * time.Second
	// witnessFirst is how long a node that begins to sign waits for what the witnesses remember. Those that
	// do not answer by then do not stop it.
	witnessFirst = 3 * time.Second
	// logsAtOnce is of how many logs a witness is asked at once.
	logsAtOnce = 8
)

// WitnessesConfig holds what Witnesses need.
type WitnessesConfig struct {
	Store   store.Journal
	Keys    *Keys // whose public keys alone are used
	Clients []*witness.Client
	// Wanted is how many witnesses must sign a head of a tenant's log; 0: none is asked.
	Wanted func(kapsel.TenantID) int
	Now    func() time.Time // the store's time
	Log    *slog.Logger
}

// Witnesses asks witnesses to sign the heads that a Writer publishes, and tells the Writer when a witness
// remembers a log that this store does not have. The Writer never waits for them, but when it begins: then
// witnessFirst at most. A nil *Witnesses asks nobody.
type Witnesses struct {
	cfg  WitnessesConfig
	wake chan chan struct{} // a round is wanted; the channel in it is closed after that round

	loading map[kapsel.LogID]*witnessing // what load has read; nil: it does not run. The Writer's goroutine owns it
	loaded  kapsel.LogID                 // the last log in it

	saves sync.Mutex // held while rows are stored, so that no newer row is replaced by an older one

	mu      sync.Mutex
	leads   bool // guarded by mu, as is what follows
	logs    map[kapsel.LogID]*witnessing
	against map[contradiction]string // why nothing is signed
}

// contradiction is a witness and a log that it remembers otherwise.
type contradiction struct {
	witness int
	log     kapsel.LogID
}

// witnessing is a log as its witnesses know it.
type witnessing struct {
	tenant kapsel.TenantID
	head   store.SignedHead // the newest that was published
	asked  store.SignedHead // which the lines sign
	lines  []string         // of each witness; "": none
	states []WitnessState   // of each witness
	asks   []bool           // of each witness: it was asked since this node writes the logs
	row    store.Witnessed  // as it is stored
	dirty  bool             // a witness has said something that may not be stored
	since  time.Time        // when the oldest head was signed that lacks witnesses; zero: none
}

// WitnessState is what a witness last did for a log.
type WitnessState struct {
	Key   string    `json:"key"`            // a vkey
	Size  int64     `json:"size,omitempty"` // of the newest head that it has signed, or remembers
	At    time.Time `json:"at,omitzero"`    // when it signed that head
	Error string    `json:"error,omitempty"`
}

// NewWitnesses returns the Witnesses of an instance; nil if there are no clients.
func NewWitnesses(cfg WitnessesConfig) *Witnesses {
	if len(cfg.Clients) == 0 {
		return nil
	}
	return &Witnesses{cfg: cfg, wake: make(chan chan struct{}, 1), logs: map[kapsel.LogID]*witnessing{}, against: map[contradiction]string{}}
}

// ReadWitnessStates returns the states that a store holds.
func ReadWitnessStates(w *store.Witnessed) (states []WitnessState, err error) {
	if len(w.States) > 0 {
		err = json.Unmarshal(w.States, &states)
	}
	return states, err
}

// Collectors returns the metrics of the witnesses. Without witnesses they are there and 0.
func (w *Witnesses) Collectors() []prometheus.Collector {
	if w == nil {
		w = &Witnesses{}
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return f()
		})
	}
	return []prometheus.Collector{
		gauge("kapsel_audit_witness_lag_seconds", "How long ago the oldest published head of an audit log was signed for which it lacks signatures of witnesses. 0 on nodes that do not write the logs.", func() float64 {
			lag := time.Duration(0)
			for _, l := range w.logs {
				if !l.since.IsZero() {
					lag = max(lag, w.cfg.Now().Sub(l.since))
				}
			}
			return lag.Seconds()
		}),
		gauge("kapsel_audit_witness_conflicts", "Audit logs, counted for each witness, that lack in this database what the witness remembers. No head is signed meanwhile.", func() float64 {
			return float64(len(w.against))
		}),
	}
}

// Run asks the witnesses until ctx ends, while the node writes the logs.
func (w *Witnesses) Run(ctx context.Context) {
	if w == nil {
		return
	}
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	warned := false
	for {
		var done chan struct{}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case done = <-w.wake:
		}
		err := w.round(ctx)
		if done != nil {
			close(done)
		}
		if err != nil && !warned && ctx.Err() == nil {
			w.cfg.Log.Warn("what witnesses have signed could not be kept; trying again", "error", err)
		}
		warned = err != nil
	}
}

// begin asks the witnesses what they remember, for a node that begins to write the logs and renews its lease by
// lead. The error is a Refusal if one of them remembers what the store does not have.
func (w *Witnesses) begin(ctx context.Context, lead func(context.Context) error) error {
	if w == nil {
		return nil
	}
	if err := w.load(ctx, lead); err != nil {
		return err
	}
	done := make(chan struct{})
	select {
	case w.wake <- done:
	default: // a round is due anyway
	}
	select {
	case <-done:
	case <-time.After(witnessFirst):
	case <-ctx.Done():
	}
	if err := lead(ctx); err != nil {
		return err
	}
	return w.refusal()
}

// load reads all open logs with their newest heads. After trouble of the store it goes on where it was, as long
// as the node leads.
func (w *Witnesses) load(ctx context.Context, lead func(context.Context) error) error {
	if w.loading == nil {
		w.loading, w.loaded = map[kapsel.LogID]*witnessing{}, kapsel.LogID{}
	}
	loaded := w.loading
	for after := w.loaded; ; w.loaded = after {
		logs, err := w.cfg.Store.Logs(ctx, after, headsAtOnce)
		if err != nil {
			return err
		}
		for i := range logs {
			l := &logs[i]
			after = l.ID
			if err := lead(ctx); err != nil {
				return err
			}
			if !l.ClosedAt.IsZero() {
				continue
			}
			head, err := w.cfg.Store.Head(ctx, l.ID)
			if kapsel.CodeOf(err) == kapsel.NotFound {
				continue
			}
			if err != nil {
				return err
			}
			row, err := w.cfg.Store.Witnessed(ctx, l.ID)
			if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
				return err
			}
			loaded[l.ID] = w.witnessing(l.TenantID, head, row)
		}
		if len(logs) < headsAtOnce {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs, w.leads, w.loading = loaded, true, nil
	maps.DeleteFunc(w.against, func(c contradiction, _ string) bool { return loaded[c.log] == nil }) // it was ended
	return nil
}

// witnessing returns a log as the store knows it.
func (w *Witnesses) witnessing(tenant kapsel.TenantID, head store.SignedHead, row store.Witnessed) *witnessing {
	n := len(w.cfg.Clients)
	l := &witnessing{tenant: tenant, head: head, row: row, lines: make([]string, n), states: make([]WitnessState, n), asks: make([]bool, n)}
	states, err := ReadWitnessStates(&row)
	if err != nil {
		states = nil // they are made anew
	}
	for i, c := range w.cfg.Clients {
		l.states[i].Key = c.Key.String()
		for _, s := range states {
			if s.Key == l.states[i].Key {
				l.states[i] = s
			}
		}
	}
	if row.Size < head.Size {
		l.since = head.SignedAt
	}
	return l
}

// offer tells of a head that was published.
func (w *Witnesses) offer(tenant kapsel.TenantID, head store.SignedHead) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.leads {
		return
	}
	l := w.logs[head.Log]
	if l == nil {
		l = w.witnessing(tenant, head, store.Witnessed{})
		w.logs[head.Log] = l
	}
	if l.head = head; l.since.IsZero() {
		l.since = head.SignedAt
	}
}

// end forgets the logs, because another node writes them.
func (w *Witnesses) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leads, w.loading = false, nil
	clear(w.logs)
	clear(w.against)
}

// refusal returns a Refusal if a witness remembers what the store does not have.
func (w *Witnesses) refusal() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := slices.Sorted(maps.Values(w.against))
	if len(texts) == 0 {
		return nil
	}
	more := ""
	if len(texts) > 1 {
		more = fmt.Sprintf(" (and %d more)", len(texts)-1)
	}
	return refuse("%s%s; %s. If it is the witness that is wrong, take it out of KAPSEL_AUDIT_WITNESSES", texts[0], more, advice)
}

// question is what a witness is asked of a log.
type question struct {
	witness int
	log     kapsel.LogID
	head    store.SignedHead
	old     int64 // what it is thought to remember
}

// round asks each witness for a signature of each head that it has not signed. What a slow witness has not
// signed when its time is over is left to the next round, and what the others have signed is kept before.
func (w *Witnesses) round(ctx context.Context) error {
	keys, err := w.cfg.Keys.All(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for i, of := range w.questions() {
		if len(of) == 0 {
			continue
		}
		group.Go(func() error {
			own, stop := context.WithTimeout(ctx, witnessEvery)
			defer stop()
			w.ask(own, i, of, keys)
			return w.save(ctx, keys)
		})
	}
	return group.Wait()
}

// questions returns what each witness is to be asked.
func (w *Witnesses) questions() [][]question {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([][]question, len(w.cfg.Clients))
	for id, l := range w.logs {
		if w.cfg.Wanted(l.tenant) == 0 {
			l.since = time.Time{}
			continue
		}
		if l.asked.Size != l.head.Size {
			l.asked = l.head
			clear(l.lines)
		}
		for i := range w.cfg.Clients {
			s := &l.states[i]
			if !l.asks[i] || s.Size != l.head.Size || s.Error != "" {
				all[i] = append(all[i], question{i, id, l.head, min(s.Size, l.head.Size)})
			}
		}
	}
	return all
}

// ask asks a witness, until it does not answer.
func (w *Witnesses) ask(ctx context.Context, i int, of []question, keys []Key) {
	away, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	group.SetLimit(logsAtOnce)
	for _, q := range of {
		group.Go(func() error {
			if away.Err() != nil {
				return nil
			}
			line, size, err := w.cosignature(ctx, q, keys)
			if err != nil && ctx.Err() != nil {
				return nil // the round's time is over
			}
			var away *silent
			if errors.As(err, &away) {
				stop() // the others would wait for it in vain
			}
			w.answered(q, line, size, err)
			return nil
		})
	}
	group.Wait()
}

// silent is why a witness has not answered.
type silent struct{ error }

func (e *silent) Unwrap() error { return e.error }

// cosignature asks a witness for its signature of a head. It returns the line, and how many leaves the
// witness remembers, -1 if it has not said.
func (w *Witnesses) cosignature(ctx context.Context, q question, keys []Key) (line string, size int64, err error) {
	client, tree := w.cfg.Clients[q.witness], Tree{q.log, w.cfg.Store}
	public, old := keysOf(q.log, keys), q.old
	for range 3 { // another node, or this one before a restart, may have posted a newer head
		r := witness.Request{Old: old, Checkpoint: string(q.head.Note)}
		if old > 0 && old < q.head.Size {
			proof, err := tree.Consistency(ctx, old, q.head.Size)
			if err != nil {
				return "", -1, err
			}
			for _, h := range proof {
				r.Proof = append(r.Proof, receipt.Hash(h))
			}
		}
		line, err = client.Add(ctx, r, public...)
		var a *witness.Answered
		switch {
		case err == nil:
			return line, q.head.Size, nil
		case !errors.As(err, &a):
			return "", -1, &silent{err}
		case a.Status == http.StatusUnprocessableEntity:
			return "", old, w.contradicts(q, "the witness %s has signed a head of %d leaves of audit log %s that does not fit the %d leaves in the database", old)
		case a.Status != http.StatusConflict:
			return "", -1, err
		case a.Size == old && old == q.head.Size:
			return "", old, w.contradicts(q, "the witness %s has signed another head of %d leaves of audit log %s than the database has, which has %d", old)
		case a.Size == old:
			return "", -1, &witness.Answered{Text: "it refuses the size that it says it remembers"}
		}
		if old = a.Size; old > q.head.Size {
			newest, err := w.cfg.Store.Head(ctx, q.log)
			if err != nil {
				return "", -1, err
			}
			if newest.Size < old {
				return "", old, w.contradicts(q, "the witness %s remembers a head of %d leaves of audit log %s, and the newest in the database has %d", old)
			}
			q.head = newest
		}
	}
	return "", old, err
}

// contradicts returns the error for a witness that remembers something else than the store. The format
// names the witness, a size, the log and the size in the store.
func (w *Witnesses) contradicts(q question, format string, size int64) error {
	return refuse(format, w.cfg.Clients[q.witness].Key.Name, size, q.log, q.head.Size)
}

// answered keeps what a witness has said of a log.
func (w *Witnesses) answered(q question, line string, size int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[q.log]
	if l == nil { // another node writes the logs now
		return
	}
	l.dirty = true
	s, name := &l.states[q.witness], w.cfg.Clients[q.witness].Key.Name
	was := s.Error
	if size >= 0 {
		s.Size = size
	}
	var a *witness.Answered
	var refusal *Refusal
	at := contradiction{q.witness, q.log}
	switch {
	case err == nil:
		s.At, s.Error = w.cfg.Now().UTC(), ""
		l.asks[q.witness] = true
		delete(w.against, at)
		if l.asked.Size == size {
			l.lines[q.witness] = line
		} else {
			l.asks[q.witness] = false // the line is of a head that this node does not know yet
		}
	case errors.As(err, &refusal):
		s.Error = "it remembers another history of the log"
		if w.against[at] != refusal.text {
			w.against[at] = refusal.text
			w.cfg.Log.Error("a witness remembers what this database does not have; no head of an audit log is signed", "witness", name, "log", q.log.String(), "error", refusal)
		}
	case errors.As(err, &a):
		s.Error = a.Text
	default:
		s.Error = "it does not answer"
	}
	if s.Error != was && s.Error != "" && refusal == nil {
		w.cfg.Log.Warn("a witness has not signed a head; trying again", "witness", name, "log", q.log.String(), "error", err)
	}
}

// save stores what has changed.
func (w *Witnesses) save(ctx context.Context, keys []Key) (err error) {
	w.saves.Lock()
	defer w.saves.Unlock()
	changed, looked, err := w.changed(keys)
	defer func() {
		if err != nil { // the next round saves them
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, l := range looked {
				l.dirty = true
			}
		}
	}()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(changed, headsAtOnce) {
		if err := w.cfg.Store.SetWitnessed(ctx, some); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range changed {
		l := w.logs[row.Log]
		if l == nil {
			continue
		}
		l.row = row
		switch {
		case row.Size >= l.head.Size:
			l.since = time.Time{}
		case row.Size > 0 && l.since.Before(row.SignedAt):
			l.since = row.SignedAt
		}
	}
	return nil
}

// changed returns the rows of the logs that have another state than the store, and the logs that it has looked
// at: those that a witness has said something about since the last time.
func (w *Witnesses) changed(keys []Key) (rows []store.Witnessed, looked []*witnessing, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, l := range w.logs {
		if !l.dirty {
			continue
		}
		l.dirty, looked = false, append(looked, l)
		row := l.row
		row.Log = id
		if l.asked.Size > 0 && l.asked.Size >= row.Size {
			note := string(l.asked.Note) + strings.Join(l.lines, "")
			known := keysOf(id, keys)
			for _, c := range w.cfg.Clients {
				known = append(known, c.Key)
			}
			signed, err := receipt.OpenCheckpoint(note, known...)
			if err != nil {
				return nil, looked, fmt.Errorf("open a head with its witnesses' lines: %w", err)
			}
			wanted := w.cfg.Wanted(l.tenant)
			if n := signed.Witnesses(); wanted > 0 && n >= wanted && (l.asked.Size > row.Size || len(note) > len(row.Note)) {
				row.SignedHead = l.asked
				row.Note, row.Epoch = []byte(note), 0
			}
		}
		if row.States, err = json.Marshal(l.states); err != nil {
			return nil, looked, err
		}
		if row.Size != l.row.Size || len(row.Note) != len(l.row.Note) || string(row.States) != string(l.row.States) {
			rows = append(rows, row)
		}
	}
	return rows, looked, nil
}
