package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

type sample struct {
	Name   string                  `json:"name"`
	Count  int                     `json:"count"`
	Ratio  float64                 `json:"ratio"`
	On     bool                    `json:"on"`
	Wait   duration                `json:"wait"`
	At     *timestamp              `json:"at"`
	Codes  []int                   `json:"codes"`
	Below  *below                  `json:"below"`
	Set    map[string]*secret.Text `json:"set"`
	Hidden string                  `json:"-"`
	embedded
}

type below struct {
	Name string `json:"name"`
}

type embedded struct {
	Inner int `json:"inner"`
}

// TestBadInput_B38_B39_B40_B42_Decode checks that JSON with duplicate, misspelled or unknown
// fields, wrong types, numbers or times out of range, or anything after its end is refused
// with the field's name and changes nothing.
func TestBadInput_B38_B39_B40_B42_Decode(t *testing.T) {
	tests := []struct {
		body string
		want []string // offending fields; nil: fine; "body": not JSON at all
	}{
		{`{}`, nil},
		{` {"name":"a","count":-1,"ratio":1.5e3,"on":true,"wait":"1m30s","at":"2026-01-02T03:04:05+02:00","codes":[1,2],"below":{"name":"b"},"set":{"X":"y","Z":null},"inner":3} `, nil},
		{`{"name":null,"count":null,"wait":null,"at":null,"codes":null,"below":null,"set":null}`, nil},
		{`{"name":"good","Name":"evil"}`, []string{"Name"}},
		{`{"NAME":"evil"}`, []string{"NAME"}},
		{`{"name":"a","name":"b"}`, []string{"name"}},
		{`{"below":{"name":"a","name":"b","NAME":"c","x":1}}`, []string{"below.name", "below.NAME", "below.x"}},
		{`{"set":{"X":"a","X":"b"}}`, []string{"set.X"}},
		{`{"set":{"X":1}}`, []string{"set.X"}},
		{`{"embedded":{}}`, []string{"embedded"}},
		{`{"hidden":"a","Hidden":"b","-":"c"}`, []string{"hidden", "Hidden", "-"}},
		{`{"unknown":{"deep":[{"er":[[]]}]},"count":1}`, []string{"unknown"}},
		{`{"unknown":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`, []string{"unknown"}},
		{`{"unknown":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`, []string{"body"}},
		{`{"count":1e2}`, []string{"count"}},
		{`{"count":1.5}`, []string{"count"}},
		{`{"count":1.0}`, []string{"count"}},
		{`{"count":"5"}`, []string{"count"}},
		{`{"count":-0}`, []string{"count"}},
		{`{"count":99999999999999999999}`, []string{"count"}},
		{`{"ratio":1e999}`, []string{"ratio"}},
		{`{"ratio":"1"}`, []string{"ratio"}},
		{`{"name":1,"on":"true","codes":[1,"2",3.5],"below":[],"set":[],"wait":30,"at":0}`, []string{"name", "on", "codes[1]", "codes[2]", "below", "set", "wait", "at"}},
		{`{"name":{"a":1},"codes":{"0":1}}`, []string{"name", "codes"}},
		{`{"wait":"soon"}`, []string{"wait"}},
		{`{"wait":"1"}`, []string{"wait"}},
		{`{"at":"0000-01-01T00:00:00Z"}`, []string{"at"}},
		{`{"at":"9999-01-01T00:00:00Z"}`, []string{"at"}},
		{`{"at":"294277-01-01T00:00:00Z"}`, []string{"at"}},
		{`{"at":"Infinity"}`, []string{"at"}},
		{`{"at":"2026-01-01T24:00:00Z"}`, []string{"at"}},
		{`{"at":"2026-01-01t00:00:00z"}`, []string{"at"}},
		{`{"at":"2026-01-01T00:00:00+99:99"}`, []string{"at"}},
		{`{"at":"2026-02-30T00:00:00Z"}`, []string{"at"}},
		{`{"at":"2026-01-01T00:00:00.000000001Z"}`, nil},
		{`{} {}`, []string{"body"}},
		{`{}garbage`, []string{"body"}},
		{`{}]`, []string{"body"}},
		{``, []string{"body"}},
		{`{`, []string{"body"}},
		{`{"name"}`, []string{"body"}},
		{`{"name":"a",}`, []string{"body"}},
		{`{'name':'a'}`, []string{"body"}},
		{`{"name":"\x"}`, []string{"body"}},
		{`{"name":"\ud800"}`, []string{"body"}},
		{`{"name":"\udc00\ud800"}`, []string{"body"}},
		{`{"name":"\ud800\ud83d\ude00"}`, []string{"body"}},
		{`{"name":"\ud83d\n"}`, []string{"body"}},
		{`{"unknown":{"\uDFFF":1}}`, []string{"body"}},
		{`{"name":"\\ud800 \"\ud83d\ude00\u00e4\ufffd"}`, nil},
		{`{"unknown":{"a":1,"a":2}}`, []string{"unknown", "unknown.a"}},
		{"{\"name\":\"a\xff\"}", []string{"body"}},
		{`{"count":01}`, []string{"body"}},
		{`{"count":NaN}`, []string{"body"}},
		{strings.Repeat(`{"x":`, 5000), []string{"body"}},
		{strings.Repeat(`[`, 60000), []string{"body"}},
		{`null`, []string{"(body)"}},
		{`[]`, []string{"(body)"}},
		{`"a"`, []string{"(body)"}},
		{`1`, []string{"(body)"}},
		{`true`, []string{"(body)"}},
	}
	for _, tt := range tests {
		v := sample{Name: "before", Count: 7, Wait: duration(time.Second), Hidden: "hidden"}
		err := decode([]byte(tt.body), &v)
		var e *kapsel.Error
		switch {
		case tt.want == nil:
			if err != nil {
				t.Errorf("%s: %v", tt.body, err)
			}
			continue
		case !errors.As(err, &e) || e.Code != kapsel.InvalidRequest || e.Status != 400 && e.Status != 0:
			t.Errorf("%.60s: %v, want E1006 with 400", tt.body, err)
			continue
		}
		var got []string
		for _, f := range e.Fields {
			got = append(got, f.Field)
		}
		if e.Fields == nil {
			got = []string{"body"}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%.60s: fields (-want +got):\n%s", tt.body, diff)
		}
		if v.Name != "before" || v.Hidden != "hidden" {
			t.Errorf("%.60s: what was refused changed the value: %+v", tt.body, v)
		}
	}
}

func TestDecodeKeepsDefaults(t *testing.T) {
	v := sample{Name: "before", Count: 7, Wait: duration(time.Second)}
	if err := decode([]byte(`{"name":null,"ratio":2}`), &v); err != nil {
		t.Fatal(err)
	}
	if v.Name != "before" || v.Count != 7 || v.Ratio != 2 {
		t.Errorf("%+v", v)
	}
}

// TestBadInput_B119_ManyOfEverything checks that bodies with very many fields, elements or
// digits are refused cheaply with a short answer. Bodies longer than the limit are not parsed;
// of the others only some errors are named.
func TestBadInput_B119_ManyOfEverything(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	fields, elements, small := new(strings.Builder), new(strings.Builder), new(strings.Builder)
	for i := range 100_000 {
		fmt.Fprintf(fields, `"k%d":%d,`, i, i)
		if i < 3000 {
			fmt.Fprintf(small, `"k%d":%d,`, i, i)
		}
	}
	for range 1_000_000 {
		elements.WriteString("500,")
	}
	for name, tt := range map[string]struct {
		body   string
		status int
	}{
		"100,000 fields":              {`{` + fields.String() + `"name":"a"}`, 413},
		"1,000,000 elements":          {`{"retry_on":[` + elements.String() + `500]}`, 413},
		"as many fields as fit":       {`{` + small.String() + `"name":"a"}`, 400},
		"as many elements as fit":     {`{"retry_on":[` + elements.String()[:60_000] + `500]}`, 422},
		"as many brackets as fit":     {strings.Repeat("[", 64<<10), 400},
		"a name as long as fits":      {`{"` + strings.Repeat("n", 65_000) + `":1}`, 400},
		"a number as long as fits":    {`{"concurrency":` + strings.Repeat("9", 65_000) + `}`, 400},
		"an exponent beyond floats":   {`{"rate_limit":{"per_second":1e400,"burst":1}}`, 400},
		"escapes as long as they fit": {`{"` + strings.Repeat(`\u0061`, 10_000) + `":1}`, 400},
	} {
		a := w.do("PATCH", "/v1/endpoints/"+h.endpoint, h.write, tt.body)
		if a.status != tt.status || len(a.body) > 16<<10 {
			t.Errorf("%s: %d with %d bytes, want %d: %.300s", name, a.status, len(a.body), tt.status, a.body)
		}
	}
}

func TestDecodeListsAtMostSomeErrors(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		b.WriteString(`,"x` + strings.Repeat("y", i%300) + `":1`)
	}
	err := decode([]byte("{"+b.String()[1:]+"}"), &sample{})
	var e *kapsel.Error
	if !errors.As(err, &e) || len(e.Fields) != kapsel.MaxFields {
		t.Fatalf("%v", err)
	}
	for _, f := range e.Fields {
		if len(f.Field) > 110 {
			t.Errorf("a field of %d bytes is repeated", len(f.Field))
		}
	}
}

// TestMergePatch_RFC7396 has the test cases of the RFC's appendix A whose patches are objects.
func TestMergePatch_RFC7396(t *testing.T) {
	tests := [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	}
	for _, tt := range tests {
		document, _ := tree([]byte(tt[0]))
		patch, _ := tree([]byte(tt[1]))
		want, _ := tree([]byte(tt[2]))
		if diff := cmp.Diff(want, merge(document, patch)); diff != "" {
			t.Errorf("%s with %s (-want +got):\n%s", tt[0], tt[1], diff)
		}
	}
}

func TestSaid(t *testing.T) {
	patch, _ := tree([]byte(`{"a":{"b":null,"c":1},"d":null}`))
	tests := []struct {
		path []string
		want any
		ok   bool
	}{
		{[]string{"a", "b"}, nil, true},
		{[]string{"a", "c"}, json.Number("1"), true},
		{[]string{"a", "x"}, nil, false},
		{[]string{"x", "y"}, nil, false},
		{[]string{"d"}, nil, true},
		{[]string{"d", "e"}, nil, true},
	}
	for _, tt := range tests {
		if v, ok := said(patch, tt.path...); v != tt.want || ok != tt.ok {
			t.Errorf("said(%v) = %v, %v", tt.path, v, ok)
		}
	}
	if _, ok := said(nil, "a", "b"); ok {
		t.Error("a nil patch says something")
	}
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour: "1h", 24 * time.Hour: "24h", 2160 * time.Hour: "2160h",
		time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 100 * time.Millisecond: "100ms", 20 * time.Hour: "20h",
	} {
		if b, _ := duration(d).MarshalText(); string(b) != want {
			t.Errorf("%v is %s, want %s", d, b, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := duration(rapid.Int64().Draw(t, "d"))
		b, _ := d.MarshalText()
		var back duration
		if err := back.UnmarshalText(b); err != nil || back != d {
			t.Fatalf("%s: %v, %v", b, back, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","below":{"name":"b"},"set":{"X":"y"},"codes":[1]}`))
	f.Add([]byte(`{"at":"2026-01-02T03:04:05Z","wait":"1s","count":1e2}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var v sample
		if err := decode(body, &v); err != nil && kapsel.CodeOf(err) != kapsel.InvalidRequest {
			t.Errorf("%q passed the check and then failed: %v", body, err)
		}
	})
}
