package jsonpath

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
)

var (
	errNoObject = errors.New("it is not a JSON object")
	errNoArray  = errors.New("it is not a JSON array")
)

// Members returns the JSON text of the named members of an object, in the order of names; nil for
// a member that the object lacks. It reads the object once and builds nothing of the other
// members, which may be repeated. It returns an error if object is not a JSON object, or if a
// named member comes twice: readers of such an object may disagree on its value. Names must be
// ASCII and match by exact spelling.
func Members(object []byte, names ...string) ([][]byte, error) {
	s := scanner{text: object}
	values := make([][]byte, len(names))
	if !s.take('{') {
		return nil, errNoObject
	}
	for s.peek() != '}' {
		raw, ok := s.quoted()
		if !ok || !s.take(':') {
			return nil, errNoObject
		}
		s.peek()
		start := s.pos
		if !s.skip() {
			return nil, errNoObject
		}
		if i := named(raw, names); i >= 0 {
			if values[i] != nil {
				return nil, fmt.Errorf("it has more than one member %.20q", names[i])
			}
			values[i] = s.text[start:s.pos]
		}
		if !s.take(',') {
			break
		}
		if s.peek() == '}' {
			return nil, errNoObject
		}
	}
	if !s.take('}') || s.peek() != 0 || s.pos < len(s.text) {
		return nil, errNoObject
	}
	return values, nil
}

// named returns the index in names of a member name; raw is the name's JSON text between the
// quotes. It returns -1 if names lacks it, and copies nothing.
func named(raw []byte, names []string) int {
	escapes := bytes.IndexByte(raw, '\\') >= 0
	for i, name := range names {
		if !escapes && string(raw) == name || escapes && spells(raw, name) {
			return i
		}
	}
	return -1
}

// spells reports whether raw, which has escapes, spells the ASCII name.
func spells(raw []byte, name string) bool {
	for len(raw) > 0 && name != "" {
		c, n := rune(raw[0]), 1
		if c == '\\' {
			if c, n = escaped(raw), 6; c < 0 {
				if len(raw) < 2 || bytes.IndexByte([]byte(`"\/`), raw[1]) < 0 {
					return false // the other escapes are control characters, which no name has
				}
				c, n = rune(raw[1]), 2
			}
		}
		if c != rune(name[0]) {
			return false
		}
		raw, name = raw[n:], name[1:]
	}
	return len(raw) == 0 && name == ""
}

// MemberValues yields the JSON text of an object's values, one after the other. If the text is not
// a JSON object, it yields an error at that point and stops.
func MemberValues(object []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := scanner{text: object}
		s.values('{', (*scanner).name, errNoObject, yield)
	}
}

// Elements yields the JSON text of an array's elements, one after the other. If the text is not a
// JSON array, it yields an error at that point and stops.
func Elements(array []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := scanner{text: array}
		s.values('[', func(*scanner) bool { return true }, errNoArray, yield)
	}
}

// values yields the values of the object or array that begins with open. before moves past the
// text before each value, such as the name of a member. On a syntax error, or if text follows the
// end, values yields wrong and stops.
func (s *scanner) values(open byte, before func(*scanner) bool, wrong error, yield func([]byte, error) bool) {
	if !s.take(open) {
		yield(nil, wrong)
		return
	}
	for more := s.peek() != closing(open); more; more = s.take(',') {
		if !before(s) {
			yield(nil, wrong)
			return
		}
		s.peek()
		start := s.pos
		if !s.skip() {
			yield(nil, wrong)
			return
		}
		if !yield(s.text[start:s.pos], nil) {
			return
		}
	}
	if !s.take(closing(open)) || s.peek() != 0 || s.pos < len(s.text) {
		yield(nil, wrong)
	}
}

// Text returns the content of a JSON string, or a number as written; "" for anything else.
func Text(value []byte) string {
	s := scanner{text: value}
	if s.peek() == '"' {
		if raw, ok := s.quoted(); ok && s.peek() == 0 && s.pos == len(value) {
			text, _ := unquote(raw)
			return text
		}
		return ""
	}
	if raw, ok := s.number(); ok && s.peek() == 0 && s.pos == len(value) {
		return string(raw)
	}
	return ""
}
