package api

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
)

const (
	maxBody    = 64 << 10 // bytes of a request's body
	mergePatch = "application/merge-patch+json"
)

// read reads the body of the request into v, a pointer to a struct, whose fields keep their
// values where the body has none or null. See decode for what it refuses.
func read(ctx context.Context, v any) error { return readUpTo(ctx, maxBody, v) }

// readUpTo is read for a body of at most that many bytes.
func readUpTo(ctx context.Context, most int64, v any) error {
	body, err := readBody(callOf(ctx), false, most)
	if err != nil {
		return err
	}
	return decode(body, v)
}

// readOptional does what read does, but leaves v as it is if the request has no body.
func readOptional(ctx context.Context, v any) error {
	body, err := readBody(callOf(ctx), true, maxBody)
	if err != nil || len(body) == 0 {
		return err
	}
	return decode(body, v)
}

// readBody reads a body that says it is JSON and has at most that many bytes.
func readBody(c *call, optional bool, most int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, kapsel.Errorf(kapsel.PayloadTooLarge, "the body may have %d bytes", most)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusRequestTimeout, Detail: "the body did not come in time"}
	case err != nil:
		return nil, &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the body broke off", Err: err}
	}
	if optional && len(body) == 0 {
		return nil, nil
	}
	return body, checkJSONType(c)
}

// checkJSONType returns an error if the request's headers do not say that its body is plain JSON.
func checkJSONType(c *call) error {
	if c.r.Header.Get("Content-Encoding") != "" {
		return unsupported("send the body without Content-Encoding")
	}
	media, params, err := mime.ParseMediaType(strings.Join(c.r.Header["Content-Type"], ", "))
	isJSON := media == "application/json" || media == mergePatch && c.r.Method == http.MethodPatch
	if charset, ok := params["charset"]; err != nil || !isJSON || ok && !strings.EqualFold(charset, "utf-8") {
		return unsupported("send the body as Content-Type: application/json")
	}
	return nil
}

func unsupported(detail string) error {
	return &kapsel.Error{Code: kapsel.InvalidRequest, Status: http.StatusUnsupportedMediaType, Detail: detail}
}

// decode reads a JSON object into v, a pointer to a struct. It is stricter than encoding/json: it
// refuses fields that v does not have, fields that occur twice or are written in another case,
// values of another type, and anything after the object. The error names at most kapsel.MaxFields wrong
// fields. decode takes null as if the field were missing.
func decode(body []byte, v any) error {
	if err := checkShape(body, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode what was checked: %w", err)
	}
	return nil
}

// checkShape returns an error if body is not a JSON object of the shape of the struct type t.
func checkShape(body []byte, t reflect.Type) error {
	if !utf8.Valid(body) {
		return notJSON("it is not UTF-8")
	}
	s := shape{dec: json.NewDecoder(bytes.NewReader(body)), deepest: maxDepth}
	s.dec.UseNumber()
	if err := s.value("", t, 0); err != nil {
		return notJSON(syntaxDetail(err))
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return notJSON("something follows the object")
	}
	if at := halfCharacter(body); at >= 0 {
		return notJSON(fmt.Sprintf("%s at byte %d", halfDetail, at))
	}
	if s.wrong != nil {
		return unreadable(s.wrong)
	}
	return nil
}

// halfDetail says what is wrong with a text in which halfCharacter finds something.
const halfDetail = "it has an escape of half a character (a surrogate without its other half)"

// halfCharacter returns where a valid JSON text first has the escape of a surrogate without the one that
// belongs to it, such as \ud800, and -1 if it has none. Such an escape stands for no character;
// encoding/json would put another in its place.
func halfCharacter(text []byte) int {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' { // which stands in strings only
			continue
		}
		half, ok := escapedUnit(text[i:])
		switch {
		case !ok:
			i++ // an escape of another kind, of two bytes
		case !utf16.IsSurrogate(half):
			i += 5
		default:
			other, _ := escapedUnit(text[i+6:])
			if utf16.DecodeRune(half, other) == utf8.RuneError {
				return i
			}
			i += 11
		}
	}
	return -1
}

// escapedUnit returns the UTF-16 code unit of the escape \uXXXX that a text begins with.
func escapedUnit(text []byte) (unit rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

func notJSON(why string) error {
	return &kapsel.Error{Code: kapsel.InvalidRequest, Detail: "the body is not JSON: " + why}
}

// syntaxDetail returns what is wrong with the JSON and where, in words that repeat nothing of the body.
func syntaxDetail(err error) string {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("there is an error at byte %d", syntax.Offset)
	case errors.Is(err, errTooDeep):
		return err.Error()
	default:
		return "it ends too early"
	}
}

// maxDepth is more than any object of ours is nested; it keeps hostile ones cheap to refuse.
const maxDepth = 16

var errTooDeep = errors.New("it is nested too deep")

// shape compares a stream of JSON tokens with a type.
type shape struct {
	dec     *json.Decoder
	deepest int // how deep values may be nested
	wrong   []kapsel.FieldError
}

func (s *shape) refuse(field, detail string) {
	if len(s.wrong) < kapsel.MaxFields {
		if field == "" {
			field = "(body)"
		}
		s.wrong = append(s.wrong, kapsel.FieldError{Field: field, Detail: detail})
	}
}

// orTextType is the interface of objects in whose place a string may stand.
var orTextType = reflect.TypeFor[interface{ orText() }]()

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// value compares the next value with the type t; it skips the value if t is nil. The error is about
// syntax or depth only; wrong fields are added to s.wrong.
func (s *shape) value(field string, t reflect.Type, depth int) error {
	if depth > s.deepest {
		return errTooDeep
	}
	if t == reflect.TypeFor[anySchema]() {
		return s.schema(field)
	}
	token, err := s.dec.Token()
	if err != nil {
		return err
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	isText := t != nil && reflect.PointerTo(t).Implements(textType)
	kind := reflect.Invalid
	if t != nil && !isText {
		kind = t.Kind()
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			return s.array(field, t, kind, depth)
		}
		return s.object(field, t, kind, depth)
	case nil:
		if field == "" && t != nil {
			s.refuse(field, "must be an object")
		}
	case string:
		if isText {
			if err := reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(token)); err != nil {
				s.refuse(field, err.Error())
			}
		} else if t != nil && kind != reflect.String && !t.Implements(orTextType) {
			s.refuse(field, mustBe(t))
		}
	case bool:
		if t != nil && kind != reflect.Bool {
			s.refuse(field, mustBe(t))
		}
	case json.Number:
		if t != nil && !fits(string(token), kind) {
			s.refuse(field, mustBe(t))
		}
	}
	return nil
}

// maxSchemaDepth is how deep a JSON Schema may be nested.
const maxSchemaDepth = 100

// schema passes over a JSON Schema. Its names are its author's, but none may be there twice in an object.
func (s *shape) schema(field string) error {
	outside := s.deepest
	s.deepest = maxSchemaDepth
	defer func() { s.deepest = outside }()
	return s.value(field, nil, 0)
}

func (s *shape) array(field string, t reflect.Type, kind reflect.Kind, depth int) error {
	var elem reflect.Type
	if kind == reflect.Slice {
		elem = t.Elem()
	} else if t != nil {
		s.refuse(field, mustBe(t))
	}
	for i := 0; s.dec.More(); i++ {
		if err := s.value(fmt.Sprintf("%s[%d]", field, i), elem, depth+1); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *shape) object(field string, t reflect.Type, kind reflect.Kind, depth int) error {
	var known map[string]reflect.Type
	switch {
	case kind == reflect.Struct:
		known = membersOf(t)
	case t != nil && kind != reflect.Map:
		s.refuse(field, mustBe(t))
		t = nil
	}
	seen := map[string]bool{}
	for s.dec.More() {
		token, err := s.dec.Token()
		if err != nil {
			return err
		}
		name := token.(string) // the decoder lets nothing else through here
		at := clip(name)
		if field != "" {
			at = field + "." + at
		}
		var member reflect.Type
		switch {
		case seen[name]:
			s.refuse(at, "is there twice")
		case t == nil:
		case kind == reflect.Map:
			member = t.Elem()
		case known[name] == nil:
			s.refuse(at, unknown(name, known))
		default:
			member = known[name]
		}
		seen[name] = true
		if err := s.value(at, member, depth+1); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

// unknown returns what is wrong with a name that is not in known.
func unknown(name string, known map[string]reflect.Type) string {
	for k := range known {
		if strings.EqualFold(k, name) {
			return "must be written " + k
		}
	}
	return "is not a field of this object"
}

// membersOf returns the types of a struct's fields by the fields' names in JSON. Fields of embedded
// structs are included.
func membersOf(t reflect.Type) map[string]reflect.Type {
	members := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && name != "-" {
			members[name] = f.Type
		}
	}
	return members
}

// fits reports whether a number, as it stands in JSON, is one of a kind. What stands for a
// whole number has neither a point nor an exponent.
func fits(number string, kind reflect.Kind) bool {
	switch kind {
	case reflect.Int, reflect.Int64:
		_, err := strconv.ParseInt(number, 10, 64)
		return err == nil && number != "-0"
	case reflect.Float64:
		_, err := strconv.ParseFloat(number, 64)
		return err == nil
	}
	return false
}

// mustBe returns what a value of the type t must be in JSON.
func mustBe(t reflect.Type) string {
	switch {
	case reflect.PointerTo(t).Implements(textType):
		return "must be a string"
	case t.Implements(orTextType):
		return "must be a string or an object"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int64:
		return "must be a whole number"
	case reflect.Float64:
		return "must be a number"
	case reflect.Slice:
		return "must be an array"
	case reflect.Struct, reflect.Map:
		return "must be an object"
	default:
		return "must be a string"
	}
}

// clip cuts what a caller wrote to 100 characters and an ellipsis, for an answer that repeats it.
func clip(s string) string {
	const most = 100
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// merge applies a patch to a document (RFC 7396) and returns the outcome: null removes a member,
// objects merge, any other value replaces.
func merge(document, patch map[string]any) map[string]any {
	if document == nil {
		document = map[string]any{}
	}
	for name, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(document, name)
		case map[string]any:
			below, _ := document[name].(map[string]any)
			document[name] = merge(below, v)
		default:
			document[name] = v
		}
	}
	return document
}

// readPatch reads the body of a PATCH. It fails if the body is not a merge patch of the shape of T.
func readPatch[T any](ctx context.Context) (map[string]any, error) {
	body, err := readBody(callOf(ctx), false, maxBody)
	if err != nil {
		return nil, err
	}
	if err := checkShape(body, reflect.TypeFor[T]()); err != nil {
		return nil, err
	}
	return tree(body)
}

// patched applies a patch to what a document says now. v, a pointer to a struct with the
// defaults in it, takes the outcome: a field that the patch sets to null has its default.
func patched(now any, patch map[string]any, v any) error {
	b, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode the object to patch: %w", err)
	}
	document, err := tree(b)
	if err != nil {
		return err
	}
	if b, err = json.Marshal(merge(document, patch)); err != nil {
		return fmt.Errorf("encode the patched object: %w", err)
	}
	return decode(b, v)
}

// tree decodes a JSON object into maps. Numbers keep their text.
func tree(b []byte) (map[string]any, error) {
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode what was checked: %w", err)
	}
	return m, nil
}

// said is what a patch says of the member that a path leads to, and whether it says
// something: the member is there, or something above it is replaced, such as by null.
func said(patch map[string]any, path ...string) (v any, ok bool) {
	v = patch
	for _, name := range path {
		m, isObject := v.(map[string]any)
		if !isObject {
			return nil, true
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}
