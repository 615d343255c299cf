package signature

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
)

// A reader finds the parts of a request that its preset names: signatures, ID and time. write does
// the reverse for samples; if it is nil, samples cannot be made.
type reader struct {
	read  func(p *preset, r Request, m *message) error
	write func(s *Sampler, r *Request, m *message) error
}

// readHeaders reads the signature from the first of the preset's headers that the request has, or
// from all of them if several is set. The ID and the time come from the headers that belong to the
// first.
var readHeaders = reader{fromHeaders, toHeaders}

func fromHeaders(p *preset, r Request, m *message) error {
	first := -1
	for i := range p.headers {
		if _, ok := r.Header[p.headers[i].signature]; !ok {
			continue
		}
		if first < 0 {
			first = i
		} else if p.several {
			value, err := header(r, p.headers[i].signature)
			if err == nil {
				err = p.format.read(p, p.headers[i].signature, value, m)
			}
			if err != nil {
				return err
			}
		}
		if !p.several {
			break
		}
	}
	h := &p.headers[max(first, 0)]
	value, err := header(r, h.signature)
	if err != nil {
		return err
	}
	if h.id != "" {
		if m.id, err = header(r, h.id); err != nil {
			return err
		}
		if strings.Contains(m.id, ".") {
			return refuse("the %s header holds a dot, which would make ambiguous what is signed", h.id)
		}
	}
	if h.time != "" {
		if m.stamp, err = header(r, h.time); err != nil {
			return err
		}
		if m.at, err = p.unit.parse(m.stamp); err != nil {
			return err
		}
	}
	return p.format.read(p, h.signature, value, m)
}

// A format reads the value of a signature header, and writes it for samples.
type format struct {
	read  func(p *preset, name, value string, m *message) error
	write func(p *preset, stamp string, c candidate) string
}

// prefixed writes one signature after the preset's prefix.
func prefixed(p *preset, _ string, c candidate) string { return p.prefix + c.text }

// plain is one signature after the preset's prefix.
var plain = format{readPlain, prefixed}

func readPlain(p *preset, name, value string, m *message) error {
	text, ok := strings.CutPrefix(value, p.prefix)
	if !ok {
		return refuse("the %s header does not begin with %s", name, p.prefix)
	}
	m.add("", text)
	return nil
}

// tokens is a list of "version,signature", separated by spaces (Standard Webhooks). Unknown
// versions are ignored.
var tokens = format{readTokens, func(_ *preset, _ string, c candidate) string { return c.version + "," + c.text }}

func readTokens(_ *preset, name, value string, m *message) error {
	for token := range strings.SplitSeq(value, " ") {
		version, text, _ := strings.Cut(token, ",")
		if version == versionHMAC || version == versionEd25519 {
			m.add(version, text)
		}
	}
	if m.n == 0 {
		return refuse("the %s header holds no signature of the form v1,…", name)
	}
	return nil
}

// list is one or more signatures, separated by commas or spaces, each after the preset's prefix.
// Entries without the prefix are ignored.
var list = format{readList, prefixed}

func readList(p *preset, name, value string, m *message) error {
	for one := range splitAny(value, ", ") {
		if text, ok := strings.CutPrefix(one, p.prefix); ok {
			m.add("", text)
		}
	}
	if m.n == 0 {
		return refuse("the %s header holds no signature that begins with %s", name, p.prefix)
	}
	return nil
}

// pairs returns the format of a list of key=value that holds the time and one or more signatures,
// such as t=1,v1=a,v1=b. Other keys, and spaces around a pair, are ignored. timeKeys lists the
// possible keys of the time, separated by spaces; "": the header has no time.
func pairs(separators, timeKeys, signatureKey string) format {
	isTime := map[string]bool{}
	for _, key := range strings.Fields(timeKeys) {
		isTime[key] = true
	}
	read := func(p *preset, name, value string, m *message) (err error) {
		stamp := ""
		for pair := range splitAny(value, separators) {
			switch k, v, _ := strings.Cut(strings.Trim(pair, " "), "="); {
			case k == signatureKey:
				m.add("", v)
			case isTime[k] && stamp != "":
				return refuse("the %s header holds more than one time", name)
			case isTime[k]:
				stamp = v
			}
		}
		if m.n == 0 || stamp == "" && len(isTime) > 0 {
			return refuse("the %s header is not of the form %s=…%c%s=…", name, timeKeys, separators[0], signatureKey)
		}
		if len(isTime) == 0 {
			return nil
		}
		m.stamp = stamp
		m.at, err = p.unit.parse(m.stamp)
		return err
	}
	write := func(_ *preset, stamp string, c candidate) string {
		text := signatureKey + "=" + c.text
		if timeKey, _, _ := strings.Cut(timeKeys, " "); timeKey != "" {
			text = timeKey + "=" + stamp + separators[:1] + text
		}
		return text
	}
	return format{read, write}
}

// method is one signature after the name of its hash, such as sha256=ab (WebSub).
var method = format{readMethod, func(_ *preset, _ string, c candidate) string { return c.version + "=" + c.text }}

func readMethod(_ *preset, name, value string, m *message) error {
	algorithm, text, ok := strings.Cut(value, "=")
	if !ok {
		return refuse("the %s header is not of the form sha256=…", name)
	}
	m.add(algorithm, text)
	return nil
}

// splitAny yields the fields of s between any of the separators, which are ASCII. It skips empty
// fields.
func splitAny(s, separators string) iter.Seq[string] {
	return strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(separators, r) })
}

// A content sets the parts of a message that are signed.
type content func(r Request, m *message) error

// bodyAlone is the content of providers that sign the body and nothing else.
func bodyAlone(r Request, m *message) error {
	m.body = r.Body
	return nil
}

// maxInflated is the most bytes that a compressed body may decode to. It bounds the work that a
// few bytes from a stranger can cause.
const maxInflated = 16 << 20

// inflaters holds decoders of the content codings (RFC 9110, 8.4.1) that the standard library
// supports.
var inflaters = map[string]func(io.Reader) (io.ReadCloser, error){
	"gzip":    func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	"x-gzip":  func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	"deflate": zlib.NewReader,
}

// decompressed returns a content like of, but with the decoded body. The body is decoded while it
// is hashed and is not kept.
func decompressed(of content) content {
	return func(r Request, m *message) error {
		coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
		if coding != "" && coding != "identity" {
			if m.inflate = inflaters[coding]; m.inflate == nil {
				return refuse("the body's Content-Encoding is not gzip or deflate")
			}
		}
		return of(r, m)
	}
}

// template returns the content that a text describes: literals and {id}, {time}, {method}, {url},
// {header:Name}, and at most one {body}. It panics if parseTemplate refuses the text.
func template(text string) content {
	t, err := parseTemplate(text)
	if err != nil {
		panic(err)
	}
	return t.content
}

// signedText is a parsed template.
type signedText struct {
	head, tail []piece
	body       bool
}

// piece is a literal or, if field is not "", a field's value. name is the header's name if field
// is "header".
type piece struct{ literal, field, name string }

// parseTemplate parses a template. Its errors are for people.
func parseTemplate(text string) (t signedText, err error) {
	list := &t.head
	for text != "" {
		literal, rest, ok := strings.Cut(text, "{")
		if strings.Contains(literal, "}") {
			return t, errors.New("has a } without its {")
		}
		if literal != "" {
			*list = append(*list, piece{literal: literal})
		}
		if !ok {
			break
		}
		field, rest, ok := strings.Cut(rest, "}")
		if !ok {
			return t, errors.New("has a { without its }")
		}
		name, isHeader := strings.CutPrefix(field, "header:")
		switch {
		case isHeader && isToken(name):
			*list = append(*list, piece{field: "header", name: http.CanonicalHeaderKey(name)})
		case isHeader:
			return t, fmt.Errorf("{%s} does not name a header", field)
		case field == "body" && t.body:
			return t, errors.New("has {body} more than once")
		case field == "body":
			t.body = true
			list = &t.tail
		case field == "time" || field == "id" || field == "url" || field == "method":
			*list = append(*list, piece{field: field})
		default:
			return t, fmt.Errorf("{%s} is none of {body} {time} {id} {url} {method} {header:Name}", field)
		}
		text = rest
	}
	return t, nil
}

// has reports whether the template contains a field.
func (t signedText) has(field string) bool {
	is := func(p piece) bool { return p.field == field }
	return slices.ContainsFunc(t.head, is) || slices.ContainsFunc(t.tail, is)
}

func (t signedText) content(r Request, m *message) (err error) {
	if m.head, err = appendPieces(m.head, t.head, r, m); err != nil {
		return err
	}
	if m.tail, err = appendPieces(m.tail, t.tail, r, m); err != nil {
		return err
	}
	if t.body {
		m.body = r.Body
	}
	return nil
}

func appendPieces(b []byte, list []piece, r Request, m *message) ([]byte, error) {
	for _, p := range list {
		switch p.field {
		case "":
			b = append(b, p.literal...)
		case "id":
			b = append(b, m.id...)
		case "time":
			b = append(b, m.stamp...)
		case "method":
			b = append(b, r.Method...)
		case "url":
			b = append(b, r.URL...)
		case "header":
			value, err := header(r, p.name)
			if err != nil {
				return b, err
			}
			b = append(b, value...)
		}
	}
	return b, nil
}
