package store

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/receipt"
)

// Journal is what the audit log needs. Package audit says what a log is; the store keeps its rows
// and makes sure that one writer at a time appends to a log, and in one place.
//
// Complete and TakeOver write an entry of the outbox in the transaction that writes an attempt.
// Append takes entries out of the outbox in the transaction that makes leaves of them. So each
// attempt that was recorded since the log exists is either in the outbox or exactly one leaf.
type Journal interface {
	// Entries looks at up to limit entries of the outbox behind after, in the store's order (zero: from
	// its beginning). It returns those that are not of the tenants in without, and the key to go on
	// behind (zero: there are no more). An entry that was committed late may be behind or before after.
	Entries(ctx context.Context, after EntryKey, limit int, without map[kapsel.TenantID]bool) (entries []Entry, next EntryKey, err error)
	// TakeLogs makes the caller the only writer of some tenants' logs: it raises the epoch of each
	// log by one and returns the logs, in the order of the tenants. A tenant without a log gets one,
	// made at now, with a random ID; one that does not exist is left out.
	TakeLogs(ctx context.Context, tenants []kapsel.TenantID, now time.Time) ([]Log, error)
	// Append makes leaves of entries, in one transaction. A log that is not as Growth.Was says (its
	// size, root and epoch, or it is closed) is left out, and Append returns its ID. Conflict: an
	// entry is no longer in the outbox, or has a leaf already; nothing was written.
	Append(ctx context.Context, grown []Growth) (stale []kapsel.LogID, err error)
	// Publish stores signed heads, in one transaction. A head of a log that has another epoch, size
	// or root, that is closed or has a fault is left out, and Publish returns the log's ID. Callers
	// may publish a head once Publish has stored it. A head that is stored already is not replaced.
	Publish(ctx context.Context, heads []SignedHead) (stale []kapsel.LogID, err error)
	// Unpublished returns up to limit logs that have grown since their last head, and have no fault,
	// with IDs above after, in the order of their IDs.
	Unpublished(ctx context.Context, after kapsel.LogID, limit int) ([]Log, error)
	// Fault sets why no head of a log is signed. It does nothing, and reports false, if the log is closed or has
	// another epoch: the caller is not its writer any more.
	Fault(ctx context.Context, log kapsel.LogID, epoch int64, reason string) (bool, error)
	// ReplaceFault sets why no head of a log is signed, "" if there is no reason, if the reason is still was.
	ReplaceFault(ctx context.Context, log kapsel.LogID, was, reason string) error
	// CloseLog ends a log: nothing is appended to it or published of it any more. The next TakeLogs
	// of its tenant makes another one.
	CloseLog(ctx context.Context, log kapsel.LogID, now time.Time) error

	// LogOf returns the log of a tenant that is not closed. NotFound: there is none yet.
	LogOf(ctx context.Context, tenant kapsel.TenantID) (Log, error)
	// Log returns a log, closed or not.
	Log(ctx context.Context, id kapsel.LogID) (Log, error)
	// OwnerOf returns the tenant of a log, which may be deleted. NotFound: there is no such log.
	OwnerOf(ctx context.Context, log kapsel.LogID) (kapsel.Tenant, error)
	// Logs returns up to limit logs with IDs above after, in the order of their IDs.
	Logs(ctx context.Context, after kapsel.LogID, limit int) ([]Log, error)
	// Head returns the newest head of a log that was published. NotFound: there is none yet.
	Head(ctx context.Context, log kapsel.LogID) (SignedHead, error)
	// Heads returns up to limit heads of a log with sizes above after, the smallest first.
	Heads(ctx context.Context, log kapsel.LogID, after int64, limit int) ([]SignedHead, error)
	// DeleteOldHeads decides of up to limit heads signed before a time whether they stay: the last one
	// of each hour of a log does, and its newest one; the others are deleted. It returns of how many it
	// has decided.
	DeleteOldHeads(ctx context.Context, before time.Time, limit int) (decided int, err error)
	// DeleteTexts deletes the texts of up to limit leaves of a log, those first that are the oldest of those
	// that have not been deleted by it: of leaves about attempts that began before a time. It ends at
	// the first leaf about a later one, and passes over those about no attempt. It returns how many
	// leaves it has passed.
	DeleteTexts(ctx context.Context, log kapsel.LogID, before time.Time, limit int) (passed int, err error)
	// DropLog deletes up to limit rows of the heads, tiles and leaves of a log, and closes it. It returns
	// how many it has deleted; fewer than limit: nothing but the log's row is left, with DroppedAt.
	DropLog(ctx context.Context, log kapsel.LogID, now time.Time, limit int) (deleted int, err error)
	// SetWitnessed remembers what witnesses have signed of some logs, in one transaction. Of a log whose
	// stored head is larger, only the states of the witnesses are replaced.
	SetWitnessed(ctx context.Context, all []Witnessed) error
	// Witnessed returns what witnesses have signed of a log. NotFound: nothing is remembered yet.
	Witnessed(ctx context.Context, log kapsel.LogID) (Witnessed, error)
	// Tile returns the hashes of a tile: 32 bytes each, at most 256. It returns nil if there is no such
	// tile. Of level 0 only complete tiles are stored; Hashes returns the rest of that level.
	Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error)
	// Hashes returns up to limit hashes of leaves from n on, 32 bytes each, as the leaves' rows have
	// them.
	Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error)
	// Leaves returns up to limit leaves from n on.
	Leaves(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]Leaf, error)
	// LeafOf returns the leaf of an attempt and the tenant's log that it is in, closed or not. NotFound:
	// there is no such attempt, or it is in no log: see Logged.
	LeafOf(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (Log, Leaf, error)
	// LeafIndexes returns where the leaves of attempts are in a tenant's logs, closed or not. Attempts
	// without a leaf are not in the map.
	LeafIndexes(ctx context.Context, tenant kapsel.TenantID, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]Place, error)
	// Logged reports whether an attempt is in the outbox or in a log; otherwise it is older than the
	// log. NotFound: the tenant (zero: any) has no such attempt.
	Logged(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (bool, error)
	// Recorded returns those of some attempts that are stored, by their IDs, with the fields that their
	// leaves have.
	Recorded(ctx context.Context, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]kapsel.Attempt, error)
	// Strays looks at up to limit attempts with IDs behind after, in the store's order, all at one
	// moment. It returns those that must have a leaf and are neither in the outbox nor in a log, how
	// many are older than the log, and the ID to go on behind (zero: there are no more).
	Strays(ctx context.Context, after kapsel.AttemptID, limit int) (strays []kapsel.AttemptID, older int, next kapsel.AttemptID, err error)
	// Salt returns the salt of an event; nil if the event is older than the log. NotFound: the tenant
	// (zero: any) has no such event.
	Salt(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID) ([]byte, error)
}

// HashSize is the length of a hash in a log, in bytes.
const HashSize = 32

// Hash is a hash of a leaf or of a subtree (RFC 6962).
type Hash [HashSize]byte

// Log is a tenant's audit log: an append-only tree of leaves.
type Log struct {
	ID        kapsel.LogID
	TenantID  kapsel.TenantID
	CreatedAt time.Time
	ClosedAt  time.Time // zero: it is open
	DroppedAt time.Time // when its leaves were deleted, or began to be; zero: they are there
	TextsFrom int64     // the texts of leaves below are deleted, but of those about no attempt
	State
	Fault string // why no head of it is signed; "": there is no reason
}

// State is a log as its writer knows it.
type State struct {
	Epoch int64 // raised whenever another writer begins
	Size  int64
	Root  Hash   // of an empty log: SHA-256 of nothing
	Edge  []byte // the hashes of the complete subtrees that the log consists of, the largest first
}

// Growth is what a writer adds to a log.
type Growth struct {
	Log    kapsel.LogID
	Was    State
	Size   int64 // of the log afterwards
	Root   Hash
	Edge   []byte
	Leaves []Leaf     // from Was.Size on
	Tiles  []Tile     // new, or longer than they were
	Taken  []EntryKey // the entries that the leaves are made of
}

// Leaf is a leaf of a log.
type Leaf struct {
	Index     int64
	AttemptID kapsel.AttemptID // zero: it is about no attempt
	Hash      Hash
	Record    []byte // what the leaf says, as package audit keeps it; nil: it was deleted
}

// Place is where a leaf is.
type Place struct {
	Log   kapsel.LogID
	Index int64
}

// Tile is up to 256 hashes that follow each other on one of the levels 0, 8, 16 … of a tree; Level
// counts 0, 1, 2 … (C2SP tlog-tiles).
type Tile struct {
	Level  int
	N      int64
	Hashes []byte
}

// SignedHead is a head of a log that was signed.
type SignedHead struct {
	Log      kapsel.LogID
	Epoch    int64 // of the writer; only in calls of Publish
	Size     int64
	Root     Hash
	SignedAt time.Time
	Note     []byte // the C2SP tlog-checkpoint
}

// Witnessed is what witnesses have signed of a log.
type Witnessed struct {
	// SignedHead is the newest head that as many witnesses have signed as the log wants, with their lines
	// in its note; Size 0: there is none.
	SignedHead
	// States says what each witness last did, as package audit keeps it.
	States []byte
}

// Entry is what is to become a leaf: an attempt, or an erasure.
type Entry struct {
	EntryKey
	TenantID kapsel.TenantID // zero: the entry has an unknown form
	Record   []byte          // what ReadRecord, ReadErasure or ErasedHash reads, if the entry has a known form
}

// EntryKey names an entry of the outbox.
type EntryKey struct {
	Row       int64            // by which a store finds the entry; 0: the store finds it by Pack and the attempt
	Pack      kapsel.AttemptID // the store's row that holds the entry together with others; zero: the entry has its own
	AttemptID kapsel.AttemptID // of an erasure: an ID of its own
	Erased    bool             // of an attempt: what its leaf says was erased; the entry is one of EraseEntry
}

// Record is what the leaf of an attempt says. Its times are milliseconds since the epoch.
type Record struct {
	AttemptID   kapsel.AttemptID
	DeliveryID  kapsel.DeliveryID
	EventID     kapsel.EventID
	EndpointID  kapsel.EndpointID
	Number      int
	StartedAt   int64
	EndedAt     int64
	StatusCode  int // 100 to 999; 0: there was no status line
	ErrorCode   kapsel.Code
	Commitments kapsel.Commitments
}

// RecordOf returns what the leaf of an attempt says.
func RecordOf(a *kapsel.Attempt, c *kapsel.Commitments) Record {
	start := a.StartedAt.Truncate(time.Microsecond) // as the attempt's row has it, so that both end at the same time
	r := Record{
		AttemptID: a.ID, DeliveryID: a.DeliveryID, EventID: a.EventID, EndpointID: a.EndpointID, Number: a.Number,
		StartedAt: start.UnixMilli(), EndedAt: start.Add(a.Duration).UnixMilli(),
		StatusCode: a.StatusCode, ErrorCode: a.ErrorCode, Commitments: *c,
	}
	// An attempt of an earlier version may have a status that no leaf can have. A leaf that nobody can
	// read must not be signed.
	if r.StatusCode < 100 || r.StatusCode > 999 {
		r.StatusCode = 0
	}
	return r
}

// The first byte of what is kept of an attempt for its leaf. Rows of the audit log outlive releases, so
// all forms must stay readable. A row that begins with '{' is the text of a leaf.
const (
	firstForm   = 1 // entries alone: with the tenant's ID, and times that are finer than the leaf's
	recordForm  = 2
	hashForm    = 3 // entries alone: the hash of the leaf of an attempt whose event was erased before the leaf was made
	erasureForm = 4 // entries alone: an erasure
)

// AppendEntry appends to b an attempt and its commitments as the outbox keeps them: the record, and the
// tenant's ID.
func AppendEntry(b []byte, a *kapsel.Attempt, c *kapsel.Commitments) []byte {
	r := RecordOf(a, c)
	return append(r.append(b), a.TenantID[:]...)
}

// append appends the record in a third of the bytes that the leaf's text has: a byte for the form; a byte
// whose bits say which commitments follow; the IDs of delivery, event and endpoint; the start, the time
// from there to the end, the number and the status as varints; the commitments; and the error code to
// the end. The attempt's ID is beside it.
func (r *Record) append(b []byte) []byte {
	b = append(b, recordForm, 0)
	mask := len(b) - 1
	b = append(append(append(b, r.DeliveryID[:]...), r.EventID[:]...), r.EndpointID[:]...)
	b = binary.AppendUvarint(b, uint64(r.StartedAt))
	b = binary.AppendVarint(b, r.EndedAt-r.StartedAt)
	b = binary.AppendUvarint(b, uint64(r.Number))
	b = binary.AppendUvarint(b, uint64(r.StatusCode))
	for i, sum := range [...][]byte{r.Commitments.URL, r.Commitments.Payload, r.Commitments.Request, r.Commitments.Response} {
		if len(sum) == HashSize {
			b[mask] |= 1 << i
			b = append(b, sum...)
		}
	}
	return append(b, r.ErrorCode...)
}

// Erasure says that the contents of an event were erased, with the texts of the leaves of attempts.
type Erasure struct {
	EventID  kapsel.EventID
	Attempts []kapsel.AttemptID // at most receipt.MaxErased
	At       int64              // milliseconds since the epoch
}

// AppendErasure appends to b an erasure as the outbox keeps it, of an event of a tenant.
func AppendErasure(b []byte, e *Erasure, tenant kapsel.TenantID) []byte {
	b = append(append(b, erasureForm), e.EventID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.At))
	for _, id := range e.Attempts {
		b = append(b, id[:]...)
	}
	return append(b, tenant[:]...)
}

// ReadErasure returns the erasure that a record says, and false if it is no record of one.
func ReadErasure(b []byte) (e Erasure, ok bool) {
	if len(b) < 1+16+8 || b[0] != erasureForm || len(b)%16 != (1+16+8)%16 {
		return e, false
	}
	e.EventID, e.At = kapsel.EventID(b[1:17]), int64(binary.BigEndian.Uint64(b[17:]))
	for b = b[25:]; len(b) > 0; b = b[16:] {
		e.Attempts = append(e.Attempts, kapsel.AttemptID(b))
	}
	return e, true
}

// Leaf returns the leaf that says it.
func (e *Erasure) Leaf() *receipt.Erased {
	l := &receipt.Erased{EventID: e.EventID.String(), ErasedAtMS: e.At}
	for _, id := range e.Attempts {
		l.AttemptIDs = append(l.AttemptIDs, id.String())
	}
	return l
}

// EraseEntry returns an entry of the outbox without what its leaf says, so that the leaf is made with its
// hash alone. changed is false if the entry is of an unknown form, or says nothing any more.
func EraseEntry(id kapsel.AttemptID, entry []byte) (erased []byte, changed bool) {
	e := ReadEntry(EntryKey{AttemptID: id}, entry)
	r, err := ReadRecord(id, e.Record)
	if err != nil || e.TenantID.IsZero() {
		return entry, false
	}
	hash := receipt.LeafHash(r.Leaf().Append(nil))
	return append(append([]byte{hashForm}, hash[:]...), e.TenantID[:]...), true
}

// IsErased reports whether an entry of the outbox is one of EraseEntry's.
func IsErased(entry []byte) bool { return len(entry) > 0 && entry[0] == hashForm }

// ErasedHash returns the hash that the record of an entry of EraseEntry holds, and false if it is another
// record.
func ErasedHash(b []byte) (hash Hash, ok bool) {
	if len(b) != 1+HashSize || b[0] != hashForm {
		return hash, false
	}
	return Hash(b[1:]), true
}

// Leaf returns the leaf of the attempt.
func (r *Record) Leaf() *receipt.Attempt {
	return &receipt.Attempt{
		AttemptID: r.AttemptID.String(), DeliveryID: r.DeliveryID.String(), EventID: r.EventID.String(), EndpointID: r.EndpointID.String(),
		Number: r.Number, AttemptedAtMS: r.StartedAt, EndedAtMS: r.EndedAt, StatusCode: r.StatusCode, ErrorCode: string(r.ErrorCode),
		URL: r.Commitments.URL, Payload: r.Commitments.Payload, Request: r.Commitments.Request, Response: r.Commitments.Response,
	}
}

// ReadEntry returns an entry of the outbox. One of an unknown form has no tenant, and ReadRecord says
// what is wrong with it. The entry shares the bytes of b.
func ReadEntry(key EntryKey, b []byte) Entry {
	key.Erased = IsErased(b)
	if len(b) > 0 && b[0] == firstForm {
		a, sums, err := readFirst(b)
		if err != nil {
			return Entry{EntryKey: key, Record: b}
		}
		a.ID = key.AttemptID
		r := RecordOf(&a, &sums)
		return Entry{key, a.TenantID, r.append(nil)}
	}
	e := Entry{key, TenantOf(b), b}
	if !e.TenantID.IsZero() {
		e.Record = b[: len(b)-len(e.TenantID) : len(b)-len(e.TenantID)]
	}
	return e
}

// TenantOf returns the tenant of an entry, zero for one of another form than AppendEntry's.
func TenantOf(b []byte) (tenant kapsel.TenantID) {
	if len(b) > len(tenant) && b[0] >= recordForm && b[0] <= erasureForm {
		tenant = kapsel.TenantID(b[len(b)-len(tenant):])
	}
	return tenant
}

var (
	errForm = errors.New("the record of an attempt has an unknown form")
	errCut  = errors.New("the record of an attempt is cut off")
)

// ReadRecord returns the record of the attempt with an ID. It refuses bytes that Record.append does not
// make, so that no two of them say the same. The record shares the bytes of b.
func ReadRecord(id kapsel.AttemptID, b []byte) (r Record, err error) {
	in := b
	if len(b) < 2+3*16 || b[0] != recordForm {
		return r, errForm
	}
	mask := b[1]
	r.AttemptID, b = id, b[2:]
	for _, to := range []*[16]byte{(*[16]byte)(&r.DeliveryID), (*[16]byte)(&r.EventID), (*[16]byte)(&r.EndpointID)} {
		b = b[copy(to[:], b):]
	}
	started, n := binary.Uvarint(b)
	b = b[max(0, n):]
	took, m := binary.Varint(b)
	b = b[max(0, m):]
	number, k := binary.Uvarint(b)
	b = b[max(0, k):]
	status, l := binary.Uvarint(b)
	b = b[max(0, l):]
	if min(n, m, k, l) <= 0 {
		return Record{}, errCut
	}
	r.StartedAt, r.EndedAt, r.Number, r.StatusCode = int64(started), int64(started)+took, int(number), int(status)
	if b, err = readCommitments(&r.Commitments, mask, b); err != nil {
		return Record{}, err
	}
	r.ErrorCode = kapsel.Code(b)
	var again [256]byte // a record is shorter
	if string(r.append(again[:0])) != string(in) {
		return Record{}, errForm
	}
	return r, nil
}

// readCommitments reads those commitments from the beginning of b that a mask tells. It returns the rest.
func readCommitments(c *kapsel.Commitments, mask byte, b []byte) (rest []byte, err error) {
	for i, to := range [...]*[]byte{&c.URL, &c.Payload, &c.Request, &c.Response} {
		if mask&(1<<i) == 0 {
			continue
		}
		if len(b) < HashSize {
			return nil, errCut
		}
		*to, b = b[:HashSize:HashSize], b[HashSize:]
	}
	return b, nil
}

// readFirst reads an entry of the form firstForm: the mask of the commitments; the IDs of delivery, event,
// endpoint and tenant; the start in microseconds since the epoch and the duration in nanoseconds; the
// number and the status as varints; the commitments; and the error code.
func readFirst(b []byte) (a kapsel.Attempt, c kapsel.Commitments, err error) {
	if len(b) < 2+4*16+8+8 {
		return a, c, errCut
	}
	mask := b[1]
	b = b[2:]
	for _, to := range []*[16]byte{(*[16]byte)(&a.DeliveryID), (*[16]byte)(&a.EventID), (*[16]byte)(&a.EndpointID), (*[16]byte)(&a.TenantID)} {
		b = b[copy(to[:], b):]
	}
	a.StartedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC()
	a.Duration = time.Duration(binary.BigEndian.Uint64(b[8:]))
	b = b[16:]
	number, n := binary.Uvarint(b)
	status, m := binary.Uvarint(b[max(0, n):])
	if n <= 0 || m <= 0 {
		return a, c, errCut
	}
	a.Number, a.StatusCode = int(number), int(status)
	if b, err = readCommitments(&c, mask, b[n+m:]); err != nil {
		return a, c, err
	}
	a.ErrorCode = kapsel.Code(b)
	return a, c, nil
}
