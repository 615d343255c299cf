package receipt

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Version is the version of a leaf's form, the member "v". A leaf never changes, so a log may hold
// leaves of several versions one day.
const Version = 1

// MaxErased is how many attempts an Erased leaf can name.
const MaxErased = 1000

// maxMillis bounds the times of a leaf: every integer up to it is exact in JavaScript.
const maxMillis = 1<<53 - 1

// Leaf is a record of the log: an *Attempt, a *KeyChange or an *Erased.
type Leaf interface {
	// Append appends the leaf's text to b. The text is one line of compact JSON with its members in a
	// fixed order, and all that is hashed. Append does not check the fields: their values must be
	// of the forms that are said beside them, else ParseLeaf refuses the text.
	Append(b []byte) []byte
}

var _, _, _ Leaf = (*Attempt)(nil), (*KeyChange)(nil), (*Erased)(nil)

// Attempt is the leaf of one attempt of a delivery, whatever its outcome.
type Attempt struct {
	AttemptID     string // att_ and 26 characters of lower-case base32 (TypeID)
	DeliveryID    string // dlv_…
	EventID       string // evt_…
	EndpointID    string // ep_…
	Number        int    // of the attempt in its delivery: 1, 2, …
	AttemptedAtMS int64  // milliseconds since the Unix epoch
	EndedAtMS     int64
	StatusCode    int    // 100 to 999; 0 if there was no status line
	ErrorCode     string // E and four digits; "" if the attempt delivered

	// The commitments are Size bytes each, or nil: no byte of the request was sent, no response was read, or
	// nothing is known, because the event is older than the log or because the node that made the attempt
	// did not live to record it (E2010). An empty value is not nil.
	URL      []byte // the URL that was called: URLLabel
	Payload  []byte // the event's body: PayloadLabel
	Request  []byte // the body as it was sent: RequestLabel
	Response []byte // the bytes that were read of the response's body, at most 64 KiB: ResponseLabel
}

// KeyChange is the leaf that says with which key the log's heads are signed from now on.
type KeyChange struct {
	ChangedAtMS int64  // milliseconds since the Unix epoch
	PublicKey   []byte // Ed25519, 32 bytes
	Former      []byte // the key before; nil if the log had none
}

// Erased is the leaf that says that the contents of an event were erased: its payload, its salt and
// the texts of its attempts' leaves. The hashes of those leaves stay. Without an Erased leaf a text
// that is missing has been taken away by somebody.
type Erased struct {
	EventID    string   // evt_…
	AttemptIDs []string // whose leaf texts were erased; at most MaxErased, of more there are several leaves
	ErasedAtMS int64    // milliseconds since the Unix epoch
}

// Append appends the text of the leaf to b.
func (a *Attempt) Append(b []byte) []byte {
	b = append(b, `{"v":1,"type":"attempt","attempt_id":"`...)
	b = append(b, a.AttemptID...)
	b = append(b, `","delivery_id":"`...)
	b = append(b, a.DeliveryID...)
	b = append(b, `","event_id":"`...)
	b = append(b, a.EventID...)
	b = append(b, `","endpoint_id":"`...)
	b = append(b, a.EndpointID...)
	b = append(b, `","attempt":`...)
	b = strconv.AppendInt(b, int64(a.Number), 10)
	b = append(b, `,"attempted_at_ms":`...)
	b = strconv.AppendInt(b, a.AttemptedAtMS, 10)
	b = append(b, `,"ended_at_ms":`...)
	b = strconv.AppendInt(b, a.EndedAtMS, 10)
	b = append(b, `,"status_code":`...)
	if a.StatusCode == 0 {
		b = append(b, "null"...)
	} else {
		b = strconv.AppendInt(b, int64(a.StatusCode), 10)
	}
	b = append(b, `,"error_code":`...)
	if a.ErrorCode == "" {
		b = append(b, "null"...)
	} else {
		b = append(append(append(b, '"'), a.ErrorCode...), '"')
	}
	b = appendHex(append(b, `,"url_commitment":`...), a.URL)
	b = appendHex(append(b, `,"payload_commitment":`...), a.Payload)
	b = appendHex(append(b, `,"request_commitment":`...), a.Request)
	b = appendHex(append(b, `,"response_commitment":`...), a.Response)
	return append(b, '}')
}

// Append appends the text of the leaf to b.
func (k *KeyChange) Append(b []byte) []byte {
	b = append(b, `{"v":1,"type":"key","changed_at_ms":`...)
	b = strconv.AppendInt(b, k.ChangedAtMS, 10)
	b = appendHex(append(b, `,"public_key":`...), k.PublicKey)
	b = appendHex(append(b, `,"former_key":`...), k.Former)
	return append(b, '}')
}

// Append appends the text of the leaf to b.
func (e *Erased) Append(b []byte) []byte {
	b = append(b, `{"v":1,"type":"erased","event_id":"`...)
	b = append(b, e.EventID...)
	b = append(b, `","attempt_ids":[`...)
	for i, id := range e.AttemptIDs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), id...), '"')
	}
	b = append(b, `],"erased_at_ms":`...)
	b = strconv.AppendInt(b, e.ErasedAtMS, 10)
	return append(b, '}')
}

// appendHex appends bytes as a JSON string of lower-case hexadecimal digits; nil as null.
func appendHex(b, value []byte) []byte {
	if value == nil {
		return append(b, "null"...)
	}
	b = append(b, '"')
	return append(hex.AppendEncode(b, value), '"')
}

// LeafHash returns the hash of a leaf's text in the tree: SHA-256 of a zero byte and the text (RFC
// 6962, section 2.1).
func LeafHash(text []byte) [Size]byte { return tlog.RecordHash(text) }

// ParseLeaf returns the leaf of a text. It accepts exactly the texts that Append makes of values of
// the right forms: another order, a space, an escape or an unknown member is an error, so two
// different texts never say the same.
func ParseLeaf(text string) (Leaf, error) {
	r := &reader{rest: text}
	if !r.skip(`{"v":1,"type":"`) {
		return nil, errors.New("the leaf does not begin as a leaf of version 1 does")
	}
	var leaf Leaf
	switch {
	case r.skip(`attempt"`):
		leaf = r.attempt()
	case r.skip(`key"`):
		k := &KeyChange{ChangedAtMS: r.number("changed_at_ms", 0, maxMillis), PublicKey: r.hash("public_key"), Former: r.hash("former_key")}
		if k.PublicKey == nil {
			r.fail("public_key")
		}
		leaf = k
	case r.skip(`erased"`):
		leaf = &Erased{EventID: r.id("event_id", "evt_"), AttemptIDs: r.ids("attempt_ids", "att_"), ErasedAtMS: r.number("erased_at_ms", 0, maxMillis)}
	default:
		r.fail("type")
	}
	switch {
	case r.bad != "":
		return nil, fmt.Errorf("the leaf's member %q is missing, has an impossible value or is not in its place", r.bad)
	case r.rest != "}":
		return nil, errors.New("the leaf does not end as it must")
	}
	return leaf, nil
}

// reader reads a leaf's text from its beginning.
type reader struct {
	rest string
	bad  string // the first member that could not be read; "" if there is none
}

func (r *reader) attempt() *Attempt {
	return &Attempt{
		AttemptID:     r.id("attempt_id", "att_"),
		DeliveryID:    r.id("delivery_id", "dlv_"),
		EventID:       r.id("event_id", "evt_"),
		EndpointID:    r.id("endpoint_id", "ep_"),
		Number:        int(r.number("attempt", 1, 1<<31-1)),
		AttemptedAtMS: r.number("attempted_at_ms", 0, maxMillis),
		EndedAtMS:     r.number("ended_at_ms", 0, maxMillis),
		StatusCode:    r.status("status_code"),
		ErrorCode:     r.code("error_code"),
		URL:           r.hash("url_commitment"),
		Payload:       r.hash("payload_commitment"),
		Request:       r.hash("request_commitment"),
		Response:      r.hash("response_commitment"),
	}
}

// fail remembers a member that could not be read, and ends the reading.
func (r *reader) fail(name string) {
	if r.bad == "" {
		r.bad, r.rest = name, ""
	}
}

// skip reads a text, and reports whether it came next.
func (r *reader) skip(text string) (ok bool) {
	r.rest, ok = strings.CutPrefix(r.rest, text)
	return ok
}

// member reads the comma and the name before a value.
func (r *reader) member(name string) {
	if !r.skip(",\"" + name + "\":") {
		r.fail(name)
	}
}

// quoted reads a string of n bytes that is in no need of escapes.
func (r *reader) quoted(name string, n int) string {
	if len(r.rest) < n+2 || r.rest[0] != '"' || r.rest[n+1] != '"' {
		r.fail(name)
		return ""
	}
	s := r.rest[1 : n+1]
	r.rest = r.rest[n+2:]
	return s
}

// id reads a member that is a TypeID.
func (r *reader) id(name, prefix string) string {
	r.member(name)
	return r.idValue(name, prefix)
}

func (r *reader) idValue(name, prefix string) string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	id := r.quoted(name, len(prefix)+26)
	suffix, ok := strings.CutPrefix(id, prefix)
	if !ok || suffix[0] > '7' || strings.Trim(suffix, digits) != "" {
		r.fail(name)
	}
	return id
}

// ids reads a member that is an array of TypeIDs.
func (r *reader) ids(name, prefix string) (ids []string) {
	r.member(name)
	if !r.skip("[") {
		r.fail(name)
	}
	if r.skip("]") {
		return nil
	}
	for r.bad == "" {
		if ids = append(ids, r.idValue(name, prefix)); len(ids) > MaxErased {
			r.fail(name)
		}
		if r.skip("]") {
			break
		}
		if !r.skip(",") {
			r.fail(name)
		}
	}
	return ids
}

// number reads a member that is an integer from least to most, in decimal without leading zeros.
func (r *reader) number(name string, least, most int64) int64 {
	r.member(name)
	return r.digits(name, least, most)
}

func (r *reader) digits(name string, least, most int64) int64 {
	end := len(r.rest) - len(strings.TrimLeft(r.rest, "0123456789"))
	n, err := strconv.ParseInt(r.rest[:end], 10, 64)
	if err != nil || n < least || n > most || end > 1 && r.rest[0] == '0' {
		r.fail(name)
		return 0
	}
	r.rest = r.rest[end:]
	return n
}

// status reads a member that is null or an HTTP status.
func (r *reader) status(name string) int {
	if r.member(name); r.skip("null") {
		return 0
	}
	return int(r.digits(name, 100, 999))
}

// code reads a member that is null or the code of an error.
func (r *reader) code(name string) string {
	if r.member(name); r.skip("null") {
		return ""
	}
	code := r.quoted(name, 5)
	if code == "" || code[0] != 'E' || strings.Trim(code[1:], "0123456789") != "" {
		r.fail(name)
	}
	return code
}

// hash reads a member that is null or 32 bytes in hexadecimal.
func (r *reader) hash(name string) []byte {
	if r.member(name); r.skip("null") {
		return nil
	}
	text := r.quoted(name, 2*Size)
	b, err := hex.DecodeString(text)
	if err != nil || strings.ToLower(text) != text {
		r.fail(name)
	}
	return b
}
