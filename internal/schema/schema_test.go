package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
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

// check checks a body for which there is memory enough.
func check(t *testing.T, c *Checker, body string) []kapsel.FieldError {
	t.Helper()
	faults, err := c.Check([]byte(body), func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return faults
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
		for _, f := range check(t, c, body) {
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
		if got := fmt.Sprint(check(t, c, body)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	if none, _ := New(typeOf()); check(t, none, "no JSON") != nil {
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
	if got := fmt.Sprint(check(t, c, `{"left":{"right":{"n":1,"items":[{"left":{"m":"x"}}]}}}`)); got != "[{/data/left/right/items/0/left/m got string, want integer}]" {
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
		if faults := check(t, c, body); len(faults) != 1 || faults[0].Field != "/data" || !strings.Contains(faults[0].Detail, want) {
			t.Errorf("%.20s…: %v", body, faults)
		}
	}
	if faults := check(t, c, `[null,"a"]`); faults != nil {
		t.Errorf("a small body: %v", faults)
	}
}

// TestCheck_Memory checks that a check takes no more memory than it has reserved, however many faults a body has.
func TestCheck_Memory(t *testing.T) {
	var names []string
	for i := range 6000 {
		names = append(names, fmt.Sprintf("%q", fmt.Sprint(i)))
	}
	for schema, item := range map[string]string{
		`{"items":{"required":[` + strings.Join(names, ",") + `]}}`: `{}`,
		`{"items":{"type":"string"}}`:                               `1`,
	} {
		c, wrong := New(typeOf(schema))
		if wrong != nil {
			t.Fatal(wrong)
		}
		for _, n := range []int{1000, 30_000} {
			body := "[" + strings.Repeat(item+",", n) + item + "]"
			reserved := 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			faults, err := c.Check([]byte(body), func(n int) error { reserved += n; return nil })
			runtime.ReadMemStats(&after)
			if err != nil || len(faults) == 0 || n == 30_000 && (len(faults) != 1 || faults[0].Field != "/data") {
				t.Errorf("%.30s…: %v, %v", schema, faults, err)
			}
			if took := int(after.TotalAlloc - before.TotalAlloc); took > 4*reserved { // all that was allocated, also what was soon freed
				t.Errorf("%.30s…: %d values took %d bytes, and %d were reserved", schema, n, took, reserved)
			}
		}
		few := "[" + item + "]"
		if faults := check(t, c, few); len(faults) == 0 || item == "1" && faults[0].Field == "/data" {
			t.Errorf("%.30s…: one fault is %v", schema, faults)
		}
	}
	for schema, body := range map[string]string{
		`{"items":{"anyOf":[` + strings.Repeat(`{"type":"string"},`, 980) + `{"type":"null"}]}}`: "[" + strings.Repeat("1,", 1990) + "1]",
		`{"items":{"anyOf":[{"type":"string"},{"type":"null"}]}}`:                                "[" + strings.Repeat("1,", 30_000) + "1]",
	} {
		c, wrong := New(typeOf(schema))
		if wrong != nil {
			t.Fatal(wrong)
		}
		reserved := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		faults, err := c.Check([]byte(body), func(n int) error { reserved += n; return nil })
		runtime.ReadMemStats(&after)
		if err != nil || len(faults) != 1 {
			t.Errorf("%.30s…: %v, %v", schema, faults, err)
		}
		if took := int(after.TotalAlloc - before.TotalAlloc); took > 4*max(reserved, 1<<20) {
			t.Errorf("%.30s…: it took %d bytes, and %d were reserved", schema, took, reserved)
		}
	}
	// What people have is said by name: a pattern, some members that are needed, and many values.
	usual, wrong := New(typeOf(`{"required":["a","b"],"properties":{"name":{"pattern":"^.{0,255}$"},"list":{"items":{"type":"integer"}}}}`))
	if wrong != nil {
		t.Fatal(wrong)
	}
	if faults := check(t, usual, `{"a":1,"list":[`+strings.Repeat("1,", 2000)+`"x"]}`); len(faults) != 2 || faults[0].Field != "/data/b" {
		t.Errorf("the faults of a usual event are %v", faults)
	}
	c, _ := New(typeOf(invoice))
	full := errors.New("no memory")
	if _, err := c.Check([]byte(`{}`), func(int) error { return full }); err != full {
		t.Errorf("without memory: %v", err)
	}
}

// TestPatterns checks that a pattern which is long, or repeats much, is refused, that a long text is not matched
// against a large one, and that nothing is checked that is nested too deep.
func TestPatterns(t *testing.T) {
	for _, pattern := range []string{strings.Repeat("a", maxPattern+1), strings.Repeat("a{0,1000}", 100) + "b", strings.Repeat("(a{0,50}){0,20}", 9), "("} {
		if _, wrong := New(typeOf(fmt.Sprintf(`{"pattern":%q}`, pattern))); len(wrong) != 1 {
			t.Errorf("%.30q is accepted", pattern)
		}
		if _, wrong := New(typeOf(fmt.Sprintf(`{"patternProperties":{%q:true}}`, pattern))); len(wrong) != 1 {
			t.Errorf("%.30q is accepted for names", pattern)
		}
	}
	c, wrong := New(typeOf(`{"pattern":"^.{0,900}$"}`))
	if wrong != nil {
		t.Fatal(wrong)
	}
	for body, want := range map[string]string{
		`"` + strings.Repeat("a", 900) + `"`:                      "",
		`"` + strings.Repeat("a", 901) + `"`:                      "does not",
		`"` + strings.Repeat("a", 500_000) + `"`:                  "more than can be checked",
		strings.Repeat("[", 250) + "1" + strings.Repeat("]", 250): "nested deeper than 200 levels",
	} {
		faults := check(t, c, body)
		if want == "" && faults != nil || want != "" && (len(faults) != 1 || !strings.Contains(faults[0].Detail, want)) {
			t.Errorf("%.20s…: %v", body, faults)
		}
	}
}
