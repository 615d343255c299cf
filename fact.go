package kapsel

import (
	"encoding"
	"fmt"
	"time"
)

// FactKind says what a Fact tells. The values never change: stores and the ledger keep them.
type FactKind uint8

// The kinds. A delivery is made once, and ends once.
const (
	FactAccepted   FactKind = 1  // the delivery was made for an event
	FactReplayed   FactKind = 2  // the delivery was made to repeat another
	FactDelivered  FactKind = 13 // the delivery ended so, as the next three say
	FactFailed     FactKind = 14
	FactDeadLetter FactKind = 15
	FactCanceled   FactKind = 16
)

var factNames = map[FactKind]string{
	FactAccepted: "accepted", FactReplayed: "replayed", FactDelivered: "delivered",
	FactFailed: "failed", FactDeadLetter: "dead_letter", FactCanceled: "canceled",
}

var (
	_ encoding.TextMarshaler   = FactKind(0)
	_ encoding.TextUnmarshaler = (*FactKind)(nil)
)

// String returns the kind's name.
func (k FactKind) String() string { return factNames[k] }

// MarshalText returns the kind's name. It fails for a kind that there is not.
func (k FactKind) MarshalText() ([]byte, error) {
	if name, ok := factNames[k]; ok {
		return []byte(name), nil
	}
	return nil, fmt.Errorf("%d is no kind of fact", k)
}

// UnmarshalText reads a kind's name.
func (k *FactKind) UnmarshalText(b []byte) error {
	for kind, name := range factNames {
		if name == string(b) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("%q is no kind of fact", b)
}

// Made reports whether the fact is that a delivery was made; otherwise the delivery ended.
func (k FactKind) Made() bool { return k <= FactReplayed }

// Fact is what the ledger books: a delivery was made, or it ended. Two facts of a delivery at most
// are ever told, one of each sort.
type Fact struct {
	Kind       FactKind
	DeliveryID DeliveryID
	EventID    EventID
	EndpointID EndpointID
	TenantID   TenantID
	At         time.Time // as the delivery's row has it, so that a repeated fact is the same
}

// MadeFact returns the fact that a delivery was made.
func MadeFact(d *Delivery) Fact {
	kind := FactAccepted
	if !d.ReplayOf.IsZero() {
		kind = FactReplayed
	}
	return Fact{kind, d.ID, d.EventID, d.EndpointID, d.TenantID, d.CreatedAt}
}

// EndFact returns the fact that a delivery ended. Its status must be terminal.
func EndFact(d *Delivery) Fact {
	return Fact{FactDelivered + FactKind(d.Status-Delivered), d.ID, d.EventID, d.EndpointID, d.TenantID, d.FinishedAt}
}

// FactTotals counts facts by their kinds.
type FactTotals struct {
	Accepted, Replayed, Delivered, Failed, DeadLetter, Canceled int64
}

// Of returns the counter of a kind.
func (t *FactTotals) Of(k FactKind) *int64 {
	switch k {
	case FactAccepted:
		return &t.Accepted
	case FactReplayed:
		return &t.Replayed
	case FactDelivered:
		return &t.Delivered
	case FactFailed:
		return &t.Failed
	case FactDeadLetter:
		return &t.DeadLetter
	case FactCanceled:
		return &t.Canceled
	}
	panic(fmt.Sprintf("%d is no kind of fact", k))
}

// Plus returns the sum of two totals, by kind.
func (t FactTotals) Plus(u FactTotals) FactTotals {
	return FactTotals{
		t.Accepted + u.Accepted, t.Replayed + u.Replayed, t.Delivered + u.Delivered,
		t.Failed + u.Failed, t.DeadLetter + u.DeadLetter, t.Canceled + u.Canceled,
	}
}

// Minus returns the difference of two totals, by kind.
func (t FactTotals) Minus(u FactTotals) FactTotals {
	return FactTotals{
		t.Accepted - u.Accepted, t.Replayed - u.Replayed, t.Delivered - u.Delivered,
		t.Failed - u.Failed, t.DeadLetter - u.DeadLetter, t.Canceled - u.Canceled,
	}
}

// InFlight returns how many deliveries were made and have not ended.
func (t FactTotals) InFlight() int64 {
	return t.Accepted + t.Replayed - t.Delivered - t.Failed - t.DeadLetter - t.Canceled
}
