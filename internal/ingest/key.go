package ingest

import (
	"bytes"
	"crypto/sha256"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// keyOf returns the idempotency key of an event by the intake's strategy, nil without one.
// missing reports whether there is none although NamesKeys. query is the raw query without what
// is secret in it. keyOf calls reserve for the memory of a body's copy before it makes the copy,
// and returns its error.
func keyOf(in *kapsel.Intake, h http.Header, query string, body []byte, reserve func(n int) error) (key []byte, missing bool, err error) {
	switch in.Idempotency.Strategy {
	case kapsel.KeyNone:
		return nil, false, nil
	case kapsel.KeyFromContent:
		return contentKey(query, body), false, nil
	case kapsel.KeyFromSourceID:
		id, err := find(in.Idempotency.Path, h, body, reserve)
		if err != nil || id == "" {
			return nil, err == nil, err
		}
		return []byte(id), false, nil
	}
	for _, name := range []string{in.Idempotency.Header, "X-Idempotency-Key", "Idempotency-Key"} {
		values := h.Values(name)
		if name == "" || len(values) == 0 {
			continue
		}
		if len(values) > 1 || !kapsel.ValidHeaderKey(values[0]) {
			return nil, false, &kapsel.Error{
				Code: kapsel.InvalidRequest, Detail: "the idempotency key is not valid",
				Fields: []kapsel.FieldError{{Field: name, Detail: "one value of 1 to 255 printable ASCII characters"}},
			}
		}
		return []byte(values[0]), false, nil
	}
	if id := signature.DeliveryID(in.Verification.Provider, h, body); kapsel.ValidHeaderKey(id) {
		return []byte(id), false, nil
	}
	return nil, NamesKeys(in), nil
}

// find returns what is at a path in the JSON document that a body is, "" without it; see
// documentOf.
func find(path string, h http.Header, body []byte, reserve func(n int) error) (string, error) {
	p, err := kapsel.ParsePath(path)
	if err != nil {
		return "", nil // checked when it was set
	}
	document, err := documentOf(h.Get("Content-Type"), body, reserve)
	if err != nil {
		return "", err
	}
	found, ok := p.Find(document)
	if !ok {
		return "", nil
	}
	return found, nil
}

// NamesKeys reports whether an intake says where its events have an idempotency key, so that
// an event without one is a surprise: by a path, a header of its own, or a provider that names
// its deliveries.
func NamesKeys(in *kapsel.Intake) bool {
	switch in.Idempotency.Strategy {
	case kapsel.KeyNone, kapsel.KeyFromContent:
		return false
	case kapsel.KeyFromSourceID:
		return true
	}
	return in.Idempotency.Header != "" || signature.NamesDeliveries(in.Verification.Provider)
}

// contentKey is the key of an event by what it says: SHA-256 of the body, and with a query
// SHA-256 of that and of the query, in the order in which it was written. The parameter wait is
// for Kapsel and says nothing of the event.
func contentKey(query string, body []byte) []byte {
	sum := sha256.Sum256(body)
	if query = without(query, "wait"); query != "" {
		sum = sha256.Sum256(append(sum[:], query...))
	}
	return sum[:]
}

// without returns a raw query without a parameter; the rest stays as it is.
func without(query, name string) string {
	if query == "" {
		return ""
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(key); err != nil || decoded != name {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// byteOrderMark may stand before UTF-8, although nobody needs it there (RFC 8259, section 8.1).
var byteOrderMark = []byte("\ufeff")

// documentOf returns the JSON document that a body is, or that a form has in its field payload,
// as GitHub and Slack send it; without a byte order mark.
func documentOf(contentType string, body []byte, reserve func(n int) error) ([]byte, error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	kind, _, _ := mime.ParseMediaType(contentType)
	// JSON under the type of a form is what curl sends.
	if kind != "application/x-www-form-urlencoded" && !bytes.HasPrefix(body, []byte("payload=")) || bytes.HasPrefix(body, []byte("{")) {
		return body, nil
	}
	for pair := range bytes.SplitSeq(body, []byte("&")) {
		name, value, _ := bytes.Cut(pair, []byte("="))
		if !isPayload(name) {
			continue
		}
		if err := reserve(2 * len(value)); err != nil { // for it as a string, and as it is meant
			return nil, err
		}
		text, err := url.QueryUnescape(string(value))
		if err != nil {
			return nil, nil // in which nothing is found
		}
		return bytes.TrimPrefix([]byte(text), byteOrderMark), nil
	}
	return body, nil
}

// isPayload reports whether the name of a form's field is payload.
func isPayload(name []byte) bool {
	const payload = "payload"
	if string(name) == payload {
		return true
	}
	if len(name) > 3*len(payload) || bytes.IndexByte(name, '%') < 0 {
		return false
	}
	decoded, err := url.QueryUnescape(string(name))
	return err == nil && decoded == payload
}
