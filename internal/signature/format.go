package signature

import "strings"

// A reader finds in a request what its preset says: the signatures, the id, the time.
type reader func(p *preset, r Request, m *message) error

// readHeaders reads the signature from the first of the preset's headers that the request
// has, and the id and the time from the headers that go with it.
func readHeaders(p *preset, r Request, m *message) error {
	h := &p.headers[0]
	for i := range p.headers {
		if _, ok := r.Header[p.headers[i].signature]; ok {
			h = &p.headers[i]
			break
		}
	}
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
	return p.format(p, h.signature, value, m)
}

// A format reads the value of a signature header.
type format func(p *preset, name, value string, m *message) error

// plain is one signature after the preset's prefix.
func plain(p *preset, name, value string, m *message) error {
	text, ok := strings.CutPrefix(value, p.prefix)
	if !ok {
		return refuse("the %s header does not begin with %s", name, p.prefix)
	}
	m.add("", text)
	return nil
}

// tokens is a list of "version,signature", separated by spaces (Standard Webhooks). Versions
// that no key is for do not count.
func tokens(_ *preset, name, value string, m *message) error {
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

// pairs is a list of key=value that holds the time and one or more signatures, such as
// t=1,v1=a,v1=b. Other keys do not count.
func pairs(separator, timeKey, signatureKey string) format {
	return func(p *preset, name, value string, m *message) (err error) {
		for pair := range strings.SplitSeq(value, separator) {
			switch k, v, _ := strings.Cut(pair, "="); {
			case k == signatureKey:
				m.add("", v)
			case k == timeKey && m.stamp != "":
				return refuse("the %s header holds more than one time", name)
			case k == timeKey:
				m.stamp = v
			}
		}
		if m.stamp == "" || m.n == 0 {
			return refuse("the %s header is not of the form %s=…%s%s=…", name, timeKey, separator, signatureKey)
		}
		m.at, err = p.unit.parse(m.stamp)
		return err
	}
}

// A content puts into a message what is signed.
type content func(r Request, m *message) error

// bodyAlone signs the body and nothing else.
func bodyAlone(r Request, m *message) error {
	m.body = r.Body
	return nil
}

// template signs what a text says: literals and {id}, {time}, {method}, {url}, at most one {body}.
func template(text string) content {
	before, after, hasBody := strings.Cut(text, "{body}")
	head, tail := pieces(before), pieces(after)
	return func(r Request, m *message) error {
		m.head = appendPieces(m.head, head, r, m)
		m.tail = appendPieces(m.tail, tail, r, m)
		if hasBody {
			m.body = r.Body
		}
		return nil
	}
}

// piece is a literal or, where field is not "", what a field holds.
type piece struct{ literal, field string }

func pieces(text string) (list []piece) {
	for text != "" {
		literal, rest, ok := strings.Cut(text, "{")
		if literal != "" {
			list = append(list, piece{literal: literal})
		}
		if !ok {
			break
		}
		field, rest, _ := strings.Cut(rest, "}")
		list = append(list, piece{field: field})
		text = rest
	}
	return list
}

func appendPieces(b []byte, list []piece, r Request, m *message) []byte {
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
		default:
			panic("unknown field in a template: " + p.field)
		}
	}
	return b
}
