package receipt

import (
	"encoding/hex"
	"testing"
)

// TestCommitment compares with what "openssl dgst -sha256 -mac HMAC -macopt hexkey:…" said.
func TestCommitment(t *testing.T) {
	salt := bytesOf(0x11)
	committer := NewCommitter(salt)
	for _, c := range []struct{ label, value, want string }{
		{PayloadLabel, `{"hello":"kapsel"}`, "e3878f0dd5525d628373d96d6fd277d5f00b608b0db0533678e9e57ccdeaa1a4"},
		{PayloadLabel, "", "d42a571c7045abeaffe5a78b8473e3f86586cca96038ba74b368d88c5a911785"},
		{URLLabel(attemptID), "https://example.com/hook", "141a99b409da463667a2fed217b2d06c434167a7afe18f7700a2ba7672807b76"},
		{RequestLabel(attemptID), `{"hello":"kapsel"}`, "c60a3e66f2c5875db7c0d80550916a9273e163932a41b30a50db6d919e7d2ff2"},
		{ResponseLabel(attemptID), "ok", "e99fb20c7b302f06fd2919056a44aac8973041d1a1c67f2a02720b6c19ff7052"},
	} {
		sum := Commitment(salt, c.label, []byte(c.value))
		if got := hex.EncodeToString(sum[:]); got != c.want {
			t.Errorf("Commitment(%q, %q) = %s, want %s", c.label, c.value, got, c.want)
		}
		if got := committer.Commit(c.label, []byte(c.value)); [Size]byte(got) != sum {
			t.Errorf("after others, the commitment to %q is %x, want %x", c.value, got, sum)
		}
		h := committer.Begin(c.label)
		for _, b := range []byte(c.value) {
			h.Write([]byte{b})
		}
		if got := [Size]byte(h.Sum(nil)); got != sum {
			t.Errorf("written byte by byte, the commitment to %q is %x, want %x", c.value, got, sum)
		}
	}
	if h := LeafHash(nil); hex.EncodeToString(h[:]) != "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d" {
		t.Errorf("the hash of an empty leaf is %x", h) // RFC 6962's, of a single zero byte
	}
}
