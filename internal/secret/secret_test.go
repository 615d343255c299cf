package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"
	"unicode"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)

func keyring(t *testing.T, keys ...[]byte) *Keyring {
	t.Helper()
	r, err := NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tenant(t *testing.T, r *Keyring) *kapsel.Tenant {
	t.Helper()
	id := kapsel.NewTenantID(now)
	wrapped, err := r.NewDataKey(id)
	if err != nil {
		t.Fatal(err)
	}
	return &kapsel.Tenant{ID: id, DataKey: wrapped}
}

// TestHardening_S23_TextNeverPrints checks that a secret is never printed, whichever way a
// value that holds it is formatted, encoded or logged.
func TestHardening_S23_TextNeverPrints(t *testing.T) {
	const marker = "MARKER"
	s := NewText(marker)
	type holder struct {
		Secret  Text
		Pointer *Text
		private Text
	}
	h := holder{s, &s, s}
	var out bytes.Buffer
	all := []any{s, &s, h, &h, []Text{s}, [1]Text{s}, map[string]Text{"a": s}, struct{ any }{s}, struct{ error }{fmt.Errorf("%w: %v", errors.ErrUnsupported, s)}}
	for letter := range unicode.MaxASCII { // every verb there is, and those there may be
		if !unicode.IsLetter(letter) {
			continue
		}
		for _, flags := range []string{"", "+", "#", "-10.3", " ", "0", "+#"} {
			for _, v := range all {
				fmt.Fprintf(&out, "%"+flags+string(letter)+"\n", v)
			}
		}
	}
	for _, v := range all {
		fmt.Fprintln(&out, v)
	}
	for _, v := range []any{s, &s, h, &h, []Text{s}, map[string]Text{"a": s}, struct{ Value any }{s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		// Encodings that nothing of ours uses: they say nothing, or fail.
		for _, encode := range []func(any) error{gob.NewEncoder(&out).Encode, xml.NewEncoder(&out).Encode} {
			if err := encode(v); err != nil {
				fmt.Fprintln(&out, err)
			}
		}
	}
	text, err := s.MarshalText()
	out.Write(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := template.Must(template.New("").Parse("{{.}} {{.Secret}} {{printf \"%s\" .Secret}} {{len .List}}")).Execute(&out, struct {
		Secret Text
		List   []Text
	}{s, []Text{s}}); err != nil {
		t.Fatal(err)
	}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		log := slog.New(handler)
		log.Info("x", "secret", s, "pointer", &s, "holder", h, "list", []Text{s})
		log.Info("x", "err", fmt.Errorf("failed with %v", s))
	}
	hex := fmt.Sprintf("%x", marker)
	for _, leak := range []string{marker, hex, strings.ToUpper(hex), strings.Trim(fmt.Sprint([]byte(marker)), "[]"), base64.StdEncoding.EncodeToString([]byte(marker))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q in output:\n%s", leak, out.String())
		}
	}
	if got := s.Reveal(); got != marker {
		t.Errorf("Reveal = %q", got)
	}
	if !s.Equal(NewText(marker)) || s.Equal(NewText(marker+"x")) || s.Equal(Text{}) {
		t.Error("Equal does not compare the secrets")
	}
	var in Text
	if err := json.Unmarshal([]byte(`"from outside"`), &in); err != nil || in.Reveal() != "from outside" {
		t.Errorf("Unmarshal = %q, %v", in.Reveal(), err)
	}
}

func TestParseKeys(t *testing.T) {
	a, b := NewKey(), NewKey()
	list := base64.StdEncoding.EncodeToString(a) + ", " + base64.StdEncoding.EncodeToString(b)
	keys, err := ParseKeys(list)
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], a) || !bytes.Equal(keys[1], b) {
		t.Errorf("ParseKeys = %d keys, %v", len(keys), err)
	}
	for _, bad := range []string{
		"", ",", list + ",", "secretsecret", base64.StdEncoding.EncodeToString(a[:31]),
		base64.StdEncoding.EncodeToString(append(a, 0)), base64.RawStdEncoding.EncodeToString(a),
	} {
		keys, err := ParseKeys(bad)
		if err == nil {
			t.Errorf("ParseKeys(%q) = %d keys", bad, len(keys))
		} else if len(bad) > 5 && strings.Contains(err.Error(), bad[:6]) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

// TestHardening_S6_SealAndOpen checks that what is sealed opens only for its tenant, object
// and secret, and not after a bit was changed.
func TestHardening_S6_SealAndOpen(t *testing.T) {
	r := keyring(t, NewKey())
	v := NewVault(r)
	one, two := tenant(t, r), tenant(t, r)
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		object := rapid.String().Draw(t, "object")
		s, err := v.Seal(one, object, plain, now)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) >= 8 && bytes.Contains(s.Sealed, plain) {
			t.Fatal("the plain text is in the sealed one")
		}
		got, err := v.Open(one, object, s)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Open = %x, %v; want %x", got, err, plain)
		}

		// Whatever is moved or changed does not open.
		otherID := s
		otherID.ID = kapsel.NewSecretID(now)
		flipped := s
		flipped.Sealed = bytes.Clone(s.Sealed)
		i := rapid.IntRange(0, len(s.Sealed)-1).Draw(t, "i")
		flipped.Sealed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		cut := s
		cut.Sealed = s.Sealed[:i]
		for name, open := range map[string]func() ([]byte, error){
			"other tenant": func() ([]byte, error) { return v.Open(two, object, s) },
			"other object": func() ([]byte, error) { return v.Open(one, object+"x", s) },
			"other id":     func() ([]byte, error) { return v.Open(one, object, otherID) },
			"flipped bit":  func() ([]byte, error) { return v.Open(one, object, flipped) },
			"cut":          func() ([]byte, error) { return v.Open(one, object, cut) },
		} {
			if _, err := open(); err == nil {
				t.Fatalf("%s: opened", name)
			}
		}
	})
}

// TestHardening_S9_SigningKey checks that a signing key belongs to one tenant, object and
// secret, and outlives a change of the instance's encryption key.
func TestHardening_S9_SigningKey(t *testing.T) {
	oldKey, newKey := NewKey(), NewKey()
	before, overlap := keyring(t, oldKey), keyring(t, newKey, oldKey)
	one, two := tenant(t, before), tenant(t, before)
	a, b := kapsel.NewSecretID(now), kapsel.NewSecretID(now)
	derived := func(r *Keyring, ten *kapsel.Tenant, object string, id kapsel.SecretID) string {
		t.Helper()
		key, err := NewVault(r).SigningKey(ten, object, id)
		if err != nil {
			t.Fatal(err)
		}
		return string(key)
	}
	want := derived(before, one, "object", a)
	for name, other := range map[string]string{
		"another tenant": derived(before, two, "object", a),
		"another object": derived(before, one, "objects", a),
		"another secret": derived(before, one, "object", b),
	} {
		if other == want {
			t.Errorf("%s has the same key", name)
		}
	}
	rewrapped, err := overlap.Rewrap(one.ID, one.DataKey)
	if err != nil {
		t.Fatal(err)
	}
	one.DataKey = rewrapped
	if derived(keyring(t, newKey), one, "object", a) != want {
		t.Error("another key after the instance's key was changed")
	}
	if _, err := NewVault(before).SigningKey(one, "object", a); err == nil {
		t.Error("a key without the instance's")
	}
}

// TestHardening_S6_DataKeysAreBoundToTheirTenant checks that one tenant's data key opens
// nothing for another tenant.
func TestHardening_S6_DataKeysAreBoundToTheirTenant(t *testing.T) {
	r := keyring(t, NewKey())
	one, two := tenant(t, r), tenant(t, r)
	two.DataKey = one.DataKey
	if _, err := NewVault(r).Seal(two, "object", nil, now); err == nil {
		t.Error("another tenant's data key was unwrapped")
	}
	if _, err := NewVault(r).Seal(&kapsel.Tenant{ID: one.ID}, "object", nil, now); err == nil {
		t.Error("sealed without a data key")
	}
}

// TestHardening_S6_RotationRewrapsOnly checks that a rotation of the encryption key wraps the
// data keys anew and leaves sealed secrets alone, both keys work during the overlap, and the
// old key opens nothing afterwards.
func TestHardening_S6_RotationRewrapsOnly(t *testing.T) {
	oldKey, newKey := NewKey(), NewKey()
	before, overlap, after := keyring(t, oldKey), keyring(t, newKey, oldKey), keyring(t, newKey)
	ten := tenant(t, before)
	s, err := NewVault(before).Seal(ten, "object", []byte("plain"), now)
	if err != nil {
		t.Fatal(err)
	}

	v := NewVault(overlap) // one vault sees the old and then the new wrapping
	if _, err := v.Open(ten, "object", s); err != nil {
		t.Errorf("open during the overlap: %v", err)
	}
	rewrapped, err := overlap.Rewrap(ten.ID, ten.DataKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := overlap.Rewrap(ten.ID, rewrapped)
	if err != nil || !bytes.Equal(again, rewrapped) {
		t.Errorf("Rewrap of the first key's own = %x, %v", again, err)
	}
	var unknown *UnknownKeyError
	if _, err := NewVault(after).Open(ten, "object", s); !errors.As(err, &unknown) || unknown.ID != before.ID() {
		t.Errorf("open with the new key alone, not rewrapped: %v", err)
	}
	if err := after.CanUnwrap(ten.DataKey); !errors.As(err, &unknown) || unknown.ID != before.ID() {
		t.Errorf("CanUnwrap without the key: %v", err)
	}
	if err := errors.Join(after.CanUnwrap(rewrapped), overlap.CanUnwrap(ten.DataKey)); err != nil {
		t.Errorf("CanUnwrap with the key: %v", err)
	}
	if after.CanUnwrap(nil) == nil {
		t.Error("CanUnwrap of nothing")
	}
	ten.DataKey = rewrapped
	for _, v := range []*Vault{v, NewVault(after)} {
		if plain, err := v.Open(ten, "object", s); err != nil || string(plain) != "plain" {
			t.Errorf("open after rewrap = %q, %v", plain, err)
		}
	}
	if _, err := NewVault(before).Open(ten, "object", s); err == nil {
		t.Error("the old key opens what was rewrapped")
	}
}

func TestCheckValue(t *testing.T) {
	a, b := NewKey(), NewKey()
	check := keyring(t, a).Check()
	if !bytes.Equal(check, keyring(t, a, b).Check()) {
		t.Error("the check value changes")
	}
	if bytes.Contains(check, a) {
		t.Error("the check value holds the key")
	}
	for _, r := range []*Keyring{keyring(t, a), keyring(t, a, b), keyring(t, b, a)} {
		if err := r.Verify(check); err != nil {
			t.Errorf("Verify: %v", err)
		}
	}
	var unknown *UnknownKeyError
	if err := keyring(t, b).Verify(check); !errors.As(err, &unknown) || unknown.ID != keyring(t, a).ID() {
		t.Errorf("Verify with another key: %v", err)
	}
	for i := range check {
		bad := bytes.Clone(check)
		bad[i] ^= 1
		if err := keyring(t, a, b).Verify(bad); err == nil {
			t.Errorf("byte %d changed: verified", i)
		}
	}
	for _, bad := range [][]byte{nil, check[:len(check)-1], append(bytes.Clone(check), 0)} {
		if err := keyring(t, a).Verify(bad); err == nil {
			t.Errorf("%d bytes: verified", len(bad))
		}
	}
}

func TestNewKeyringRefuses(t *testing.T) {
	for _, keys := range [][][]byte{{}, {nil}, {NewKey(), NewKey()[:16]}} {
		if _, err := NewKeyring(keys...); err == nil {
			t.Errorf("%d keys: accepted", len(keys))
		}
	}
}

func TestVaultConcurrently(t *testing.T) {
	r := keyring(t, NewKey())
	v := NewVault(r)
	ten := tenant(t, r)
	s, err := v.Seal(ten, "object", []byte("plain"), now)
	if err != nil {
		t.Fatal(err)
	}
	fresh := NewVault(r)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if plain, err := fresh.Open(ten, "object", s); err != nil || string(plain) != "plain" {
					t.Errorf("Open = %q, %v", plain, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestVaultForgets(t *testing.T) {
	r := keyring(t, NewKey())
	v := NewVault(r)
	one := tenant(t, r)
	s, err := v.Seal(one, "object", []byte("plain"), now)
	if err != nil {
		t.Fatal(err)
	}
	v.Forget(one.ID)
	if len(v.open) != 0 {
		t.Error("the data key of a deleted tenant is kept")
	}
	if got, err := v.Open(one, "object", s); err != nil || string(got) != "plain" {
		t.Errorf("what was sealed before opens as %q, %v", got, err)
	}
}

// TestHardening_S7_APIKey checks that an API key is random and has a checksum that shows any
// change of one character, and its hash is what is kept.
func TestHardening_S7_APIKey(t *testing.T) {
	form := regexp.MustCompile(`^kap_[0-9A-Za-z]{49}$`)
	seen := map[string]bool{}
	for range 500 {
		key, hash, prefix := NewAPIKey()
		s := key.Reveal()
		if !form.MatchString(s) || seen[s] || prefix != s[:8] {
			t.Fatalf("NewAPIKey = %q, prefix %q", s, prefix)
		}
		seen[s] = true
		if got, ok := HashAPIKey(s); !ok || got != hash {
			t.Fatalf("HashAPIKey = %x, %v", got, ok)
		}
		for i := range s { // a CRC finds every change of a single character
			if _, ok := HashAPIKey(s[:i] + "!" + s[i+1:]); ok {
				t.Fatalf("a key with ! at %d has the form of one", i)
			}
			if c := s[(i+7)%len(s)]; c != s[i] && c != '_' {
				if _, ok := HashAPIKey(s[:i] + string(c) + s[i+1:]); ok {
					t.Fatalf("a key with %c at %d has the form of one", c, i)
				}
			}
		}
	}
	for _, bad := range []string{"", "kap_", strings.Repeat("0", 53), "kap_" + strings.Repeat("0", 10<<10)} {
		if _, ok := HashAPIKey(bad); ok {
			t.Errorf("HashAPIKey(%.60q) has the form of a key", bad)
		}
	}
}

// TestAPIKeyChecksum reads the checksum back: a base62 number, most significant digit first.
func TestAPIKeyChecksum(t *testing.T) {
	key, _, _ := NewAPIKey()
	s := key.Reveal()
	var sum uint64
	for _, c := range []byte(s[47:]) {
		sum = sum*62 + uint64(strings.IndexByte(base62, c))
	}
	if want := uint64(crc32.ChecksumIEEE([]byte(s[4:47]))); sum != want {
		t.Errorf("checksum %d, want %d", sum, want)
	}
}

// TestHardening_S9_SigningSecret checks that a signing secret is 32 bytes in base64 after
// whsec_.
func TestHardening_S9_SigningSecret(t *testing.T) {
	text, key := NewSigningSecret()
	rest, ok := strings.CutPrefix(text.Reveal(), "whsec_")
	decoded, err := base64.StdEncoding.DecodeString(rest)
	if !ok || err != nil || !bytes.Equal(decoded, key) || len(key) != 32 {
		t.Errorf("NewSigningSecret = %q, %d bytes, %v", text.Reveal(), len(key), err)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.key")
	value, created, err := LoadOrCreateKeyFile(path, func() []byte { return []byte("first") })
	if err != nil || !created || string(value) != "first" {
		t.Fatalf("create = %q, %v, %v", value, created, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	never := func() []byte { t.Error("generated again"); return nil }
	value, created, err = LoadOrCreateKeyFile(path, never)
	if err != nil || created || string(value) != "first" {
		t.Errorf("load = %q, %v, %v", value, created, err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

// TestHardening_S10_KeyFileRefused checks that a key file that others may read or write, or
// that is empty or too long, is refused without showing it.
func TestHardening_S10_KeyFileRefused(t *testing.T) {
	never := func() []byte { t.Error("generated"); return []byte("new") }
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o644, 0o777} {
		path := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		value, _, err := LoadOrCreateKeyFile(path, never)
		if err == nil || value != nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("mode %o: %q, %v", mode, value, err)
		}
	}
	for name, content := range map[string]string{"empty": "", "blank": " \n", "long": strings.Repeat("x", maxKeyFile+1)} {
		path := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreateKeyFile(path, never); err == nil {
			t.Errorf("%s file: accepted", name)
		}
	}
	if _, _, err := LoadOrCreateKeyFile(t.TempDir(), never); err == nil {
		t.Error("a directory: accepted")
	}
	missing := filepath.Join(t.TempDir(), "no", "such", "k")
	if _, _, err := LoadOrCreateKeyFile(missing, func() []byte { return []byte("new") }); err == nil {
		t.Error("missing directory: accepted")
	}
}

// TestKeyFileRace checks that one of many processes that start at once makes the key and all use
// it.
func TestKeyFileRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	var mu sync.Mutex
	values, makers := map[string]bool{}, 0
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			value, created, err := LoadOrCreateKeyFile(path, func() []byte { return fmt.Appendf(nil, "key %d", i) })
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			values[string(value)] = true
			if created {
				makers++
			}
		})
	}
	wg.Wait()
	if len(values) != 1 || makers != 1 {
		t.Errorf("%d values, %d makers", len(values), makers)
	}
}
