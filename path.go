package kapsel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Path leads to one value in a JSON document: `$` and one or more of `.name`, `["name"]`
// and `[n]`, a subset of RFC 9535. ParsePath makes one; the zero Path finds nothing.
type Path struct{ steps []step }

// step is a member's name, or an index when name is nil.
type step struct {
	name  *string
	index int
}

// Bounds of paths and of what they read.
const (
	maxPath      = 512 // bytes of its text
	maxPathSteps = 32
	maxJSONDepth = 10_000 // nesting of a value that is passed over; encoding/json writes no more
	// MaxKey is the longest idempotency key, in bytes.
	MaxKey = 255
)

// ParsePath parses a path. Names after a dot begin with a letter or "_" and go on with
// letters, digits and "_"; any other name needs the brackets, quoted as in JSON.
func ParsePath(s string) (Path, error) {
	var p Path
	if len(s) > maxPath {
		return p, fmt.Errorf("is longer than %d bytes", maxPath)
	}
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return p, fmt.Errorf("does not begin with $")
	}
	for rest != "" {
		at := len(s) - len(rest)
		var st step
		switch {
		case rest[0] == '.':
			n := nameLen(rest[1:])
			if n == 0 {
				return Path{}, fmt.Errorf(`has no name after the dot at byte %d; a name with other characters is written ["name"]`, at)
			}
			name := rest[1 : 1+n]
			st, rest = step{name: &name}, rest[1+n:]
		case strings.HasPrefix(rest, `["`):
			quoted, after, ok := cutQuoted(rest[1:])
			var name string
			if !ok || !strings.HasPrefix(after, "]") || !utf8.ValidString(quoted) || json.Unmarshal([]byte(quoted), &name) != nil {
				return Path{}, fmt.Errorf(`has no ["name"] at byte %d`, at)
			}
			st, rest = step{name: &name}, after[1:]
		case rest[0] == '[':
			digits, after, ok := strings.Cut(rest[1:], "]")
			n, err := strconv.ParseUint(digits, 10, 31)
			if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
				return Path{}, fmt.Errorf("has no [n], n being 0, 1, 2, …, at byte %d", at)
			}
			st, rest = step{index: int(n)}, after
		default:
			return Path{}, fmt.Errorf("goes on at byte %d with neither . nor [", at)
		}
		if p.steps = append(p.steps, st); len(p.steps) > maxPathSteps {
			return Path{}, fmt.Errorf("has more than %d steps", maxPathSteps)
		}
	}
	if len(p.steps) == 0 {
		return p, fmt.Errorf("names nothing after $")
	}
	return p, nil
}

// Member returns the name of the member that the path leads to, if it has no other step.
func (p Path) Member() (name string, ok bool) {
	if len(p.steps) != 1 || p.steps[0].name == nil {
		return "", false
	}
	return *p.steps[0].name, true
}

// nameLen is the length of the name that s begins with.
func nameLen(s string) int {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r >= 0x80 && r != utf8.RuneError
		if !letter && (i == 0 || r < '0' || r > '9') {
			return i
		}
	}
	return len(s)
}

// cutQuoted splits off the JSON string, quotes included, that s begins with.
func cutQuoted(s string) (quoted, after string, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return s[:i+1], s[i+1:], true
		}
	}
	return "", s, false
}

// Find returns the string or the number (its text, as written) that the path leads to in a
// JSON document, for use as a key: 1 to 255 bytes of UTF-8 without control characters. Where
// an object has a name twice, the first counts. Anything else is not ok.
//
// Find reads up to the value and no further, in one pass: what is not JSON before it is not
// ok (but for escapes in strings passed over), what comes after it is not looked at. Nesting
// deeper than 10,000 beside the path is not ok.
func (p Path) Find(document []byte) (value string, ok bool) {
	if len(p.steps) == 0 {
		return "", false
	}
	s := scanner{text: document}
	for _, st := range p.steps {
		if !s.enter(st) {
			return "", false
		}
	}
	switch c := s.peek(); {
	case c == '"':
		raw, ok := s.quoted()
		if !ok {
			return "", false
		}
		if value, ok = unquote(raw); !ok {
			return "", false
		}
	case c == '-' || isDigit(c):
		raw, ok := s.number()
		if !ok {
			return "", false
		}
		value = string(raw)
	default:
		return "", false
	}
	return value, validKey(value)
}

// validKey reports whether a JSON value serves as an idempotency key.
func validKey(s string) bool {
	return len(s) > 0 && len(s) <= MaxKey && utf8.ValidString(s) && !strings.ContainsFunc(s, isControl)
}

// ValidHeaderKey reports whether the value of a header serves as an idempotency key: 1 to 255
// printable ASCII characters.
func ValidHeaderKey(s string) bool {
	return s != "" && len(s) <= MaxKey && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// isControl reports C0 control characters and DEL.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// scanner reads JSON (RFC 8259) by position. Its methods report false on a syntax error and
// at the end of the text.
type scanner struct {
	text []byte
	pos  int
	nest [(maxJSONDepth + 63) / 64]uint64 // skip's: a bit for each value that it is in, 1 for an object
}

// peek is the next byte that is not white space, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take consumes the next byte when it is c.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.pos == len(s.text) {
		return false
	}
	s.pos++
	return true
}

// enter moves from the start of a value to the start of the value that the step names in it.
func (s *scanner) enter(st step) bool {
	if st.name == nil {
		if !s.take('[') || s.peek() == ']' {
			return false
		}
		for range st.index {
			if !s.skip() || !s.take(',') {
				return false
			}
		}
		return true
	}
	if !s.take('{') {
		return false
	}
	for {
		raw, ok := s.quoted()
		if !ok || !s.take(':') {
			return false
		}
		if bytes.IndexByte(raw, '\\') < 0 {
			if string(raw) == *st.name { // compared without a copy
				return true
			}
		} else if name, ok := unquote(raw); ok && name == *st.name {
			return true
		}
		if !s.skip() || !s.take(',') {
			return false
		}
	}
}

// skip moves past a value. It does not recurse: what strangers nest must not grow the stack.
func (s *scanner) skip() bool {
	for depth := 0; ; {
		switch c := s.peek(); {
		case c == '{' || c == '[':
			if s.pos++; depth == maxJSONDepth {
				return false
			}
			if s.take(closing(c)) {
				break // an empty one is a value like others
			}
			s.nest[depth/64] &^= 1 << (depth % 64)
			if c == '{' {
				s.nest[depth/64] |= 1 << (depth % 64)
			}
			if depth++; c == '{' && !s.name() {
				return false
			}
			continue
		case c == '"':
			if _, ok := s.quoted(); !ok {
				return false
			}
		case c == '-' || isDigit(c):
			if _, ok := s.number(); !ok {
				return false
			}
		case !s.literal("true") && !s.literal("false") && !s.literal("null"):
			return false
		}
		// Behind a value: leave what ends here.
		inObject := false
		for ; depth > 0; depth-- {
			inObject = s.nest[(depth-1)/64]&(1<<((depth-1)%64)) != 0
			if s.take(',') {
				break
			}
			if inObject && !s.take('}') || !inObject && !s.take(']') {
				return false
			}
		}
		if depth == 0 {
			return true
		}
		if inObject && !s.name() {
			return false
		}
	}
}

// closing is what ends an object or array that begins with c.
func closing(c byte) byte {
	if c == '{' {
		return '}'
	}
	return ']'
}

// name moves past a member's name and its colon.
func (s *scanner) name() bool {
	_, ok := s.quoted()
	return ok && s.take(':')
}

func (s *scanner) literal(word string) bool {
	if end := s.pos + len(word); end <= len(s.text) && string(s.text[s.pos:end]) == word {
		s.pos = end
		return true
	}
	return false
}

// quoted moves past a string and returns what stands between its quotes.
func (s *scanner) quoted() (raw []byte, ok bool) {
	if !s.take('"') {
		return nil, false
	}
	start := s.pos
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return s.text[start : s.pos-1], true
		case c == '\\':
			s.pos++ // what follows is checked by unquote, where the string matters
		case c < ' ':
			return nil, false
		}
	}
	return nil, false
}

// number moves past a number and returns it.
func (s *scanner) number() (raw []byte, ok bool) {
	start := s.pos
	if s.pos < len(s.text) && s.text[s.pos] == '-' {
		s.pos++
	}
	zero := s.pos < len(s.text) && s.text[s.pos] == '0'
	if n := s.digits(); n == 0 || zero && n > 1 {
		return nil, false
	}
	if s.pos < len(s.text) && s.text[s.pos] == '.' {
		s.pos++
		if s.digits() == 0 {
			return nil, false
		}
	}
	if s.pos < len(s.text) && s.text[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.text) && (s.text[s.pos] == '+' || s.text[s.pos] == '-') {
			s.pos++
		}
		if s.digits() == 0 {
			return nil, false
		}
	}
	return s.text[start:s.pos], true
}

func (s *scanner) digits() (n int) {
	for s.pos < len(s.text) && isDigit(s.text[s.pos]) {
		s.pos++
		n++
	}
	return n
}

// unquote is the string that stands in a document as raw, between quotes. Text that is not
// UTF-8 and halves of surrogate pairs are not ok: encoding/json makes U+FFFD of each, and two
// different keys would become one.
func unquote(raw []byte) (string, bool) {
	if !utf8.Valid(raw) {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), true
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		switch r := escaped(raw[i:]); {
		case utf16.IsSurrogate(r):
			if utf16.DecodeRune(r, escaped(raw[i+6:])) == utf8.RuneError {
				return "", false
			}
			i += 11
		case r >= 0:
			i += 5
		default:
			i++
		}
	}
	var s string
	err := json.Unmarshal(slices.Concat([]byte{'"'}, raw, []byte{'"'}), &s)
	return s, err == nil
}

// escaped is the code unit of the \uXXXX that b begins with, -1 without one.
func escaped(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}
