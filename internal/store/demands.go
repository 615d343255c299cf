package store

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// LimitKind says which limit nodes share.
type LimitKind byte

// The limits that nodes share.
const (
	IngestRate   LimitKind = 1 // events a second of a tenant or to an app
	DeliveryRate LimitKind = 2 // exchanges a second of an endpoint
	Concurrency  LimitKind = 3 // exchanges at once of an endpoint
)

// Limit names a limit that nodes share: its kind, and the tenant, app or endpoint whose it is.
type Limit struct {
	Kind LimitKind
	Of   [16]byte
}

// Demand is what a node could use of a limit, and how much of it is in its hands already.
type Demand struct {
	Limit
	Amount float64 // a second, or at once
	Held   int
}

// NodeDemands are what a node that is alive demanded when it last told.
type NodeDemands struct {
	Node    kapsel.NodeID
	At      time.Time // zero: it has not told yet
	Demands []Demand
}

// MaxDemands bounds what one node tells.
const MaxDemands = 512

// Demands are stored as one value a node: a byte for the form, and demandSize bytes each.
const (
	demandForm = 1
	demandSize = 1 + 16 + 8 + 4
)

// EncodeDemands is demands as a value to store; those after MaxDemands are left out.
func EncodeDemands(all []Demand) []byte {
	out := []byte{demandForm}
	for _, d := range all[:min(len(all), MaxDemands)] {
		out = append(append(out, byte(d.Kind)), d.Of[:]...)
		out = binary.BigEndian.AppendUint64(out, math.Float64bits(d.Amount))
		out = binary.BigEndian.AppendUint32(out, uint32(min(max(d.Held, 0), math.MaxInt32)))
	}
	return out
}

// DecodeDemands reads what EncodeDemands made. What it cannot read, such as that of another
// version, is no demand.
func DecodeDemands(value []byte) (all []Demand) {
	if len(value)%demandSize != 1 || value[0] != demandForm {
		return nil
	}
	for v := value[1:]; len(v) > 0 && len(all) < MaxDemands; v = v[demandSize:] {
		d := Demand{Limit: Limit{Kind: LimitKind(v[0]), Of: [16]byte(v[1:17])}}
		d.Amount = math.Float64frombits(binary.BigEndian.Uint64(v[17:]))
		d.Held = int(min(binary.BigEndian.Uint32(v[25:]), math.MaxInt32))
		if d.Amount >= 0 && !math.IsInf(d.Amount, 0) {
			all = append(all, d)
		}
	}
	return all
}
