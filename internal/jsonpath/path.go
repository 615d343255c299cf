// Package jsonpath finds single values in JSON documents that strangers send: it reads a document once, by
// position, and builds nothing of the rest.
package jsonpath

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
)

// Path names the place of one value in a JSON document: `$` and one or more of `.name`, `["name"]`
// and `[n]`, a subset of RFC 9535. Use Parse to make one; the zero Path finds nothing.
type Path struct{ steps []step }

// step is the name of a member, or an index if name is nil.
type step struct {
	name  *string
	index int
}

// Bounds of paths and of the documents that they are applied to.
const (
	maxPath      = 512 // bytes of a path's text
	maxPathSteps = 32
	maxJSONDepth = 10_000 // nesting of a skipped value; encoding/json accepts no deeper one
)

// Parse parses a path. A name after a dot begins with a letter or "_" and continues with
// letters, digits and "_"; any other name must be written in brackets, quoted as in JSON. Errors
// say what is wrong, for the user who wrote the path.
func Parse(s string) (Path, error) {
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

// Member returns the name of a top-level member if that is all that the path consists of.
func (p Path) Member() (name string, ok bool) {
	if len(p.steps) != 1 || p.steps[0].name == nil {
		return "", false
	}
	return *p.steps[0].name, true
}

// nameLen returns the length of the name at the start of s; 0 if there is none.
func nameLen(s string) int {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r >= 0x80 && r != utf8.RuneError
		if !letter && (i == 0 || r < '0' || r > '9') {
			return i
		}
	}
	return len(s)
}

// cutQuoted cuts the JSON string at the start of s, including its quotes.
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

// Find returns the string or number (as written) at the path in a JSON document, for use as a key
// (kapsel.ValidKey). It returns false for any other value, or if
// there is none. If an object has a name twice, the first one counts.
//
// Find reads the document once, up to the end of the value, and ignores what follows. Invalid JSON
// before the value gives false, except for invalid escapes in skipped strings, which are not
// checked. Skipped values nested deeper than 10,000 give false, too.
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
	return value, kapsel.ValidKey(value)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// scanner reads JSON (RFC 8259) by position. Methods that return ok report false on a syntax error
// and at the end of the text.
type scanner struct {
	text []byte
	pos  int
	nest [(maxJSONDepth + 63) / 64]uint64 // used by skip: one bit for each enclosing value, 1 for an object
}

// peek moves to the next byte that is not white space and returns it; 0 at the end.
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

// take moves past the next byte, white space aside, if it is c, and reports whether it was.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.pos == len(s.text) {
		return false
	}
	s.pos++
	return true
}

// enter moves from the start of a value to the start of the value that st names in it.
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

// skip moves past a value. It does not recurse, so deep nesting by a stranger cannot grow the
// stack.
func (s *scanner) skip() bool {
	for depth := 0; ; {
		switch c := s.peek(); {
		case c == '{' || c == '[':
			if s.pos++; depth == maxJSONDepth {
				return false
			}
			if s.take(closing(c)) {
				break // empty: handled below like any other complete value
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
		// A value has ended: leave each enclosing value that ends here, too.
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

// closing returns the byte that closes an object or array opened by c.
func closing(c byte) byte {
	if c == '{' {
		return '}'
	}
	return ']'
}

// name moves past a member's name and the colon.
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

// quoted moves past a string and returns the text between its quotes. It does not check escapes.
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
			s.pos++ // unquote checks the escape if the string is used
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

// unquote decodes a JSON string; raw is the text between its quotes. It returns false for text
// that is not UTF-8 and for unpaired surrogates: encoding/json turns each into U+FFFD, so two
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

// escaped returns the code unit of the \uXXXX at the start of b; -1 if there is none.
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
