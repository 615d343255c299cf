package manage

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/ratelimit"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/receipt"
)

// AuditLog is the state of a tenant's audit log.
type AuditLog struct {
	Settings  kapsel.AuditSettings
	Log       *store.Log       // nil: nothing was recorded yet
	Head      *AuditedHead     // nil: nothing was published yet
	Lag       time.Duration    // how long the oldest leaf that is under no published head has waited; 0: there is none
	LastCheck *audit.LastCheck // by kapsel fsck; nil: none yet
	Witnessed *AuditedHead     // the newest head that enough witnesses have signed; nil: none
	Witnesses []audit.WitnessState
	Wanted    int // how many witnesses are enough
}

// AuditedHead is a published head of a log, with the key that signed it.
type AuditedHead struct {
	store.SignedHead
	Key       receipt.Key
	Witnessed bool // as many witnesses have signed it as the log wants; their lines are in the note
}

// AuditLog returns the state of the audit log of a tenant: the caller's own, or the one that the admin
// names.
func (m *Manager) AuditLog(ctx context.Context, c access.Caller, named kapsel.TenantID) (a AuditLog, err error) {
	if err := c.Check(access.Read); err != nil {
		return a, err
	}
	t, err := m.owner(ctx, c, named)
	if err != nil {
		return a, err
	}
	a.Settings = t.Audit
	check, checked, err := audit.ReadLastCheck(ctx, m.Store)
	if err != nil {
		return a, err
	}
	if checked {
		a.LastCheck = &check
	}
	log, err := m.Store.LogOf(ctx, t.ID)
	if missing(err) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	a.Log = &log
	m.logs.known.Store(log.ID, true) // so that no flood of invented IDs can hide the log
	published := int64(0)
	head, err := m.Store.Head(ctx, log.ID)
	if err == nil {
		var opened AuditedHead
		opened, err = m.opened(ctx, head)
		a.Head, published = &opened, head.Size
	}
	if err != nil && !missing(err) {
		return a, err
	}
	if err := m.witnessed(ctx, &a); err != nil {
		return a, err
	}
	// The log may have grown since it was read, so its next leaf is what tells.
	next, err := m.Store.Leaves(ctx, log.ID, published, 1)
	if err != nil {
		return a, err
	}
	for _, leaf := range next {
		if _, said, _ := audit.Open(&leaf); said != nil {
			if t, ok := said.(*receipt.Attempt); ok {
				a.Lag = max(0, m.Clock().Sub(time.UnixMilli(t.EndedAtMS)))
			}
		}
	}
	return a, nil
}

// witnessed adds what witnesses have signed of a log.
func (m *Manager) witnessed(ctx context.Context, a *AuditLog) error {
	if a.Wanted = m.WitnessesWanted; a.Settings.Witnesses != nil {
		a.Wanted = *a.Settings.Witnesses
	}
	row, err := m.Store.Witnessed(ctx, a.Log.ID)
	if err != nil && !missing(err) {
		return err
	}
	if a.Witnesses, err = audit.ReadWitnessStates(&row); err != nil {
		return fmt.Errorf("read what witnesses did: %w", err)
	}
	if row.Size == 0 {
		return nil
	}
	head, err := m.opened(ctx, row.SignedHead)
	if err != nil {
		return err
	}
	head.Witnessed, a.Witnessed = true, &head
	if a.Head != nil && a.Head.Size == row.Size {
		a.Head = a.Witnessed
	}
	return nil
}

// withLeaves returns attempts of one tenant with the indexes of their leaves, each in the log that it is
// in: one that was closed keeps its leaves.
func (m *Manager) withLeaves(ctx context.Context, attempts []kapsel.Attempt) ([]Attempt, error) {
	all, ids := make([]Attempt, len(attempts)), make([]kapsel.AttemptID, len(attempts))
	for i, t := range attempts {
		all[i].Attempt, ids[i] = t, t.ID
	}
	if len(all) == 0 {
		return all, nil
	}
	tenant := all[0].TenantID
	places, err := m.Store.LeafIndexes(ctx, tenant, ids)
	if err != nil {
		return nil, err
	}
	published := map[kapsel.LogID]int64{} // sizes of the newest heads
	for i := range all {
		p, ok := places[all[i].ID]
		if !ok {
			continue
		}
		size, read := published[p.Log]
		if !read {
			head, err := m.Store.Head(ctx, p.Log)
			if err != nil && !missing(err) {
				return nil, err
			}
			size = head.Size
			published[p.Log] = size
		}
		if p.Index < size {
			all[i].LeafIndex = &p.Index
		}
	}
	return all, nil
}

// Proof returns the proof package of an attempt, under the newest head that enough witnesses have signed, if
// it covers the attempt, else under the newest published head. Conflict: the attempt
// is not under a published head, or its leaf's text was deleted.
func (m *Manager) Proof(ctx context.Context, c access.Caller, id kapsel.AttemptID) (*receipt.Package, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	tenant := c.Tenant
	if tenant.IsZero() {
		t, err := m.Store.Attempt(ctx, tenant, id)
		if err != nil {
			return nil, err
		}
		tenant = t.TenantID
	}
	log, leaf, err := m.Store.LeafOf(ctx, tenant, id)
	if missing(err) {
		return nil, m.unproven(ctx, tenant, id)
	}
	if err != nil {
		return nil, err
	}
	head, err := m.Store.Head(ctx, log.ID)
	switch {
	case err != nil && !missing(err):
		return nil, err
	case err != nil || head.Size <= leaf.Index:
		if log.Fault != "" {
			return nil, errFaulty
		}
		return nil, errNotPublished
	case leaf.Record == nil:
		return nil, kapsel.Errorf(kapsel.Conflict, "the text of the attempt's leaf is gone, because its event was erased, or audit_retention is over; only its hash is kept")
	}
	text, said, err := audit.Open(&leaf)
	if err != nil {
		return nil, fmt.Errorf("read leaf %d of an audit log: %w", leaf.Index, err)
	}
	// The newest head that witnesses have signed proves more than one that is newer.
	witnessed, err := m.Store.Witnessed(ctx, log.ID)
	if err != nil && !missing(err) {
		return nil, err
	}
	if witnessed.Size > leaf.Index {
		head = witnessed.SignedHead
	}
	salt, err := m.saltOf(ctx, tenant, said)
	if err != nil {
		return nil, err
	}
	proof, err := m.inclusion(ctx, log.ID, leaf.Index, head.Size)
	if err != nil {
		return nil, err
	}
	return &receipt.Package{Leaf: string(text), Opening: receipt.Opening{Salt: salt}, InclusionProof: proof, Checkpoint: string(head.Note)}, nil
}

// errNotPublished is returned for what is not under a published head yet.
var errNotPublished = kapsel.Errorf(kapsel.Conflict, "the attempt is not under a published head of the audit log yet; try again in 10 seconds")

// errFaulty is the answer about an attempt that no head covers, because its log has a fault.
var errFaulty = kapsel.Errorf(kapsel.Conflict, "no head of the audit log is signed, because the log does not fit together: GET /v1/attestation has the fault, and the operator finds the place with kapsel fsck")

// lateAfter is how long after its end an attempt is told to wait for a head, which takes 10 seconds at most
// while all is well.
const lateAfter = time.Minute

// unproven returns why an attempt has no leaf.
func (m *Manager) unproven(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) error {
	logged, err := m.Store.Logged(ctx, tenant, id)
	if err != nil {
		return err
	}
	if !logged {
		return kapsel.Errorf(kapsel.Conflict, "the attempt is older than the audit log, so there is no proof of it")
	}
	log, err := m.Store.LogOf(ctx, tenant)
	if err != nil && !missing(err) {
		return err
	}
	if log.Fault != "" {
		return errFaulty
	}
	t, err := m.Store.Attempt(ctx, tenant, id)
	if err != nil {
		return err
	}
	if m.Clock().Sub(t.EndedAt()) > lateAfter {
		return kapsel.Errorf(kapsel.Conflict, "the attempt is under no published head, although it ended more than a minute ago: it is of a log that was ended after the database was restored, or no heads are signed at the moment, for the reason at /health/ready")
	}
	return errNotPublished
}

// saltOf returns the salt of the event that a leaf is about; nil if there is none any more.
func (m *Manager) saltOf(ctx context.Context, tenant kapsel.TenantID, leaf receipt.Leaf) (*receipt.Salt, error) {
	a, ok := leaf.(*receipt.Attempt)
	if !ok {
		return nil, nil
	}
	event, err := kapsel.ParseEventID(a.EventID)
	if err != nil {
		return nil, fmt.Errorf("read the leaf of an attempt: %w", err)
	}
	salt, err := m.Store.Salt(ctx, tenant, event)
	if missing(err) || err == nil && len(salt) != receipt.Size {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return new(receipt.Salt(salt)), nil
}

// Reader returns who asks for a log without having to say so: a caller with a key, or the zero Caller. An
// error is that of a key that opens nothing.
type Reader func() (access.Caller, error)

// AuditHead returns the newest published head of a log, or the newest that as many witnesses have signed as the
// log wants. It is public: who knows the log's ID may call it,
// unless the log's tenant has closed it to all but its own callers. NotFound: there is no such log, no head
// yet, or the log is closed to the reader. RateLimited: see head.
func (m *Manager) AuditHead(ctx context.Context, who Reader, id kapsel.LogID, witnessed bool) (h AuditedHead, err error) {
	head, err := m.head(ctx, who, id)
	if err != nil {
		return h, err
	}
	row, err := m.Store.Witnessed(ctx, id)
	if err != nil && !missing(err) {
		return h, err
	}
	enough := row.Size > 0 && (witnessed || row.Size == head.Size)
	switch {
	case enough:
		head = row.SignedHead
	case witnessed:
		return h, store.NotFound("head that enough witnesses have signed")
	}
	h, err = m.opened(ctx, head)
	h.Witnessed = enough
	return h, err
}

// opened returns a head of a log with the key that signed it.
func (m *Manager) opened(ctx context.Context, head store.SignedHead) (AuditedHead, error) {
	keys, err := m.auditKeys(ctx, head.Log)
	if err != nil {
		return AuditedHead{}, err
	}
	public := make([]receipt.Key, len(keys))
	for i := range keys {
		public[i] = keys[i].Key
	}
	signed, err := receipt.OpenCheckpoint(string(head.Note), public...)
	if err != nil {
		return AuditedHead{}, fmt.Errorf("open the head of an audit log: %w", err)
	}
	return AuditedHead{SignedHead: head, Key: signed.Key}, nil
}

// AuditKey is a key that signs, or signed, the heads of a log.
type AuditKey struct {
	Key   receipt.Key
	From  time.Time
	Until time.Time // zero: it signs now
}

// AuditKeys returns the keys of a log, the current one last. It is public as AuditHead is.
func (m *Manager) AuditKeys(ctx context.Context, who Reader, id kapsel.LogID) ([]AuditKey, error) {
	if _, err := m.head(ctx, who, id); err != nil {
		return nil, err
	}
	return m.auditKeys(ctx, id)
}

func (m *Manager) auditKeys(ctx context.Context, id kapsel.LogID) ([]AuditKey, error) {
	all, err := (&audit.Keys{Store: m.Store}).All(ctx)
	keys := make([]AuditKey, len(all))
	for i, k := range all {
		keys[i] = AuditKey{receipt.Key{Name: id.Origin(), Public: k.Public}, k.CreatedAt, k.RetiredAt}
	}
	return keys, err
}

// AuditInclusion returns the proof that the leaf with an index is among the first of leaves of a log; nil
// means the size of the newest published head. It is public as AuditHead is.
func (m *Manager) AuditInclusion(ctx context.Context, who Reader, id kapsel.LogID, index int64, of *int64) (p receipt.InclusionProof, err error) {
	head, err := m.head(ctx, who, id)
	if err != nil {
		return p, err
	}
	size := head.Size
	if of != nil {
		size = *of
	}
	switch {
	case size < 1 || size > head.Size:
		return p, refused("tree_size", fmt.Sprintf("must be from 1 to %d, the size of the published head", head.Size))
	case index < 0 || index >= size:
		return p, refused("index", fmt.Sprintf("must be from 0 to %d, below the tree's size", size-1))
	}
	return m.inclusion(ctx, id, index, size)
}

// AuditConsistency returns the proof that the first until leaves of a log begin with the first from leaves;
// nil means the size of the newest published head. It is public as AuditHead is.
func (m *Manager) AuditConsistency(ctx context.Context, who Reader, id kapsel.LogID, from int64, until *int64) (p receipt.ConsistencyProof, err error) {
	head, err := m.head(ctx, who, id)
	if err != nil {
		return p, err
	}
	to := head.Size
	if until != nil {
		to = *until
	}
	switch {
	case to < 0 || to > head.Size:
		return p, refused("to", fmt.Sprintf("must be from 0 to %d, the size of the published head", head.Size))
	case from < 0 || from > to:
		return p, refused("from", fmt.Sprintf("must be from 0 to %d, the other size", to))
	}
	p = receipt.ConsistencyProof{From: from, To: to, ProofHashes: []receipt.Hash{}}
	if from == 0 { // every log begins with the empty one
		return p, nil
	}
	hashes, err := m.tree(id).Consistency(ctx, from, to)
	p.ProofHashes = proofHashes(hashes)
	return p, err
}

// AuditTile returns the first width hashes of a tile of a log. It is public as AuditHead is. NotFound: the
// log does not have as many under its published head.
func (m *Manager) AuditTile(ctx context.Context, who Reader, id kapsel.LogID, level int, n int64, width int) ([]byte, error) {
	head, err := m.head(ctx, who, id)
	if err != nil {
		return nil, err
	}
	b, ok, err := m.tree(id).Tile(ctx, level, n, width, head.Size)
	if err == nil && !ok {
		err = store.NotFound("tile")
	}
	return b, err
}

func (m *Manager) tree(id kapsel.LogID) audit.Tree { return audit.Tree{Log: id, Hashes: m.Store} }

// inclusion returns the proof of a leaf that is among the first size leaves.
func (m *Manager) inclusion(ctx context.Context, id kapsel.LogID, index, size int64) (p receipt.InclusionProof, err error) {
	in, err := m.tree(id).Inclusion(ctx, index, size)
	if err != nil {
		return p, err
	}
	return receipt.InclusionProof{
		LeafHash: receipt.Hash(in.Leaf), LeafIndex: index, TreeSize: size, ProofHashes: proofHashes(in.Proof), RootHash: receipt.Hash(in.Root),
	}, nil
}

func proofHashes(hashes []store.Hash) []receipt.Hash {
	all := make([]receipt.Hash, len(hashes))
	for i := range hashes {
		all[i] = receipt.Hash(hashes[i])
	}
	return all
}

// head returns the newest published head of a log to a reader. RateLimited: too many calls name this log, or
// logs that this node does not know.
func (m *Manager) head(ctx context.Context, who Reader, id kapsel.LogID) (store.SignedHead, error) {
	c, err := who()
	keyed := err == nil && c.Check(access.Read) == nil
	if err := m.logs.may(id, keyed, c.Tenant, m.Clock()); err != nil {
		return store.SignedHead{}, err
	}
	owner, err := m.Store.OwnerOf(ctx, id)
	if err != nil {
		return store.SignedHead{}, err
	}
	own := keyed && c.TenantOr(owner.ID) == owner.ID
	if owner.Audit.Private && !own {
		return store.SignedHead{}, store.NotFound("audit log")
	}
	head, err := m.Store.Head(ctx, id)
	switch {
	case err == nil:
		m.logs.known.Store(id, true)
	case missing(err):
		return head, store.NotFound("audit log")
	}
	return head, err
}

// logs limits how often logs are read, because who reads them needs no key.
type logs struct {
	known   sync.Map // of kapsel.LogID: logs that exist
	read    ratelimit.Limiter[kapsel.LogID]
	keyed   ratelimit.Limiter[kapsel.TenantID] // by callers with a key, whatever log they name; zero: the admin
	unknown ratelimit.Limiter[struct{}]        // of logs that may not exist
}

// Limits of logs. A log's is far above what witnesses and monitors need: who follows a log asks a few
// times a minute, and a burst reads the tiles of 250,000 leaves. That of unknown logs is the one of unknown
// endpoints at ingest.
const (
	readsPerSecond       = 100
	readsBurst           = 1000
	unknownLogsPerSecond = 200
	unknownLogsBurst     = 1000
)

// may returns nil if the store may be asked for a log, and a RateLimited error if not. Callers with a key of a
// tenant have a limit of their own, which nobody without a key can use up.
func (l *logs) may(id kapsel.LogID, keyed bool, tenant kapsel.TenantID, now time.Time) error {
	ok, reset, detail := false, time.Duration(0), "too many requests for this audit log; try again"
	if keyed {
		ok, _, reset = l.keyed.Allow(tenant, readsPerSecond, readsBurst, now)
		detail = "too many requests for audit logs by keys of this tenant; try again"
	} else if _, known := l.known.Load(id); known {
		ok, _, reset = l.read.Allow(id, readsPerSecond, readsBurst, now)
	} else {
		ok, _, reset = l.unknown.Allow(struct{}{}, unknownLogsPerSecond, unknownLogsBurst, now)
		detail = "too many requests name audit logs that are not known here; try again"
	}
	if ok {
		return nil
	}
	return &kapsel.Error{Code: kapsel.RateLimited, Detail: detail, RetryAfter: max(reset, time.Second)}
}
