package ingest

import (
	"bytes"
	"crypto/sha256"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// keyOf returns the idempotency key that the intake's strategy gives an event, or nil if the event has
// none. path is the parsed path to the key in the body, for the strategies that use it. query is the raw
// query without its secrets. missing reports whether there is no key although NamesKeys reports true.
// keyOf returns InvalidRequest if a header's key is not valid. It calls reserve before it copies a part
// of the body, and returns reserve's error.
func keyOf(in *kapsel.Intake, path jsonpath.Path, h http.Header, query string, body []byte, reserve func(n int) error) (key []byte, missing bool, err error) {
	switch in.Idempotency.Strategy {
	case kapsel.KeyNone:
		return nil, false, nil
	case kapsel.KeyFromContent:
		return contentKey(query, body), false, nil
	case kapsel.KeyFromSourceID:
		id, err := find(path, h, body, reserve)
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
	return nil, signature.NamesKeys(in), nil
}

// find returns the value at path in the JSON document that documentOf finds in the body, or "" if
// there is none. It returns only errors of reserve.
func find(path jsonpath.Path, h http.Header, body []byte, reserve func(n int) error) (string, error) {
	document, err := documentOf(h.Get("Content-Type"), body, reserve)
	if err != nil {
		return "", err
	}
	found, ok := path.Find(document)
	if !ok {
		return "", nil
	}
	return found, nil
}

// contentKey returns the key of an event made from its content: the SHA-256 of the body or, if
// there is a query, the SHA-256 of that hash followed by the query as it was written. contentKey
// leaves out the parameter wait, which is meant for Kapsel and is no part of the event.
func contentKey(query string, body []byte) []byte {
	sum := sha256.Sum256(body)
	if query = without(query, "wait"); query != "" {
		sum = sha256.Sum256(append(sum[:], query...))
	}
	return sum[:]
}

// without returns a raw query without the parameter name. It leaves the other parameters as they
// are.
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

// byteOrderMark may precede JSON in UTF-8, although JSON does not need it (RFC 8259, section 8.1).
var byteOrderMark = []byte("\ufeff")

// documentOf returns the JSON document in a body, without a byte order mark. The document is the
// body itself or, if the body is a form with a field payload, the value of that field; GitHub and
// Slack send such forms. documentOf returns nil if the field is not valid, and an error only if
// reserve returns one.
func documentOf(contentType string, body []byte, reserve func(n int) error) ([]byte, error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	kind, _, _ := mime.ParseMediaType(contentType)
	// curl sends JSON under the content type of a form unless told otherwise.
	if kind != "application/x-www-form-urlencoded" && !bytes.HasPrefix(body, []byte("payload=")) || bytes.HasPrefix(body, []byte("{")) {
		return body, nil
	}
	for pair := range bytes.SplitSeq(body, []byte("&")) {
		name, value, _ := bytes.Cut(pair, []byte("="))
		if !isPayload(name) {
			continue
		}
		if err := reserve(2 * len(value)); err != nil { // for the value as a string, and for the decoded value
			return nil, err
		}
		text, err := url.QueryUnescape(string(value))
		if err != nil {
			return nil, nil // find finds nothing in nil
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
