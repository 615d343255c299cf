package signature

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
)

var keyID = kapsel.NewSecretID(time.UnixMilli(1_700_000_000_000))

// vector is a request that a provider signed, with the time at which it holds.
type vector struct {
	name         string
	origin       string
	verification kapsel.Verification // Provider and settings
	secret       string
	method       string // "": POST
	url          string
	contentType  string
	header       map[string]string
	body         string
	unsigned     bool  // the body is
	hex          bool  // the signature is
	at           int64 // Unix seconds at which it is checked
	skew         time.Duration
}

func (v vector) request() Request {
	r := Request{Method: v.method, URL: v.url, Header: http.Header{}, Body: []byte(v.body)}
	if r.Method == "" {
		r.Method = "POST"
	}
	if v.contentType != "" {
		r.Header.Set("Content-Type", v.contentType)
	}
	for name, value := range v.header {
		r.Header.Set(name, value)
	}
	return r
}

func (v vector) now() time.Time { return time.Unix(v.at, 0) }

func (v vector) verifier(t testing.TB, secrets ...string) *Verifier {
	t.Helper()
	if len(secrets) == 0 {
		secrets = []string{v.secret}
	}
	return verifier(t, v.verification, secrets...)
}

func verifier(t testing.TB, settings kapsel.Verification, secrets ...string) *Verifier {
	t.Helper()
	var keys []Key
	for i, s := range secrets {
		id := keyID
		id[15] += byte(i)
		keys = append(keys, Key{id, []byte(s)})
	}
	out, err := New(settings, keys, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refused fails the test unless the error is what a failed check must give.
func refused(t *testing.T, what string, verdict kapsel.SignatureVerdict, err error) {
	t.Helper()
	if kapsel.CodeOf(err) != kapsel.InvalidSignature || verdict.Valid || verdict.KeyID != "" {
		t.Errorf("%s: %+v, %v; want InvalidSignature", what, verdict, err)
	}
}

func sum(key, content string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(content))
	return h.Sum(nil)
}

// TestBadInput_B71_Vectors checks that each provider's test vector is accepted, and refused
// with another secret or after any one bit of its body, headers or signature was changed.
func TestBadInput_B71_Vectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			ver := v.verifier(t)
			verdict, err := ver.Verify(v.request(), v.now())
			want := kapsel.SignatureVerdict{Scheme: v.verification.Provider, Valid: true, KeyID: keyID.String(), Skew: v.skew}
			if err != nil || verdict != want {
				t.Fatalf("Verify = %+v, %v; want %+v", verdict, err, want)
			}

			// Any one bit changed in what is signed, and in the signature, is refused.
			for i := range v.body {
				r := v.request()
				r.Body = bytes.Clone(r.Body)
				r.Body[i] ^= 1 << (i % 8)
				if v.unsigned || sameForm(v, r.Body) {
					continue
				}
				verdict, err := ver.Verify(r, v.now())
				refused(t, fmt.Sprintf("bit %d of body byte %d", i%8, i), verdict, err)
			}
			for _, cut := range []string{v.body + " ", v.body[:max(0, len(v.body)-1)]} {
				if cut == v.body || v.unsigned {
					continue
				}
				r := v.request()
				r.Body = []byte(cut)
				verdict, err := ver.Verify(r, v.now())
				refused(t, fmt.Sprintf("%d bytes of body", len(cut)), verdict, err)
			}
			for name, value := range v.header {
				for i := range value {
					for bit := range 8 {
						r := v.request()
						r.Header.Set(name, value[:i]+string([]byte{value[i] ^ 1<<bit})+value[i+1:])
						if v.hex && bit == 5 && strings.ContainsRune("abcdef", rune(value[i])) {
							continue // the same digit in upper case
						}
						if name == "Authorization" && v.unsigned && bit == 5 && i < strings.Index(value, " ") {
							continue // the same scheme
						}
						verdict, err := ver.Verify(r, v.now())
						refused(t, fmt.Sprintf("%s with bit %d of byte %d changed", name, bit, i), verdict, err)
					}
				}
				r := v.request()
				r.Header.Del(name)
				verdict, err := ver.Verify(r, v.now())
				refused(t, "without "+name, verdict, err)
				r.Header.Set(name, "")
				verdict, err = ver.Verify(r, v.now())
				refused(t, "with empty "+name, verdict, err)
				r.Header[http.CanonicalHeaderKey(name)] = []string{value, value}
				verdict, err = ver.Verify(r, v.now())
				refused(t, "with two "+name, verdict, err)
			}

			// Another URL, where it is signed.
			for i := range v.url {
				r := v.request()
				r.URL = v.url[:i] + "x" + v.url[i:]
				verdict, err := ver.Verify(r, v.now())
				if i > strings.Index(v.url, "://")+2 && !strings.Contains(v.name, "without the port") {
					refused(t, "URL "+r.URL, verdict, err)
				}
			}

			// Another secret, and the right one beside it.
			other := otherSecret(t, v)
			verdict, err = v.verifier(t, other).Verify(v.request(), v.now())
			refused(t, "another secret", verdict, err)
			verdict, err = v.verifier(t, other, v.secret).Verify(v.request(), v.now())
			if second := verdict.KeyID; err != nil || second == keyID.String() {
				t.Errorf("second of two secrets: %+v, %v", verdict, err)
			}
		})
	}
}

// sameForm reports whether a changed body is a form that means the same (%2B and %2b).
func sameForm(v vector, body []byte) bool {
	if !strings.Contains(v.contentType, "form") {
		return false
	}
	a, errA := url.ParseQuery(v.body)
	b, errB := url.ParseQuery(string(body))
	return errA == nil && errB == nil && maps.EqualFunc(a, b, slices.Equal)
}

// otherSecret returns a secret of the same form as the vector's.
func otherSecret(t *testing.T, v vector) string {
	t.Helper()
	decode := func(text string) []byte {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		return b
	}
	switch v.verification.KeyEncoding {
	case "hex":
		return "01" + v.secret[2:]
	case "base64":
		return base64.StdEncoding.EncodeToString(decode(v.secret))
	}
	switch v.verification.Provider {
	case "standard-webhooks", "svix", "openai", "clerk", "resend", "replicate", "supabase":
		if rest, ok := strings.CutPrefix(v.secret, "whpk_"); ok {
			return "whpk_" + base64.StdEncoding.EncodeToString(decode(rest))
		}
		rest := strings.TrimPrefix(strings.TrimPrefix(v.secret, "v1,"), "whsec_")
		return "whsec_" + base64.StdEncoding.EncodeToString(decode(rest))
	case "gitlab":
		if rest, ok := strings.CutPrefix(v.secret, "whsec_"); ok {
			return "whsec_" + base64.StdEncoding.EncodeToString(decode(rest))
		}
	case "airtable", "microsoft-teams":
		return base64.StdEncoding.EncodeToString(decode(v.secret))
	case "discord", "adyen":
		return "00" + v.secret[2:]
	case "sendgrid":
		return "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="
	case "paypal":
		return "9" + v.secret[1:]
	}
	return v.secret + "x"
}

const (
	specSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	specKey    = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // base64
	specID     = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	specTime   = 1614265330
	specBody   = `{"test": 2432232314}`
	specSig    = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func standardRequest(id, stamp, signature string) Request {
	return Request{
		Method: "POST",
		Header: http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {signature}},
		Body:   []byte(specBody),
	}
}

// TestBadInput_B66_SignatureForms checks that a signature that is cut, encoded or versioned
// otherwise, or made for another id, time or body, is refused, and the error does not show the
// right one.
func TestBadInput_B66_SignatureForms(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, specSecret)
	now := time.Unix(specTime, 0)
	raw, _ := base64.StdEncoding.DecodeString(specSig)
	stamp := fmt.Sprint(specTime)
	sign := func(content string) string {
		key, _ := base64.StdEncoding.DecodeString(specKey)
		return "v1," + base64.StdEncoding.EncodeToString(sum(string(key), content))
	}
	if verdict, err := ver.Verify(standardRequest(specID, stamp, sign(specID+"."+stamp+"."+specBody)), now); err != nil || !verdict.Valid {
		t.Fatalf("the test's own signature: %+v, %v", verdict, err)
	}
	for name, signature := range map[string]string{
		"empty":           "",
		"version alone":   "v1",
		"no value":        "v1,",
		"no version":      specSig,
		"not base64":      "v1,!!!!" + specSig[4:],
		"url-safe":        "v1," + base64.URLEncoding.EncodeToString(raw),
		"no padding":      "v1," + base64.RawStdEncoding.EncodeToString(raw),
		"more padding":    "v1," + specSig + "=",
		"trailing bits":   "v1," + specSig[:len(specSig)-2] + "F=",
		"hex":             "v1," + hex.EncodeToString(raw),
		"31 bytes":        "v1," + base64.StdEncoding.EncodeToString(raw[:31]),
		"33 bytes":        "v1," + base64.StdEncoding.EncodeToString(append(raw, 0)),
		"line feed":       "v1," + specSig[:10] + "\n" + specSig[10:],
		"upper case":      "V1," + specSig,
		"another version": "v2," + specSig,
		"v1a":             "v1a," + specSig,
		"semicolon":       "v1;" + specSig,
		"space inside":    "v1, " + specSig,
		"third part":      "v1," + specSig + ",x",
		"another id":      sign("msg_other." + stamp + "." + specBody),
		"another time":    sign(specID + ".1614265331." + specBody),
		"another body":    sign(specID + "." + stamp + ". " + specBody),
		"no id":           sign(stamp + "." + specBody),
	} {
		verdict, err := ver.Verify(standardRequest(specID, stamp, signature), now)
		refused(t, name, verdict, err)
		if strings.Contains(fmt.Sprint(err), specSig) {
			t.Errorf("%s: the error shows the signature that was expected: %v", name, err)
		}
	}
	// "a" + "1.x" and "a.1" + "x" are the same bytes: an id with a dot is refused.
	id := specID + "." + stamp
	verdict, err := ver.Verify(standardRequest(id, stamp, sign(id+"."+stamp+"."+specBody)), now)
	refused(t, "dot in the id", verdict, err)
}

// TestBadInput_B67_SeveralSignatures checks that one valid signature among the first ten is
// enough, and those behind the tenth are not tried.
func TestBadInput_B67_SeveralSignatures(t *testing.T) {
	standard := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, specSecret)
	stripe := verifier(t, kapsel.Verification{Provider: "stripe"}, "secret")
	now := time.Unix(specTime, 0)
	garbage := base64.StdEncoding.EncodeToString(make([]byte, 32))
	right := hex.EncodeToString(sum("secret", fmt.Sprintf("%d.%s", specTime, specBody)))
	wrong := strings.Repeat("00", 32)
	for _, tt := range []struct {
		name string
		n    int // which of the signatures is right, counted from 1
		of   int
		ok   bool
	}{
		{"alone", 1, 1, true}, {"old and new", 2, 2, true}, {"new and old", 1, 2, true}, {"tenth of ten", 10, 10, true},
		{"first of a thousand", 1, 1000, true}, {"tenth of a thousand", 10, 1000, true}, {"eleventh", 11, 11, false},
		{"last of a thousand", 1000, 1000, false}, {"none of ten", 0, 10, false},
	} {
		var tokens []string
		list := fmt.Sprintf("t=%d", specTime)
		for i := 1; i <= tt.of; i++ {
			if i == tt.n {
				tokens = append(tokens, "v1,"+specSig)
				list += ",v1=" + right
			} else {
				tokens = append(tokens, "v1,"+garbage)
				list += ",v1=" + wrong
			}
		}
		verdict, err := standard.Verify(standardRequest(specID, fmt.Sprint(specTime), strings.Join(tokens, " ")), now)
		if verdict.Valid != tt.ok {
			t.Errorf("standard-webhooks, %s: %+v, %v", tt.name, verdict, err)
		}
		r := Request{Header: http.Header{"Stripe-Signature": {list}}, Body: []byte(specBody)}
		if verdict, err := stripe.Verify(r, now); verdict.Valid != tt.ok {
			t.Errorf("stripe, %s: %+v, %v", tt.name, verdict, err)
		}
	}
	// Signatures of other versions are passed over and do not count among the ten.
	for name, list := range map[string]string{
		"v1a first":    "v1a," + base64.StdEncoding.EncodeToString(make([]byte, 64)) + " v1," + specSig,
		"twelve of v2": strings.Repeat("v2,AAAA ", 12) + "v1," + specSig,
		"two spaces":   "v1," + garbage + "  v1," + specSig,
		"short ones":   "v1 v1, , v1,AA v1," + specSig,
	} {
		if verdict, err := standard.Verify(standardRequest(specID, fmt.Sprint(specTime), list), now); !verdict.Valid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBadInput_B71_StripeHeader checks that Stripe's header is accepted in each form that
// Stripe allows, and refused without one time and a valid v1.
func TestBadInput_B71_StripeHeader(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "stripe"}, "secret")
	now := time.Unix(specTime, 0)
	right := hex.EncodeToString(sum("secret", fmt.Sprintf("%d.%s", specTime, specBody)))
	for header, ok := range map[string]bool{
		"t=1614265330,v1=" + right:                  true,
		"v1=" + right + ",t=1614265330":             true,
		"t=1614265330,v1=" + strings.ToUpper(right): true,
		"t=1614265330,v1=" + right + ",v0=" + right: true,
		"t=1614265330,x=1,,v1=" + right:             true,
		"t=1614265330,v0=" + right:                  false,
		"t=1614265330":                              false,
		"v1=" + right:                               false,
		"t=,v1=" + right:                            false,
		"t=1614265330,t=1614265330,v1=" + right:     false,
		"t=1614265330,t=1614265331,v1=" + right:     false,
		"t=1614265330, v1=" + right:                 true,
		"T=1614265330,v1=" + right:                  false,
		"t=1614265330,V1=" + right:                  false,
		"t=1614265330;v1=" + right:                  false,
		"t=1614265330,v1=" + right[:63]:             false,
		"t=1614265330,v1=" + right + "00":           false,
		"t=1614265330,v1=":                          false,
		"t=1614265331,v1=" + right:                  false,
		"t=01614265330,v1=" + right:                 false,
		"t=1614265330,v1=" + base64.StdEncoding.EncodeToString(sum("secret", "1614265330."+specBody)): false,
	} {
		r := Request{Header: http.Header{"Stripe-Signature": {header}}, Body: []byte(specBody)}
		if verdict, err := ver.Verify(r, now); verdict.Valid != ok {
			t.Errorf("%s: %+v, %v; want %v", header, verdict, err, ok)
		}
	}
}

// TestBadInput_B71_GitHubSHA1AloneIsRefused checks that GitHub's old SHA-1 signature alone is
// refused.
func TestBadInput_B71_GitHubSHA1AloneIsRefused(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "github"}, "key")
	r := Request{Header: http.Header{"X-Hub-Signature": {"sha1=de7c9b85b8b78aa6bc8a7a36f70a90701c9db4d9"}}, Body: []byte("The quick brown fox jumps over the lazy dog")}
	verdict, err := ver.Verify(r, time.Time{})
	refused(t, "sha1", verdict, err)
	r.Header["X-Hub-Signature-256"] = r.Header["X-Hub-Signature"]
	verdict, err = ver.Verify(r, time.Time{})
	refused(t, "sha1 in the other header", verdict, err)
}

// TestBadInput_B68_Rotation checks that signatures by each of an endpoint's secrets are
// accepted, and those by a secret that was removed are refused.
func TestBadInput_B68_Rotation(t *testing.T) {
	settings := kapsel.Verification{Provider: "github"}
	r := func(secret string) Request {
		return Request{Header: http.Header{"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(sum(secret, "body"))}}, Body: []byte("body")}
	}
	for _, tt := range []struct {
		secrets []string
		by      string
		ok      bool
	}{
		{[]string{"new", "old"}, "old", true},
		{[]string{"new", "old"}, "new", true},
		{[]string{"new"}, "old", false},
		{[]string{"new"}, "new", true},
	} {
		if verdict, err := verifier(t, settings, tt.secrets...).Verify(r(tt.by), time.Time{}); verdict.Valid != tt.ok {
			t.Errorf("secrets %v, signed by %s: %+v, %v", tt.secrets, tt.by, verdict, err)
		}
	}
}

// TestBadInput_B69_Timestamps checks that a signed time is accepted up to the tolerance, 300 s
// unless set otherwise, and a time outside of it or in another form is refused.
func TestBadInput_B69_Timestamps(t *testing.T) {
	standard := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, specSecret)
	stripe := verifier(t, kapsel.Verification{Provider: "stripe"}, "secret")
	minute := verifier(t, kapsel.Verification{Provider: "stripe", Tolerance: time.Minute}, "secret")
	key, _ := base64.StdEncoding.DecodeString(specKey)
	now := time.Unix(specTime, 0)
	check := func(stamp string, ok, okMinute bool) {
		t.Helper()
		signature := "v1," + base64.StdEncoding.EncodeToString(sum(string(key), specID+"."+stamp+"."+specBody))
		if verdict, err := standard.Verify(standardRequest(specID, stamp, signature), now); verdict.Valid != ok || (err == nil) != ok {
			t.Errorf("standard-webhooks at %q: %+v, %v", stamp, verdict, err)
		}
		value := "t=" + stamp + ",v1=" + hex.EncodeToString(sum("secret", stamp+"."+specBody))
		r := Request{Header: http.Header{"Stripe-Signature": {value}}, Body: []byte(specBody)}
		if verdict, err := stripe.Verify(r, now); verdict.Valid != ok || (err == nil) != ok {
			t.Errorf("stripe at %q: %+v, %v", stamp, verdict, err)
		}
		if verdict, err := minute.Verify(r, now); verdict.Valid != okMinute || (err == nil) != okMinute {
			t.Errorf("stripe within a minute at %q: %+v, %v", stamp, verdict, err)
		}
	}
	for offset, ok := range map[int]bool{-301: false, -300: true, -299: true, -61: true, -60: true, 0: true, 60: true, 61: true, 299: true, 300: true, 301: false} {
		check(fmt.Sprint(specTime+offset), ok, ok && -60 <= offset && offset <= 60)
	}
	for _, stamp := range []string{
		"0", "-1", "-1614265330", "1614265330000", "99999999999999999999", "1e9", "+1614265330", " 1614265330", "1614265330 ",
		"01614265330", "1614265330.0", "0x60379e32", "1_614_265_330", "", "١٦١٤٢٦٥٣٣٠", "2021-02-25T15:02:10Z", "9223372036854775807",
	} {
		check(stamp, false, false)
	}
}

// TestLongTolerance checks that a tolerance of more than five minutes applies to the past only.
func TestLongTolerance(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "stripe", Tolerance: MaxTolerance}, "secret")
	for offset, ok := range map[time.Duration]bool{
		-MaxTolerance - time.Second: false, -MaxTolerance: true, -time.Hour: true, 0: true, maxFuture: true, maxFuture + time.Second: false,
	} {
		stamp := fmt.Sprint(specTime + int(offset/time.Second))
		value := "t=" + stamp + ",v1=" + hex.EncodeToString(sum("secret", stamp+"."+specBody))
		r := Request{Header: http.Header{"Stripe-Signature": {value}}, Body: []byte(specBody)}
		if verdict, err := ver.Verify(r, time.Unix(specTime, 0)); verdict.Valid != ok {
			t.Errorf("signed %s from now: %+v, %v", offset, verdict, err)
		}
	}
}

// TestGuard checks that a request's guard depends only on what was signed.
func TestGuard(t *testing.T) {
	linear := verifier(t, kapsel.Verification{Provider: "linear"}, "s")
	stripe := verifier(t, kapsel.Verification{Provider: "stripe", Tolerance: time.Hour}, "s")
	mailgun := verifier(t, kapsel.Verification{Provider: "mailgun"}, "k")
	request := func(body string, header ...string) Request {
		r := Request{Method: "POST", Header: http.Header{}, Body: []byte(body)}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	const at = `{"webhookTimestamp":1700000000000`
	mail := func(token, rest string) Request {
		return request(`{"signature":{"timestamp":"1700000000","token":"`+token+`","signature":"00"}`+rest+`}`, "Content-Type", "application/json")
	}
	form := request("timestamp=1700000000&token=t1&signature=00", "Content-Type", "application/x-www-form-urlencoded")
	for _, tt := range []struct {
		name string
		ver  *Verifier
		a, b Request
		same bool
	}{
		{"linear, another delivery id", linear, request(at+"}", "Linear-Signature", "00", "Linear-Delivery", "1"), request(at+"}", "Linear-Signature", "00", "Linear-Delivery", "2"), true},
		{"linear, another body", linear, request(at+"}", "Linear-Signature", "00"), request(at+" }", "Linear-Signature", "00"), false},
		{"stripe, another time", stripe, request("{}", "Stripe-Signature", "t=1,v1=00"), request("{}", "Stripe-Signature", "t=2,v1=00"), false},
		{"stripe, another signature", stripe, request("{}", "Stripe-Signature", "t=1,v1=00"), request("{}", "Stripe-Signature", "t=1,v1=01"), true},
		{"mailgun, another body", mailgun, mail("t1", ""), mail("t1", `,"event-data":{}`), true},
		{"mailgun, another token", mailgun, mail("t1", ""), mail("t2", ""), false},
		{"mailgun, in a form", mailgun, mail("t1", ""), form, true},
	} {
		a, b := tt.ver.Guard(tt.a), tt.ver.Guard(tt.b)
		if len(a) != sha256.Size || len(b) != sha256.Size || bytes.Equal(a, b) != tt.same {
			t.Errorf("%s: %x and %x", tt.name, a, b)
		}
	}
	for name, ver := range map[string]*Verifier{
		"five minutes":   verifier(t, kapsel.Verification{Provider: "stripe"}, "s"),
		"no signed time": verifier(t, kapsel.Verification{Provider: "github", Tolerance: time.Hour}, "s"),
	} {
		if g := ver.Guard(request("{}", "Stripe-Signature", "t=1,v1=00", "X-Hub-Signature-256", "sha256=00")); g != nil {
			t.Errorf("%s: %x", name, g)
		}
	}
	paypal := vectors[slices.IndexFunc(vectors, func(v vector) bool { return v.verification.Provider == "paypal" })]
	other := paypal.request()
	other.Body = []byte("forged, with another CRC or the same")
	if ver := paypal.verifier(t); !bytes.Equal(ver.Guard(paypal.request()), ver.Guard(other)) {
		t.Error("paypal: a transmission has two guards")
	}
}

func TestSeveralEqualHeadersAreRefused(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, specSecret)
	both := standardRequest(specID, fmt.Sprint(specTime), "v1,"+specSig)
	for name, values := range maps.Clone(both.Header) {
		r := both
		r.Header = both.Header.Clone()
		r.Header[name] = append(slices.Clone(values), values...)
		verdict, err := ver.Verify(r, time.Unix(specTime, 0))
		refused(t, "two "+name, verdict, err)
	}
}

func TestWithoutProvider(t *testing.T) {
	for _, provider := range []string{"", "none"} {
		ver, err := New(kapsel.Verification{Provider: provider}, nil, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := ver.Verify(Request{}, time.Time{})
		if want := (kapsel.SignatureVerdict{Scheme: "none"}); err != nil || verdict != want {
			t.Errorf("provider %q: %+v, %v", provider, verdict, err)
		}
	}
}

func TestCheck(t *testing.T) {
	secrets := []kapsel.Secret{{}}
	for _, tt := range []struct {
		v    kapsel.Verification
		want []string
	}{
		{kapsel.Verification{}, nil},
		{kapsel.Verification{Provider: "none"}, nil},
		{kapsel.Verification{Provider: "stripe", Secrets: secrets}, nil},
		{kapsel.Verification{Provider: "stripe"}, []string{"verification.secrets"}},
		{kapsel.Verification{Provider: "Stripe", Secrets: secrets}, []string{"verification.provider"}},
		{kapsel.Verification{Provider: "stripe", Secrets: secrets, Tolerance: -1}, []string{"verification.tolerance"}},
		{kapsel.Verification{Provider: "stripe", Secrets: secrets, Tolerance: 96*time.Hour + 1}, []string{"verification.tolerance"}},
		{kapsel.Verification{Provider: "github", Secrets: secrets, Prefix: "x", Header: "X", Algorithm: "sha1", Encoding: "hex"},
			[]string{"verification.algorithm", "verification.encoding", "verification.header", "verification.prefix"}},
		{kapsel.Verification{Provider: "hmac", Secrets: secrets, Header: "X-Ok", Algorithm: "sha512", Encoding: "base64", Prefix: "sig="}, nil},
		{kapsel.Verification{Provider: "hmac", Secrets: secrets, Header: "a b", Algorithm: "md5", Encoding: "base32", Prefix: "\n"},
			[]string{"verification.header", "verification.algorithm", "verification.encoding", "verification.prefix"}},
		{kapsel.Verification{Provider: "hmac", Secrets: secrets, Header: "X-Ünicode"}, []string{"verification.header"}},
	} {
		var got []string
		for _, f := range Check(tt.v) {
			got = append(got, f.Field)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("Check(%+v) = %v, want %v", tt.v, got, tt.want)
		}
		if _, err := New(tt.v, []Key{{Value: []byte("secret")}}, "", nil); (err != nil) != (len(tt.want) > 0 && tt.want[0] != "verification.secrets") {
			t.Errorf("New(%+v): %v", tt.v, err)
		}
	}
	if _, err := New(kapsel.Verification{Provider: "stripe"}, nil, "", nil); err == nil {
		t.Error("New without a key")
	}
}

func TestCheckSecret(t *testing.T) {
	for _, tt := range []struct {
		provider, secret string
		ok               bool
	}{
		{"none", "", true},
		{"stripe", "whsec_anything", true},
		{"stripe", "", false},
		{"hmac", "x", true},
		{"standard-webhooks", specSecret, true},
		{"standard-webhooks", specKey, true},
		{"standard-webhooks", "whsec_", false},
		{"standard-webhooks", "whsec_not base64", false},
		{"standard-webhooks", "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 32)), true},
		{"standard-webhooks", "whpk_" + base64.StdEncoding.EncodeToString(make([]byte, 31)), false},
		{"no such", "x", false},
	} {
		err := CheckSecret(kapsel.Verification{Provider: tt.provider}, []byte(tt.secret))
		if (err == nil) != tt.ok {
			t.Errorf("CheckSecret(%s, %q) = %v", tt.provider, tt.secret, err)
		}
		if err != nil && tt.secret != "" && strings.Contains(err.Error(), tt.secret[len(tt.secret)-1:]+"\"") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

// TestVerifyGenerated signs and checks random requests of random settings.
func TestVerifyGenerated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringN(1, -1, -1).Draw(t, "secret")
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		v := kapsel.Verification{
			Provider:  "hmac",
			Algorithm: rapid.SampledFrom([]string{"", "sha1", "sha256", "sha512"}).Draw(t, "algorithm"),
			Encoding:  rapid.SampledFrom([]string{"", "hex", "base64"}).Draw(t, "encoding"),
			Prefix:    rapid.StringMatching(`[!-~]{0,8}`).Draw(t, "prefix"),
			Header:    rapid.StringMatching(`[A-Za-z][A-Za-z0-9-]{0,20}`).Draw(t, "header"),
		}
		alg := v.Algorithm
		if alg == "" {
			alg = "sha256"
		}
		h := hmac.New(hashes[alg], []byte(secret))
		h.Write(body)
		text := hex.EncodeToString(h.Sum(nil))
		if v.Encoding == "base64" {
			text = base64.StdEncoding.EncodeToString(h.Sum(nil))
		}
		ver, err := New(v, []Key{{Value: []byte(secret)}}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		r := Request{Header: http.Header{}, Body: body}
		r.Header.Set(v.Header, v.Prefix+text)
		if verdict, err := ver.Verify(r, time.Time{}); err != nil || !verdict.Valid {
			t.Fatalf("Verify = %+v, %v", verdict, err)
		}
		r.Body = append(bytes.Clone(body), 0)
		if verdict, err := ver.Verify(r, time.Time{}); err == nil || verdict.Valid {
			t.Fatalf("one more byte: %+v, %v", verdict, err)
		}
	})
}

func TestVerifyConcurrently(t *testing.T) {
	v := vectors[0]
	ver := v.verifier(t)
	done := make(chan error)
	for range 8 {
		go func() {
			var err error
			for range 200 {
				if _, e := ver.Verify(v.request(), v.now()); e != nil {
					err = e
				}
				bad := v.request()
				bad.Body = []byte("x")
				if _, e := ver.Verify(bad, v.now()); e == nil {
					err = fmt.Errorf("accepted")
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDeliveryID(t *testing.T) {
	header := http.Header{"X-Github-Delivery": {"a"}, "X-Shopify-Webhook-Id": {"b"}, "Svix-Id": {"c"}, "X-Forgejo-Delivery": {"d"}, "X-Zendesk-Webhook-Invocation-Id": {"e"}}
	for _, tt := range []struct{ provider, body, want string }{
		{"github", "", "a"}, {"shopify", "", "b"}, {"standard-webhooks", "", "c"}, {"gitea", "", "d"}, {"zendesk", "", "e"},
		{"stripe", `{"id":"evt_1","data":{"object":{"id":"x"}}}`, "evt_1"},
		{"stripe", `{"data":{"object":{"id":"x"}}}`, ""},
		{"stripe", `[{"id":"evt_1"}]`, ""},
		{"stripe", ``, ""},
		{"slack", `{"token":"z","event":{"event_id":"x"},"event_id":"Ev08MFMKH6"}`, "Ev08MFMKH6"},
		{"slack", `payload=%7B%22event_id%22%3A1%7D`, ""},
		{"square", `{"merchant_id":"m","event_id":"6a8f5f28"}`, "6a8f5f28"},
		{"paddle", `{"event_id":"evt_01","notification_id":"ntf_01"}`, "evt_01"},
		{"intercom", `{"type":"notification_event","id":"notif_78c122d0"}`, "notif_78c122d0"},
		{"intercom", `{"type":"notification_event","id":null}`, ""},
		{"okta", `{"eventId":"b5a188b9","data":{}}`, "b5a188b9"},
		{"mailgun", `{"signature":{"token":"t-1"},"event-data":{"id":"x"}}`, "t-1"},
		{"pagerduty", `{"event":{"id":"p-1"}}`, "p-1"},
		{"telegram", `{"update_id":12}`, "12"},
		{"trello", `{"action":{"id":"a-1"}}`, "a-1"},
		{"hmac", `{"id":"x"}`, ""}, {"none", `{"id":"x"}`, ""}, {"", "", ""}, {"no such", "", ""},
	} {
		if got := DeliveryID(tt.provider, header, []byte(tt.body)); got != tt.want {
			t.Errorf("DeliveryID(%q, %s) = %q, want %q", tt.provider, tt.body, got, tt.want)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, v := range vectors[:1] {
		ver := v.verifier(b)
		r, now := v.request(), v.now()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ver.Verify(r, now); err != nil {
				b.Fatal(err)
			}
		}
	}
}
