// Package signature checks the signatures of providers and signs the requests that Kapsel sends.
//
// Providers differ in data, not in code: presets.go has a few lines for each, and Verify is the
// same for all. Rules of every check:
//
//   - It works on the raw bytes of the body.
//   - It fails closed: a missing signature, an unknown form, and a second header of the same name
//     are failures. If the provider signs a time, so is a time outside the tolerance.
//   - Any of the endpoint's keys may have signed, which allows rotation. The first 10 signatures
//     are tried (of Ed25519: 2).
//   - The work for a request from an unknown sender is bounded: one pass over the body and one
//     hash per key. Nothing is built that the check does not need.
//   - It compares decoded bytes, in constant time.
//   - Its errors never show the expected signature.
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

// Key is a secret in the clear, as the endpoint's owner entered it.
type Key struct {
	ID    kapsel.SecretID
	Value []byte
}

// Request is a request of a provider. URL is the whole URL to which the provider sent it, derived
// from Kapsel's own configuration. The keys of Header are canonical, as net/http makes them.
type Request struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Verifier checks the requests of one endpoint. It is safe for concurrent use.
type Verifier struct {
	name      string
	preset    *preset // nil: nothing is checked
	tolerance time.Duration
	keys      []key

	verifyToken string // answers challenges; "": none is set

	// For presets that need the published keys of providers.
	remote          *Remote
	topics          []string
	audience, email string
}

type key struct {
	id     string
	secret []byte // as the owner entered it, for handshakes
	checker
}

// New returns the verifier of an endpoint. keys are v's secrets in the clear, and verifyToken is
// v's VerifyToken in the clear, "" if it has none. remote supplies the keys that providers
// publish; if it is nil, requests that need them cannot be checked. Without a provider the
// verifier accepts everything and says so in its verdict. New returns an error for settings that
// Check or CheckSecret would refuse.
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
		remote: remote.own(), topics: v.TopicARNs, audience: v.Audience, email: v.Email,
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

// Verify checks a request that arrived at now. It returns a kapsel.Error: InvalidSignature, or
// QueueFull if keys that the provider publishes could not be fetched. In that case the request may
// be valid, and the sender should send it again. On an error the verdict's Valid is false.
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
	if p.signedTime != nil { // trusted only now, after the check
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

// maxFuture bounds how far in the future a signed time may be if the tolerance is longer:
// providers may send old signatures, but none signs early.
const maxFuture = fiveMinutes

// withinTolerance checks a skew (our time minus the signed one). The tolerance is inclusive and
// applies in both directions, towards the future only up to maxFuture.
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

// GuardKept is how long callers must remember the guard of an accepted request: as long as its
// signature can pass as recent, plus some minutes for clocks that differ.
const GuardKept = MaxTolerance + 10*time.Minute

// Guard returns a value that identifies the signed content of a request that Verify accepted,
// among all requests of the endpoint, so that a request replayed by a third party can be
// recognised. It is the SHA-256 of the signed content, or of the part of it that the provider
// never uses twice. Guard returns nil if no time is signed, because such a guard could never be
// forgotten, or if the tolerance is at most maxFuture, because the time window is short then.
//
// A request whose guard is known is a repetition of the same event, whatever its headers say:
// anybody can change a header that the provider does not sign, such as most delivery IDs.
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

// message is what a preset's reader and content find in a request: the signatures, and the signed
// content, which is head, body and tail in this order.
type message struct {
	id    string
	stamp string    // the signed time, as sent
	at    time.Time // the parsed stamp; zero: no time is signed

	signatures [maxSignatures]candidate
	n          int

	head, body, tail []byte
	inflate          func(io.Reader) (io.ReadCloser, error) // decodes the body; nil: the body is not encoded
	fields           [][]byte                               // form fields, after the tail (Twilio, Mailchimp)
	items            []byte                                 // array of separately signed items, instead of all of the above (Adyen)

	// Scratch space of the checkers: a computed signature, and a signature of the request before and
	// after decoding. The longest are SHA-512 and Ed25519 in hex.
	sum     [64]byte
	text    [128]byte
	decoded [96]byte
}

// write writes the signed content to h. It returns false if the body could not be decoded.
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

// candidate is one signature of a request, still encoded. version is "" if the format has none.
type candidate struct {
	version string
	text    string
}

var messages = sync.Pool{New: func() any { return new(message) }}

func (m *message) release() {
	if cap(m.head) > maxMessage || cap(m.tail) > maxMessage {
		return // do not keep the large buffers of one long request
	}
	*m = message{head: m.head[:0], tail: m.tail[:0]}
	messages.Put(m)
}

// add records a signature. It ignores those beyond maxSignatures.
func (m *message) add(version, text string) {
	if m.n < len(m.signatures) {
		m.signatures[m.n] = candidate{version, text}
		m.n++
	}
}

// header returns the value of a header that the request must have exactly once; name must be
// canonical.
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

// unit is the format of a provider's times.
type unit int

const (
	seconds unit = iota
	millis
	rfc3339
)

// parse parses a time strictly: a number consists of digits only, without sign, space or leading
// zero.
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
