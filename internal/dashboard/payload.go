package dashboard

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Bounds of what a page shows of one payload. The download has all of it.
const (
	shownText  = 64 << 10  // bytes of text
	shownBytes = 4 << 10   // bytes in hexadecimal
	shownJSON  = 256 << 10 // bytes of a JSON document that are read
	shownNodes = 2000      // values of a JSON document
	shownDepth = 32        // levels of one
	openDepth  = 2         // levels that are unfolded at first
)

// forms of a payload, in the order in which a page offers them.
const (
	asJSON = "json"
	asForm = "form"
	asText = "text"
	asHex  = "hex"
)

// formNames are the forms as a page names them.
var formNames = map[string]string{asJSON: "JSON", asForm: "Form", asText: "Text", asHex: "Hex"}

// formsOf returns in which forms a body can be shown, the one that suits it first. It looks at the beginning
// of a large body alone, as that is what is shown.
func formsOf(body []byte, contentType string) (forms []string) {
	kind, _, _ := mime.ParseMediaType(contentType)
	if len(body) == 0 {
		return nil
	}
	if beginsJSON(body) {
		forms = append(forms, asJSON)
	}
	text := textHead(body)
	if kind == "application/x-www-form-urlencoded" && utf8.Valid(text) {
		forms = append(forms, asForm)
	}
	if utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 {
		forms = append(forms, asText)
	}
	return append(forms, asHex)
}

// textHead returns what is shown of a body as text, without the beginning of a character that is cut.
func textHead(body []byte) []byte {
	head := cutBytes(body, shownText)
	for i := 1; len(head) < len(body) && i < utf8.UTFMax && i <= len(head); i++ {
		if last := head[len(head)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return head[:len(head)-i]
			}
			break
		}
	}
	return head
}

// beginsJSON reports whether a body is a JSON document, as far as a page reads it. Of a large one a page
// shows objects and arrays only.
func beginsJSON(body []byte) bool {
	if len(body) <= shownJSON {
		return json.Valid(body)
	}
	left := shownNodes
	root, err := readNode(jsonHead(body), &left, 0)
	return root.brace != "" && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}

// jsonHead reads the beginning of a JSON document. A large one it cuts at a comma, so that no number loses
// digits.
func jsonHead(body []byte) *json.Decoder {
	head := cutBytes(body, shownJSON)
	if len(head) < len(body) {
		head = head[:max(0, bytes.LastIndexByte(head, ','))]
	}
	d := json.NewDecoder(bytes.NewReader(head))
	d.UseNumber()
	return d
}

// chosenForm returns the form that is asked for if the body has it, else the first.
func chosenForm(forms []string, asked string) string {
	for _, f := range forms {
		if f == asked {
			return f
		}
	}
	if len(forms) == 0 {
		return ""
	}
	return forms[0]
}

// node is a value of a JSON document as a page shows it.
type node struct {
	key    string // "" without one
	value  string // of a leaf, as it was written
	kind   string // "s" for a string, "v" for another leaf
	brace  string // "{" or "[" of one with children
	inside []node
	more   int // children that are left out
}

// tree returns a JSON document as a tree of bounded size. Numbers stay as they were written.
func tree(body []byte) (root node, whole bool) {
	left := shownNodes
	root, err := readNode(jsonHead(body), &left, 0)
	return root, err == nil && left > 0
}

// readNode returns a value. With an error it is what could be read of an object or array.
func readNode(d *json.Decoder, left *int, depth int) (n node, err error) {
	t, err := d.Token()
	if err != nil {
		return n, err
	}
	*left--
	switch v := t.(type) {
	case json.Delim:
		n.brace = v.String()
		for d.More() {
			key := ""
			if v == '{' {
				k, err := d.Token()
				if err != nil {
					return n, err
				}
				key, _ = k.(string)
			}
			if *left <= 0 || depth >= shownDepth {
				n.more++
				if err := skip(d); err != nil {
					return n, err
				}
				continue
			}
			child, err := readNode(d, left, depth+1)
			if child.key = key; err == nil || child.brace != "" {
				n.inside = append(n.inside, child)
			}
			if err != nil {
				return n, err
			}
		}
		_, err = d.Token()
		return n, err
	case string:
		text, _ := json.Marshal(v)
		n.kind, n.value = "s", visible(cut(string(text), shownText/16))
	case json.Number:
		n.kind, n.value = "v", v.String()
	default:
		n.kind, n.value = "v", fmt.Sprint(v)
		if v == nil {
			n.value = "null"
		}
	}
	return n, nil
}

// skip reads a value and forgets it.
func skip(d *json.Decoder) error {
	depth := 0
	for {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// summary returns what a folded node says.
func (n *node) summary() string {
	total, noun := len(n.inside)+n.more, "field"
	if n.brace == "[" {
		noun = "value"
	}
	return plural(total, noun)
}

// pair is a field of a form.
type pair struct{ name, value string }

// formFields returns the fields of a form, in their order.
func formFields(body []byte) (list []pair) {
	for i, part := range strings.Split(string(cutBytes(body, shownText)), "&") {
		if i == 200 {
			break
		}
		name, value, _ := strings.Cut(part, "=")
		list = append(list, pair{formText(name), formText(value)})
	}
	return list
}

func formText(s string) string {
	if text, err := url.QueryUnescape(s); err == nil && utf8.ValidString(text) {
		return visible(text)
	}
	return visible(s)
}

// plainText returns a body as text, with what would not be seen written out.
func plainText(body []byte) string {
	return visible(strings.ToValidUTF8(string(textHead(body)), "\uFFFD"))
}

// hexText returns the beginning of a body in hexadecimal.
func hexText(body []byte) string { return hex.Dump(cutBytes(body, shownBytes)) }

// isCut reports whether a form shows less than the body.
func isCut(form string, body []byte) bool {
	switch form {
	case asHex:
		return len(body) > shownBytes
	case asText, asForm:
		return len(body) > shownText
	}
	return false
}

func cutBytes(b []byte, most int) []byte { return b[:min(len(b), most)] }

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}
