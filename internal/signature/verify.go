// Package signature checks what providers sign and signs what Kapsel sends.
//
// Providers differ in data, not in code: presets.go has a few lines for each, and Verify is
// the same for all. What every check keeps:
//   - It works on the raw bytes of the body.
//   - It fails closed: no signature, an unknown form, a second header of the same name are
//     failures, and so is a time outside the tolerance where the provider signs one.
//   - Any of the keys may have signed (rotation), with any of the first 10 signatures (of
//     Ed25519: 2).
//   - What a request costs before its sender is known is bounded: one pass over the body and
//     one hash a key, and nothing is built of what the check does not need.
//   - Decoded bytes are compared, in constant time.
//   - What it says about a failure never holds the signature that was expected.
package signature

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// maxSignatures is how many of a request's signatures are tried.
const maxSignatures = 10

// Key is a secret in the clear, as the endpoint's owner gave it.
type Key struct {
	ID    kapsel.SecretID
	Value []byte
}

// Request is what a provider sent. URL is the whole URL that the provider sent it to, from
// Kapsel's own configuration. Header has canonical keys, as net/http makes them.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Verifier checks the requests of one endpoint. It is safe concurrently.
type Verifier struct {
	name      string
	preset    *preset // nil: nothing is checked
	tolerance time.Duration
	keys      []key

	verifyToken string // answers challenges; "": none is set

	// Of presets that are checked with what providers publish.
	remote          *Remote
	topics          []string
	audience, email string
}

type key struct {
	id     string
	secret []byte // as the owner gave it, for handshakes
	checker
}

// New makes the verifier of an endpoint. keys are v's secrets, opened, and verifyToken is v's
// VerifyToken, "" without one. remote has the keys that providers publish; nil: none can be
// had. Without a provider the verifier accepts everything and says so in its verdict. What
// Check or CheckSecret would refuse is an error.
func New(v kapsel.Verification, keys []Key, verifyToken string, remote *Remote) (*Verifier, error) {
	if isNone(v.Provider) {
		return &Verifier{name: None}, nil
	}
	p, err := presetFor(v)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 && p.key != nil && p.brings == nil {
		return nil, errNoSecret
	}
	out := &Verifier{
		name: v.Provider, preset: p, tolerance: p.tolerance, verifyToken: verifyToken,
		remote: remote, topics: v.TopicARNs, audience: v.Audience, email: v.Email,
	}
	if v.Tolerance > 0 {
		out.tolerance = v.Tolerance
	}
	for _, k := range keys {
		c, err := p.key(k.Value)
		if err != nil {
			return nil, err
		}
		out.keys = append(out.keys, key{k.ID.String(), bytes.Clone(k.Value), c})
	}
	return out, nil
}

// Verify checks a request that arrived at now. An error is a kapsel.Error InvalidSignature, or,
// where keys that the provider publishes could not be fetched, QueueFull: the request may be
// right, and is to be sent again. The verdict is then not valid.
func (v *Verifier) Verify(r Request, now time.Time) (kapsel.SignatureVerdict, error) {
	verdict := kapsel.SignatureVerdict{Scheme: v.name}
	p := v.preset
	if p == nil {
		return verdict, nil
	}
	if p.verify != nil {
		err := p.verify(v, r, now)
		verdict.Valid = err == nil
		return verdict, err
	}
	m := messages.Get().(*message)
	defer m.release()
	if err := p.read.read(p, r, m); err != nil {
		return verdict, err
	}
	if !m.at.IsZero() {
		verdict.Skew = now.Sub(m.at)
		if err := withinTolerance(verdict.Skew, v.tolerance); err != nil {
			return verdict, err
		}
	}
	if err := p.content(r, m); err != nil {
		return verdict, err
	}
	by := slices.IndexFunc(v.keys, func(k key) bool { return k.check(m) })
	if by < 0 {
		return verdict, refuse("no signature of the request was made with a secret of this endpoint over what arrived")
	}
	if p.signedTime != nil { // only now is it known to be the provider's
		at, err := p.signedTime(r)
		if err != nil {
			return verdict, err
		}
		verdict.Skew = now.Sub(at)
		if err := withinTolerance(verdict.Skew, v.tolerance); err != nil {
			return verdict, err
		}
	}
	verdict.Valid = true
	verdict.KeyID = v.keys[by].id
	return verdict, nil
}

// maxFuture is how far in the future a signed time may be, where the tolerance is longer:
// providers sign again late, but none signs early.
const maxFuture = fiveMinutes

// withinTolerance compares a skew (our time less the signed one) with the tolerance, which
// is inclusive and holds both ways, up to maxFuture.
func withinTolerance(skew, tolerance time.Duration) error {
	future := min(tolerance, maxFuture)
	switch {
	case skew > tolerance:
		return refuse("the request was signed %s ago; at most %s are accepted", skew.Round(time.Second), tolerance)
	case skew < -future:
		return refuse("the request was signed %s in the future; at most %s are accepted: are the clocks right?",
			(-skew).Round(time.Second), future)
	}
	return nil
}

// GuardKept is how long the guard of an accepted request must be remembered: as long as what
// was signed with it can pass for fresh, and some minutes for clocks that differ.
const GuardKept = MaxTolerance + 10*time.Minute

// Guard returns what tells a request that Verify accepted from all others of the endpoint, for
// the time in which the request could be sent again by who saw it: SHA-256 of the signed
// content, or of the part of it that the provider never uses twice. It is nil where the signed
// time is held to maxFuture or less, or no time is signed: there the window is short, or a
// guard could not be forgotten.
//
// A request whose guard is known is a repetition of that event, whatever its headers say: what
// a provider does not sign, such as most delivery ids, is anybody's.
func (v *Verifier) Guard(r Request) []byte {
	p := v.preset
	if p == nil || p.verify != nil || v.tolerance <= maxFuture {
		return nil
	}
	m := messages.Get().(*message)
	defer m.release()
	if p.read.read(p, r, m) != nil || p.content(r, m) != nil || m.at.IsZero() && p.signedTime == nil {
		return nil
	}
	h := sha256.New()
	if p.unique {
		h.Write([]byte(m.id))
	} else if !m.write(h) {
		return nil
	}
	return h.Sum(nil)
}

func refuse(format string, args ...any) error {
	return kapsel.Errorf(kapsel.InvalidSignature, format, args...)
}

// message is what a preset reads of a request: the signatures, and all that is signed, which
// is head, body and tail in this order.
type message struct {
	id    string
	stamp string    // the signed time, as sent
	at    time.Time // what it means; zero: none is signed

	signatures [maxSignatures]candidate
	n          int

	head, body, tail []byte
	inflate          func(io.Reader) (io.ReadCloser, error) // decodes the body; nil: it is as it came
	fields           [][]byte                               // Twilio's: behind the tail
	items            []byte                                 // Adyen's: an array of what signs for itself, instead of all of the above

	// Scratch of the checkers: a computed signature, and one of the request before and after
	// it is decoded. The longest are SHA-512 and Ed25519 in hex.
	sum     [64]byte
	text    [128]byte
	decoded [96]byte
}

// write writes all that is signed. It reports whether the body could be decoded.
func (m *message) write(h hash.Hash) bool {
	h.Write(m.head)
	if m.inflate == nil {
		h.Write(m.body)
	} else {
		body, err := m.inflate(bytes.NewReader(m.body))
		if err != nil {
			return false
		}
		if n, err := io.Copy(h, io.LimitReader(body, maxInflated+1)); err != nil || n > maxInflated {
			return false
		}
	}
	h.Write(m.tail)
	for _, field := range m.fields {
		h.Write(field)
	}
	return true
}

// candidate is one signature of a request, still encoded. Version is "" where the format has none.
type candidate struct {
	version string
	text    string
}

var messages = sync.Pool{New: func() any { return new(message) }}

func (m *message) release() {
	if cap(m.head) > maxMessage || cap(m.tail) > maxMessage {
		return // the room of one long request is not kept for ever
	}
	*m = message{head: m.head[:0], tail: m.tail[:0]}
	messages.Put(m)
}

// add notes a signature; those after the tenth are not tried.
func (m *message) add(version, text string) {
	if m.n < len(m.signatures) {
		m.signatures[m.n] = candidate{version, text}
		m.n++
	}
}

// header is the value of the one header that the request must have under a canonical name.
func header(r Request, name string) (string, error) {
	values := r.Header[name]
	switch {
	case len(values) == 0:
		return "", refuse("the request has no %s header", name)
	case len(values) > 1:
		return "", refuse("the request has more than one %s header", name)
	case values[0] == "":
		return "", refuse("the %s header is empty", name)
	}
	return values[0], nil
}

// unit is how a provider writes times.
type unit int

const (
	seconds unit = iota
	millis
	rfc3339
)

// parse reads a time strictly: numbers are digits alone, without sign, space or leading zero.
func (u unit) parse(text string) (time.Time, error) {
	if u == rfc3339 {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return time.Time{}, refuse("the signed time is not in the form of RFC 3339")
		}
		return at, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(text) > 15 || text[0] < '0' || text[0] > '9' || text[0] == '0' && len(text) > 1 {
		return time.Time{}, refuse("the signed time is not a number of %s", map[unit]string{seconds: "seconds", millis: "milliseconds"}[u])
	}
	if u == millis {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}
