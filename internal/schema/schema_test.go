package schema

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// typeOf returns an event type with schemas 1, 2, ….
func typeOf(schemas ...string) *kapsel.EventTypeConfig {
	t := &kapsel.EventTypeConfig{Schemas: map[string]json.RawMessage{}}
	for i, s := range schemas {
		t.Schemas[fmt.Sprint(i+1)] = json.RawMessage(s)
	}
	return t
}

const invoice = `{"type":"object","required":["invoice","amount"],"additionalProperties":false,"properties":{
	"invoice":{"type":"integer"},"amount":{"type":"number","minimum":0},"a/b~":{"const":1},
	"lines":{"type":"array","items":{"type":"object","required":["text"]}},"mail":{"anyOf":[{"type":"string"},{"type":"null"}]}}}`

// TestCheck: each fault of a body is named by its JSON pointer, and a body that fits has none.
func TestCheck(t *testing.T) {
	c, wrong := New(typeOf(invoice))
	if wrong != nil {
		t.Fatal(wrong)
	}
	for body, want := range map[string][]string{
		`{"invoice":1042,"amount":1e3,"mail":null,"a/b~":1.0}`: nil,
		`{"amount":-1,"mail":7,"lines":[{"text":"x"},{}],"x":1}`: {
			"/data/amount minimum: got -1, want 0", "/data/invoice is needed", "/data/lines/1/text is needed", "/data/mail got number, want string; got number, want null",
			"/data/x is not a member that the schema knows",
		},
		`{"invoice":1.5,"amount":9007199254740993,"a/b~":2}`: {"/data/a~1b~0 value must be 1", "/data/invoice got number, want integer"},
		`[]`:               {"/data got array, want object"},
		`no`:               {"/data is not JSON, which the schema of its type describes"},
		`{"amount":1e999}`: {"/data has a number with more than 400 digits"},
	} {
		var got []string
		for _, f := range c.Check([]byte(body)) {
			got = append(got, f.Field+" "+f.Detail)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}

// TestCheck_Versions checks that a body may match any of a type's schemas, and that errors are
// those of the newest schema.
func TestCheck_Versions(t *testing.T) {
	c, wrong := New(typeOf(`{"required":["a"]}`, `{"required":["b"]}`))
	if wrong != nil {
		t.Fatal(wrong)
	}
	for body, want := range map[string]string{`{"a":1}`: "[]", `{"b":1}`: "[]", `{"c":1}`: "[{/data/b is needed}]"} {
		if got := fmt.Sprint(c.Check([]byte(body))); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	if none, _ := New(typeOf()); none.Check([]byte("no JSON")) != nil {
		t.Error("a type without a schema refuses a body")
	}
}

// TestNew_BadSchemas checks that a schema is refused with the reason if it is not valid, needs
// another document or may take too long.
func TestNew_BadSchemas(t *testing.T) {
	doubling := strings.Builder{}
	doubling.WriteString(`{"$ref":"#/$defs/a40","$defs":{"a0":{}`)
	for i := range 40 {
		fmt.Fprintf(&doubling, `,"a%d":{"allOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]}`, i+1, i, i)
	}
	doubling.WriteString(`}}`)
	const below = `{"properties":{"x":{"$ref":"#"}}}`
	for text, want := range map[string]string{
		`{"type":"strin"}`:                        "is not a JSON Schema: at /type",
		`{"properties":[]}`:                       "is not a JSON Schema: at /properties",
		`7`:                                       "is not a JSON Schema: at the top got number",
		`{"pattern":"("}`:                         "is not a JSON Schema",
		`{"$ref":"https://example.com/s.json"}`:   "refers to https://example.com/s.json; nothing is loaded",
		`{"$ref":"file:///etc/passwd"}`:           "refers to file:///etc/passwd; nothing is loaded",
		`{"$ref":"other.json"}`:                   "refers to other.json; nothing is loaded",
		`{"$schema":"https://example.com/meta"}`:  "refers to https://example.com/meta; nothing is loaded",
		`{"$ref":"#/$defs/none"}`:                 "is not a JSON Schema",
		`{"minimum":1e999999999}`:                 "has a number with more than 400 digits",
		`{"$ref":"#"}`:                            "takes more than",
		`{"allOf":[` + below + `,` + below + `]}`: "takes more than",
		`{"allOf":[{"items":{"$ref":"#"}},{"contains":{"$ref":"#"}}]}`: "takes more than",
		`{"patternProperties":{"a":{"$ref":"#"},"b":{"$ref":"#"}}}`:    "takes more than",
		doubling.String():     "takes more than",
		`{"$dynamicRef":"#"}`: "$dynamicRef",
	} {
		_, wrong := New(typeOf(text))
		if len(wrong) != 1 || wrong[0].Field != "schemas.1" || !strings.Contains(wrong[0].Detail, want) {
			t.Errorf("%.80s: %v, want %s", text, wrong, want)
		}
	}
}

// TestNew_Recursive checks that a schema may refer to itself, as the schema of a tree does.
func TestNew_Recursive(t *testing.T) {
	c, wrong := New(typeOf(`{"type":"object","properties":{"left":{"$ref":"#"},"right":{"$ref":"#"},"items":{"type":"array","items":{"$ref":"#"}}},"additionalProperties":{"type":"integer"}}`))
	if wrong != nil {
		t.Fatal(wrong)
	}
	if got := fmt.Sprint(c.Check([]byte(`{"left":{"right":{"n":1,"items":[{"left":{"m":"x"}}]}}}`))); got != "[{/data/left/right/items/0/left/m got string, want integer}]" {
		t.Error(got)
	}
}

// TestCheck_Bounds checks that a body that would take too much time or memory is not checked but
// refused.
func TestCheck_Bounds(t *testing.T) {
	c, wrong := New(typeOf(`{"items":{"anyOf":[` + strings.Repeat(`{"type":"string"},`, 400) + `{"type":"null"}]}}`))
	if wrong != nil {
		t.Fatal(wrong)
	}
	for body, want := range map[string]string{
		`[` + strings.Repeat("1,", 10_000) + `1]`: "more than can be checked",
		`"` + strings.Repeat("a", maxBody) + `"`:  "can be checked",
	} {
		if faults := c.Check([]byte(body)); len(faults) != 1 || faults[0].Field != "/data" || !strings.Contains(faults[0].Detail, want) {
			t.Errorf("%.20s…: %v", body, faults)
		}
	}
	if faults := c.Check([]byte(`[null,"a"]`)); faults != nil {
		t.Errorf("a small body: %v", faults)
	}
}
