package kapsel

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

// Publication is an event as its tenant publishes it.
type Publication struct {
	Type        string
	Body        []byte
	ContentType string
	ID          string // its idempotency key; "": none
	Channels    []string
	App         string    // the ID or the uid of the app that it is published to; "": none
	OrderingKey string    // "": none
	DeliverAt   time.Time // when its deliveries are due; zero, or in the past: at once
	DryRun      bool      // only say where the event would go
}

// Bounds of publications.
const (
	MaxPublications = 100                 // of a request
	PublishedKept   = 24 * time.Hour      // how long the key of a published event is remembered
	MaxDeliverAhead = 30 * 24 * time.Hour // how far ahead of its publication an event may be delivered

	maxContentType = 255 // bytes
)

// MaxKey is the greatest length of an idempotency key, in bytes.
const MaxKey = 255

// ValidKey reports whether a string that a body holds can be an idempotency key: 1 to 255 bytes of UTF-8
// without control characters.
func ValidKey(s string) bool {
	return len(s) > 0 && len(s) <= MaxKey && utf8.ValidString(s) && !strings.ContainsFunc(s, isControl)
}

// ValidHeaderKey reports whether the value of a header can be an idempotency key: 1 to 255
// printable ASCII characters.
func ValidHeaderKey(s string) bool {
	return s != "" && len(s) <= MaxKey && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// keyForm is the form that ValidKey requires.
var keyForm = fmt.Sprintf("1 to %d bytes of UTF-8 without control characters", MaxKey)

// Validate checks what a publication says at now, but for its body, and returns all that is wrong
// with it, by the fields' names in the API.
func (p *Publication) Validate(now time.Time) []FieldError {
	var f fields
	switch {
	case p.Type == "":
		f.add("type", "is needed, such as invoice.paid")
	case !ValidEventType(p.Type):
		f.add("type", "must be %s", nameForm)
	}
	if !validContentType(p.ContentType) {
		f.add("content_type", "must be a media type such as text/csv, of at most %d bytes", maxContentType)
	}
	f.key("id", p.ID)
	if p.App != "" && !ValidUID(p.App) {
		if _, err := ParseAppID(p.App); err != nil {
			f.add("app", "must be the id (app_…) or the uid of an app")
		}
	}
	f.key("ordering_key", p.OrderingKey)
	f.each("channels", p.Channels, maxChannels, ValidChannel, nameForm)
	if latest := now.Add(MaxDeliverAhead); p.DeliverAt.After(latest) {
		f.add("deliver_at", "must be at most %d days ahead, which is %s", int(MaxDeliverAhead.Hours())/24, latest.UTC().Format(time.RFC3339))
	}
	return f
}

// key checks a text by which events are told apart, if there is one. It refuses U+FFFD, by which JSON
// decoders replace invalid characters: different texts may have become the same one.
func (f *fields) key(field, s string) {
	if s != "" && (!ValidKey(s) || strings.ContainsRune(s, utf8.RuneError)) {
		f.add(field, "must be %s", keyForm)
	}
}

// validContentType reports whether a text can be a Content-Type header (RFC 9110, 8.3).
func validContentType(s string) bool {
	_, _, err := mime.ParseMediaType(s)
	return err == nil && len(s) <= maxContentType && strings.Contains(s, "/") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// Event returns the event that a tenant publishes at a time, to an app if app is not zero.
func (p *Publication) Event(tenant TenantID, app AppID, now time.Time) Event {
	e := Event{
		TenantID: tenant, AppID: app, Type: p.Type, Channels: p.Channels, OrderingKey: p.OrderingKey, ReceivedAt: now,
		DeliverAt:   p.DeliverAt.Truncate(time.Microsecond), // the precision of all stores
		ContentType: p.ContentType, Body: p.Body, Size: len(p.Body), Signature: SignatureVerdict{Scheme: "none"},
	}
	if p.ID != "" {
		e.IdempotencyKey = []byte(p.ID)
	}
	e.ID = NewEventID(now, e.publishedPart())
	e.Salt = NewSalt()
	return e
}

// publishedPart returns the part of a published event: that of its ordering key, else of its
// idempotency key, else any part, so that events with the same key have the same part. Stored IDs carry the
// result, so the first two can never change.
func (e *Event) publishedPart() uint8 {
	scope := e.KeyScope()
	switch {
	case e.OrderingKey != "":
		return PartOf(scope)
	case e.IdempotencyKey != nil:
		return sha256.Sum256(append(scope[:], e.IdempotencyKey...))[0]
	}
	var part [1]byte
	rand.Read(part[:]) // never fails
	return part[0]
}

// Published is the outcome of a publication.
type Published struct {
	Event      Event        // if Duplicate, it has only the ID of the first event; a dry run's has no ID
	Deliveries []Delivery   // in the order of their endpoints' IDs
	Others     int          // how many further endpoints get deliveries, which an expansion makes later
	Duplicate  bool         // an event with the same key was published before
	Warnings   []FieldError // how the event differs from the tenant's catalogue, which did not refuse it
	Err        error        // if not nil, the event was refused, or it is not known whether it was stored
}
