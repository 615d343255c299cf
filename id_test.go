package kapsel

import (
	"bytes"
	"hash/fnv"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// Kinds with the prefixes of the specification's vectors.
type (
	prefixKind  struct{}
	pre_fixKind struct{}
)

func (prefixKind) prefix() string  { return "prefix" }
func (pre_fixKind) prefix() string { return "pre_fix" }

// The vectors of the TypeID specification 0.3 (spec/valid.yml). Our ids all have a prefix,
// so those without one are read with one; and no id of ours is zero.
func TestTypeIDValidVectors(t *testing.T) {
	for _, v := range []struct{ name, suffix, uuid string }{
		{"one", "00000000000000000000000001", "00000000-0000-0000-0000-000000000001"},
		{"ten", "0000000000000000000000000a", "00000000-0000-0000-0000-00000000000a"},
		{"sixteen", "0000000000000000000000000g", "00000000-0000-0000-0000-000000000010"},
		{"thirty-two", "00000000000000000000000010", "00000000-0000-0000-0000-000000000020"},
		{"max-valid", "7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
		{"valid-alphabet", "0123456789abcdefghjkmnpqrs", "0110c853-1d09-52d8-d73e-1194e95b5f19"},
		{"valid-uuidv7", "01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057"},
	} {
		want := uuid.MustParse(v.uuid)
		id, err := ParseID[prefixKind]("prefix_" + v.suffix)
		if err != nil || uuid.UUID(id) != want || id.String() != "prefix_"+v.suffix {
			t.Errorf("%s: %v, %v; want %s", v.name, id, err, v.uuid)
		}
		other, err := ParseID[pre_fixKind]("pre_fix_" + v.suffix)
		if err != nil || uuid.UUID(other) != want || other.String() != "pre_fix_"+v.suffix {
			t.Errorf("%s with an underscore in the prefix: %v, %v; want %s", v.name, other, err, v.uuid)
		}
	}
	if id, err := ParseID[prefixKind]("prefix_00000000000000000000000000"); err == nil {
		t.Errorf("nil: parsed as %v, which stands for none", id)
	}
}

// TestTypeIDInvalidVectors checks that texts that are no id are refused, among them NUL and
// invalid UTF-8. The vectors are spec/invalid.yml of TypeID, and some of our own.
func TestTypeIDInvalidVectors(t *testing.T) {
	for _, v := range []struct{ name, text string }{
		{"prefix-uppercase", "PREFIX_00000000000000000000000000"},
		{"prefix-numeric", "12345_00000000000000000000000000"},
		{"prefix-period", "pre.fix_00000000000000000000000000"},
		{"prefix-non-ascii", "préfix_00000000000000000000000000"},
		{"prefix-spaces", "  prefix_00000000000000000000000000"},
		{"prefix-64-chars", "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl_00000000000000000000000000"},
		{"separator-empty-prefix", "_00000000000000000000000000"},
		{"separator-empty", "_"},
		{"suffix-short", "prefix_1234567890123456789012345"},
		{"suffix-long", "prefix_123456789012345678901234567"},
		{"suffix-spaces", "prefix_1234567890123456789012345 "},
		{"suffix-uppercase", "prefix_0123456789ABCDEFGHJKMNPQRS"},
		{"suffix-hyphens", "prefix_123456789-123456789-123456"},
		{"suffix-wrong-alphabet", "prefix_ooooooiiiiiiuuuuuuulllllll"},
		{"suffix-ambiguous-crockford", "prefix_i23456789ol23456789oi23456"},
		{"suffix-hyphens-crockford", "prefix_123456789-0123456789-0123456"},
		{"suffix-overflow", "prefix_8zzzzzzzzzzzzzzzzzzzzzzzzz"},
		{"prefix-underscore-start", "_prefix_00000000000000000000000000"},
		{"prefix-underscore-end", "prefix__00000000000000000000000000"},
		{"empty", ""},
		{"prefix-empty", "prefix_"},

		{"another kind", "evt_01h455vb4pex5vsknk084sn02q"},
		{"no separator", "prefix01h455vb4pex5vsknk084sn02qq"},
		{"another separator", "prefix-01h455vb4pex5vsknk084sn02q"},
		{"B-13 NUL", "prefix_01h455vb4pex5vsknk084sn02\x00"},
		{"B-13 invalid UTF-8", "prefix_01h455vb4pex5vsknk084sn02\xff"},
		{"first character not a digit", "prefix_g1h455vb4pex5vsknk084sn02q"},
		{"first character below the digits", "prefix_/1h455vb4pex5vsknk084sn02q"},
		{"trailing newline", "prefix_01h455vb4pex5vsknk084sn02q\n"},
	} {
		for name, text := range map[string]string{v.name: v.text, v.name + ", our prefix": strings.Replace(v.text, "prefix", "evt", 1)} {
			if id, err := ParseID[prefixKind](text); err == nil {
				t.Errorf("%s: %q parsed as %v", name, text, id)
			}
		}
	}
}

func TestPrefixesFollowTypeID(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z]([a-z_]{0,61}[a-z])?$`)
	kinds := []kind{tenantKind{}, keyKind{}, endpointKind{}, eventKind{}, deliveryKind{}, attemptKind{}, secretKind{}, nodeKind{}, replayKind{}}
	seen := map[string]bool{}
	for _, k := range kinds {
		if p := k.prefix(); !valid.MatchString(p) || seen[p] {
			t.Errorf("prefix %q is not valid, or not alone", p)
		}
		seen[k.prefix()] = true
	}
}

// Every id goes through text and back, and its text is its number in base 32.
func TestIDRoundTrip(t *testing.T) {
	digits := "0123456789abcdefghijklmnopqrstuv" // math/big's
	toCrockford := strings.NewReplacer(slices.Collect(func(yield func(string) bool) {
		for i := range digits {
			_ = yield(digits[i:i+1]) && yield(base32[i:i+1])
		}
	})...)
	rapid.Check(t, func(t *rapid.T) {
		var id EventID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		if id.IsZero() {
			t.Skip("stands for none")
		}
		number := new(big.Int).SetBytes(id[:]).Text(32)
		want := "evt_" + strings.Repeat("0", 26-len(number)) + toCrockford.Replace(number)
		if got := id.String(); got != want {
			t.Fatalf("text is %s, want %s", got, want)
		}
		text, err := id.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back EventID
		if err := back.UnmarshalText(text); err != nil || back != id {
			t.Fatalf("%s came back as %v, %v", text, back, err)
		}
		if _, err := ParseDeliveryID(string(text)); err == nil {
			t.Fatalf("%s is also a delivery's", text)
		}
	})
}

func TestParseIDTakesOnlyWhatStringGives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`evt_[0-9a-z]{26}|ev[a-z]?_?[0-9a-zA-Z_-]{24,28}`).Draw(t, "text")
		if id, err := ParseEventID(text); err == nil && id.String() != text {
			t.Fatalf("%s came back as %s", text, id)
		}
	})
}

func TestZeroIDIsNone(t *testing.T) {
	var id EndpointID
	if !id.IsZero() || id.String() != "" {
		t.Errorf("the zero id is %q", id)
	}
	if err := id.UnmarshalText(nil); err == nil {
		t.Error("no text is an id")
	}
}

func TestIDParsersTakeTheirOwnKind(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		text  string
		parse func(string) (string, error)
	}{
		{NewTenantID(now).String(), func(s string) (string, error) { id, err := ParseTenantID(s); return id.String(), err }},
		{NewKeyID(now).String(), func(s string) (string, error) { id, err := ParseKeyID(s); return id.String(), err }},
		{NewEndpointID(now).String(), func(s string) (string, error) { id, err := ParseEndpointID(s); return id.String(), err }},
		{NewEventID(now, 1).String(), func(s string) (string, error) { id, err := ParseEventID(s); return id.String(), err }},
		{NewDeliveryID(now, 1).String(), func(s string) (string, error) { id, err := ParseDeliveryID(s); return id.String(), err }},
		{NewAttemptID(now, 1).String(), func(s string) (string, error) { id, err := ParseAttemptID(s); return id.String(), err }},
	} {
		if got, err := tt.parse(tt.text); err != nil || got != tt.text {
			t.Errorf("%s came back as %q, %v", tt.text, got, err)
		}
		if got, err := tt.parse(NewSecretID(now).String()); err == nil {
			t.Errorf("a secret's id is also %q", got)
		}
	}
}

// Ids are UUIDv7: of their millisecond, and sorted by it, as bytes and as text.
func TestIDsSortByTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(label string) time.Time {
			return time.UnixMilli(rapid.Int64Range(0, 1<<48-1).Draw(t, label)).UTC()
		}
		early, late := at("early"), at("late")
		if late.Before(early) {
			early, late = late, early
		}
		part := rapid.Byte().Draw(t, "part")
		a, b := NewEventID(early, part), NewEventID(late, part)
		if !a.Time().Equal(early) || !b.Time().Equal(late) {
			t.Fatalf("made at %v and %v; say %v and %v", early, late, a.Time(), b.Time())
		}
		if a.Part() != part || b.Part() != part {
			t.Fatalf("parts are %d and %d, want %d", a.Part(), b.Part(), part)
		}
		if u := uuid.UUID(a); u.Version() != 7 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("%s has version %d, variant %v", u, u.Version(), u.Variant())
		}
		if early.Before(late) && (bytes.Compare(a[:], b[:]) >= 0 || a.String() >= b.String()) {
			t.Fatalf("%s of %v does not sort before %s of %v", a, early, b, late)
		}
		if !early.Before(late) && bytes.Equal(a[:], b[:]) {
			t.Fatal("two ids of one millisecond are equal")
		}
	})
}

// Stored ids carry their part, so these never change.
func TestPartOfIsFixed(t *testing.T) {
	for text, want := range map[string]uint8{
		"ep_01h455vb4pex5vsknk084sn02q": 0xa5,
		"ep_00000000000000000000000001": 0x64,
		"ep_7zzzzzzzzzzzzzzzzzzzzzzzzz": 0xbd,
	} {
		id, err := ParseEndpointID(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := PartOf(id); got != want {
			t.Errorf("part of %s is %#x, want %#x", text, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var id EndpointID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		h := fnv.New32a()
		h.Write(id[:])
		var fold uint8
		for _, b := range h.Sum(nil) {
			fold ^= b
		}
		if got := PartOf(id); got != fold {
			t.Fatalf("part is %d, want %d", got, fold)
		}
	})
}

func TestPartsAreEven(t *testing.T) {
	const endpoints = 100_000
	var count [256]int
	now := time.Now()
	for range endpoints {
		count[PartOf(NewEndpointID(now))]++
	}
	for part, n := range count {
		if n < endpoints/256/2 || n > endpoints/256*2 {
			t.Errorf("part %d has %d of %d endpoints", part, n, endpoints)
		}
	}
}
