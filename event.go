package kapsel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is a webhook as it was received, or what a tenant published. It never changes, but for its contents,
// which may be erased.
type Event struct {
	ID             EventID
	TenantID       TenantID
	EndpointID     EndpointID // at whose ingest it came in; zero: at none
	SourceID       SourceID   // the source that it came in at; zero: none
	AppID          AppID      // the app that it was published to; zero: none
	Type           string     // what subscriptions choose by; "": none
	Channels       []string   // of a published event; nil: none
	OrderingKey    string     // of a published event; "": none
	DeliverAt      time.Time  // of a published event: no attempt starts before; zero: at once
	ReceivedAt     time.Time
	ContentType    string
	Header         Header // as received, less what carries credentials of ours
	Query          string // raw, without the question mark
	Body           []byte
	Size           int    // of the body, also where Body is not loaded
	IdempotencyKey []byte // nil: none
	Signature      SignatureVerdict
	TraceParent    string    // W3C traceparent to continue; "" without one
	Salt           []byte    // of its commitments in the audit log; nil: it is older than the log or erased, or Body is not loaded
	ErasedAt       time.Time // when its contents were erased: Header, Query, Body and Salt; zero: they were not
}

// Origin returns where the event came in: its endpoint or its source, or for a published event
// its tenant.
func (e *Event) Origin() OriginID {
	switch {
	case !e.EndpointID.IsZero():
		return OriginID(e.EndpointID)
	case !e.SourceID.IsZero():
		return OriginID(e.SourceID)
	}
	return OriginID(e.TenantID)
}

// Audience returns the origin whose subscribers get the event: the app that it was published to,
// else its origin.
func (e *Event) Audience() OriginID {
	if !e.AppID.IsZero() {
		return OriginID(e.AppID)
	}
	return e.Origin()
}

// KeyScope returns what the event's idempotency key is unique in: its origin, and of published
// events those with the same app and the same ordering key. The ID of an app is no beginning of an
// ordering key: its first byte is a control character.
func (e *Event) KeyScope() OriginID {
	origin := e.Origin()
	if e.AppID.IsZero() && e.OrderingKey == "" {
		return origin
	}
	scope := origin[:]
	if !e.AppID.IsZero() {
		scope = append(scope, e.AppID[:]...)
	}
	sum := sha256.Sum256(append(scope, e.OrderingKey...))
	return OriginID(sum[:16])
}

// extra is what few events have. The stores keep it as JSON in one column.
type extra struct {
	Source      bool     `json:"source,omitempty"` // the origin is a source
	Channels    []string `json:"channels,omitempty"`
	OrderingKey string   `json:"ordering_key,omitempty"`
	DeliverAt   int64    `json:"deliver_at,omitempty"` // microseconds since the epoch
}

// Extra returns what the stores keep of an event in one column: nil for one that came in at an
// endpoint's ingest.
func (e *Event) Extra() []byte {
	x := extra{Source: !e.SourceID.IsZero(), Channels: e.Channels, OrderingKey: e.OrderingKey}
	if !e.DeliverAt.IsZero() {
		x.DeliverAt = e.DeliverAt.UnixMicro()
	}
	if !x.Source && x.Channels == nil && x.OrderingKey == "" && x.DeliverAt == 0 {
		return nil
	}
	b, err := json.Marshal(x)
	if err != nil {
		panic(err) // strings, a number and a bool
	}
	return b
}

// SetExtra sets what Extra returned, and the endpoint or the source of an origin. TenantID must
// be set.
func (e *Event) SetExtra(origin OriginID, b []byte) error {
	var x extra
	if b != nil {
		if err := json.Unmarshal(b, &x); err != nil {
			return fmt.Errorf("read an event's extra: %w", err)
		}
	}
	switch {
	case x.Source:
		e.SourceID = SourceID(origin)
	case origin != OriginID(e.TenantID):
		e.EndpointID = EndpointID(origin)
	}
	e.Channels, e.OrderingKey = x.Channels, x.OrderingKey
	if x.DeliverAt != 0 {
		e.DeliverAt = time.UnixMicro(x.DeliverAt).UTC()
	}
	return nil
}

// FirstDue returns when the event's first deliveries are due if they are made at now: at DeliverAt
// if that is later.
func (e *Event) FirstDue(now time.Time) time.Time {
	if e.DeliverAt.After(now) {
		return e.DeliverAt
	}
	return now
}

// SignatureVerdict is what the check of an event's signature found.
type SignatureVerdict struct {
	Scheme string        `json:"scheme"` // the provider; "none": not checked
	Valid  bool          `json:"valid"`
	KeyID  string        `json:"key_id,omitempty"` // which secret
	Skew   time.Duration `json:"skew,omitempty"`   // our time less the signed one
}

// Header is an ordered list of header fields.
type Header []HeaderField

// HeaderField is one header line. Values may hold any byte but CR, LF and NUL.
type HeaderField struct{ Name, Value string }

// HeaderOf lists the fields of a header by name. The values of one name keep their order.
func HeaderOf(fields map[string][]string) Header {
	list := make(Header, 0, len(fields)+4)
	for name, values := range fields {
		for _, v := range values {
			list = append(list, HeaderField{Name: name, Value: v})
		}
	}
	slices.SortStableFunc(list, func(a, b HeaderField) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Size returns the bytes of the fields as lines of HTTP/1.1.
func (h Header) Size() (n int) {
	for _, f := range h {
		n += f.Size()
	}
	return n
}

// Size returns the bytes of the field as a line of HTTP/1.1.
func (f HeaderField) Size() int { return len(f.Name) + len(": ") + len(f.Value) + len("\r\n") }

// Get returns the first value of a field, "" if there is none. It ignores the case of the name.
func (h Header) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// HopsHeader tells the next Kapsel how many Kapsels an event has passed. A Kapsel sends it only with
// events that it got from another Kapsel; its other deliveries count as the first hop.
const HopsHeader = "X-Kapsel-Hops"

// MaxHops is how many Kapsels an event may have passed. It ends a loop of endpoints that send to each
// other.
const MaxHops = 5

// Hops returns how many Kapsels have passed on the request with this header, at most MaxHops. It returns
// MaxHops if the number is not valid, and 0 if the sender is not a Kapsel.
func (h Header) Hops() int {
	if text := h.Get(HopsHeader); text != "" {
		if n, err := strconv.Atoi(text); err == nil && 0 < n && n < MaxHops {
			return n
		}
		return MaxHops
	}
	if _, err := ParseEventID(h.Get("X-Kapsel-Event-Id")); err != nil {
		return 0
	}
	return 1
}

// ViaHeader names the ingests that an event has passed, one mark for each, oldest first.
const ViaHeader = "X-Kapsel-Via"

// InstanceID names an instance of Kapsel: all nodes that share a database.
type InstanceID [16]byte

// NewInstanceID returns a random id.
func NewInstanceID() (id InstanceID) {
	rand.Read(id[:]) // never fails
	return id
}

// EventTypeHeader has the type of an event, where it has one, in deliveries.
const EventTypeHeader = "X-Kapsel-Event-Type"

// Mark returns what ViaHeader holds for an event that came in at an origin of the instance: 8
// bytes of SHA-256 over both ids, in hex. Only someone who knows both ids can tell the origin.
func (id InstanceID) Mark(origin [16]byte) string {
	sum := sha256.Sum256(append(id[:], origin[:]...))
	return hex.EncodeToString(sum[:8])
}

// Via returns the marks of the ingests that what was received with this header has passed: the
// newest MaxHops, as no more can be Kapsel's.
func (h Header) Via() (marks []string) {
	for text := range strings.SplitSeq(h.Get(ViaHeader), ",") {
		if mark := strings.TrimSpace(text); len(mark) == 16 {
			marks = append(marks, mark)
		}
	}
	return marks[max(0, len(marks)-MaxHops):]
}

// AppendBinary appends the header as lines of "Name: value\r\n", the form in which the
// stores keep it.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	for _, f := range h {
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	return b, nil
}

// UnmarshalBinary reads what AppendBinary wrote.
func (h *Header) UnmarshalBinary(b []byte) error {
	*h = make(Header, 0, bytes.Count(b, []byte("\r\n")))
	text := string(b) // one allocation; the fields share it
	for len(text) > 0 {
		line, rest, _ := strings.Cut(text, "\r\n")
		name, value, _ := strings.Cut(line, ": ")
		*h = append(*h, HeaderField{name, value})
		text = rest
	}
	return nil
}

// MarshalJSON writes [["Name","value"],…], in order. Bytes that are not UTF-8 become U+FFFD.
func (h Header) MarshalJSON() ([]byte, error) {
	pairs := make([][2]string, len(h))
	for i, f := range h {
		pairs[i] = [2]string{f.Name, f.Value}
	}
	return json.Marshal(pairs)
}

// EventStatus is computed from an event's newest delivery to each endpoint.
type EventStatus string

// The statuses of events beside those of deliveries.
const (
	EventReceived  EventStatus = "received"  // nothing was tried yet
	EventUnmatched EventStatus = "unmatched" // no endpoint wanted it
)

// StatusOfEvent computes an event's status from its newest delivery to each endpoint:
// received while every one waits or runs for the first time, else the first of delivering,
// pending, dead_letter, failed, canceled, delivered that any of them has; unmatched without a
// delivery. While deliveries are still being made (expanding), the event counts as delivering.
func StatusOfEvent(newest []Delivery, expanding bool) EventStatus {
	if len(newest) == 0 && !expanding {
		return EventUnmatched
	}
	untried := true
	best := Delivered
	if expanding {
		best = Delivering
	}
	for i, d := range newest {
		untried = untried && !d.Status.Terminal() && d.Attempts == 0
		if i == 0 && !expanding || rank[d.Status] < rank[best] {
			best = d.Status
		}
	}
	if untried {
		return EventReceived
	}
	return EventStatus(best.String())
}

// rank orders delivery states by how much an event's reader needs to know of them.
var rank = map[DeliveryStatus]int{Delivering: 0, Pending: 1, DeadLetter: 2, Failed: 3, Canceled: 4, Delivered: 5}
