package jsonpath

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMembers(t *testing.T) {
	deep := strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999)
	for _, tt := range []struct {
		object string
		want   []string // of "a" and "b"; nil: an error
	}{
		{`{}`, []string{"", ""}},
		{` { "b" : [1, {"a":2}] , "a" : "x" } `, []string{`"x"`, `[1, {"a":2}]`}},
		{`{"c":1,"c":2,"a":null}`, []string{"null", ""}},
		{`{"\u0061":1,"\u0062\u0062":2}`, []string{"1", ""}},
		{`{"\b":1,"\ud83d\ude00":2,"\"a":3,"a\u":4,"\u006":5}`, []string{"", ""}},
		{`{"A":1}`, []string{"", ""}},
		{`{"c":` + deep + `,"a":1}`, []string{"1", ""}},
		{`{"a":1,"a":1}`, nil},
		{`{"a":1,"\u0061":1}`, nil},
		{`{"a":1}{}`, nil}, {`{"a":1,}`, nil}, {`{,"a":1}`, nil}, {`{"a" 1}`, nil}, {`{"a":}`, nil}, {`{"a":1`, nil}, {"{\"a\":1}\x00", nil},
		{`{"c":[1}],"a":1}`, nil}, {`{"c":{"a"},"a":1}`, nil}, {`{"c":[1 2]}`, nil}, {`{"c":[,]}`, nil}, {`{"c":[1,]}`, nil}, {`{"c":{"d":1,}}`, nil},
		{`[]`, nil}, {`null`, nil}, {``, nil}, {`{`, nil}, {`{"c":[`, nil},
	} {
		got, err := Members([]byte(tt.object), "a", "b")
		if (err != nil) != (tt.want == nil) || err == nil && (string(got[0]) != tt.want[0] || string(got[1]) != tt.want[1]) {
			t.Errorf("%.40q: %q, %v, want %q", tt.object, got, err, tt.want)
		}
	}
}

func TestElements(t *testing.T) {
	for array, want := range map[string][]string{
		`[]`: {}, ` [ 1 , "a,b" , {"c":[]} ] `: {"1", `"a,b"`, `{"c":[]}`},
		`[1`: nil, `[1,]`: nil, `[,1]`: nil, `[1]x`: nil, `{}`: nil, `1`: nil, ``: nil,
	} {
		var failed error
		got := []string{}
		for value, err := range Elements([]byte(array)) {
			if failed = err; err == nil {
				got = append(got, string(value))
			}
		}
		if (failed != nil) != (want == nil) || want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", array, got, failed, want)
		}
	}
}

func TestMemberValues(t *testing.T) {
	for object, want := range map[string][]string{
		`{}`: {}, ` { "a" : 1 , "a" : "x,y" , "b" : {"c":[]} } `: {"1", `"x,y"`, `{"c":[]}`},
		`{"a":1`: nil, `{"a":1,}`: nil, `{1}`: nil, `{"a"}`: nil, `{"a":1}x`: nil, `[]`: nil, ``: nil,
	} {
		var failed error
		got := []string{}
		for value, err := range MemberValues([]byte(object)) {
			if failed = err; err == nil {
				got = append(got, string(value))
			}
		}
		if (failed != nil) != (want == nil) || want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", object, got, failed, want)
		}
	}
}

func TestText(t *testing.T) {
	for value, want := range map[string]string{
		`"a\u0062"`: "ab", ` "a" `: "a", `12.50`: "12.50", `-1e9`: "-1e9", `""`: "",
		`01`: "", `1 2`: "", `"a"b`: "", `"\ud800"`: "", `true`: "", `{}`: "", ``: "", `-`: "",
	} {
		if got := Text([]byte(value)); got != want {
			t.Errorf("Text(%s) = %q, want %q", value, got, want)
		}
	}
}

// TestMembersAgreesWithJSON compares with encoding/json, on documents with a byte changed;
// what stands behind a backslash in a string passed over is not judged, so there is none.
func TestMembersAgreesWithJSON(t *testing.T) {
	const document = `{"a":{"b":[1,2.5e3,"x",true,null,{}],"c":""},"d":[[],[{"e":false}]], "f" : -0.1}`
	rapid.Check(t, func(t *rapid.T) {
		changed := []byte(document)
		i := rapid.IntRange(0, len(changed)-1).Draw(t, "at")
		changed[i] = rapid.SampledFrom([]byte(`{}[]",: 01e.-tn`+"\n")).Draw(t, "byte")
		var parsed map[string]json.RawMessage
		wrong := json.Unmarshal(changed, &parsed) != nil
		got, err := Members(changed, "f")
		if (err != nil) != wrong || err == nil && string(got[0]) != string(parsed["f"]) {
			t.Fatalf("%s: %q, %v; JSON: %v", changed, got, err, !wrong)
		}
	})
}
