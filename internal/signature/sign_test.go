package signature

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

// Sign signs one message with keys of HMACs.
func Sign(keys [][]byte, id string, at time.Time, body []byte) string {
	list := make([]SigningKey, len(keys))
	for i, key := range keys {
		list[i].HMAC = key
	}
	return NewSigner(list).Sign(id, at, body)
}

// TestHardening_S9_SignEd25519 checks that each key signs in both schemes, and crypto/ed25519
// and a verifier which has only the public key accept what was signed and nothing else.
func TestHardening_S9_SignEd25519(t *testing.T) {
	one, two := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	at := time.Unix(specTime, 0)
	for _, size := range []int{0, 1, maxMessage + 1} {
		body := bytes.Repeat([]byte("b"), size)
		text := NewSigner([]SigningKey{{[]byte("1"), one}, {[]byte("2"), two}}).Sign(specID, at, body)
		tokens := strings.Split(text, " ")
		if want := []string{"v1", "v1a", "v1", "v1a"}; len(tokens) != 4 || !slices.EqualFunc(tokens, want, func(a, b string) bool { return strings.HasPrefix(a, b+",") }) {
			t.Fatalf("Sign = %s", text)
		}
		signed := append([]byte(fmt.Sprintf("%s.%d.", specID, specTime)), body...)
		for i, private := range []ed25519.PrivateKey{one, two} {
			raw, err := base64.StdEncoding.DecodeString(tokens[2*i+1][len("v1a,"):])
			if err != nil || !ed25519.Verify(private.Public().(ed25519.PublicKey), signed, raw) {
				t.Errorf("key %d: not verified, %v", i, err)
			}
			ver := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, PublicKey(private))
			request := Request{Body: body, Header: http.Header{
				"Webhook-Id": {specID}, "Webhook-Timestamp": {fmt.Sprint(specTime)}, "Webhook-Signature": {text},
			}}
			if _, err := ver.Verify(request, at); err != nil {
				t.Errorf("key %d: %v", i, err)
			}
			request.Body = append(slices.Clone(body), 'x')
			if _, err := ver.Verify(request, at); err == nil {
				t.Errorf("key %d: another body is accepted", i)
			}
		}
	}
}

// TestHardening_S9_SignPublishedVector checks that signatures are those of the vector that the
// Standard Webhooks publish, one for each key, in order.
func TestHardening_S9_SignPublishedVector(t *testing.T) {
	key, _ := base64.StdEncoding.DecodeString(specKey)
	other := bytes.Repeat([]byte{1}, 32)
	at := time.Unix(specTime, 999_999_999)
	if got, want := Sign([][]byte{key}, specID, at, []byte(specBody)), "v1,"+specSig; got != want {
		t.Errorf("Sign = %s, want %s", got, want)
	}
	both := Sign([][]byte{other, key}, specID, at, []byte(specBody))
	first, second, _ := strings.Cut(both, " ")
	if second != "v1,"+specSig || first != Sign([][]byte{other}, specID, at, []byte(specBody)) {
		t.Errorf("with two keys = %s", both)
	}
	if got := Sign(nil, specID, at, nil); got != "" {
		t.Errorf("without keys = %q", got)
	}
}

// TestSignAgreesWithReference checks that the reference library verifies our signatures and we
// verify its signatures, and that both are the same text.
func TestSignAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 80).Draw(t, "key")
		id := rapid.StringMatching(`[!-\-/-~]{1,40}`).Draw(t, "id") // no dot
		at := time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "time"), 0)
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")

		reference, err := standardwebhooks.NewWebhookRaw(key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := reference.Sign(id, at, body)
		if err != nil {
			t.Fatal(err)
		}
		got := Sign([][]byte{key}, id, at, body)
		if got != want {
			t.Fatalf("Sign = %s, the reference has %s", got, want)
		}
		h := http.Header{}
		h.Set("webhook-id", id)
		h.Set("webhook-timestamp", fmt.Sprint(at.Unix()))
		h.Set("webhook-signature", got)
		if err := reference.VerifyIgnoringTimestamp(body, h); err != nil {
			t.Fatalf("the reference refuses what we signed: %v", err)
		}
		ver := standardVerifier(t, key)
		if verdict, err := ver.Verify(Request{Header: h, Body: body}, at); err != nil || !verdict.Valid {
			t.Fatalf("we refuse what the reference signed: %v", err)
		}
	})
}

type fataler interface{ Fatal(...any) }

func standardVerifier(t fataler, key []byte) *Verifier {
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	ver, err := New(kapsel.Verification{Provider: "standard-webhooks", Tolerance: MaxTolerance}, []Key{{Value: []byte(secret)}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ver
}

// FuzzStandardWebhooksVerify gives the same request to the reference library and to us. We
// accept nothing that it refuses, and refuse what it accepts only for the written reasons.
func FuzzStandardWebhooksVerify(f *testing.F) {
	key, _ := base64.StdEncoding.DecodeString(specKey)
	stamp := fmt.Sprint(specTime)
	f.Add(specID, stamp, "v1,"+specSig, []byte(specBody))
	f.Add(specID, stamp, "v1a,x v1,"+specSig+" v2,", []byte(specBody))
	f.Add(specID+".1", stamp, "v1,", []byte{})
	f.Add("a", "+1", "v1,AA==", []byte("x"))
	ver := standardVerifier(f, key)
	reference, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, stamp, signature string, body []byte) {
		// The fuzzer cannot guess an HMAC: a marker stands for the right one.
		right, _ := reference.Sign(id, parseSeconds(stamp), body)
		signature = strings.ReplaceAll(signature, "RIGHT", strings.TrimPrefix(right, "v1,"))
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {signature}}
		theirs := reference.VerifyIgnoringTimestamp(body, h)
		verdict, ours := ver.Verify(Request{Header: h, Body: body}, parseSeconds(stamp))
		if verdict.Valid != (ours == nil) {
			t.Fatalf("verdict %+v with %v", verdict, ours)
		}
		if ours == nil && theirs != nil {
			t.Fatalf("we accept what the reference refuses: %v", theirs)
		}
		if ours != nil && theirs == nil {
			_, badTime := seconds.parse(stamp)
			switch {
			case strings.Contains(id, "."): // ambiguous
			case badTime != nil: // a sign or leading zeros
			case strings.Count(signature, "v1") > maxSignatures:
			case strings.Count(signature, ",") > 1: // "v1,signature,more"
			default:
				t.Fatalf("we refuse what the reference accepts: %v", ours)
			}
		}
	})
}

func parseSeconds(stamp string) time.Time {
	var n int64
	fmt.Sscan(stamp, &n)
	return time.Unix(n, 0)
}

func TestSignConcurrently(t *testing.T) {
	s := NewSigner([]SigningKey{{HMAC: []byte{1}}, {HMAC: []byte{2}, Ed25519: ed25519.NewKeyFromSeed(make([]byte, 32))}})
	want := s.Sign("id", time.Unix(1, 0), []byte("body"))
	done := make(chan bool)
	for range 8 {
		go func() {
			ok := true
			for range 200 {
				ok = ok && s.Sign("id", time.Unix(1, 0), []byte("body")) == want
			}
			done <- ok
		}()
	}
	for range 8 {
		if !<-done {
			t.Error("signatures differ")
		}
	}
}

func BenchmarkSign(b *testing.B) {
	key := bytes.Repeat([]byte{1}, 32)
	body := bytes.Repeat([]byte{'x'}, 1024)
	s := NewSigner([]SigningKey{{HMAC: key, Ed25519: ed25519.NewKeyFromSeed(key)}})
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		s.Sign("evt_01h455vb4pex5vsknk084sn02q", now, body)
	}
}
