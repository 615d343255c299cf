package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Ledger is what the books of deliveries need; package ledger says what books are.
//
// A store that was opened with Options.Ledger writes each fact of a delivery in the transaction that
// makes or ends the delivery, whatever does: into the outbox, from which the facts are booked, and into
// totals. Otherwise it writes none, and Walk tells later what was not told. Join keeps with a node whether
// it tells facts.
type Ledger interface {
	// KeepBooks says whether this process tells facts, as Options.Ledger says. It must be called before
	// the first event. If facts were not told until now, Walk has work to do from now on; if they are
	// told no longer, Walk has some when they are told again.
	KeepBooks(ctx context.Context, on bool) error
	// Walk looks at up to limit deliveries, in the order of their IDs, and tells those of their facts that
	// were not told. It begins once all nodes alive tell facts, and anew after a node that tells none was
	// alive. more reports whether there are others to look at now.
	Walk(ctx context.Context, limit int) (told int, more bool, err error)
	// Walked reports whether all facts of all deliveries were told. It is false while a node that tells none
	// is alive.
	Walked(ctx context.Context) (bool, error)
	// OthersTell reports whether this process tells no facts and another node alive does. Such a process must
	// leave it to others to delete deliveries: it could not tell their facts.
	OthersTell(ctx context.Context) (bool, error)

	// FactEntries returns up to limit entries of the outbox, the oldest first, and few more than atMost
	// facts. An entry that was committed late may be before entries that were returned earlier.
	FactEntries(ctx context.Context, limit, atMost int) ([]FactEntry, error)
	// Booked takes entries out of the outbox, and keeps conflicts, in one transaction. Entries that are
	// not there are passed over. A conflict of the same fact is kept as it was first reported. A conflict
	// about a delivery of the store is kept for the delivery's event, endpoint and tenant, whatever it
	// names, so that no tenant is shown what is of another. Any other is passed over if nothing was told of
	// the owner that it names.
	Booked(ctx context.Context, entries []kapsel.EntryID, conflicts []BookConflict) error
	// BookConflicts returns a page of conflicts, those found first at its beginning. Zero tenant: of all.
	BookConflicts(ctx context.Context, tenant kapsel.TenantID, after int64, limit int) ([]BookConflict, error)
	// ReportBooks keeps what the books of some owners say, in place of what was reported before. Reports
	// about owners without any fact are passed over.
	ReportBooks(ctx context.Context, reports []BookReport) error
	// Accounts returns a page of what was told and what is booked, all at one moment: of each tenant and
	// after it each of its endpoints, in the order of their IDs, behind an owner. Zero tenant: of all.
	Accounts(ctx context.Context, tenant kapsel.TenantID, after Owner, limit int) ([]OwnerAccount, error)
	// AccountOf returns what Accounts says of one owner. NotFound: nothing of it was told.
	AccountOf(ctx context.Context, owner Owner) (OwnerAccount, error)
}

// FactEntry is an entry of the outbox: the facts that one transaction told.
type FactEntry struct {
	ID    kapsel.EntryID
	Facts []kapsel.Fact
}

// Owner has accounts in the books: a tenant or, if EndpointID is not zero, an endpoint of it.
type Owner struct {
	TenantID   kapsel.TenantID
	EndpointID kapsel.EndpointID
}

// Compare compares owners by their order in pages.
func (o Owner) Compare(p Owner) int {
	if n := bytes.Compare(o.TenantID[:], p.TenantID[:]); n != 0 {
		return n
	}
	return bytes.Compare(o.EndpointID[:], p.EndpointID[:])
}

// OwnerAccount is what was told of an owner's deliveries and what is booked of it. Unbooked is what the
// outbox holds of it; nil: the outbox is too long to be read in a moment. Report is what was last
// reported; nil: nothing was.
type OwnerAccount struct {
	Owner
	Told     kapsel.FactTotals
	Unbooked *kapsel.FactTotals
	Report   *BookReport
}

// BookReport is a comparison of an owner's books with the store. Cut is what the books should have said,
// at the moment at which they said Books.
type BookReport struct {
	Owner
	Books, Cut kapsel.FactTotals
	At         time.Time
}

// AppendTotals appends totals to b as reports keep them: six numbers of 8 bytes.
func AppendTotals(b []byte, t *kapsel.FactTotals) []byte {
	for _, n := range [...]int64{t.Accepted, t.Replayed, t.Delivered, t.Failed, t.DeadLetter, t.Canceled} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// ReadTotals returns what AppendTotals wrote; numbers that are missing are 0.
func ReadTotals(b []byte) (t kapsel.FactTotals) {
	for _, n := range [...]*int64{&t.Accepted, &t.Replayed, &t.Delivered, &t.Failed, &t.DeadLetter, &t.Canceled} {
		if len(b) < 8 {
			return t
		}
		*n, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	}
	return t
}

// BookConflict is a fact that the books do not have as it was told, or that the store does not have.
// Number orders conflicts; BookConflicts sets it.
type BookConflict struct {
	Number int64
	Fact   kapsel.Fact
	Answer string // what the books answered, or how the fact differs
	At     time.Time
}

// MaxUnbooked is the longest outbox, in entries, that Accounts reads.
const MaxUnbooked = 500

// Told is what a transaction tells the ledger.
type Told struct {
	Facts  []byte // as AppendFact writes them
	Totals map[Owner]*kapsel.FactTotals
}

// NewTold makes an empty Told.
func NewTold() *Told { return &Told{Totals: map[Owner]*kapsel.FactTotals{}} }

// Reset forgets what was told. A nil Told has nothing to forget.
func (t *Told) Reset() {
	if t != nil {
		t.Facts = t.Facts[:0]
		clear(t.Totals)
	}
}

// Empty reports whether nothing was told.
func (t *Told) Empty() bool { return t == nil || len(t.Facts) == 0 }

// Add tells a fact. A nil Told hears nothing.
func (t *Told) Add(f kapsel.Fact) {
	if t == nil {
		return
	}
	t.Facts = AppendFact(t.Facts, &f)
	*entry(t.Totals, Owner{f.TenantID, f.EndpointID}).Of(f.Kind)++
}

// NewID returns an ID for the entry, with the time and the part of its first fact. There must be one.
func (t *Told) NewID() kapsel.EntryID {
	first := t.Facts[:FactSize]
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(first[FactSize-8:])) + year2000)
	return kapsel.NewEntryID(at, kapsel.DeliveryID(first[1:17]).Part())
}

// FactSize is the length of a fact in an entry, in bytes.
const FactSize = 1 + 4*16 + 8

// year2000 is 2000-01-01 in microseconds since 1970. Facts count from it, as PostgreSQL does.
const year2000 = 946684800 * 1_000_000

// AppendFact appends a fact to b as entries keep it: its kind; the IDs of delivery, event, endpoint and
// tenant; and its time in microseconds since 2000-01-01.
func AppendFact(b []byte, f *kapsel.Fact) []byte {
	b = append(append(append(b, byte(f.Kind)), f.DeliveryID[:]...), f.EventID[:]...)
	b = append(append(b, f.EndpointID[:]...), f.TenantID[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(f.At.UnixMicro()-year2000))
}

// ReadFacts returns the facts of an entry.
func ReadFacts(b []byte) ([]kapsel.Fact, error) {
	if len(b)%FactSize != 0 {
		return nil, errors.New("an entry of the ledger's outbox is cut off")
	}
	facts := make([]kapsel.Fact, 0, len(b)/FactSize)
	for ; len(b) > 0; b = b[FactSize:] {
		f := kapsel.Fact{Kind: kapsel.FactKind(b[0])}
		if f.Kind.String() == "" {
			return nil, errors.New("an entry of the ledger's outbox has an unknown form")
		}
		at := b[1:]
		for _, id := range []*[16]byte{(*[16]byte)(&f.DeliveryID), (*[16]byte)(&f.EventID), (*[16]byte)(&f.EndpointID), (*[16]byte)(&f.TenantID)} {
			at = at[copy(id[:], at):]
		}
		f.At = time.UnixMicro(int64(binary.BigEndian.Uint64(at)) + year2000).UTC()
		facts = append(facts, f)
	}
	return facts, nil
}

// The bits that a delivery's row has for the facts that were told of it.
const (
	ToldMade = 1
	ToldEnd  = 2
)

// Untold returns those facts of a delivery that were not told, as the bits of its row say, and the bits
// when they are.
func Untold(d *kapsel.Delivery, bits int) (facts []kapsel.Fact, now int) {
	now = bits
	if bits&ToldMade == 0 {
		facts, now = append(facts, kapsel.MadeFact(d)), now|ToldMade
	}
	if bits&ToldEnd == 0 && d.Status.Terminal() {
		facts, now = append(facts, kapsel.EndFact(d)), now|ToldEnd
	}
	return facts, now
}

// WalkName is the name of the value of the instance that says how far Walk is.
const WalkName = "ledger"

// Walk says how far Ledger.Walk is, as the instance's value WalkName keeps it. Empty: facts were never
// told, and so no delivery needs a look before they are.
type Walk string

// The states of a walk beside WalkFrom and WalkBehind.
const (
	WalkDue  Walk = "off"  // a walk has to begin once all nodes alive tell facts
	WalkDone Walk = "done" // all facts were told
)

// WalkFrom is a walk that goes on behind a delivery; zero: it begins.
func WalkFrom(after kapsel.DeliveryID) Walk { return Walk("at" + string(after[:])) }

// After returns the delivery behind which the walk goes on. walking is false if it does not.
func (w Walk) After() (after kapsel.DeliveryID, walking bool) {
	at, walking := strings.CutPrefix(string(w), "at")
	copy(after[:], at)
	return after, walking && len(at) == len(after)
}

// WalkBehind is a walk that begins once a transaction and all before it have ended, so that it sees what
// they have written.
func WalkBehind(transaction uint64) Walk {
	return Walk(binary.BigEndian.AppendUint64([]byte("behind"), transaction))
}

// Behind returns the transaction that the walk waits for. waiting is false if it waits for none.
func (w Walk) Behind() (transaction uint64, waiting bool) {
	number, waiting := strings.CutPrefix(string(w), "behind")
	if !waiting || len(number) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64([]byte(number)), true
}

// Kept returns the walk of an instance once a process of it tells facts or does not.
func (w Walk) Kept(on bool) Walk {
	if on == (w == "") { // told for the first time, or no longer
		return WalkDue
	}
	return w
}

// WithTenants puts before the endpoints of each tenant in a page the tenant itself, if it is behind
// after. sum returns what was told of all endpoints of a tenant.
func WithTenants(endpoints []OwnerAccount, after Owner, limit int, sum func(kapsel.TenantID) (kapsel.FactTotals, error)) (page []OwnerAccount, err error) {
	last := after
	for _, e := range endpoints {
		own := Owner{TenantID: e.TenantID}
		if own.Compare(last) > 0 {
			told, err := sum(e.TenantID)
			if err != nil {
				return nil, err
			}
			page = append(page, OwnerAccount{Owner: own, Told: told})
		}
		page, last = append(page, e), e.Owner
	}
	return page[:min(limit, len(page))], nil
}

// AddUnbooked sets what entries of the outbox hold of the owners of a page.
func AddUnbooked(page []OwnerAccount, entries []FactEntry) {
	sums := map[Owner]*kapsel.FactTotals{}
	for _, e := range entries {
		for _, f := range e.Facts {
			*entry(sums, Owner{f.TenantID, f.EndpointID}).Of(f.Kind)++
			*entry(sums, Owner{TenantID: f.TenantID}).Of(f.Kind)++
		}
	}
	for i := range page {
		page[i].Unbooked = entry(sums, page[i].Owner)
	}
}
