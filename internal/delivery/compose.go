package delivery

import (
	"iter"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// Limits of the headers that are sent along.
const (
	maxHeaders     = 100
	maxHeaderBytes = 16 << 10
	redacted       = secret.Redacted
)

// Recipient is what an endpoint's settings say of its deliveries, with URLs parsed and secrets
// opened.
type Recipient struct {
	URL     *url.URL
	Timeout time.Duration
	Signer  *signature.Signer // nil: deliveries are not signed
	Set     kapsel.Header     // the headers that the endpoint sets, values in clear
	Along   Forwarding
}

// Sending is one request that delivers an event.
type Sending struct {
	Event       *kapsel.Event
	Attempt     int    // the number of the attempt, from 1
	AttemptID   string // "": no attempt is recorded
	Mark        string // of the ingest at which the event came in; see kapsel.ViaHeader; "": none
	TraceParent string // "": none
	Version     string // of Kapsel, for User-Agent
	At          time.Time
}

// canonical returns the set of the names in their canonical form.
func canonical(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[textproto.CanonicalMIMEHeaderKey(n)] = true
	}
	return set
}

// framing holds the headers that are never sent along, because they belong to one connection or
// because Kapsel writes its own.
var framing = canonical([]string{
	"Host", "Content-Length", "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Traceparent",
})

// signed holds the headers of Kapsel's signature, which replace a provider's headers of these
// names.
var signed = canonical([]string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"})

// personal holds headers that are sent along only if the endpoint keeps them. The X-Forwarded-
// headers are treated alike; see forwards.
var personal = canonical([]string{"Authorization", "Cookie", "Forwarded", "X-Real-Ip", "Tracestate", "User-Agent"})

// Forwarding says which of an event's headers are sent along, and whether its query is.
type Forwarding struct {
	drop map[string]bool // canonical names that are not sent along
	keep map[string]bool // canonical names that are sent along although usually not
	ours bool            // deliveries carry our signature, and no other under its names

	query bool
}

// NewForwarding returns the Forwarding of an endpoint that drops and keeps the named headers.
// signs says that Kapsel signs the deliveries, and query that the event's query is sent along.
func NewForwarding(drop, keep []string, signs, query bool) Forwarding {
	return Forwarding{canonical(drop), canonical(keep), signs, query}
}

// target returns the URL to which an event with the given query is sent: destination or, if the
// query is sent along, a copy of destination with the query appended unchanged to its own.
func (f Forwarding) target(destination *url.URL, query string) *url.URL {
	if !f.query || query == "" {
		return destination
	}
	u := *destination
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	u.RawQuery = query
	return &u
}

// forwards reports whether a received header with the given canonical name is sent along.
func (f Forwarding) forwards(name string) bool {
	switch {
	case framing[name], f.ours && signed[name], strings.HasPrefix(name, "X-Kapsel-"), f.drop[name]:
		return false
	case f.keep[name]:
		return true
	}
	return !personal[name] && !strings.HasPrefix(name, "X-Forwarded-")
}

// of returns the received headers that are sent along, in order, by their canonical names. It
// leaves out Content-Type, which the event holds separately, headers that a Connection header
// names, and values that were redacted when the event was received.
func (f Forwarding) of(received kapsel.Header) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		named := connectionNames(received)
		for _, h := range received {
			name := textproto.CanonicalMIMEHeaderKey(h.Name)
			if !f.forwards(name) || named[name] || name == "Content-Type" ||
				h.Value == redacted { // the value was not stored with the event
				continue
			}
			if !yield(name, h.Value) {
				return
			}
		}
	}
}

// Compose returns the URL and the headers of a request to the recipient. It leaves out received
// headers beyond maxHeaders and maxHeaderBytes.
func (r *Recipient) Compose(s *Sending) (*url.URL, http.Header) {
	ev := s.Event
	h := make(http.Header, len(ev.Header)+len(r.Set)+11)
	size := 0
	add := func(name, value string) {
		size += len(name) + len(value) + 4
		h[name] = append(h[name], value)
	}
	id := ev.ID.String()
	add("X-Kapsel-Event-Id", id)
	add("X-Kapsel-Delivery-Attempt", strconv.Itoa(s.Attempt))
	if s.AttemptID != "" {
		add("X-Kapsel-Attempt-Id", s.AttemptID)
	}
	add("X-Kapsel-Original-Timestamp", ev.ReceivedAt.UTC().Format("2006-01-02T15:04:05.000Z"))
	if ev.Type != "" {
		add(kapsel.EventTypeHeader, ev.Type)
	}
	if hops := ev.Header.Hops(); hops > 0 {
		add(kapsel.HopsHeader, strconv.Itoa(hops+1))
	}
	if s.Mark != "" {
		add(kapsel.ViaHeader, strings.Join(append(ev.Header.Via(), s.Mark), ","))
	}
	add("User-Agent", "Kapsel/"+s.Version)
	if s.TraceParent != "" {
		add("Traceparent", s.TraceParent)
	}
	if r.Signer != nil {
		add("Webhook-Id", id)
		add("Webhook-Timestamp", strconv.FormatInt(s.At.Unix(), 10))
		add("Webhook-Signature", r.Signer.Sign(id, s.At, ev.Body))
	}
	for _, f := range r.Set {
		delete(h, f.Name)
		add(f.Name, f.Value)
	}
	if ev.ContentType != "" && h["Content-Type"] == nil && !r.Along.drop["Content-Type"] {
		add("Content-Type", ev.ContentType)
	}
	count := len(h)
	for name, value := range r.Along.of(ev.Header) {
		switch {
		case r.sets(name):
		case name == "User-Agent": // the endpoint keeps it: the sender's value replaces ours
			h[name] = []string{value}
		case count >= maxHeaders || size+len(name)+len(value)+4 > maxHeaderBytes:
		default:
			count++
			add(name, value)
		}
	}
	return r.Along.target(r.URL, ev.Query), h
}

// sets reports whether the endpoint sets the header with the given canonical name.
func (r *Recipient) sets(name string) bool {
	return slices.ContainsFunc(r.Set, func(f kapsel.HeaderField) bool { return f.Name == name })
}

// recorded returns the headers of a request as an attempt keeps them: in the order of the wire, with
// secret values redacted.
func (r *Recipient) recorded(h http.Header) kapsel.Header {
	sent := kapsel.HeaderOf(h)
	for i, f := range sent {
		if f.Name == "Authorization" || f.Name == "Cookie" || r.sets(f.Name) {
			sent[i].Value = redacted
		}
	}
	return sent
}

// connectionNames returns the names that Connection headers list: those headers were meant for the
// connection to Kapsel only.
func connectionNames(h kapsel.Header) map[string]bool {
	var names []string
	for _, f := range h {
		if strings.EqualFold(f.Name, "Connection") {
			for name := range strings.SplitSeq(f.Value, ",") {
				names = append(names, strings.TrimSpace(name))
			}
		}
	}
	if names == nil {
		return nil
	}
	return canonical(names)
}
