package signature

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// hostile are bodies of a size that cost much to who builds what they say, each
// with its content type.
func hostile(size int) map[string]Request {
	fill := func(begin, repeated, end string) []byte {
		n := (size - len(begin) - len(end)) / len(repeated)
		return []byte(begin + strings.Repeat(repeated, n) + end)
	}
	list := map[string]Request{}
	add := func(name, contentType string, body []byte) {
		list[name] = Request{Method: "POST", URL: "https://hooks.example.com:8443/ingest/ep_1", Header: http.Header{"Content-Type": {contentType}}, Body: body}
	}
	const json, form, parts = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
	add("a long string", json, fill(`{"a":"`, "x", `"}`))
	add("a long signature", json, fill(`{"signature":{"timestamp":"1","token":"`, "x", `"}}`))
	add("many members", json, fill(`{`, `"a":1,`, `"b":1}`))
	add("many objects", json, fill(`{"a":[`, `{"a":{}},`, `{}]}`))
	add("deep", json, fill(`{"a":[`, "["+strings.Repeat("[", 4_000)+strings.Repeat("]", 4_000)+"],", `1]}`))
	add("too deep", json, fill(`{"a":`, "[", ""))
	add("escaped names", json, fill(`{`, `"\u0061":1,`, `"b":1}`))
	add("many items", json, fill(`{"notificationItems":[`, `{"NotificationRequestItem":{}},`, `{}]}`))
	add("big items", json, fill(`{"notificationItems":[{"NotificationRequestItem":{`, `"a":{"b":1},`, `"amount":{},"additionalData":{}}}]}`))
	add("many notifications", json, fill(`{"value":[`, `{"clientState":"x"},`, `{}]}`))
	add("long notifications", json, fill(`{"value":[`, `{"clientState":"`+strings.Repeat("x", 4_000)+`"},`, `{}]}`))
	const sns = `{"Type":"Notification","MessageId":"1","Timestamp":"t","TopicArn":"` + testTopic + `","SignatureVersion":"1",` +
		`"Signature":"AAAA","SigningCertURL":"` + testCert + `","Message":"`
	add("a long message", json, fill(sns, "x", `"}`))
	add("an escaped message", json, fill(sns, `\u0041`, `"}`))
	add("many fields", form, fill("a=1", "&a=1", ""))
	add("empty fields", form, fill("&", "&", ""))
	add("a long field", form, fill("token=", "x", ""))
	add("an escaped field", form, fill("token=", "%78", ""))
	add("fields below the limit", form, fill("a", strings.Repeat("+", 1_050)+"&a", ""))
	add("many parts", parts, fill("", "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n", "--b--\r\n"))
	add("a long part", parts, fill("--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n", "x", "\r\n--b--\r\n"))
	add("nearly boundaries", parts, fill("--b\r\n\r\n", "\r\n--a", "\r\n--b--\r\n"))
	add("many header lines", parts, fill("--b\r\n", "A: b\r\n", "\r\n\r\n--b--\r\n"))
	add("not JSON", json, fill("", "x", ""))
	return list
}

// forge gives a request signatures that have the provider's form and are wrong.
func forge(ver *Verifier, r Request, now time.Time) Request {
	r.Header = maps.Clone(r.Header)
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	p := ver.preset
	for _, h := range p.headers {
		stamp := fmt.Sprint(now.Unix())
		switch p.unit {
		case millis:
			stamp = fmt.Sprint(now.UnixMilli())
		case rfc3339:
			stamp = now.Format(time.RFC3339)
		}
		digits := hex.EncodeToString(make([]byte, 32))
		value := "t=" + stamp + ",ts=" + stamp + strings.Repeat(",v1="+digits, 10) + ";ts=" + stamp + strings.Repeat(";h1="+digits, 10)
		switch encoded := inHex; {
		case h.id != "": // Standard Webhooks
			value = strings.Repeat("v1,"+wrong+" ", 5) + strings.Repeat("v1a,"+base64.StdEncoding.EncodeToString(make([]byte, 64))+" ", 5)
		case ver.name == "discord":
			value = hex.EncodeToString(make([]byte, 64))
		case p.prefix != "" || h.time != "":
			value = p.prefix + strings.Repeat("0", encoded.length(32))
			if ver.name == "hubspot" || ver.name == "zendesk" || ver.name == "x" {
				value = p.prefix + wrong
			}
		case !strings.Contains("stripe paddle", ver.name):
			value = wrong
		}
		if ver.name == "adyen" {
			continue // the items sign for themselves
		}
		r.Header[h.signature] = []string{value}
		if h.id != "" {
			r.Header[h.id] = []string{"msg_1"}
		}
		if h.time != "" {
			r.Header[h.time] = []string{stamp}
		}
	}
	return r
}

// strangersTo are verifiers of all providers, and one with a public key of Ed25519.
func strangersTo(t testing.TB) map[string]*Verifier {
	all := map[string]*Verifier{}
	for _, v := range vectors {
		all[v.verification.Provider] = v.verifier(t)
	}
	all["mailgun"] = verifier(t, kapsel.Verification{Provider: "mailgun"}, "k")
	all["standard-webhooks"] = verifier(t, kapsel.Verification{Provider: "standard-webhooks"},
		PublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))))
	w := &web{docs: map[string]string{testCert: published(t)["cert"]}}
	all["aws-sns"] = remoteVerifier(t, kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{testTopic}}, w)
	all["google-oidc"] = remoteVerifier(t, kapsel.Verification{Provider: "google-oidc", Audience: testAudience, Email: testEmail}, w)
	return all
}

// readers are the providers whose requests are read each in its own way.
var readers = []string{
	"github", "stripe", "slack", "standard-webhooks", "discord", "sendgrid", "paypal", "twilio", "hubspot", "mailgun", "mailchimp",
	"adyen", "linear", "gitlab", "x", "microsoft-graph", "cloudevents", "websub", "docusign", "aws-sns", "google-oidc",
}

// TestStrangersWork holds what an unsigned body costs before it is refused to a bound that does
// not depend on the body: nothing is built of what no check needs. Ed25519 needs its message
// in one piece, and an escaped form is unescaped, which is a copy of the body each.
func TestStrangersWork(t *testing.T) {
	const size = 2 << 20
	const most = 1 << 20 // the parts of a form, most of all
	now := snsNow
	all := strangersTo(t)
	bodies := hostile(size)
	for _, provider := range slices.Sorted(maps.Keys(all)) {
		ver := all[provider]
		if !slices.Contains(readers, provider) {
			continue // reads as one of them
		}
		limit := uint64(most)
		if ver.name == "discord" || ver.name == "standard-webhooks" || ver.name == "twilio" || ver.name == "mailchimp" {
			limit += size
		}
		if ver.name == "aws-sns" {
			limit += 3 * size // of a topic that is named; a longer body is refused
		}
		for name, body := range bodies {
			r := forge(ver, body, now)
			verdict, err := ver.Verify(r, now) // also fills pools
			refused(t, provider+": "+name, verdict, err)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ver.Verify(r, now)
			runtime.ReadMemStats(&after)
			if spent := after.TotalAlloc - before.TotalAlloc; spent > limit {
				t.Errorf("%s: %s: %d bytes were allocated, more than %d", provider, name, spent, limit)
			}
		}
	}
}

// TestStrangersCounts checks that counts of a request's parts are limited, and that the limits are
// above what providers send.
func TestStrangersCounts(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const key = "12345"
	form := func(n int) Request {
		body := strings.TrimSuffix(strings.Repeat("a=1&", n), "&")
		r := Request{Method: "POST", URL: "https://mycompany.com/myapp.php", Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: []byte(body)}
		k := newHMAC("", hashes["sha1"], inBase64, []byte(key))
		m := message{head: []byte(r.URL + "a1")}
		mac := k.hashes.New().(interface {
			Write([]byte) (int, error)
			Sum([]byte) []byte
		})
		mac.Write(m.head)
		r.Header.Set("X-Twilio-Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		return r
	}
	twilio := verifier(t, kapsel.Verification{Provider: "twilio"}, key)
	if _, err := twilio.Verify(form(maxFields), now); err != nil {
		t.Errorf("twilio, %d parameters: %v", maxFields, err)
	}
	verdict, err := twilio.Verify(form(maxFields+1), now)
	refused(t, "twilio, more parameters", verdict, err)

	adyen := verifier(t, kapsel.Verification{Provider: "adyen"}, "00ff")
	items := func(n int) Request {
		signed := base64.StdEncoding.EncodeToString(sum("\x00\xff", "p1:::::::"))
		item := `{"NotificationRequestItem":{"pspReference":"p1","additionalData":{"hmacSignature":"` + signed + `"}}},`
		body := `{"notificationItems":[` + strings.TrimSuffix(strings.Repeat(item, n), ",") + `]}`
		return Request{Method: "POST", Header: http.Header{}, Body: []byte(body)}
	}
	if _, err := adyen.Verify(items(maxAdyenItems), now); err != nil {
		t.Errorf("adyen, %d items: %v", maxAdyenItems, err)
	}
	verdict, err = adyen.Verify(items(maxAdyenItems+1), now)
	refused(t, "adyen, more items", verdict, err)

	// A value is a comma or an opening bracket; the two of the signature and the three around it count.
	event := func(n int) Request {
		body := `{"signature":{"timestamp":"1700000000","token":"t","signature":"` + hex.EncodeToString(sum("k", "1700000000t")) +
			`"},"event-data":[` + strings.TrimSuffix(strings.Repeat("1,", n-6+1), ",") + `]}`
		return Request{Method: "POST", Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)}
	}
	mailgun := verifier(t, kapsel.Verification{Provider: "mailgun"}, "k")
	if _, err := mailgun.Verify(event(maxMarks), now); err != nil {
		t.Errorf("mailgun, %d values: %v", maxMarks, err)
	}
	for provider, ver := range strangersTo(t) {
		if !slices.Contains([]string{"mailgun", "adyen", "microsoft-graph"}, provider) {
			continue
		}
		verdict, err := ver.Verify(event(maxMarks+1), now)
		refused(t, provider+", more values", verdict, err)
		if err == nil || !strings.Contains(err.Error(), "300000 values") {
			t.Errorf("%s, more values: %v", provider, err)
		}
	}

	first := items(2)
	first.Body = bytes.Replace(first.Body, []byte("p1"), []byte("p2"), 1)
	verdict, err = adyen.Verify(first, now)
	refused(t, "adyen, the first item is forged", verdict, err)
}

// TestStrangersEd25519 checks that only as many signatures are tried as a sender has while it
// changes its key, because each try hashes the whole message again.
func TestStrangersEd25519(t *testing.T) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	ver := verifier(t, kapsel.Verification{Provider: "standard-webhooks"}, PublicKey(private))
	stamp := fmt.Sprint(specTime)
	right := "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(specID+"."+stamp+"."+specBody)))
	wrong := "v1a," + base64.StdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))
	for list, ok := range map[string]bool{
		right: true, wrong + " " + right: true, "v1,AAAA v1a,AAAA " + wrong + " " + right: true, wrong + " " + wrong + " " + right: false,
	} {
		if verdict, err := ver.Verify(standardRequest(specID, stamp, list), time.Unix(specTime, 0)); verdict.Valid != ok {
			t.Errorf("%.60s…: %+v, %v", list, verdict, err)
		}
	}
}

// BenchmarkStrangers shows what an unsigned body of 10 MiB costs: no provider is to cost more
// than five times as much as github.
func BenchmarkStrangers(b *testing.B) {
	now := snsNow
	bodies := hostile(10 << 20) // the longest by default
	all := strangersTo(b)
	for _, provider := range slices.Sorted(maps.Keys(all)) {
		ver := all[provider]
		for _, name := range slices.Sorted(maps.Keys(bodies)) {
			r := forge(ver, bodies[name], now)
			b.Run(provider+"/"+strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					ver.Verify(r, now)
				}
			})
		}
	}
}
