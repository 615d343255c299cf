package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

const (
	// signEvery is how often logs that have grown get heads. After a turn that signed more than
	// headsAtOnce of them, the next turn is left out: a head costs the same for one leaf as for many.
	signEvery = 2 * time.Second
	// leadFor is the lease of the writer. After a crash, the next writer begins when it has ended.
	leadFor = 6 * time.Second
	// restFor is how long a node that cannot sign does not ask for the lease: until its own lease has
	// ended and others have asked.
	restFor = leadFor + 2*signEvery
	// checkEvery is how often a store that was found to lack published leaves is looked at again.
	checkEvery = 30 * time.Second
	// headsAtOnce is how many heads are signed and stored together.
	headsAtOnce = 250
)

// Store holds the methods of the store that a Writer uses.
type Store interface {
	store.Journal
	Meta
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
}

// Config holds what a Writer needs. HighWater may be nil: then nothing outside of the store remembers
// what was published.
type Config struct {
	Store     Store
	Now       func() time.Time // the store's time
	Node      kapsel.NodeID
	Keys      *Keys
	HighWater *HighWater
	// AtOnce is how many leaves are made in one transaction.
	AtOnce    int
	Witnesses *Witnesses // nil: none
	Log       *slog.Logger
}

// Writer makes leaves of the outbox's entries and signs the heads of all logs, while its node leads
// the duty. Run does its work.
type Writer struct {
	cfg  Config
	held map[kapsel.TenantID]*holding // logs that this node writes, in the epoch that it has begun

	swept   time.Time // when the logs that have grown were looked for in the store, by the local clock
	signed  int       // the heads of the last turn
	leads   time.Time // when the lease was asked for last, by the local clock; zero: this node does not lead
	checked bool      // what HighWater remembers was compared since this node leads
	checks  checking  // how far that has come
	tried   time.Time // when it was compared last
	rests   time.Time // until when this node does not ask for the lease, by the local clock

	faulty map[kapsel.LogID]bool // logs with a fault; nothing of them is signed
	passed time.Time             // when the logs with faults were read last, by the local clock
	pause  time.Time             // until when the outbox is not read, by the local clock
	text   []byte                // scratch

	unread, told map[kapsel.AttemptID]error // entries that cannot become leaves, which stay in the outbox, and why: of this look at it, and of the one before

	refused atomic.Pointer[string] // why no head is signed
	faults  atomic.Int64           // the number of logs with a fault
	size    atomic.Int64           // of all logs together
	oldest  atomic.Int64           // Unix milliseconds; when the oldest attempt ended that no head has; 0: none
	lag     atomic.Int64           // of the heads that were published last
}

// checking is how far the comparison with HighWater has come. It goes on there after trouble of the store, as
// long as the node leads, and begins anew otherwise.
type checking struct {
	size     int64           // of the logs so far
	after    kapsel.LogID    // the last of them
	counted  bool            // there are no more
	compared map[string]Mark // with which logs were compared
}

// errNotLeading is the error of work that this node may not go on with, because another one leads.
var errNotLeading = errors.New("another node writes the audit logs")

// holding is a log as its writer knows it.
type holding struct {
	store.Log
	signed ed25519.PublicKey // by which its newest head was signed; nil: it has none
	head   int64             // the size of its newest head
	waits  int64             // Unix milliseconds; when the oldest attempt ended that the log lacks because of its fault; 0: none
}

// NewWriter returns a Writer.
func NewWriter(cfg Config) *Writer {
	return &Writer{cfg: cfg, held: map[kapsel.TenantID]*holding{}, faulty: map[kapsel.LogID]bool{}}
}

// Collectors returns the metrics of the writer.
func (w *Writer) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kapsel_audit_tree_size",
			Help: "Leaves of all audit logs, on the node that writes them; 0 on the others.",
		}, func() float64 { return float64(w.size.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kapsel_audit_faulty_logs",
			Help: "Audit logs that do not fit together, so that no head of them is signed, as far as the node knows that writes the logs; 0 on the others.",
		}, func() float64 { return float64(w.faults.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kapsel_audit_lag_seconds",
			Help: "How long ago the oldest attempt ended that no published head has yet; if there is none, how long the last one waited. 0 on nodes that do not write the logs.",
		}, w.lagSeconds),
	}
}

func (w *Writer) lagSeconds() float64 {
	if oldest := w.oldest.Load(); oldest != 0 {
		return max(0, w.cfg.Now().Sub(time.UnixMilli(oldest)).Seconds())
	}
	return time.Duration(w.lag.Load()).Seconds()
}

// Refused returns why this node signs no heads, as an error for users. It returns nil if it may sign,
// or does not write the logs.
func (w *Writer) Refused(context.Context) error {
	if text := w.refused.Load(); text != nil {
		return kapsel.Errorf(kapsel.DatabaseUnavailable, "the audit log is degraded: %s", *text)
	}
	return nil
}

// Run works until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	tick := time.NewTicker(signEvery)
	defer tick.Stop()
	warned, pause := false, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var err error
		if pause = !pause && w.signed > headsAtOnce; pause {
			if err = w.lead(ctx); errors.Is(err, errNotLeading) {
				err = nil
			}
		} else {
			err = w.turn(ctx)
		}
		if err != nil && !warned && ctx.Err() == nil {
			w.cfg.Log.Warn("the audit log could not be written; trying again", "error", err)
		}
		warned = err != nil
	}
}

// Finish makes leaves of what is left and publishes the last heads. Callers must wait for the end of
// Run before.
func (w *Writer) Finish(ctx context.Context) {
	if err := w.turn(ctx); err != nil {
		w.cfg.Log.Warn("the audit log's last heads are published by the next start, or by another node", "error", err)
	}
}

// turn makes leaves of all entries and publishes the heads of the logs that have grown, if this node
// leads the duty.
func (w *Writer) turn(ctx context.Context) (err error) {
	defer func() {
		if err != nil { // whether something was written may be unknown: the logs are read again
			w.forget()
		}
		if errors.Is(err, errNotLeading) {
			err = nil
		}
	}()
	if time.Now().Before(w.rests) {
		return nil
	}
	if err := w.lead(ctx); err != nil {
		return err
	}
	if !w.checked {
		if err := w.look(ctx); err != nil {
			return err
		}
		if w.refused.Load() != nil && time.Since(w.tried) < checkEvery {
			return nil
		}
		w.tried = time.Now()
		if err := w.check(ctx); err != nil {
			return w.refuse(err)
		}
		if err := w.cfg.Witnesses.begin(ctx, w.lead); err != nil {
			return w.refuse(err)
		}
		w.checked, w.checks = true, checking{}
	}
	if err := w.cfg.Witnesses.refusal(); err != nil {
		return w.refuse(err)
	}
	if err := w.sequence(ctx); err != nil {
		return w.refuse(err)
	}
	key, err := w.cfg.Keys.Current(ctx, w.cfg.Now())
	if err != nil {
		return w.refuse(err)
	}
	complete, err := w.publish(ctx, key)
	if err != nil {
		return w.refuse(err)
	}
	if !w.checked { // something was stale
		return nil
	}
	w.mayAgain()
	if oldest := w.oldest.Load(); complete && oldest != 0 {
		w.lag.Store(int64(w.cfg.Now().Sub(time.UnixMilli(oldest))))
		w.oldest.Store(w.waiting())
	} else if oldest == 0 {
		w.lag.Store(0)
	}
	return nil
}

// forget forgets the logs as this node knows them.
func (w *Writer) forget() {
	clear(w.held)
	w.swept = time.Time{}
}

// refuse remembers an error that is a Refusal and logs it once; the next turns look again whether the
// reason is gone. If the reason concerns this node alone, the node lets others have the lease. refuse
// returns any other error.
func (w *Writer) refuse(err error) error {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return err
	}
	w.forget()
	w.checked, w.checks = false, checking{}
	if refusal.own {
		w.leads, w.tried, w.rests = time.Time{}, time.Time{}, time.Now().Add(restFor)
	}
	if old := w.refused.Swap(&refusal.text); old == nil || *old != refusal.text {
		w.cfg.Log.Error("no head of an audit log is signed; events are accepted and delivered", "error", refusal)
	}
	return nil
}

// mayAgain forgets a refusal.
func (w *Writer) mayAgain() {
	if w.refused.Swap(nil) != nil {
		w.cfg.Log.Info("heads of the audit log are signed again")
	}
}

// lead returns nil if this node is the writer, and renews its lease if that is due. It returns errNotLeading if
// another node is. Whatever may take longer than leadFor must call it in between.
func (w *Writer) lead(ctx context.Context) error {
	if !w.leads.IsZero() && time.Since(w.leads) < leadFor/3 {
		return nil
	}
	asked := time.Now()
	leads, err := w.cfg.Store.Lead(ctx, "audit", w.cfg.Node, w.cfg.Now(), leadFor)
	if err != nil {
		return err
	}
	if !leads {
		w.forget()
		w.signed = 0
		w.leads, w.checked, w.checks = time.Time{}, false, checking{}
		w.cfg.Witnesses.end()
		clear(w.faulty)
		w.faults.Store(0)
		w.size.Store(0)
		w.oldest.Store(0)
		w.lag.Store(0)
		w.refused.Store(nil)
		return errNotLeading
	}
	w.leads = asked
	return nil
}

// looked is how many entries show how long the outbox has waited.
const looked = 100

// look sees how long the oldest entries of the outbox have waited. No leaf is made of them before the logs
// were compared.
func (w *Writer) look(ctx context.Context) error {
	entries, _, err := w.cfg.Store.Entries(ctx, store.EntryKey{}, looked, nil)
	if err != nil {
		return err
	}
	oldest := int64(0)
	for i := range entries {
		e := &entries[i]
		at := e.AttemptID.Time().UnixMilli()
		if r, err := store.ReadRecord(e.AttemptID, e.Record); err == nil {
			at = r.EndedAt
		}
		oldest = older(oldest, at)
	}
	w.oldest.Store(oldest)
	return nil
}

// check compares the logs with what HighWater remembers, and counts their leaves. The error is a
// Refusal if the store lacks what was published.
func (w *Writer) check(ctx context.Context) error {
	c := &w.checks
	clear(w.told) // the database may be another one
	for !c.counted {
		logs, err := w.cfg.Store.Logs(ctx, c.after, headsAtOnce)
		if err != nil {
			return err
		}
		for i := range logs {
			c.size += logs[i].Size
			w.tell(&logs[i])
			c.after = logs[i].ID
		}
		c.counted = len(logs) < headsAtOnce
		if err := w.lead(ctx); err != nil {
			return err
		}
	}
	w.size.Store(c.size)
	if w.cfg.HighWater == nil {
		return nil
	}
	if c.compared == nil {
		if err := w.cfg.HighWater.Read(); err != nil {
			return refuseHere("%v: restore the file, because what was published must be remembered", err)
		}
		c.compared = map[string]Mark{}
	}
	for text, mark := range w.cfg.HighWater.Marks() {
		if done, ok := c.compared[text]; ok && done == mark {
			continue
		}
		id, err := kapsel.ParseLogID(text)
		if err != nil {
			return refuse("the file of the audit log's heads has a log %q, which is no log's id: restore the file", text)
		}
		if err := w.compare(ctx, id, mark); err != nil {
			return err
		}
		if err := w.lead(ctx); err != nil {
			return err
		}
		c.compared[text] = mark
	}
	return nil
}

// advice tells users what to do when the store lacks what was published.
const advice = "if that is what you want, start once with --accept-rollback: all audit logs end, and new ones begin; otherwise restore a database that is not older than its audit log"

// compare fails with a Refusal unless the store has a log whose first leaves are those under a head that
// was published.
func (w *Writer) compare(ctx context.Context, id kapsel.LogID, mark Mark) error {
	l, err := w.cfg.Store.Log(ctx, id)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		return refuse("a head of audit log %s over %d leaves was published, and the database does not have the log; %s", id, mark.Size, advice)
	}
	if err != nil {
		return err
	}
	return w.extends(ctx, &l, mark)
}

// extends fails with a Refusal unless the first leaves of a log are those under a head that was published.
func (w *Writer) extends(ctx context.Context, l *store.Log, mark Mark) error {
	if !l.ClosedAt.IsZero() {
		return nil
	}
	if l.Size < mark.Size {
		return refuse("a head of audit log %s over %d leaves was published, and the database has only %d; %s", l.ID, mark.Size, l.Size, advice)
	}
	root, err := Tree{l.ID, w.cfg.Store}.Root(ctx, mark.Size)
	if unread(err) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil || root != store.Hash(mark.Root) {
		return refuse("the first %d leaves of audit log %s are not those of the head that was published; %s", mark.Size, l.ID, advice)
	}
	return nil
}

// tell logs that a log has a fault, once, and counts it. It forgets a fault that fsck has taken back.
func (w *Writer) tell(l *store.Log) {
	faulty := l.Fault != "" && l.ClosedAt.IsZero()
	if faulty && !w.faulty[l.ID] {
		w.cfg.Log.Error("an audit log does not fit together; nothing is signed of it: run kapsel fsck", "log", l.ID.String(), "tenant", l.TenantID.String(), "error", l.Fault)
		w.faulty[l.ID] = true
	} else if !faulty {
		delete(w.faulty, l.ID)
	}
	w.faults.Store(int64(len(w.faulty)))
}

// maxPause is the longest that the outbox is left alone. A head must be published within ten seconds.
const maxPause = 4 * time.Second

// sequence makes leaves of all entries, but for those of logs with a fault, which wait. To pass over those
// takes the longer the more there are, so the outbox is left alone afterwards for four times as long.
func (w *Writer) sequence(ctx context.Context) error {
	began := time.Now()
	if began.Before(w.pause) {
		return nil
	}
	if err := w.lookAgain(ctx); err != nil {
		return err
	}
	w.told, w.unread = w.unread, map[kapsel.AttemptID]error{} // entries that are gone by now are not waited for
	var batch []store.Entry
	for after := (store.EntryKey{}); ; {
		waiting := w.withWaiting()
		entries, next, err := w.cfg.Store.Entries(ctx, after, w.cfg.AtOnce, waiting)
		if err != nil {
			return err
		}
		last := next == store.EntryKey{}
		for batch = append(batch, entries...); len(batch) >= w.cfg.AtOnce || last && len(batch) > 0; {
			n := min(len(batch), w.cfg.AtOnce)
			if err := w.grow(ctx, batch[:n]); err != nil {
				return err
			}
			batch = batch[n:]
		}
		if last {
			if len(waiting) > 0 {
				w.pause = time.Now().Add(min(maxPause, 4*time.Since(began)))
			}
			return nil
		}
		after = next
		if err := w.lead(ctx); err != nil {
			return err
		}
	}
}

// lookAgain reads the logs with faults again from time to time: fsck may have found that one fits
// together again.
func (w *Writer) lookAgain(ctx context.Context) error {
	if time.Since(w.passed) < checkEvery {
		return nil
	}
	w.passed = time.Now()
	waits := map[kapsel.TenantID]int64{}
	var tenants []kapsel.TenantID
	for tenant, h := range w.held {
		if h.Fault != "" {
			tenants, waits[tenant] = append(tenants, tenant), h.waits
			delete(w.held, tenant)
		}
	}
	if err := w.take(ctx, tenants); err != nil {
		return err
	}
	for _, tenant := range tenants {
		if h := w.held[tenant]; h != nil && h.Fault != "" {
			h.waits = waits[tenant]
		}
	}
	return nil
}

// withWaiting returns the tenants whose entries are known to wait.
func (w *Writer) withWaiting() map[kapsel.TenantID]bool {
	var all map[kapsel.TenantID]bool
	for tenant, h := range w.held {
		if h.Fault != "" && h.waits != 0 {
			if all == nil {
				all = map[kapsel.TenantID]bool{}
			}
			all[tenant] = true
		}
	}
	return all
}

// waiting returns when the oldest attempt ended, or began, that is no leaf because of a fault; 0: there is
// none.
func (w *Writer) waiting() (oldest int64) {
	for _, h := range w.held {
		if h.Fault != "" {
			oldest = older(oldest, h.waits)
		}
	}
	for id := range w.unread {
		oldest = older(oldest, id.Time().UnixMilli())
	}
	return oldest
}

// older returns the earlier of two times. 0 is no time.
func older(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// grow makes leaves of some entries, in one transaction. Those of logs with a fault wait, and so do those
// that cannot be read.
func (w *Writer) grow(ctx context.Context, entries []store.Entry) error {
	of := map[kapsel.TenantID]*growing{}
	ended := map[kapsel.TenantID]int64{} // when the oldest of its attempts did, or its oldest erasure was
	var tenants []kapsel.TenantID        // in the order of their oldest entries
	for i := range entries {
		e := &entries[i]
		leaf, at, text, err := leafOf(e, w.text)
		w.text = text
		if err != nil {
			w.setAside(e.AttemptID, fmt.Errorf("it cannot be read: %w", err))
			continue
		}
		if w.told[e.AttemptID] == errIsLeaf {
			w.setAside(e.AttemptID, errIsLeaf)
			continue
		}
		g := of[e.TenantID]
		if g == nil {
			g = &growing{}
			of[e.TenantID], tenants = g, append(tenants, e.TenantID)
		}
		g.Leaves = append(g.Leaves, leaf)
		g.Taken = append(g.Taken, e.EntryKey)
		ended[e.TenantID] = older(ended[e.TenantID], at)
	}
	for _, at := range ended {
		w.oldest.Store(older(w.oldest.Load(), at))
	}
	if err := w.take(ctx, tenants); err != nil {
		return err
	}
	var grown []growing
	for _, tenant := range tenants {
		h, g := w.held[tenant], of[tenant]
		switch {
		case h == nil:
			for i := range g.Leaves {
				w.setAside(g.Leaves[i].AttemptID, errNoTenant)
			}
			continue
		case h.Fault != "":
			h.waits = older(h.waits, ended[tenant])
			continue
		}
		for i := range g.Leaves {
			g.Leaves[i].Index = h.Size + int64(i)
		}
		g.holding = h
		grown = append(grown, *g)
	}
	return w.append(ctx, grown)
}

// Why an entry of the outbox cannot become a leaf.
var (
	errIsLeaf   = errors.New("its attempt is a leaf already, so it was not written by Kapsel")
	errNoTenant = errors.New("it names a tenant that does not exist, so it was changed")
)

// setAside tells once that an entry cannot become a leaf. It stays in the outbox, and the others go on.
func (w *Writer) setAside(attempt kapsel.AttemptID, why error) {
	w.unread[attempt] = why
	if w.told[attempt] == nil {
		w.cfg.Log.Error("an entry of the audit log's outbox cannot become a leaf; it waits there, and kapsel fsck finds it", "attempt", attempt.String(), "error", why)
	}
	w.oldest.Store(older(w.oldest.Load(), attempt.Time().UnixMilli()))
}

// growing is what is appended to a log that this node holds.
type growing struct {
	*holding
	store.Growth
}

// append adds leaves to logs. What of a Growth follows from its leaves is not set yet.
func (w *Writer) append(ctx context.Context, all []growing) error {
	ready, growths := all[:0], make([]store.Growth, 0, len(all))
	for _, g := range all {
		g.Growth.Log, g.Was = g.ID, g.State
		err := grow(ctx, w.cfg.Store, &g.Growth)
		if unread(err) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			if err := w.fault(ctx, g.holding, err); err != nil {
				return err
			}
			continue
		}
		ready, growths = append(ready, g), append(growths, g.Growth)
	}
	if len(ready) == 0 {
		return nil
	}
	stale, err := w.cfg.Store.Append(ctx, growths)
	if kapsel.CodeOf(err) == kapsel.Conflict {
		return w.apart(ctx, ready, err)
	}
	if err != nil {
		return err
	}
	for i := range ready {
		g := &ready[i]
		g.holding.Size, g.holding.Root, g.holding.Edge = g.Growth.Size, g.Growth.Root, g.Growth.Edge
		w.size.Add(int64(len(g.Leaves)))
	}
	w.drop(stale)
	if len(stale) > 0 {
		return fmt.Errorf("%d audit logs were written by another node meanwhile", len(stale))
	}
	return nil
}

// apart appends to each log alone, after an entry of one of them has kept all from growing. Entries whose attempts
// are leaves already are set aside.
func (w *Writer) apart(ctx context.Context, all []growing, conflict error) error {
	if len(all) > 1 {
		for _, g := range all {
			if err := w.append(ctx, []growing{bare(g)}); err != nil {
				return err
			}
			if err := w.lead(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	g := all[0]
	ids := make([]kapsel.AttemptID, len(g.Leaves))
	for i := range g.Leaves {
		ids[i] = g.Leaves[i].AttemptID
	}
	places, err := w.cfg.Store.LeafIndexes(ctx, g.TenantID, ids)
	if err != nil {
		return err
	}
	rest := bare(g)
	rest.Leaves, rest.Taken = nil, nil
	seen := map[kapsel.AttemptID]bool{}
	for i, l := range g.Leaves {
		if len(g.Taken) == 0 { // a leaf of no entry
			rest.Leaves = g.Leaves
			break
		}
		if _, isLeaf := places[l.AttemptID]; !l.AttemptID.IsZero() && (isLeaf || seen[l.AttemptID]) {
			w.setAside(l.AttemptID, errIsLeaf)
			continue
		}
		seen[l.AttemptID] = true
		l.Index = g.holding.Size + int64(len(rest.Leaves))
		rest.Leaves, rest.Taken = append(rest.Leaves, l), append(rest.Taken, g.Taken[i])
	}
	switch {
	case len(rest.Leaves) == len(g.Leaves):
		beyond, err := w.cfg.Store.Leaves(ctx, g.ID, g.holding.Size, 1)
		if err != nil {
			return err
		}
		if len(beyond) > 0 {
			return w.fault(ctx, g.holding, fmt.Errorf("there is a leaf %d, and the log has %d", beyond[0].Index, g.holding.Size))
		}
		// An entry is gone since it was read: the next turn reads again.
		w.cfg.Log.Warn("an audit log could not grow; trying again", "log", g.ID.String(), "error", conflict)
		return nil
	case len(rest.Leaves) == 0:
		return nil
	}
	return w.append(ctx, []growing{rest})
}

// bare returns a growth without what follows from its leaves.
func bare(g growing) growing {
	g.Growth = store.Growth{Leaves: g.Leaves, Taken: g.Taken}
	return g
}

// drop forgets logs that are not in the store as this node knows them: another writer holds them, or the
// database was replaced. So what was published is compared again.
func (w *Writer) drop(stale []kapsel.LogID) {
	if len(stale) == 0 {
		return
	}
	w.checked, w.checks, w.swept = false, checking{}, time.Time{}
	maps.DeleteFunc(w.held, func(_ kapsel.TenantID, h *holding) bool { return slices.Contains(stale, h.ID) })
}

// fault remembers that a log contradicts itself, so that nothing is signed of it. If another writer has taken
// the log meanwhile, this node has read what both have written, which says nothing about the log.
func (w *Writer) fault(ctx context.Context, h *holding, reason error) error {
	set, err := w.cfg.Store.Fault(ctx, h.ID, h.Epoch, reason.Error())
	switch {
	case err != nil:
		return err
	case !set:
		w.drop([]kapsel.LogID{h.ID})
		return nil
	}
	h.Fault = reason.Error()
	w.tell(&h.Log)
	return nil
}

// take begins to write the logs of those tenants whose logs this node does not hold.
func (w *Writer) take(ctx context.Context, tenants []kapsel.TenantID) error {
	var missing []kapsel.TenantID
	for _, t := range tenants {
		if w.held[t] == nil {
			missing = append(missing, t)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	logs, err := w.cfg.Store.TakeLogs(ctx, missing, w.cfg.Now())
	if err != nil {
		return err
	}
	for i := range logs {
		h := &holding{Log: logs[i]}
		w.held[h.TenantID] = h
		w.tell(&h.Log)
		if err := w.verify(ctx, h); err != nil {
			return err
		}
		if err := w.lead(ctx); err != nil {
			return err
		}
	}
	return nil
}

// verify reads the newest head of a log that this node begins to write, and marks the log as faulty if
// its tiles do not have the log's root, or not the root of that head.
//
// The database may have been replaced by an older one since check: verify fails with a Refusal if the log
// is behind what HighWater remembers.
func (w *Writer) verify(ctx context.Context, h *holding) error {
	if h.Fault != "" {
		return nil
	}
	if w.cfg.HighWater != nil {
		if mark, ok := w.cfg.HighWater.Mark(h.ID); ok {
			if err := w.extends(ctx, &h.Log, mark); err != nil {
				return err
			}
		}
	}
	if h.Size == 0 {
		return nil
	}
	tree := Tree{h.ID, w.cfg.Store}
	head, err := w.cfg.Store.Head(ctx, h.ID)
	none := kapsel.CodeOf(err) == kapsel.NotFound
	if err != nil && !none {
		return err
	}
	if !none {
		h.head = head.Size
		if h.signed, err = w.signedBy(ctx, &head); err != nil {
			return err
		}
	}
	root, err := tree.Root(ctx, h.Size)
	switch {
	case unread(err):
		return err
	case err == nil && root != h.Root:
		err = fmt.Errorf("the tiles do not have the root of the log's %d leaves", h.Size)
	case err == nil && !none && head.Size > h.Size:
		err = fmt.Errorf("a head over %d leaves was published, and the log has %d", head.Size, h.Size)
	case err == nil && !none:
		if root, err = tree.Root(ctx, head.Size); err == nil && root != head.Root {
			err = fmt.Errorf("the first %d leaves are not those of the head that was published", head.Size)
		}
	}
	if unread(err) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	if err != nil {
		return w.fault(ctx, h, err)
	}
	return nil
}

// unread reports whether an error is trouble of the store, whether that may pass or lasts. It tells nothing
// about the log that was to be read.
func unread(err error) bool { return kapsel.CodeOf(err) == kapsel.DatabaseUnavailable }

// signedBy returns the key that signed a head; nil if none of the instance's keys did.
func (w *Writer) signedBy(ctx context.Context, head *store.SignedHead) (ed25519.PublicKey, error) {
	keys, err := w.cfg.Keys.All(ctx)
	if err != nil {
		return nil, err
	}
	signed, err := receipt.OpenCheckpoint(string(head.Note), keysOf(head.Log, keys)...)
	if err != nil {
		return nil, nil
	}
	return signed.Key.Public, nil
}

// publish signs and publishes the heads of all logs that have grown. complete says that none is left.
func (w *Writer) publish(ctx context.Context, key ed25519.PrivateKey) (complete bool, err error) {
	if time.Since(w.swept) >= checkEvery {
		if err := w.sweep(ctx); err != nil {
			return false, err
		}
	}
	var grown []*holding
	for _, h := range w.held {
		if h.Fault == "" && h.Size > h.head {
			grown = append(grown, h)
		}
	}
	for some := range slices.Chunk(grown, headsAtOnce) {
		if err := w.lead(ctx); err != nil {
			return false, err
		}
		if err := w.announce(ctx, some, key); err != nil {
			return false, err
		}
	}
	heads, of := w.sign(grown, key)
	w.signed = len(heads)
	if w.cfg.HighWater != nil && len(heads) > 0 {
		if err := w.cfg.HighWater.Raise(heads); err != nil {
			return false, err
		}
	}
	complete = true
	for len(heads) > 0 {
		n := min(len(heads), headsAtOnce)
		if err := w.lead(ctx); err != nil {
			return false, err
		}
		stale, err := w.cfg.Store.Publish(ctx, heads[:n])
		if err != nil {
			return false, err
		}
		for i, h := range of[:n] {
			h.head, h.signed = heads[i].Size, key.Public().(ed25519.PublicKey)
			if !slices.Contains(stale, h.ID) {
				w.cfg.Witnesses.offer(h.TenantID, heads[i])
			}
		}
		w.drop(stale)
		complete = complete && len(stale) == 0
		heads, of = heads[n:], of[n:]
	}
	return complete, nil
}

// sweep begins to write those logs that have grown since their last head. Afterwards this node knows the
// logs that it grows itself; only logs whose fault was taken back are found by the next sweep alone.
func (w *Writer) sweep(ctx context.Context) error {
	for after := (kapsel.LogID{}); ; {
		logs, err := w.cfg.Store.Unpublished(ctx, after, headsAtOnce)
		if err != nil {
			return err
		}
		tenants := make([]kapsel.TenantID, len(logs))
		for i := range logs {
			tenants[i], after = logs[i].TenantID, logs[i].ID
		}
		if err := w.take(ctx, tenants); err != nil {
			return err
		}
		if len(logs) < headsAtOnce {
			w.swept = time.Now()
			return nil
		}
		if err := w.lead(ctx); err != nil {
			return err
		}
	}
}

// announce appends a leaf that says so to each log whose newest head was signed by another key.
func (w *Writer) announce(ctx context.Context, logs []*holding, key ed25519.PrivateKey) error {
	public := key.Public().(ed25519.PublicKey)
	var grown []growing
	for _, h := range logs {
		if h.head == 0 || h.signed == nil || h.signed.Equal(public) {
			continue
		}
		if err := w.announced(ctx, h); err != nil {
			return err
		}
		if h.signed.Equal(public) {
			continue
		}
		text := (&receipt.KeyChange{ChangedAtMS: w.cfg.Now().UnixMilli(), PublicKey: public, Former: h.signed}).Append(nil)
		grown = append(grown, growing{h, store.Growth{Leaves: []store.Leaf{{Index: h.Size, Hash: receipt.LeafHash(text), Record: text}}}})
	}
	return w.append(ctx, grown)
}

// announced changes h.signed to the key that the leaves behind the newest head announce, if there is one:
// such a leaf may have been appended, and its head not published, by this node or another.
func (w *Writer) announced(ctx context.Context, h *holding) error {
	for n := h.head; n < h.Size; {
		leaves, err := w.cfg.Store.Leaves(ctx, h.ID, n, int(min(pageOfLeaves, h.Size-n)))
		if err != nil || len(leaves) == 0 {
			return err
		}
		for i := range leaves {
			if !leaves[i].AttemptID.IsZero() {
				continue
			}
			_, leaf, err := Open(&leaves[i])
			if change, ok := leaf.(*receipt.KeyChange); ok && err == nil {
				h.signed = change.PublicKey
			}
		}
		n = leaves[len(leaves)-1].Index + 1
	}
	return nil
}

// sign signs the heads of logs as this node holds them. It returns the log of each head beside it.
func (w *Writer) sign(logs []*holding, key ed25519.PrivateKey) (heads []store.SignedHead, of []*holding) {
	now := w.cfg.Now()
	for _, h := range logs {
		if h.Fault == "" { // which it may have got since it was listed
			note := checkpoint(h.ID, h.Size, h.Root, key)
			heads = append(heads, store.SignedHead{Log: h.ID, Epoch: h.Epoch, Size: h.Size, Root: h.Root, SignedAt: now, Note: note})
			of = append(of, h)
		}
	}
	return heads, of
}
