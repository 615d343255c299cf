package store

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Journal is what the audit log needs. Package audit says what a log is; the store keeps its rows
// and makes sure that one writer at a time appends to a log, and in one place.
//
// Complete and TakeOver write an entry of the outbox in the transaction that writes an attempt.
// Append takes entries out of the outbox in the transaction that makes leaves of them. So each
// attempt that was recorded since the log exists is either in the outbox or exactly one leaf.
type Journal interface {
	// Entries returns up to limit entries of the outbox with IDs behind after, in the store's order
	// (zero: from its beginning). An entry that was committed late may be behind or before after.
	Entries(ctx context.Context, after kapsel.AttemptID, limit int) ([]Entry, error)
	// TakeLogs makes the caller the only writer of some tenants' logs: it raises the epoch of each
	// log by one and returns the logs, in the order of the tenants. A tenant without a log gets one,
	// made at now, with a random ID.
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
	// Fault sets why no head of a log is signed, "" if there is no reason.
	Fault(ctx context.Context, log kapsel.LogID, reason string) error
	// CloseLog ends a log: nothing is appended to it or published of it any more. The next TakeLogs
	// of its tenant makes another one.
	CloseLog(ctx context.Context, log kapsel.LogID, now time.Time) error

	// LogOf returns the log of a tenant that is not closed. NotFound: there is none yet.
	LogOf(ctx context.Context, tenant kapsel.TenantID) (Log, error)
	// Log returns a log, closed or not.
	Log(ctx context.Context, id kapsel.LogID) (Log, error)
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
	// Tile returns the hashes of a tile: 32 bytes each, at most 256. It returns nil if there is no such
	// tile. Of level 0 only complete tiles are stored; Hashes returns the rest of that level.
	Tile(ctx context.Context, log kapsel.LogID, level int, n int64) ([]byte, error)
	// Hashes returns up to limit hashes of leaves from n on, 32 bytes each, as the leaves' rows have
	// them.
	Hashes(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]byte, error)
	// Leaves returns up to limit leaves from n on.
	Leaves(ctx context.Context, log kapsel.LogID, n int64, limit int) ([]Leaf, error)
	// LeafOf returns the leaf of an attempt in a tenant's log. NotFound: there is no such attempt, or
	// it is not in the log: see Logged.
	LeafOf(ctx context.Context, tenant kapsel.TenantID, attempt kapsel.AttemptID) (Log, Leaf, error)
	// LeafIndexes returns the indexes of the leaves of attempts in a tenant's log. Attempts without
	// a leaf are not in the map.
	LeafIndexes(ctx context.Context, tenant kapsel.TenantID, attempts []kapsel.AttemptID) (map[kapsel.AttemptID]int64, error)
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
	Leaves []Leaf             // from Was.Size on
	Tiles  []Tile             // new, or longer than they were
	Taken  []kapsel.AttemptID // the entries that the leaves are made of
}

// Leaf is a leaf of a log.
type Leaf struct {
	Index     int64
	AttemptID kapsel.AttemptID // zero: it is about no attempt
	Hash      Hash
	Text      []byte // nil: it was deleted
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

// Entry is an attempt that is to become a leaf. Of the attempt it has what a leaf says.
type Entry struct {
	Attempt     kapsel.Attempt
	Commitments kapsel.Commitments
}

// entryVersion is the first byte of an entry.
const entryVersion = 1

// AppendEntry appends to b an attempt and its commitments as the outbox keeps them: a version; a byte
// whose bits say which commitments follow; the IDs of delivery, event, endpoint and tenant; the start in
// microseconds since the epoch and the duration in nanoseconds; the number and the status as varints;
// the commitments; and the error code to the end.
func AppendEntry(b []byte, a *kapsel.Attempt, c *kapsel.Commitments) []byte {
	b = append(b, entryVersion, 0)
	mask := len(b) - 1
	b = append(append(b, a.DeliveryID[:]...), a.EventID[:]...)
	b = append(append(b, a.EndpointID[:]...), a.TenantID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.StartedAt.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(a.Duration))
	b = binary.AppendUvarint(b, uint64(a.Number))
	b = binary.AppendUvarint(b, uint64(a.StatusCode))
	for i, sum := range [...][]byte{c.URL, c.Payload, c.Request, c.Response} {
		if len(sum) == HashSize {
			b[mask] |= 1 << i
			b = append(b, sum...)
		}
	}
	return append(b, a.ErrorCode...)
}

// ReadEntry returns what AppendEntry wrote for the attempt with an ID.
func ReadEntry(id kapsel.AttemptID, b []byte) (e Entry, err error) {
	const fixed = 2 + 4*16 + 8 + 8
	if len(b) < fixed || b[0] != entryVersion {
		return e, errors.New("an entry of the audit log's outbox has an unknown form")
	}
	mask, a := b[1], &e.Attempt
	a.ID, b = id, b[2:]
	for _, to := range []*[16]byte{(*[16]byte)(&a.DeliveryID), (*[16]byte)(&a.EventID), (*[16]byte)(&a.EndpointID), (*[16]byte)(&a.TenantID)} {
		b = b[copy(to[:], b):]
	}
	a.StartedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC()
	a.Duration = time.Duration(binary.BigEndian.Uint64(b[8:]))
	b = b[16:]
	number, n := binary.Uvarint(b)
	status, m := binary.Uvarint(b[max(0, n):])
	if n <= 0 || m <= 0 {
		return Entry{}, errors.New("an entry of the audit log's outbox is cut off")
	}
	a.Number, a.StatusCode, b = int(number), int(status), b[n+m:]
	for i, to := range []*[]byte{&e.Commitments.URL, &e.Commitments.Payload, &e.Commitments.Request, &e.Commitments.Response} {
		if mask&(1<<i) == 0 {
			continue
		}
		if len(b) < HashSize {
			return Entry{}, errors.New("an entry of the audit log's outbox is cut off")
		}
		*to, b = append([]byte(nil), b[:HashSize]...), b[HashSize:]
	}
	a.ErrorCode = kapsel.Code(b)
	return e, nil
}
