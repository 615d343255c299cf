package jsonpath

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

func TestParse(t *testing.T) {
	good := []string{`$.id`, `$.data.id`, `$["id"]`, `$["a b"].c`, `$["a\"b"]`, `$[0]`, `$.items[12].id`, `$._x9`, `$.größe`, `$["\u00e9"]`, `$["]"]`, `$[""]`,
		`$` + strings.Repeat(".a", 32)}
	bad := []string{``, `$`, `id`, `.id`, `$id`, `$.`, `$..id`, `$.9`, `$.a-b`, `$.*`, `$[*]`, `$[-1]`, `$[01]`, `$[1:2]`, `$[99999999999]`, `$[`, `$[]`, `$[0`,
		`$['id']`, `$["id"`, `$["id]`, `$["\x"]`, "$[\"\xff\"]", `$.a b`, `$.id `, ` $.id`, `$@`, "$.a\xff", `$` + strings.Repeat(".a", 33), `$.` + strings.Repeat("a", 511)}
	for _, s := range good {
		if _, err := Parse(s); err != nil {
			t.Errorf("Parse(%q): %v", s, err)
		}
	}
	for _, s := range bad {
		if _, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) succeeded", s)
		}
	}
}

func TestPathFind(t *testing.T) {
	deep := strings.Repeat(`[`, 100_000)
	tests := []struct {
		path, document string
		want           string // "" when nothing is found
	}{
		{`$.id`, `{"id":"evt_1"}`, "evt_1"},
		{`$.id`, " {\n\t\"x\" : [1, {\"id\":2}, \"]}\"] ,\r\n \"id\" : 17 } ", "17"},
		{`$.id`, `{"id":-1.50e+3}`, "-1.50e+3"},
		{`$.id`, `{"id":12345678901234567890123}`, "12345678901234567890123"},
		{`$.id`, `{"id":"a","id":"b"}`, "a"},
		{`$.a.id`, `{"a":{"x":1},"a":{"id":"b"}}`, ""}, // the first a counts
		{`$.data.items[1].id`, `{"data":{"items":[{"id":"a"},{"id":"b"}]}}`, "b"},
		{`$[0]`, `["x"]`, "x"},
		{`$[1]`, `["x"]`, ""},
		{`$[0]`, `[]`, ""},
		{`$[0]`, `{"0":"x"}`, ""},
		{`$.a`, `["a"]`, ""},
		{`$["a b"]`, `{"a b":"x"}`, "x"},
		{`$["a\"b"]`, `{"a\"b":"x"}`, "x"},
		{`$["a\\\\b"]`, `{"a\\b":"wrong","a\\\\b":"x"}`, "x"},
		{`$.id`, `{"\u0069d":"x"}`, "x"},
		{`$.id`, `{"id":"\u00e9\n"}`, ""}, // a control character
		{`$.id`, `{"id":"\u00e9\ud83d\ude00\/"}`, "é😀/"},
		{`$.id`, `{"id":"\ud83d"}`, ""},
		{`$.id`, `{"id":"\ude00\ud83d"}`, ""},
		{`$.id`, `{"id":"\\ufffd\ud83d"}`, ""},
		{`$.id`, `{"id":"\ufffd"}`, "\ufffd"},
		{`$.id`, "{\"id\":\"a\xffb\"}", ""},
		{`$.id`, "{\"id\":\"a\x00b\"}", ""},
		{`$.id`, `{"id":"\u0000"}`, ""},
		{`$.id`, `{"id":""}`, ""},
		{`$.id`, `{"id":null}`, ""},
		{`$.id`, `{"id":true}`, ""},
		{`$.id`, `{"id":{"a":1}}`, ""},
		{`$.id`, `{"id":["a"]}`, ""},
		{`$.id`, `{"id":01}`, ""},
		{`$.id`, `{"id":1.}`, ""},
		{`$.id`, `{"id":-}`, ""},
		{`$.id`, `{"id":1e}`, ""},
		{`$.id`, `{"id":"x`, ""},
		{`$.id`, `{"id":"\x"}`, ""},
		{`$.id`, `{"id":"\u12"}`, ""},
		{`$.id`, `{"a":tru,"id":"x"}`, ""},
		{`$.id`, `{"a":[1}, "id":"x"}`, ""},
		{`$.id`, `{"a":{"b"},"id":"x"}`, ""},
		{`$.id`, `{"a":[true,false,null,0,-0.1,{},[],{"b":[]}],"id":"x"}`, "x"},
		{`$.id`, `{"a":1 "id":"x"}`, ""},
		{`$.id`, `{,"id":"x"}`, ""},
		{`$.id`, `{id:"x"}`, ""},
		{`$.id`, ``, ""},
		{`$.id`, `null`, ""},
		{`$.id`, `{"id":"` + strings.Repeat("a", 255) + `"}`, strings.Repeat("a", 255)},
		{`$.id`, `{"id":"` + strings.Repeat("a", 256) + `"}`, ""},
		{`$.id`, `{"id":` + strings.Repeat("1", 256) + `}`, ""},
		{`$.id`, `{"a":` + deep, ""},
		{`$.id`, `{"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `,"id":"x"}`, "x"},
		{`$.id`, `{"a":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `,"id":"x"}`, ""},
		{`$.id`, "\xef\xbb\xbf" + `{"id":"x"}`, ""},
		{`$.id`, `{"id":"x"} and what comes after`, "x"},
	}
	for _, tt := range tests {
		p, err := Parse(tt.path)
		if err != nil {
			t.Fatalf("Parse(%q): %v", tt.path, err)
		}
		got, ok := p.Find([]byte(tt.document))
		if got != tt.want && ok || ok != (tt.want != "") {
			t.Errorf("%s in %.60q: %q, %v, want %q", tt.path, tt.document, got, ok, tt.want)
		}
	}
	if _, ok := (Path{}).Find([]byte(`"x"`)); ok {
		t.Error("the zero Path found something")
	}
}

// TestPathFindAgreesWithJSON compares with encoding/json on documents of its own making.
func TestPathFindAgreesWithJSON(t *testing.T) {
	var value *rapid.Generator[any]
	value = rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return map[string]any{"a": value.Draw(t, "a"), rapid.String().Draw(t, "name"): value.Draw(t, "b")}
		case 1:
			return []any{value.Draw(t, "0"), value.Draw(t, "1")}
		case 2:
			return rapid.Float64().Draw(t, "number")
		case 3:
			return rapid.SampledFrom([]any{nil, true, false}).Draw(t, "literal")
		default:
			return rapid.String().Draw(t, "string")
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		document, err := json.Marshal(map[string]any{"before": value.Draw(t, "before"), "here": value.Draw(t, "here")})
		if err != nil {
			t.Fatal(err)
		}
		var parsed struct{ Here json.RawMessage }
		if err := json.Unmarshal(document, &parsed); err != nil {
			t.Fatal(err)
		}
		var want string
		switch raw := string(parsed.Here); {
		case raw[0] == '"':
			if err := json.Unmarshal(parsed.Here, &want); err != nil {
				t.Fatal(err)
			}
		case raw[0] == '-' || isDigit(raw[0]):
			want = raw
		}
		p, _ := Parse("$.here")
		got, ok := p.Find(document)
		if ok != kapsel.ValidKey(want) || ok && got != want {
			t.Fatalf("%s: %q, %v, want %q", document, got, ok, want)
		}
	})
}

func FuzzPathFind(f *testing.F) {
	f.Add(`$.a[0]["b"]`, []byte(`{"a":[{"b":"\ud83d\ude00"}]}`))
	f.Add(`$.a`, []byte(`{"b":{"c":[1e9,"\\"]},"a":1}`))
	f.Fuzz(func(t *testing.T, path string, document []byte) {
		p, err := Parse(path)
		if err != nil {
			return
		}
		v, ok := p.Find(document)
		if ok && (v == "" || len(v) > kapsel.MaxKey || !utf8.ValidString(v)) {
			t.Errorf("%q in %q: %q is no key", path, document, v)
		}
	})
}
