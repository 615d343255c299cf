package kapsel_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

func TestStatusOfEvent(t *testing.T) {
	for _, tt := range []struct {
		newest string // a delivery to each endpoint: its state, and * after it when it was tried
		want   kapsel.EventStatus
	}{
		{"", "unmatched"},
		{"pending", "received"},
		{"delivering", "received"},
		{"pending delivering", "received"},
		{"pending*", "pending"},
		{"delivering*", "delivering"},
		{"pending delivering*", "delivering"},
		{"pending* delivering", "delivering"},
		{"delivered*", "delivered"},
		{"failed*", "failed"},
		{"dead_letter*", "dead_letter"},
		{"canceled", "canceled"},
		{"pending delivered*", "pending"},
		{"delivered* canceled", "canceled"},
		{"canceled failed*", "failed"},
		{"failed* dead_letter*", "dead_letter"},
		{"dead_letter* pending*", "pending"},
		{"delivered* canceled failed* dead_letter* pending delivering", "delivering"},
	} {
		var newest []kapsel.Delivery
		for name := range strings.FieldsSeq(tt.newest) {
			name, tried := strings.CutSuffix(name, "*")
			status, err := kapsel.ParseDeliveryStatus(name)
			if err != nil {
				t.Fatal(err)
			}
			d := kapsel.Delivery{Status: status}
			if tried {
				d.Attempts = 1
			}
			newest = append(newest, d)
		}
		for range 2 {
			if got := kapsel.StatusOfEvent(newest, false); got != tt.want {
				t.Errorf("%v is %s, want %s", newest, got, tt.want)
			}
			slices.Reverse(newest) // the order does not matter
		}
	}
}

// fields are header lines that a server lets in: names are tokens, values any bytes but CR,
// LF and NUL.
func fields() *rapid.Generator[kapsel.HeaderField] {
	name := rapid.StringMatching("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
	value := rapid.SliceOf(rapid.Byte().Filter(func(b byte) bool { return b != '\r' && b != '\n' && b != 0 }))
	return rapid.Custom(func(t *rapid.T) kapsel.HeaderField {
		return kapsel.HeaderField{Name: name.Draw(t, "name"), Value: string(value.Draw(t, "value"))}
	})
}

// TestHeaderRoundTrip_B9 checks that a stored header is read back with every byte of its
// values and every line in its order.
func TestHeaderRoundTrip_B9(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want kapsel.Header = rapid.SliceOf(fields()).Draw(t, "header")
		b, err := want.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		kept, ok := bytes.CutPrefix(b, []byte("before"))
		if !ok {
			t.Fatalf("not appended: %q", b)
		}
		got := kapsel.Header{{Name: "X-Old", Value: "is overwritten"}}
		if err := got.UnmarshalBinary(kept); err != nil {
			t.Fatal(err)
		}
		clear(kept) // the memory is the caller's again
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	})
}

func TestHeaderKeepsOddLines(t *testing.T) {
	want := kapsel.Header{
		{Name: "X", Value: ""}, {Name: "X", Value: " leading and trailing "}, {Name: "x", Value: ": "}, {Name: "X", Value: "a: b: c"},
		{Name: "X", Value: "\x80\xff\t\x01"}, {Name: "X", Value: ""},
	}
	b, _ := want.AppendBinary(nil)
	if text := "X: \r\nX:  leading and trailing \r\nx: : \r\nX: a: b: c\r\nX: \x80\xff\t\x01\r\nX: \r\n"; string(b) != text {
		t.Errorf("kept as %q", b)
	}
	var got kapsel.Header
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestHeaderGet(t *testing.T) {
	h := kapsel.Header{{Name: "x-one", Value: "1"}, {Name: "X-One", Value: "2"}, {Name: "X-Empty", Value: ""}}
	for name, want := range map[string]string{"X-One": "1", "X-ONE": "1", "x-empty": "", "X-Two": "", "": ""} {
		if got := h.Get(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func TestHeaderJSON(t *testing.T) {
	for _, tt := range []struct {
		header kapsel.Header
		want   string
	}{
		{nil, `[]`},
		{kapsel.Header{{Name: "B", Value: "2"}, {Name: "a", Value: `"é"`}, {Name: "B", Value: "1"}}, `[["B","2"],["a","\"é\""],["B","1"]]`},
		{kapsel.Header{{Name: "X", Value: "a\xffb"}}, `[["X","a\ufffdb"]]`},
	} {
		got, err := json.Marshal(tt.header)
		if err != nil || string(got) != tt.want {
			t.Errorf("%v is %s, %v; want %s", tt.header, got, err, tt.want)
		}
	}
}

// TestHeader_B93_Hops checks that the hops of an event are counted by its headers, and a
// forged or unreadable count is taken for the largest.
func TestHeader_B93_Hops(t *testing.T) {
	id := kapsel.NewEventID(time.UnixMilli(1_700_000_000_000), 0).String()
	for _, tt := range []struct {
		header kapsel.Header
		want   int
	}{
		{nil, 0},
		{kapsel.Header{{"X-Kapsel-Event-Id", "evt_forged"}}, 0},
		{kapsel.Header{{"X-Kapsel-Event-Id", id}}, 1},
		{kapsel.Header{{"x-kapsel-event-id", id}, {"x-kapsel-hops", "2"}}, 2},
		{kapsel.Header{{"X-Kapsel-Hops", "4"}}, 4},
		{kapsel.Header{{"X-Kapsel-Hops", "5"}}, 5},
		{kapsel.Header{{"X-Kapsel-Hops", "99999999999999999999"}}, 5},
		{kapsel.Header{{"X-Kapsel-Hops", "-1"}}, 5},
		{kapsel.Header{{"X-Kapsel-Hops", "two"}}, 5},
	} {
		if got := tt.header.Hops(); got != tt.want {
			t.Errorf("%v: %d hops, want %d", tt.header, got, tt.want)
		}
	}
}

// TestHeader_Via checks that marks that a sender wrote itself do not push out the marks of ingest
// URLs that an event has passed, so that a loop is found.
func TestHeader_Via(t *testing.T) {
	passed := []string{"aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"}
	theirs := strings.Repeat("0123456789abcdef,", 20)
	for text, want := range map[string][]string{
		"":                                      nil,
		"a, ,aaaaaaaaaaaaaaaa0":                 nil,
		strings.Join(passed, ","):               passed,
		" " + strings.Join(passed, " , ") + " ": passed,
		theirs + strings.Join(passed, ","):      append(slices.Repeat([]string{"0123456789abcdef"}, kapsel.MaxHops-2), passed...),
	} {
		if got := (kapsel.Header{{kapsel.ViaHeader, text}}).Via(); !slices.Equal(got, want) {
			t.Errorf("%.40q: %q, want %q", text, got, want)
		}
	}
}
