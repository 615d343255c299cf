package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
)

// The body of a request to publish is read by hand and not by decode: data is the customer's
// JSON, of any shape and size, and is kept byte for byte. The rest of the body is held to the
// same rules as in other requests, and all faults are reported at once.

// maxDataDepth is how deep the data of an event may be nested.
const maxDataDepth = 1000

// readPublications reads the body of a request to publish, one event or a batch of them, and
// reports which. keys are the request's Idempotency-Key headers. The bodies are copies, so that
// each event holds no more than it is charged for; for their memory it calls reserve first.
func readPublications(body []byte, keys []string, now time.Time, reserve func(n int) error) (list []kapsel.Publication, batch bool, err error) {
	if err := checkJSON(body); err != nil {
		return nil, false, err
	}
	object := bytes.Trim(body, jsonSpace)
	r := publications{now: now, reserve: reserve}
	if object[0] != '{' {
		r.misread("(body)", "must be an object")
		return nil, false, r.err()
	}
	if batch = hasMember(object, "events"); batch {
		list = r.batch(object)
		if len(keys) > 0 {
			r.refuse("Idempotency-Key", "does not go with a batch; give each event an id")
		}
	} else {
		list = []kapsel.Publication{r.publication("", object)}
		if id := &list[0].ID; *id == "" && len(keys) > 0 {
			if *id = keys[0]; len(keys) > 1 || !kapsel.ValidHeaderKey(*id) {
				r.misread("Idempotency-Key", "must be there once, with 1 to 255 printable ASCII characters")
			}
		}
	}
	return list, batch, r.err()
}

// publications collects what is wrong with a request.
type publications struct {
	now     time.Time
	reserve func(n int) error
	wrong   []kapsel.FieldError
	status  int   // of the answer, if something is wrong
	full    error // of reserve
}

// misread records that a field cannot be read, which makes the answer 400.
func (r *publications) misread(field, detail string) {
	r.status = http.StatusBadRequest
	r.add(field, detail)
}

// refuse records that a field was read and its value is wrong. The answer is 422, unless another
// field cannot be read.
func (r *publications) refuse(field, detail string) {
	if r.status == 0 {
		r.status = http.StatusUnprocessableEntity
	}
	r.add(field, detail)
}

// add records a fault. Only the first fault of a field counts, and at most kapsel.MaxFields do.
func (r *publications) add(field, detail string) {
	known := slices.ContainsFunc(r.wrong, func(w kapsel.FieldError) bool { return w.Field == field })
	if !known && len(r.wrong) < kapsel.MaxFields {
		r.wrong = append(r.wrong, kapsel.FieldError{Field: field, Detail: detail})
	}
}

func (r *publications) err() error {
	if r.wrong != nil {
		return kapsel.Invalid(r.status, r.wrong...)
	}
	return r.full
}

// batch reads {"events":[…]}.
func (r *publications) batch(object []byte) (list []kapsel.Publication) {
	seen := false
	for name, value := range members(object) {
		switch {
		case len(r.wrong) == kapsel.MaxFields:
			return list
		case name != "events" && publishMembers[name] != nil:
			r.misread(name, "belongs in each of the events")
			continue
		case name != "events":
			r.misread(clip(name), unknown(name, batchMembers))
			continue
		case seen:
			r.misread(name, "is there twice")
			continue
		}
		seen = true
		if value[0] != '[' {
			r.misread(name, "must be an array")
			continue
		}
		for element := range elements(value) {
			if len(r.wrong) == kapsel.MaxFields {
				break
			}
			at := fmt.Sprintf("events[%d]", len(list))
			if len(list) == kapsel.MaxPublications {
				r.refuse(name, fmt.Sprintf("must be at most %d events", kapsel.MaxPublications))
				break
			}
			var p kapsel.Publication
			if element[0] == '{' {
				p = r.publication(at+".", element)
			} else {
				r.misread(at, "must be an object")
			}
			list = append(list, p)
		}
		if len(list) == 0 {
			r.refuse(name, "must have at least one event")
		}
	}
	return list
}

// publishMembers and batchMembers are the members of the two kinds of requests.
var (
	publishMembers = membersOf(reflect.TypeFor[PublishInput]())
	batchMembers   = membersOf(reflect.TypeFor[PublishBatchInput]())
)

// jsonType is the content type of data.
const jsonType = "application/json"

// publication reads an event's object. at is what the paths of its members begin with.
func (r *publications) publication(at string, object []byte) (p kapsel.Publication) {
	seen := map[string]bool{}
	var data, encoded []byte
	for name, value := range members(object) {
		if len(r.wrong) == kapsel.MaxFields { // no more are named
			return p
		}
		field := at + clip(name)
		if publishMembers[name] == nil {
			r.misread(field, unknown(name, publishMembers))
			continue
		}
		if seen[name] {
			r.misread(field, "is there twice")
			continue
		}
		seen[name] = true
		if name == "data" { // null is data, too
			data = value
			continue
		}
		if string(value) == "null" {
			continue
		}
		switch name {
		case "type":
			p.Type = r.text(field, value)
		case "body_base64":
			if value[0] == '"' {
				encoded = value
			} else {
				r.misread(field, "must be a string")
			}
		case "content_type":
			p.ContentType = r.text(field, value)
		case "id":
			p.ID = r.text(field, value)
		case "app":
			p.App = r.text(field, value)
		case "ordering_key":
			p.OrderingKey = r.text(field, value)
		case "channels":
			p.Channels = r.texts(field, value)
		case "deliver_at":
			p.DeliverAt = r.time(field, value)
		case "dry_run":
			if p.DryRun = string(value) == "true"; !p.DryRun && string(value) != "false" {
				r.misread(field, "must be true or false")
			}
		}
	}
	r.body(at, &p, data, encoded)
	for _, w := range p.Validate(r.now) {
		r.refuse(at+w.Field, w.Detail)
	}
	return p
}

// body sets a publication's body: data as it was written, or body_base64 decoded.
func (r *publications) body(at string, p *kapsel.Publication, data, encoded []byte) {
	switch {
	case data != nil && encoded != nil:
		r.refuse(at+"body_base64", "does not go with data; one of them is the body")
	case data != nil && p.ContentType != "":
		r.refuse(at+"content_type", "goes with body_base64; data is "+jsonType)
	case data != nil && nesting(data) > maxDataDepth:
		r.refuse(at+"data", fmt.Sprintf("is nested more than %d deep", maxDataDepth))
	case data != nil:
		p.Body = r.copied(data)
	case encoded == nil:
		r.refuse(at+"data", "is needed, or body_base64 with content_type")
	case p.ContentType == "":
		r.refuse(at+"content_type", "is needed with body_base64")
	default:
		p.Body = r.decoded(at+"body_base64", encoded)
		return
	}
	p.ContentType = jsonType // also where it is wrong, which was said
}

// copied returns a copy of data, nil if the request is refused anyway.
func (r *publications) copied(data []byte) []byte {
	if r.wrong != nil || !r.room(len(data)) {
		return nil
	}
	return bytes.Clone(data)
}

// room reports whether there is memory for n bytes.
func (r *publications) room(n int) bool {
	if r.full == nil {
		r.full = r.reserve(n)
	}
	return r.full == nil
}

// decoded returns the bytes that a string of base64 encodes.
func (r *publications) decoded(field string, value []byte) []byte {
	text := value[1 : len(value)-1]
	if bytes.IndexByte(text, '\\') >= 0 { // some write / as \/
		if !r.room(len(text)) {
			return nil
		}
		text = []byte(unquoted(value))
	}
	if !r.room(base64.StdEncoding.DecodedLen(len(text))) {
		return nil
	}
	body, err := base64.StdEncoding.AppendDecode([]byte{}, text)
	if err != nil {
		r.refuse(field, "must be base64 with its padding (RFC 4648, section 4)")
	}
	return body
}

// maxQuoted is the longest JSON string, in bytes, that can be a text or a member's name: each
// byte of the longest text escaped, and two quotes. Longer strings are not copied.
const maxQuoted = 6*kapsel.MaxKey + 2

// text reads a string that is not empty.
func (r *publications) text(field string, value []byte) string {
	if value[0] != '"' {
		r.misread(field, "must be a string")
		return ""
	}
	if len(value) > maxQuoted {
		r.refuse(field, "is too long")
		return ""
	}
	if halfCharacter(value) >= 0 {
		r.misread(field, "has an escape of half a character (a surrogate without its other half)")
		return ""
	}
	s := unquoted(value)
	if s == "" {
		r.refuse(field, "must not be empty")
	}
	return s
}

// time reads the time at which deliveries are due. It passes times after lastYear on, of which
// kapsel.Publication.Validate says how far ahead a time may be.
func (r *publications) time(field string, value []byte) time.Time {
	text := r.text(field, value)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		r.refuse(field, errTime.Error())
		return time.Time{}
	}
	if t = t.UTC(); t.Year() < firstYear {
		r.refuse(field, fmt.Sprintf("must be in the year %d or later; without it the event is delivered at once", firstYear))
		return time.Time{}
	}
	return t
}

// texts reads an array of strings.
func (r *publications) texts(field string, value []byte) (list []string) {
	if value[0] != '[' {
		r.misread(field, "must be an array")
		return nil
	}
	for element := range elements(value) {
		at := fmt.Sprintf("%s[%d]", field, len(list))
		if len(list) == kapsel.MaxFields { // more than any list may have
			break
		}
		list = append(list, r.text(at, element))
	}
	return list
}

// checkJSON refuses what is not one JSON text in UTF-8.
func checkJSON(body []byte) error {
	switch {
	case !utf8.Valid(body):
		return notJSON("it is not UTF-8")
	case json.Valid(body):
		return nil
	case nesting(body) > 2*maxDataDepth: // encoding/json gives up at 10,000
		return notJSON(errTooDeep.Error())
	case len(bytes.Trim(body, jsonSpace)) == 0:
		return notJSON("there is none")
	}
	var none json.RawMessage
	return notJSON(syntaxDetail(json.Unmarshal(body, &none)))
}

// nesting returns how deep the objects and arrays of a JSON text are nested.
func nesting(text []byte) (deepest int) {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringLen(text[i:]) - 1
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// stringLen returns the length of the JSON string that a text begins with, quotes included. If the
// string does not end, it returns the length of the text.
func stringLen(text []byte) int {
	// Most strings have no escapes, and are passed over by machine words.
	if n := bytes.IndexByte(text[1:], '"'); n >= 0 && bytes.IndexByte(text[1:1+n], '\\') < 0 {
		return n + 2
	}
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// What follows walks over a text that json.Valid has passed.

const jsonSpace = " \t\r\n"

// cutValue splits off the value that a valid text begins with.
func cutValue(text []byte) (value, rest []byte) {
	text = bytes.TrimLeft(text, jsonSpace)
	end := 0
	switch text[0] {
	case '"':
		end = stringLen(text)
	case '{', '[':
		for depth := 1; depth > 0; {
			end++
			switch text[end] {
			case '"':
				end += stringLen(text[end:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
		}
		end++
	default:
		if end = bytes.IndexAny(text, ",]}"+jsonSpace); end < 0 {
			end = len(text)
		}
	}
	return text[:end], bytes.TrimLeft(text[end:], jsonSpace)
}

// elements yields the values of a valid array, in order.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := bytes.TrimLeft(array[1:], jsonSpace)
		for rest[0] != ']' {
			var value []byte
			if value, rest = cutValue(rest); !yield(value) {
				return
			}
			if rest[0] == ',' {
				rest = bytes.TrimLeft(rest[1:], jsonSpace)
			}
		}
	}
}

// members yields the names and values of a valid object, in order. A name longer than maxQuoted
// is cut off: no member that is known has such a name.
func members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		rest := bytes.TrimLeft(object[1:], jsonSpace)
		for rest[0] != '}' {
			var name, value []byte
			name, rest = cutValue(rest)
			text := string(name[1:min(len(name), maxQuoted)])
			if len(name) <= maxQuoted {
				text = unquoted(name)
			}
			if value, rest = cutValue(rest[1:]); !yield(text, value) {
				return
			}
			if rest[0] == ',' {
				rest = bytes.TrimLeft(rest[1:], jsonSpace)
			}
		}
	}
}

// hasMember reports whether a valid object has a member of a name.
func hasMember(object []byte, name string) bool {
	for n := range members(object) {
		if n == name {
			return true
		}
	}
	return false
}

// unquoted returns the text of a valid JSON string.
func unquoted(quoted []byte) (s string) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	if err := json.Unmarshal(quoted, &s); err != nil {
		panic(err) // the whole text was valid
	}
	return s
}
