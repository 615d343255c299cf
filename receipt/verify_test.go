package receipt

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestVerify checks that a package of each leaf is proven under each size of the log, in both forms.
func TestVerify(t *testing.T) {
	const most = 40
	l := newExampleLog(t, most)
	for n := int64(1); n <= most; n++ {
		for i := range n {
			p := l.pack(t, n, i)
			for _, text := range []string{asJSON(t, p), p.Text()} {
				read, err := ParsePackage([]byte(text))
				if err != nil || !reflect.DeepEqual(read, p) {
					t.Fatalf("leaf %d of %d: %+v is read as %+v: %v", i, n, p, read, err)
				}
			}
			proven, err := p.Verify(l.logKey())
			if err != nil || proven.Index != i || proven.Signed.Size != n || string(proven.Leaf.Append(nil)) != p.Leaf {
				t.Fatalf("leaf %d of %d: %+v, %v", i, n, proven, err)
			}
		}
		for from := range n + 1 {
			c := l.consistency(t, from, n)
			a, b := l.root(t, max(1, from)), l.root(t, n)
			if from == 0 {
				a = emptyRoot
			}
			if err := c.Check(a, b); err != nil {
				t.Errorf("from %d to %d: %v", from, n, err)
			}
			a[5] ^= 4
			if c.Check(a, b) == nil {
				t.Errorf("from %d to %d: another first root is consistent", from, n)
			}
		}
	}
}

// TestVerify_Mutated changes each bit and each length of what a package is made of. Every change must be
// refused, but for one of the salt, which makes every value differ.
func TestVerify_Mutated(t *testing.T) {
	const n = 21
	l := newExampleLog(t, n)
	for _, i := range []int64{0, 11, n - 1} { // with a proof of 5, 5 and 2 hashes
		good := l.pack(t, n, i)
		refused := func(what string, change func(p *Package)) {
			t.Helper()
			changed := *good
			p := &changed
			p.InclusionProof.ProofHashes = slices.Clone(p.InclusionProof.ProofHashes)
			change(p)
			if _, err := p.Verify(l.logKey()); err == nil {
				t.Errorf("leaf %d: a package is proven with %s", i, what)
			}
		}
		path := len(good.InclusionProof.ProofHashes)
		for bit := range 8 * Size {
			at, flip := bit/8, byte(1)<<(bit%8)
			for h := range path {
				refused("a changed hash", func(p *Package) { p.InclusionProof.ProofHashes[h][at] ^= flip })
			}
			refused("a changed leaf hash", func(p *Package) { p.InclusionProof.LeafHash[at] ^= flip })
			refused("a changed root", func(p *Package) { p.InclusionProof.RootHash[at] ^= flip })
		}
		for h := range path {
			refused("a hash too few", func(p *Package) {
				all := p.InclusionProof.ProofHashes
				p.InclusionProof.ProofHashes = append(append([]Hash{}, all[:h]...), all[h+1:]...)
			})
			refused("a hash twice", func(p *Package) {
				all := p.InclusionProof.ProofHashes
				p.InclusionProof.ProofHashes = append(append([]Hash{}, all[:h+1]...), all[h:]...)
			})
			for other := range h {
				refused("two hashes exchanged", func(p *Package) {
					all := p.InclusionProof.ProofHashes
					all[h], all[other] = all[other], all[h]
				})
			}
		}
		refused("a hash too many", func(p *Package) { p.InclusionProof.ProofHashes = append(p.InclusionProof.ProofHashes, Hash{}) })
		for other := int64(-1); other <= n; other++ {
			if other != i {
				refused("another index", func(p *Package) { p.InclusionProof.LeafIndex = other })
			}
		}
		for other := int64(-1); other <= n+1; other++ {
			if other != n {
				refused("another tree size", func(p *Package) { p.InclusionProof.TreeSize = other })
			}
		}
		for at := range l.leaves[i] {
			for bit := range 8 {
				refused("a changed leaf", func(p *Package) {
					b := []byte(p.Leaf)
					b[at] ^= 1 << bit
					p.Leaf = string(b)
				})
			}
		}
	}
}

// TestVerify_Checkpoint changes each byte of a signed checkpoint, and its signature lines.
func TestVerify_Checkpoint(t *testing.T) {
	l := newExampleLog(t, 9)
	good := l.checkpoint(t, 9)
	for i := range 8 * strings.Index(good, "— ") { // the bits of what is signed
		b := []byte(good)
		b[i/8] ^= 1 << (i % 8)
		if s, err := OpenCheckpoint(string(b), l.logKey()); err == nil {
			t.Errorf("with bit %d changed the checkpoint is %+v", i, s)
		}
	}
	witness, strange := l.cosignature(t, 9), signatureLine(Key{Name: "other.example", Public: public(l.other)}, make([]byte, 64))
	for _, c := range []struct {
		name, text string
		keys       []Key
		unknown    int
		cosigned   int
		refused    string // part of the error; "": it is accepted
	}{
		{"only the log", good, []Key{l.logKey()}, 0, 0, ""},
		{"the log's key without a name", good, []Key{{Public: public(l.key)}}, 0, 0, ""},
		{"former keys", good, []Key{{Public: public(l.other)}, l.logKey(), l.logKey(), {Public: public(l.key)}}, 0, 0, ""},
		{"no key", good, nil, 0, 0, "signed by none of the keys"},
		{"another key", good, []Key{{Public: public(l.other)}}, 0, 0, "signed by none of the keys"},
		{"the key of another log", good, []Key{{Name: "kapsel/other", Public: public(l.key)}}, 0, 0, "signed by none of the keys"},
		{"the key as a witness's", good, []Key{{Name: l.origin, Public: public(l.key), Witness: true}}, 0, 0, "signed by none of the keys"},
		{"unknown lines", good + strange + witness, []Key{l.logKey()}, 2, 0, ""},
		{"a witness", good + strange + witness, []Key{l.logKey(), l.witnessKey()}, 1, 1, ""},
		{"a witness that has not signed", good + strange, []Key{l.logKey(), l.witnessKey()}, 1, 0, ""},
		{"only the witness's key", good + witness, []Key{l.witnessKey()}, 0, 0, "belongs to its log"},
		{"a log's signature by the witness's kind", good + signatureLine(l.witnessKey(), make([]byte, 64)), []Key{l.logKey(), l.witnessKey()}, 0, 0, "signature of " + witnessName},
		{"another head's cosignature", good + l.cosignature(t, 8), []Key{l.logKey(), l.witnessKey()}, 0, 0, "signature of " + witnessName},
		{"no signature line", good[:strings.Index(good, "— ")], []Key{l.logKey()}, 0, 0, "not a signed note"},
		{"cut off", good[:len(good)-1], []Key{l.logKey()}, 0, 0, "not a signed note"},
		{"nothing", "", []Key{l.logKey()}, 0, 0, "not a signed note"},
	} {
		s, err := OpenCheckpoint(c.text, c.keys...)
		switch {
		case c.refused != "":
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want an error with %q", c.name, err, c.refused)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case s.Unknown != c.unknown || len(s.Cosignatures) != c.cosigned || s.Origin != l.origin || s.Size != 9:
			t.Errorf("%s: %+v", c.name, s)
		}
	}
	for _, text := range []string{"kapsel/a\n01\n" + emptyRoot.String() + "\n", "kapsel/a\n-1\n" + emptyRoot.String() + "\n", "kapsel/a\n9223372036854775808\n" + emptyRoot.String() + "\n",
		"kapsel/a\n1\nAAAA\n", "kapsel/a\n1\n" + strings.TrimRight(emptyRoot.String(), "=") + "\n", "kapsel/a\n1\n", "\n1\n" + emptyRoot.String() + "\n"} {
		if c, err := parseCheckpoint(text); err == nil {
			t.Errorf("%q is read as %+v", text, c)
		}
	}
	if c, err := parseCheckpoint("kapsel/a\n7\n" + emptyRoot.String() + "\nan extension\n"); err != nil || c.Size != 7 {
		t.Errorf("a checkpoint with an extension is read as %+v: %v", c, err)
	}
}

func TestCompare(t *testing.T) {
	l := newExampleLog(t, 9)
	proven, err := l.pack(t, 9, 3).Verify(l.logKey())
	if err != nil {
		t.Fatal(err)
	}
	values := map[Part]string{Payload: l.payloads[3], URL: "https://example.com/hook", Request: l.payloads[3], Response: "ok"}
	for part, value := range values {
		if err := proven.Compare(part, []byte(value)); err != nil {
			t.Errorf("the %s: %v", part, err)
		}
		for _, other := range []string{"", value + " ", value[1:], strings.ToUpper(value)} {
			if err := proven.Compare(part, []byte(other)); !errors.Is(err, ErrDiffers) {
				t.Errorf("the %s %q: %v", part, other, err)
			}
		}
	}
	wrong := l.pack(t, 9, 3)
	for bit := range 8 * Size {
		salt := *l.salts[3]
		salt[bit/8] ^= 1 << (bit % 8)
		wrong.Opening.Salt = &salt
		proven, err := wrong.Verify(l.logKey())
		if err != nil {
			t.Fatal(err)
		}
		for part, value := range values {
			if err := proven.Compare(part, []byte(value)); !errors.Is(err, ErrDiffers) {
				t.Errorf("with a changed salt, the %s: %v", part, err)
			}
		}
	}
	for name, want := range map[int64]error{0: ErrNoCommitment, 1: ErrNoCommitment} {
		proven, err := l.pack(t, 9, name).Verify(l.logKey())
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range Parts {
			if err := proven.Compare(part, nil); !errors.Is(err, want) {
				t.Errorf("leaf %d, the %s: %v, want %v", name, part, err, want)
			}
		}
	}
	erased := l.pack(t, 9, 3)
	erased.Opening.Salt = nil
	if proven, err := erased.Verify(l.logKey()); err != nil || !errors.Is(proven.Compare(Payload, nil), ErrNoSalt) {
		t.Errorf("without a salt: %v", err)
	}
}

func TestProven_Words(t *testing.T) {
	l := newExampleLog(t, 9)
	for i, want := range map[int64]string{
		0: "with another key",
		1: "without an answer (E2002)",
		2: "with status 503 (E2004)",
		3: "number 1 of delivery dlv_01jdxqk4v8e0ht6zq3m9w20003, of event evt_01jdxqk4v8e0ht6zq3m9w20003 to endpoint ep_01jdxqk4v8e0ht6zq3m9w20000. It began at 2024-11-29T11:00:03.000Z and ended at 2024-11-29T11:00:03.050Z, with status 200.",
		7: "were erased, with the texts of 1 leaves",
	} {
		proven, err := l.pack(t, 9, i).Verify(l.logKey())
		if err != nil {
			t.Fatal(err)
		}
		if shows := strings.Join(proven.Shows(), "\n"); !strings.Contains(shows, want) || strings.Contains(shows, "witness") {
			t.Errorf("leaf %d shows\n%s", i, shows)
		}
		if not := strings.Join(proven.ShowsNot(), "\n"); !strings.Contains(not, "What the receiver did") || !strings.Contains(not, "no witness") || (i == 1) != strings.Contains(not, "no salt") {
			t.Errorf("leaf %d shows not\n%s", i, not)
		}
	}
	proven, err := l.pack(t, 9, 3, l.cosignature(t, 9)).Verify(l.logKey(), l.witnessKey())
	if err != nil {
		t.Fatal(err)
	}
	if shows := strings.Join(proven.Shows(), "\n"); !strings.Contains(shows, "The witness witness.example/w1 saw this head at 2024-11-29T11:00:30Z") {
		t.Errorf("with a witness it shows\n%s", shows)
	}
	if not := strings.Join(proven.ShowsNot(), "\n"); strings.Contains(not, "witness") {
		t.Errorf("with a witness it shows not\n%s", not)
	}
}

// TestWitnesses checks which cosignatures count when a number of witnesses is wanted.
func TestWitnesses(t *testing.T) {
	l := newExampleLog(t, 9)
	good := l.checkpoint(t, 9)
	cosign := func(name string, key ed25519.PrivateKey) (string, Key) {
		line, err := Cosign(good, name, key, witnessTime)
		if err != nil {
			t.Fatal(err)
		}
		return line, Key{Name: name, Public: public(key), Witness: true}
	}
	first, firstKey := cosign("first.example", seed(5))
	again, againKey := cosign("again.example", seed(5)) // one witness under two names
	second, secondKey := cosign("second.example", seed(6))
	own, ownKey := cosign("own.example", l.key) // the log's key as a witness's
	_, absent := cosign("absent.example", seed(7))
	for _, c := range []struct {
		lines string
		keys  []Key
		want  int
	}{
		{"", []Key{firstKey}, 0},
		{first, []Key{firstKey}, 1},
		{first + first, []Key{firstKey}, 1},
		{first, []Key{againKey}, 0},
		{first + again, []Key{firstKey, againKey}, 1},
		{first + second, []Key{firstKey}, 1},
		{first + second, []Key{firstKey, secondKey, absent}, 2},
		{own, []Key{ownKey}, 0},
		{own + second, []Key{ownKey, secondKey}, 1},
	} {
		s, err := OpenCheckpoint(good+c.lines, append(c.keys, l.logKey())...)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Witnesses(); n != c.want || s.Cosigned(absent) {
			t.Errorf("%q with %v: %d witnesses, want %d", c.lines, c.keys, n, c.want)
		}
	}
	for _, bad := range []string{"", "two words", "a+b", "line\nend", "\xff"} {
		if _, err := Cosign(good, bad, seed(5), witnessTime); err == nil {
			t.Errorf("a witness can be called %q", bad)
		}
	}
	for _, text := range []string{"", "kapsel/1\n2\n", strings.Replace(good, "\n9\n", "\n09\n", 1), Checkpoint{l.origin, 9, l.root(t, 9)}.String()} {
		if _, err := Cosign(text, "first.example", seed(5), witnessTime); err == nil {
			t.Errorf("%q is cosigned", text)
		}
	}
}

func TestParseKey(t *testing.T) {
	l := newExampleLog(t, 1)
	for _, k := range []Key{l.logKey(), l.witnessKey(), {Public: public(l.key)}} {
		if got, err := ParseKey(k.String()); err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("%s is read as %+v: %v", k, got, err)
		}
	}
	vkey, raw := l.logKey().String(), base64.StdEncoding.EncodeToString(public(l.key))
	other := base64.StdEncoding.EncodeToString(append([]byte{6}, public(l.key)...))
	for text, want := range map[string]string{
		"":                    "a key is the base64",
		raw[1:]:               "a key is the base64",
		raw + "=":             "a key is the base64",
		"+" + raw:             "a key is the base64",
		vkey[:len(vkey)-8]:    "bytes instead of 32",
		"x" + vkey:            "does not belong to its bytes",
		vkey + " ":            "a key is the base64",
		"a+00000000+" + other: "only Ed25519",
		"a+00000000+":         "a key is the base64",
		"a":                   "a key is the base64",
	} {
		if k, err := ParseKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is read as %+v: %v, want an error with %q", text, k, err, want)
		}
	}
}

// TestParsePackage_NotUTF8 checks that bytes that a JSON decoder replaces are refused, wherever they
// are: the text and the JSON of one package would differ.
func TestParsePackage_NotUTF8(t *testing.T) {
	seeds := makeSeeds(t)
	extra := func(json string) string {
		_, rest, _ := strings.Cut(seeds[1], "\nindex ")
		return proofHeader + "extra " + base64.StdEncoding.EncodeToString([]byte(json)) + "\nindex " + rest
	}
	if _, err := ParsePackage([]byte(extra(`{"leaf":"x","opening":{"salt":null}}`))); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		seeds[1] + "\x94",
		strings.Replace(seeds[0], `"leaf":"`, `"leaf":"`+"\xd0", 1),
		extra(`{"leaf":"` + "\xd0" + `","opening":{"salt":null}}`),
	} {
		if p, err := ParsePackage([]byte(text)); err == nil || !strings.Contains(err.Error(), "is not UTF-8") {
			t.Errorf("%q is read as %+v: %v", text, p, err)
		}
	}
}

func FuzzParsePackage(f *testing.F) {
	for _, p := range makeSeeds(f) {
		f.Add([]byte(p))
	}
	l := newExampleLog(f, 21)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePackage(text)
		if err != nil {
			return
		}
		again, err := ParsePackage([]byte(asJSON(t, p)))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%+v is read again as %+v: %v", p, again, err)
		}
		if proven, err := p.Verify(l.logKey()); err == nil && (proven.Index >= 21 || p.Leaf != l.leaves[proven.Index]) {
			t.Errorf("a leaf is proven that is not in the log: %s", p.Leaf)
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	l := newExampleLog(f, 9)
	f.Add(l.checkpoint(f, 9))
	f.Add(l.checkpoint(f, 9, l.cosignature(f, 9)))
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := OpenCheckpoint(text, l.logKey(), l.witnessKey()); err == nil && (s.Size > 9 || s.Root != l.root(t, s.Size)) {
			t.Errorf("%q is a checkpoint of the log", text)
		}
	})
}

func makeSeeds(t testing.TB) []string {
	l := newExampleLog(t, 21)
	p := l.pack(t, 21, 3, l.cosignature(t, 21))
	return []string{asJSON(t, p), p.Text(), asJSON(t, l.pack(t, 1, 0)), "{}"}
}
