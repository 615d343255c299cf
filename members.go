package kapsel

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

// Members returns the JSON text of the named members of an object, in the order of the names;
// nil for one that the object does not have. It reads the object once and builds nothing of
// the rest, whose members may be repeated. A named member that comes twice is an error:
// readers of such an object may disagree on what it says. Names are ASCII and count in
// their exact spelling.
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

// named is the index of the name that stands in a document as raw, between quotes; -1 if it
// is none of them. It copies nothing.
func named(raw []byte, names []string) int {
	escapes := bytes.IndexByte(raw, '\\') >= 0
	for i, name := range names {
		if !escapes && string(raw) == name || escapes && spells(raw, name) {
			return i
		}
	}
	return -1
}

// spells reports whether raw is a name of ASCII, written with escapes.
func spells(raw []byte, name string) bool {
	for len(raw) > 0 && name != "" {
		c, n := rune(raw[0]), 1
		if c == '\\' {
			if c, n = escaped(raw), 6; c < 0 {
				if len(raw) < 2 || bytes.IndexByte([]byte(`"\/`), raw[1]) < 0 {
					return false // the others stand for control characters, which no name has
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

// MemberValues yields the JSON text of an object's values, one after the other. What is not a
// JSON object yields an error in its place, after which nothing comes.
func MemberValues(object []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := scanner{text: object}
		s.values('{', (*scanner).name, errNoObject, yield)
	}
}

// Elements yields the JSON text of the elements of an array, one after the other. What is not
// a JSON array yields an error in its place, after which nothing comes.
func Elements(array []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := scanner{text: array}
		s.values('[', func(*scanner) bool { return true }, errNoArray, yield)
	}
}

// values yields what a document that begins with open holds, up to its end. before moves to a
// value past what stands before it.
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

// Text returns a JSON string's content, or a number as it is written; "" for anything else.
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
