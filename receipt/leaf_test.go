package receipt

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// Ids of the examples.
const (
	attemptID  = "att_01jdxqk4v8e0ht6zq3m9w2y7ab"
	deliveryID = "dlv_01jdxqk4v8e0ht6zq3m9w2y7ac"
	eventID    = "evt_01jdxqk4v8e0ht6zq3m9w2y7ad"
	endpointID = "ep_01jdxqk4v8e0ht6zq3m9w2y7ae"
)

// bytesOf returns Size bytes of one value.
func bytesOf(b byte) []byte { return bytes.Repeat([]byte{b}, Size) }

// leaves are leaves of each type and their texts, which must never change.
var leaves = []struct {
	leaf Leaf
	text string
}{
	{
		&Attempt{AttemptID: attemptID, DeliveryID: deliveryID, EventID: eventID, EndpointID: endpointID, Number: 1, AttemptedAtMS: 1732878000123, EndedAtMS: 1732878000456,
			StatusCode: 200, URL: bytesOf(1), Payload: bytesOf(2), Request: bytesOf(0xab), Response: bytesOf(0xff)},
		`{"v":1,"type":"attempt","attempt_id":"att_01jdxqk4v8e0ht6zq3m9w2y7ab","delivery_id":"dlv_01jdxqk4v8e0ht6zq3m9w2y7ac","event_id":"evt_01jdxqk4v8e0ht6zq3m9w2y7ad","endpoint_id":"ep_01jdxqk4v8e0ht6zq3m9w2y7ae",` +
			`"attempt":1,"attempted_at_ms":1732878000123,"ended_at_ms":1732878000456,"status_code":200,"error_code":null,"url_commitment":"` + strings.Repeat("01", 32) + `","payload_commitment":"` + strings.Repeat("02", 32) +
			`","request_commitment":"` + strings.Repeat("ab", 32) + `","response_commitment":"` + strings.Repeat("ff", 32) + `"}`,
	},
	{
		&Attempt{AttemptID: attemptID, DeliveryID: deliveryID, EventID: eventID, EndpointID: endpointID, Number: 20, AttemptedAtMS: 0, EndedAtMS: 9007199254740991, ErrorCode: "E2010"},
		`{"v":1,"type":"attempt","attempt_id":"att_01jdxqk4v8e0ht6zq3m9w2y7ab","delivery_id":"dlv_01jdxqk4v8e0ht6zq3m9w2y7ac","event_id":"evt_01jdxqk4v8e0ht6zq3m9w2y7ad","endpoint_id":"ep_01jdxqk4v8e0ht6zq3m9w2y7ae",` +
			`"attempt":20,"attempted_at_ms":0,"ended_at_ms":9007199254740991,"status_code":null,"error_code":"E2010","url_commitment":null,"payload_commitment":null,"request_commitment":null,"response_commitment":null}`,
	},
	{
		&KeyChange{ChangedAtMS: 1732878000123, PublicKey: bytesOf(7)},
		`{"v":1,"type":"key","changed_at_ms":1732878000123,"public_key":"` + strings.Repeat("07", 32) + `","former_key":null}`,
	},
	{
		&KeyChange{ChangedAtMS: 1732878000123, PublicKey: bytesOf(8), Former: bytesOf(7)},
		`{"v":1,"type":"key","changed_at_ms":1732878000123,"public_key":"` + strings.Repeat("08", 32) + `","former_key":"` + strings.Repeat("07", 32) + `"}`,
	},
	{
		&Erased{EventID: eventID, ErasedAtMS: 1732878000123},
		`{"v":1,"type":"erased","event_id":"evt_01jdxqk4v8e0ht6zq3m9w2y7ad","attempt_ids":[],"erased_at_ms":1732878000123}`,
	},
	{
		&Erased{EventID: eventID, AttemptIDs: []string{attemptID, "att_01jdxqk4v8e0ht6zq3m9w2y7zz"}, ErasedAtMS: 1732878000123},
		`{"v":1,"type":"erased","event_id":"evt_01jdxqk4v8e0ht6zq3m9w2y7ad","attempt_ids":["att_01jdxqk4v8e0ht6zq3m9w2y7ab","att_01jdxqk4v8e0ht6zq3m9w2y7zz"],"erased_at_ms":1732878000123}`,
	},
}

func TestLeaf(t *testing.T) {
	for _, l := range leaves {
		if got := string(l.leaf.Append([]byte("before "))); got != "before "+l.text {
			t.Errorf("the text is\n%s, want\n%s", got, l.text)
		}
		got, err := ParseLeaf(l.text)
		if err != nil || !reflect.DeepEqual(got, l.leaf) {
			t.Errorf("ParseLeaf(%s) = %+v, %v, want %+v", l.text, got, err, l.leaf)
		}
		if !json.Valid([]byte(l.text)) {
			t.Errorf("%s is not JSON", l.text)
		}
	}
}

func TestLeaf_Refused(t *testing.T) {
	for _, l := range leaves {
		for i := range l.text {
			if _, err := ParseLeaf(l.text[:i]); err == nil {
				t.Errorf("a text that ends after %d bytes is a leaf: %s", i, l.text[:i])
			}
			if spaced := l.text[:i] + " " + l.text[i:]; parses(spaced) {
				t.Errorf("a text with a space is a leaf: %s", spaced)
			}
		}
		if parses(l.text + "\n") {
			t.Error("a text with a line end is a leaf")
		}
	}
	attempt := leaves[0].text
	for _, c := range [][2]string{
		{`"v":1`, `"v":2`}, {`"v":1`, `"v":01`}, {`"type":"attempt"`, `"type":"other"`}, {`"type":"attempt"`, `"type":"key"`},
		{`att_0`, `att_8`}, {`att_0`, `evt_0`}, {`att_01jdx`, `att_01JDX`}, {`7ab"`, `7al"`}, {`7ab"`, `7\u0061"`},
		{`"attempt":1,`, `"attempt":0,`}, {`"attempt":1,`, `"attempt":01,`}, {`"attempt":1,`, `"attempt":-1,`}, {`"attempt":1,`, `"attempt":1.0,`},
		{`"attempt":1,`, `"attempt":2147483648,`}, {`"attempt":1,`, `"attempt":null,`}, {`1732878000123`, `9007199254740992`}, {`1732878000123`, `99999999999999999999`},
		{`:200,`, `:99,`}, {`:200,`, `:1000,`}, {`:200,`, `:0,`}, {`:200,`, `:"200",`},
		{`"error_code":null`, `"error_code":""`}, {`"error_code":null`, `"error_code":"E200"`}, {`"error_code":null`, `"error_code":"e2001"`}, {`"error_code":null`, `"error_code":"E20010"`},
		{`abab`, `ABAB`}, {`abab`, `abag`}, {`abab`, `ab`}, {`"url_commitment"`, `"payload_commitment"`}, {`"}`, `","more":1}`},
	} {
		if !strings.Contains(attempt, c[0]) {
			t.Fatalf("%s is not in the leaf", c[0])
		}
		if changed := strings.Replace(attempt, c[0], c[1], 1); parses(changed) {
			t.Errorf("with %s instead of %s it is a leaf", c[1], c[0])
		}
	}
	if parses(strings.Replace(leaves[2].text, `"`+strings.Repeat("07", 32)+`"`, "null", 1)) {
		t.Error("a key leaf without a key is a leaf")
	}
	many := &Erased{EventID: eventID}
	for range MaxErased {
		many.AttemptIDs = append(many.AttemptIDs, attemptID)
	}
	if !parses(string(many.Append(nil))) {
		t.Errorf("an erased leaf of %d attempts is refused", MaxErased)
	}
	many.AttemptIDs = append(many.AttemptIDs, attemptID)
	if parses(string(many.Append(nil))) {
		t.Errorf("an erased leaf of %d attempts is a leaf", MaxErased+1)
	}
}

func parses(text string) bool {
	_, err := ParseLeaf(text)
	return err == nil
}

func TestLeaf_Allocations(t *testing.T) {
	leaf, b := leaves[0].leaf, make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { b = leaf.Append(b[:0]) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}

func FuzzParseLeaf(f *testing.F) {
	for _, l := range leaves {
		f.Add(l.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		leaf, err := ParseLeaf(text)
		if err != nil {
			return
		}
		if got := string(leaf.Append(nil)); got != text {
			t.Errorf("%q is read as %q", text, got)
		}
	})
}

func BenchmarkLeaf(b *testing.B) {
	leaf, text := leaves[0].leaf, make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		text = leaf.Append(text[:0])
	}
}
