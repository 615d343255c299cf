package kapsel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Event is a webhook as it was received. It never changes.
type Event struct {
	ID             EventID
	TenantID       TenantID
	EndpointID     EndpointID
	ReceivedAt     time.Time
	ContentType    string
	Header         Header // as received, less what carries credentials of ours
	Query          string // raw, without the question mark
	Body           []byte
	Size           int    // of the body, also where Body is not loaded
	IdempotencyKey []byte // nil: none
	Signature      SignatureVerdict
	TraceParent    string // W3C traceparent to continue; "" without one
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

// Get is the first value of a name, whatever its case; "" without one.
func (h Header) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// HopsHeader tells the next Kapsel how many have passed an event on. It is sent only with an
// event that came from one: of its own deliveries each is the first hop.
const HopsHeader = "X-Kapsel-Hops"

// MaxHops is how many Kapsels an event may have passed: endpoints that send to each other
// end there.
const MaxHops = 5

// Hops is how many Kapsels passed on what was received with this header, at most MaxHops,
// also where the number cannot be read; 0: its sender was none.
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

// Mark is what ViaHeader has of an event that came in at an endpoint of the instance: 8 bytes
// of SHA-256, in hex. It says nothing of the endpoint to who does not know both ids.
func (id InstanceID) Mark(origin EndpointID) string {
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

// EventReceived: nothing was tried yet. The other statuses are those of deliveries.
const EventReceived EventStatus = "received"

// StatusOfEvent computes an event's status from its newest delivery to each endpoint:
// received while every one waits or runs for the first time, else the first of delivering,
// pending, dead_letter, failed, canceled, delivered that any of them has.
func StatusOfEvent(newest []Delivery) EventStatus {
	untried := true
	best := Delivered
	for i, d := range newest {
		untried = untried && !d.Status.Terminal() && d.Attempts == 0
		if i == 0 || rank[d.Status] < rank[best] {
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
