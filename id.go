package kapsel

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ID is a TypeID (https://github.com/jetify-com/typeid, specification 0.3): a prefix that names
// the kind, an underscore, and a UUIDv7 in 26 characters of lower-case base32. It takes 16 bytes
// in memory and in the stores. The zero ID means "none".
//
// IDs sort by the millisecond in which they were made; within a millisecond the order is
// arbitrary.
type ID[K kind] uuid.UUID

// kind gives the prefix of an ID's text. Each kind is an empty struct, so IDs of different kinds
// are different types.
type kind interface{ prefix() string }

type (
	tenantKind   struct{}
	keyKind      struct{}
	endpointKind struct{}
	sourceKind   struct{}
	appKind      struct{}
	typeKind     struct{}
	eventKind    struct{}
	deliveryKind struct{}
	attemptKind  struct{}
	secretKind   struct{}
	nodeKind     struct{}
	replayKind   struct{}
	sessionKind  struct{}
	changeKind   struct{}
	entryKind    struct{}
	portalKind   struct{}
)

func (tenantKind) prefix() string   { return "ten" }
func (keyKind) prefix() string      { return "key" }
func (endpointKind) prefix() string { return "ep" }
func (sourceKind) prefix() string   { return "src" }
func (appKind) prefix() string      { return "app" }
func (typeKind) prefix() string     { return "type" }
func (eventKind) prefix() string    { return "evt" }
func (deliveryKind) prefix() string { return "dlv" }
func (attemptKind) prefix() string  { return "att" }
func (secretKind) prefix() string   { return "sec" }
func (nodeKind) prefix() string     { return "node" }
func (replayKind) prefix() string   { return "rpl" }
func (sessionKind) prefix() string  { return "ses" }
func (changeKind) prefix() string   { return "chg" }
func (entryKind) prefix() string    { return "ent" }
func (portalKind) prefix() string   { return "plk" }

// The kinds of ids.
type (
	TenantID     = ID[tenantKind]
	KeyID        = ID[keyKind]
	EndpointID   = ID[endpointKind]
	SourceID     = ID[sourceKind]
	AppID        = ID[appKind]
	EventTypeID  = ID[typeKind]
	EventID      = ID[eventKind]
	DeliveryID   = ID[deliveryKind]
	AttemptID    = ID[attemptKind]
	SecretID     = ID[secretKind]
	NodeID       = ID[nodeKind]
	ReplayID     = ID[replayKind]
	SessionID    = ID[sessionKind]
	ChangeID     = ID[changeKind]
	PortalLinkID = ID[portalKind]
	EntryID      = ID[entryKind] // of the ledger's outbox
)

// OriginID names the place at which an event came in: the ID of an endpoint with an ingest or of a
// source; for a published event, its tenant's. An endpoint and a source with the same UUID are the
// same origin. For subscriptions, the events published to an app have the app's ID as origin; see
// Event.Audience.
type OriginID [16]byte

// IsZero reports whether the ID is zero, which means "none".
func (id OriginID) IsZero() bool { return id == OriginID{} }

// newID returns a UUIDv7 (RFC 9562) with the millisecond of now.
func newID[K kind](now time.Time) (id ID[K]) {
	rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint32(id[:4], uint32(ms>>16))
	binary.BigEndian.PutUint16(id[4:6], uint16(ms))
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// withPart returns an ID with the part in byte 7, the low 8 bits of rand_a.
func withPart[K kind](now time.Time, part uint8) ID[K] {
	id := newID[K](now)
	id[7] = part
	return id
}

// NewTenantID, NewKeyID, NewEndpointID, NewSourceID, NewAppID, NewEventTypeID, NewSecretID,
// NewNodeID, NewReplayID, NewSessionID, NewChangeID and NewPortalLinkID return a new ID with the millisecond of now.
func NewTenantID(now time.Time) TenantID         { return newID[tenantKind](now) }
func NewKeyID(now time.Time) KeyID               { return newID[keyKind](now) }
func NewEndpointID(now time.Time) EndpointID     { return newID[endpointKind](now) }
func NewSourceID(now time.Time) SourceID         { return newID[sourceKind](now) }
func NewAppID(now time.Time) AppID               { return newID[appKind](now) }
func NewEventTypeID(now time.Time) EventTypeID   { return newID[typeKind](now) }
func NewSecretID(now time.Time) SecretID         { return newID[secretKind](now) }
func NewNodeID(now time.Time) NodeID             { return newID[nodeKind](now) }
func NewReplayID(now time.Time) ReplayID         { return newID[replayKind](now) }
func NewSessionID(now time.Time) SessionID       { return newID[sessionKind](now) }
func NewChangeID(now time.Time) ChangeID         { return newID[changeKind](now) }
func NewPortalLinkID(now time.Time) PortalLinkID { return newID[portalKind](now) }

// NewEventID, NewDeliveryID, NewAttemptID and NewEntryID return a new ID with the millisecond of now and a
// part. The part of an event that came in at an endpoint or a source is that one's PartOf;
// deliveries and attempts have the part of their event, an entry that of its first delivery.
func NewEventID(now time.Time, part uint8) EventID       { return withPart[eventKind](now, part) }
func NewDeliveryID(now time.Time, part uint8) DeliveryID { return withPart[deliveryKind](now, part) }
func NewAttemptID(now time.Time, part uint8) AttemptID   { return withPart[attemptKind](now, part) }
func NewEntryID(now time.Time, part uint8) EntryID       { return withPart[entryKind](now, part) }

// PartOf returns the part of all events that come in at an endpoint or a source: FNV-1a of its ID,
// folded to 8 bits. Stored IDs hold the result, so the function can never change.
func PartOf(id [16]byte) uint8 {
	h := uint32(2166136261)
	for _, b := range id {
		h = (h ^ uint32(b)) * 16777619
	}
	return uint8(h ^ h>>8 ^ h>>16 ^ h>>24)
}

// Part returns the part of the ID of an event, delivery or attempt. For other kinds the result is
// meaningless.
func (id ID[K]) Part() uint8 { return id[7] }

// Time returns the time at which the ID was made, in UTC, to the millisecond.
func (id ID[K]) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC()
}

// IsZero reports whether the ID is the zero ID, which means "none".
func (id ID[K]) IsZero() bool { return id == ID[K]{} }

// base32 is the alphabet of the TypeID specification: Crockford's, in lower case.
const base32 = "0123456789abcdefghjkmnpqrstvwxyz"

// unbase32 maps a character to its value; 0xff if it is not in the alphabet.
var unbase32 = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range len(base32) {
		t[base32[i]] = byte(i)
	}
	return t
}()

// AppendText appends the ID's text to b; it appends nothing for the zero ID. The error is always
// nil.
func (id ID[K]) AppendText(b []byte) ([]byte, error) {
	if id.IsZero() {
		return b, nil
	}
	var k K
	b = append(append(b, k.prefix()...), '_')
	// 26 characters of 5 bits hold 130 bits: the first character carries only the top 3.
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	for shift := 125; shift >= 0; shift -= 5 {
		var v uint64
		switch {
		case shift >= 64:
			v = hi >> (shift - 64)
		default:
			v = lo>>shift | hi<<(64-shift) // a shift of 64 or more is 0 in Go
		}
		b = append(b, base32[v&31])
	}
	return b, nil
}

// String returns the ID's text, "" for the zero ID.
func (id ID[K]) String() string {
	var buf [40]byte
	b, _ := id.AppendText(buf[:0])
	return string(b)
}

// MarshalText returns the ID's text, for JSON and logs. The error is always nil.
func (id ID[K]) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// UnmarshalText parses b as ParseID does. Empty text is an error.
func (id *ID[K]) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID[K](string(b))
	return err
}

// ParseID parses the text of an ID of kind K. It accepts exactly the texts that String returns for
// IDs other than zero. Another prefix, another length, upper case, or a first character above 7
// (more than 128 bits) is an error.
func ParseID[K kind](s string) (id ID[K], err error) {
	var k K
	p := k.prefix()
	if len(s) != len(p)+27 || s[:len(p)] != p || s[len(p)] != '_' || s[len(p)+1] > '7' {
		return id, fmt.Errorf("not an id of the form %s_…", p)
	}
	var hi, lo uint64
	for _, c := range []byte(s[len(p)+1:]) {
		v := unbase32[c]
		if v == 0xff {
			return id, fmt.Errorf("not an id of the form %s_…", p)
		}
		hi, lo = hi<<5|lo>>59, lo<<5|uint64(v)
	}
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	if id.IsZero() {
		return id, fmt.Errorf("not an id of the form %s_…", p)
	}
	return id, nil
}

// ParseTenantID, ParseKeyID, ParseEndpointID, ParseSourceID, ParseAppID, ParseEventID,
// ParseDeliveryID, ParseAttemptID, ParseReplayID, ParseSessionID, ParseChangeID and ParsePortalLinkID are ParseID for one kind.
func ParseTenantID(s string) (TenantID, error)         { return ParseID[tenantKind](s) }
func ParseKeyID(s string) (KeyID, error)               { return ParseID[keyKind](s) }
func ParseEndpointID(s string) (EndpointID, error)     { return ParseID[endpointKind](s) }
func ParseSourceID(s string) (SourceID, error)         { return ParseID[sourceKind](s) }
func ParseAppID(s string) (AppID, error)               { return ParseID[appKind](s) }
func ParseEventID(s string) (EventID, error)           { return ParseID[eventKind](s) }
func ParseDeliveryID(s string) (DeliveryID, error)     { return ParseID[deliveryKind](s) }
func ParseAttemptID(s string) (AttemptID, error)       { return ParseID[attemptKind](s) }
func ParseReplayID(s string) (ReplayID, error)         { return ParseID[replayKind](s) }
func ParseChangeID(s string) (ChangeID, error)         { return ParseID[changeKind](s) }
func ParseSessionID(s string) (SessionID, error)       { return ParseID[sessionKind](s) }
func ParsePortalLinkID(s string) (PortalLinkID, error) { return ParseID[portalKind](s) }
