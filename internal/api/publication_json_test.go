package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

func free(int) error { return nil }

// march is when the publications of these tests are read.
var march = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func nested(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

// TestReadPublications: what is published is read as it is written.
func TestReadPublications(t *testing.T) {
	jsonOf := func(body string) kapsel.Publication {
		return kapsel.Publication{Type: "a.b", Body: []byte(body), ContentType: "application/json"}
	}
	with := func(p kapsel.Publication, change func(*kapsel.Publication)) kapsel.Publication {
		change(&p)
		return p
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("a,b\n\xff??"))
	for _, tt := range []struct {
		body string
		keys []string
		want []kapsel.Publication
	}{
		{`{"type":"a.b","data":{}}`, nil, []kapsel.Publication{jsonOf(`{}`)}},
		{" {\"data\" :\t{ \"b\": 1.0e+2, \"a\":\"<\\u00e4\\/\", \"a\":9007199254740993 } ,\"type\":\"a.b\"}\n", nil,
			[]kapsel.Publication{jsonOf("{ \"b\": 1.0e+2, \"a\":\"<\\u00e4\\/\", \"a\":9007199254740993 }")}},
		{`{"type":"a.b","data":null}`, nil, []kapsel.Publication{jsonOf(`null`)}},
		{`{"type":"a.b","data":-0.0}`, nil, []kapsel.Publication{jsonOf(`-0.0`)}},
		{`{"type":"a.b","data":"}],\"{["}`, nil, []kapsel.Publication{jsonOf(`"}],\"{["`)}},
		{`{"type":"a.b","data":{"Data":1,"unknown":2,"type":3}}`, nil, []kapsel.Publication{jsonOf(`{"Data":1,"unknown":2,"type":3}`)}},
		{`{"type":"a.b","data":` + nested(maxDataDepth) + `}`, nil, []kapsel.Publication{jsonOf(nested(maxDataDepth))}},
		{`{"type":"a.b","data":1,"id":null,"channels":null,"dry_run":null,"content_type":null,"body_base64":null,"ordering_key":null,"app":null,"deliver_at":null}`, nil,
			[]kapsel.Publication{jsonOf(`1`)}},
		{`{"type":"a.b","data":1,"id":"no 7 ä","channels":["x","y-2"],"ordering_key":"c 1","dry_run":true}`, nil, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) {
			p.ID, p.Channels, p.OrderingKey, p.DryRun = "no 7 ä", []string{"x", "y-2"}, "c 1", true
		})}},
		{`{"type":"a.b","data":1,"deliver_at":"2026-03-31T14:00:00+02:00"}`, nil, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) {
			p.DeliverAt = march.Add(30 * 24 * time.Hour)
		})}},
		{`{"type":"a.b","data":1,"deliver_at":"2026-02-01T00:00:00Z"}`, nil, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) {
			p.DeliverAt = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
		})}},
		{`{"t\u0079pe":"a.b","data":1,"id":"\u00e4"}`, nil, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) { p.ID = "ä" })}},
		{`{"type":"a.b","data":1}`, []string{"k 1"}, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) { p.ID = "k 1" })}},
		{`{"type":"a.b","data":1,"id":"i"}`, []string{"k", "not valid \xff"}, []kapsel.Publication{with(jsonOf(`1`), func(p *kapsel.Publication) { p.ID = "i" })}},
		{`{"type":"a.b","body_base64":"` + encoded + `","content_type":"text/csv; charset=utf-8"}`, nil,
			[]kapsel.Publication{{Type: "a.b", Body: []byte("a,b\n\xff??"), ContentType: "text/csv; charset=utf-8"}}},
		{`{"type":"a.b","body_base64":"` + strings.ReplaceAll(encoded, "/", `\/`) + `","content_type":"a/b"}`, nil,
			[]kapsel.Publication{{Type: "a.b", Body: []byte("a,b\n\xff??"), ContentType: "a/b"}}},
		{`{"type":"a.b","body_base64":"","content_type":"a/b"}`, nil, []kapsel.Publication{{Type: "a.b", Body: []byte{}, ContentType: "a/b"}}},
		{`{"events":[{"type":"a.b","data":1}, {"data":[2],"type":"a.b"}]}`, nil, []kapsel.Publication{jsonOf(`1`), jsonOf(`[2]`)}},
	} {
		got, batch, err := readPublications([]byte(tt.body), tt.keys, march, free)
		if err != nil {
			t.Errorf("%.100s: %v", tt.body, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || batch != strings.Contains(tt.body, `"events"`) {
			t.Errorf("%.100s: batch %t (-want +got):\n%s", tt.body, batch, diff)
		}
	}
}

// TestReadPublications_Faults: everything that is wrong is named, with its path, at once. A form
// that cannot be read is 400, a value that is refused 422.
func TestReadPublications_Faults(t *testing.T) {
	long := func(n int) string { return strings.Repeat("k", n) }
	for _, tt := range []struct {
		body   string
		status int
		want   []string // fields; nil: it is not JSON
	}{
		{``, 400, nil},
		{` `, 400, nil},
		{`{"type":"a","data":}`, 400, nil},
		{`{"type":"a","data":1} {}`, 400, nil},
		{`{"type":"a","data":{"a":01}}`, 400, nil},
		{"{\"type\":\"a\",\"data\":\"\xff\"}", 400, nil},
		{"\ufeff{\"type\":\"a\",\"data\":1}", 400, nil},
		{`{"type":"a","data":` + nested(20_000) + `}`, 400, nil},
		{`[]`, 400, []string{"(body)"}},
		{`"events"`, 400, []string{"(body)"}},
		{`null`, 400, []string{"(body)"}},
		{`{}`, 422, []string{"data", "type"}},
		{`{"type":null,"data":1}`, 422, []string{"type"}},
		{`{"type":"","data":1}`, 422, []string{"type"}},
		{`{"type":"a b","data":1}`, 422, []string{"type"}},
		{`{"type":"orders/create","data":1}`, 422, []string{"type"}},
		{`{"type":"` + long(129) + `","data":1}`, 422, []string{"type"}},
		{`{"type":7,"data":1}`, 400, []string{"type"}},
		{`{"type":"a","Data":1}`, 400, []string{"Data", "data"}},
		{`{"type":"a","data":1,"type":"b"}`, 400, []string{"type"}},
		{`{"type":"a","data":1,"data":1,"x":{"y":[]}}`, 400, []string{"data", "x"}},
		{`{"type":"a","data":1,"app":"a/b"}`, 422, []string{"app"}},
		{`{"type":"a","data":1,"app":""}`, 422, []string{"app"}},
		{`{"type":"a","data":1,"app":1}`, 400, []string{"app"}},
		{`{"type":"a","data":1,"deliver_at":"2026-03-31T12:00:00.001Z"}`, 422, []string{"deliver_at"}},
		{`{"type":"a","data":1,"deliver_at":"tomorrow"}`, 422, []string{"deliver_at"}},
		{`{"type":"a","data":1,"deliver_at":"2026-03-02"}`, 422, []string{"deliver_at"}},
		{`{"type":"a","data":1,"deliver_at":""}`, 422, []string{"deliver_at"}},
		{`{"type":"a","data":1,"deliver_at":1772452800}`, 400, []string{"deliver_at"}},
		{`{"events":[{"type":"a","data":1},{"type":"a","data":1,"deliver_at":"2199-01-01T00:00:00Z"}]}`, 422, []string{"events[1].deliver_at"}},
		{`{"type":"a","data":` + nested(maxDataDepth+1) + `}`, 422, []string{"data"}},
		{`{"type":"a","data":1,"body_base64":""}`, 422, []string{"body_base64"}},
		{`{"type":"a","data":1,"content_type":"application/json"}`, 422, []string{"content_type"}},
		{`{"type":"a","body_base64":"aGk="}`, 422, []string{"content_type"}},
		{`{"type":"a","body_base64":"aGk","content_type":"text/plain"}`, 422, []string{"body_base64"}},
		{`{"type":"a","body_base64":"_-8=","content_type":"text/plain"}`, 422, []string{"body_base64"}},
		{`{"type":"a","body_base64":["aGk="],"content_type":"text/plain"}`, 400, []string{"body_base64", "data"}},
		{`{"type":"a","body_base64":"aGk=","content_type":"text"}`, 422, []string{"content_type"}},
		{`{"type":"a","body_base64":"aGk=","content_type":"text/plain\r\nX: 1"}`, 422, []string{"content_type"}},
		{`{"type":"a","body_base64":"aGk=","content_type":"text/` + long(300) + `"}`, 422, []string{"content_type"}},
		{`{"type":"a","data":1,"id":""}`, 422, []string{"id"}},
		{`{"type":"a","data":1,"id":7}`, 400, []string{"id"}},
		{`{"type":"a","data":1,"id":"` + long(256) + `"}`, 422, []string{"id"}},
		{`{"type":"a","data":1,"id":"a\u0000b"}`, 422, []string{"id"}},
		{`{"type":"a","data":1,"id":"\ud800"}`, 400, []string{"id"}},
		{`{"type":"a","data":1,"ordering_key":"\n"}`, 422, []string{"ordering_key"}},
		{`{"type":"a","data":1,"channels":"x"}`, 400, []string{"channels"}},
		{`{"type":"a","data":1,"channels":["x",7,"y z",""]}`, 400, []string{"channels[1]", "channels[3]", "channels[2]"}},
		{`{"type":"a","data":1,"channels":["1","2","3","4","5","6","7","8","9","10","11"]}`, 422, []string{"channels"}},
		{`{"type":"a","data":1,"dry_run":"true"}`, 400, []string{"dry_run"}},
		{`{"type":"a","data":1,"dry_run":0}`, 400, []string{"dry_run"}},
		{`{"Events":[]}`, 400, []string{"Events", "data", "type"}},
		{`{"events":null}`, 400, []string{"events"}},
		{`{"events":{}}`, 400, []string{"events"}},
		{`{"events":[]}`, 422, []string{"events"}},
		{`{"events":[{"type":"a","data":1}],"dry_run":true,"x":1}`, 400, []string{"dry_run", "x"}},
		{`{"events":[{"type":"a","data":1}],"events":[]}`, 400, []string{"events"}},
		{`{"events":[{"type":"a","data":1},7,null,{"type":"b c","data":1,"X":2},{"events":[]}]}`, 400,
			[]string{"events[1]", "events[2]", "events[3].X", "events[3].type", "events[4].events", "events[4].data", "events[4].type"}},
		{`{"events":[` + strings.TrimSuffix(strings.Repeat(`{"type":"a","data":1},`, 101), ",") + `]}`, 422, []string{"events"}},
	} {
		got, _, err := readPublications([]byte(tt.body), nil, march, free)
		var refused *kapsel.Error
		if !errors.As(err, &refused) || refused.Code != kapsel.InvalidRequest || got != nil && tt.want == nil {
			t.Errorf("%.100s: %v, %v", tt.body, got, err)
			continue
		}
		status := refused.Status
		if status == 0 {
			status = refused.Code.Status()
		}
		var fields []string
		for _, f := range refused.Fields {
			fields = append(fields, f.Field)
		}
		if diff := cmp.Diff(tt.want, fields); diff != "" || status != tt.status {
			t.Errorf("%.100s: %d, want %d; fields (-want +got):\n%s", tt.body, status, tt.status, diff)
		}
	}
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `"x%d":1,`, i)
	}
	for _, body := range []string{`{` + many.String() + `"type":"a"}`, `{` + many.String() + `"events":[]}`, `{"events":[{` + many.String() + `"type":"a"},7]}`} {
		_, _, err := readPublications([]byte(body), nil, march, free)
		var refused *kapsel.Error
		if !errors.As(err, &refused) || len(refused.Fields) != kapsel.MaxFields {
			t.Errorf("%.50s: %v", body, err)
		}
	}
	for _, tt := range []struct {
		body string
		keys []string
		want int
	}{
		{`{"type":"a","data":1}`, []string{""}, 400},
		{`{"type":"a","data":1}`, []string{"a", "b"}, 400},
		{`{"type":"a","data":1}`, []string{"ä"}, 400},
		{`{"type":"a","data":1}`, []string{long(256)}, 400},
		{`{"events":[{"type":"a","data":1}]}`, []string{"k"}, 422},
	} {
		_, _, err := readPublications([]byte(tt.body), tt.keys, march, free)
		var refused *kapsel.Error
		if !errors.As(err, &refused) || refused.Status != tt.want || refused.Fields[0].Field != "Idempotency-Key" {
			t.Errorf("%s with the keys %q: %v", tt.body, tt.keys, err)
		}
	}
}

// TestReadPublications_Memory: what is copied is charged for first, and a refusal of that memory
// is the answer.
func TestReadPublications_Memory(t *testing.T) {
	full := errors.New("no memory")
	for body, want := range map[string]int{
		`{"type":"a","data":[1, 2]}`:                                      6,
		`{"type":"a","body_base64":"aGFsbG8=","content_type":"a/b"}`:      6,
		`{"type":"a","body_base64":"aGF\u0073bG8=","content_type":"a/b"}`: 13 + 6,
	} {
		charged := 0
		list, _, err := readPublications([]byte(body), nil, march, func(n int) error { charged += n; return nil })
		if err != nil || charged != want || len(list[0].Body) > charged {
			t.Errorf("%s: charged %d for %+v, %v", body, charged, list, err)
		}
		if _, _, err := readPublications([]byte(body), nil, march, func(int) error { return full }); err != full {
			t.Errorf("%s without memory: %v", body, err)
		}
	}
	body := []byte(`{"type":"a","data":"mine"}`)
	list, _, err := readPublications(body, nil, march, free)
	if copy(body, bytes.Repeat([]byte("x"), len(body))); err != nil || string(list[0].Body) != `"mine"` {
		t.Errorf("the body is %q once the request's is gone, %v", list[0].Body, err)
	}
}

// TestReadPublications_LongTexts checks that a text, or a member's name, that is too long for any
// use is refused by its field, and is not copied: that memory is not charged.
func TestReadPublications_LongTexts(t *testing.T) {
	const size = 8 << 20
	long := strings.Repeat("x", size)
	for _, form := range []string{
		`{"type":"LONG","data":1}`,
		`{"type":"a","data":1,"id":"\u0061LONG"}`,
		`{"type":"a","data":1,"channels":["LONG"]}`,
		`{"type":"a","data":1,"LONG":1}`,
		`{"events":[{"type":"a","data":1,"\u0061LONG":1}]}`,
	} {
		body := []byte(strings.Replace(form, "LONG", long, 1))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := readPublications(body, nil, march, free)
		runtime.ReadMemStats(&after)
		if kapsel.CodeOf(err) != kapsel.InvalidRequest {
			t.Errorf("%s: %v", form, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > size/2 {
			t.Errorf("%s: %d bytes allocated for a text of %d", form, n, size)
		}
	}
}

// TestReadPublications_AnyJSON: whatever the data, encoding/json and the walk over it agree, and
// its bytes stay.
func TestReadPublications_AnyJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var draw func(depth int) string
		space := func() string { return rapid.SampledFrom([]string{"", " ", "\n\t ", "\r"}).Draw(t, "space") }
		draw = func(depth int) string {
			kind := rapid.IntRange(0, 4).Draw(t, "kind")
			if depth == 0 {
				kind %= 3
			}
			text := space()
			switch kind {
			case 0:
				text += rapid.SampledFrom([]string{"null", "true", "false", "0", "-1.5E+3"}).Draw(t, "literal")
			case 1, 2:
				b, _ := json.Marshal(rapid.StringMatching(`[a"\\{}\[\],: ]*`).Draw(t, "string"))
				text += string(b)
			case 3:
				var list []string
				for range rapid.IntRange(0, 3).Draw(t, "elements") {
					list = append(list, draw(depth-1))
				}
				text += "[" + strings.Join(list, ",") + space() + "]"
			case 4:
				var list []string
				for i := range rapid.IntRange(0, 3).Draw(t, "members") {
					b, _ := json.Marshal(fmt.Sprint(i, rapid.StringMatching(`["\\}]*`).Draw(t, "name")))
					list = append(list, space()+string(b)+space()+":"+draw(depth-1))
				}
				text += "{" + strings.Join(list, ",") + space() + "}"
			}
			return text + space()
		}
		data := draw(4)
		list, _, err := readPublications([]byte(`{"data":`+data+`,"type":"a"}`), nil, march, free)
		if err != nil || string(list[0].Body) != strings.Trim(data, jsonSpace) {
			t.Fatalf("%q became %+v, %v", data, list, err)
		}
	})
}

// FuzzReadPublications: nothing that is posted brings the reader down, and what it passes is what
// encoding/json reads.
func FuzzReadPublications(f *testing.F) {
	for _, seed := range []string{`{"type":"a","data":{"b":["c"]}}`, `{"events":[{"type":"a","body_base64":"aGk=","content_type":"a/b"}]}`, `{"a":"\"`, `[`, `{"data":`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		list, batch, err := readPublications(body, nil, march, free)
		if err != nil {
			return
		}
		var single struct{ Data json.RawMessage }
		if err := json.Unmarshal(body, &single); err != nil {
			t.Fatalf("%q was read, %v", body, err)
		}
		if !batch && single.Data != nil && !bytes.Equal(single.Data, list[0].Body) {
			t.Fatalf("%q became %q", single.Data, list[0].Body)
		}
	})
}
