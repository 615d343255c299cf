package signature

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/kapsel-hq/kapsel"
)

const (
	testTopic = "arn:aws:sns:eu-west-1:123456789012:orders"
	testCert  = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
)

// web is what a test has instead of the net: documents by URL, and what was asked for.
type web struct {
	mu    sync.Mutex
	docs  map[string]string
	asked []string
	now   int // fetches under way
}

func (w *web) fetch(_ context.Context, url string) ([]byte, error) {
	w.mu.Lock()
	w.asked = append(w.asked, url)
	w.now++
	if w.now > 1 {
		panic("two fetches at a time")
	}
	w.mu.Unlock()
	time.Sleep(time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now--
	if doc, ok := w.docs[url]; ok {
		return []byte(doc), nil
	}
	return nil, errors.New("no such document")
}

// published are messages and tokens that OpenSSL signed, with the key's certificate and set of
// keys. npm sns-validator 0.3.5 accepts v1, v2 and sub, and npm jose 6.2.18 token and chat.
func published(t testing.TB) map[string]string {
	text, err := os.ReadFile("testdata/published.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]string
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func remoteVerifier(t testing.TB, v kapsel.Verification, w *web) *Verifier {
	t.Helper()
	if fields := Check(v); fields != nil {
		t.Fatal(fields)
	}
	ver, err := New(v, nil, "", NewRemote(w.fetch))
	if err != nil {
		t.Fatal(err)
	}
	return ver
}

func snsRequest(body string) Request {
	return Request{Method: "POST", URL: "https://hooks.example.com/ingest/ep_1", Header: http.Header{"Content-Type": {"text/plain; charset=UTF-8"}}, Body: []byte(body)}
}

var snsNow = time.Now() // inside of the certificate's time, which is a hundred years

// TestSNS checks that messages of the named topics are accepted with either version of the
// signature, that nothing else is, and that a forged message does not cause a request to a URL of
// its choice.
func TestSNS(t *testing.T) {
	all := published(t)
	settings := kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{"arn:aws:sns:us-east-1:123456789012:other", testTopic}}
	w := &web{docs: map[string]string{testCert: all["cert"]}}
	ver := remoteVerifier(t, settings, w)
	for _, name := range []string{"v1", "v2", "sub"} {
		verdict, err := ver.Verify(snsRequest(all[name]), snsNow)
		if err != nil || !verdict.Valid {
			t.Errorf("%s: %+v, %v", name, verdict, err)
		}
	}
	if len(w.asked) != 1 {
		t.Errorf("asked for %v", w.asked)
	}
	if got := DeliveryID("aws-sns", nil, []byte(all["v1"])); got != "m-1" {
		t.Errorf("delivery id %q", got)
	}
	edit := func(name string, change func(m map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(all[name]), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, _ := json.Marshal(m)
		return string(b)
	}
	set := func(key string, value any) func(map[string]any) { return func(m map[string]any) { m[key] = value } }
	forged := map[string]string{
		"foreign topic":           edit("v1", set("TopicArn", "arn:aws:sns:eu-west-1:999999999999:orders")),
		"topic of another case":   edit("v1", set("TopicArn", strings.ToUpper(testTopic))),
		"other message":           edit("v1", set("Message", `{"amount":101}`)),
		"other id":                edit("v2", set("MessageId", "m-2")),
		"other subject":           edit("v1", set("Subject", "x")),
		"subject taken away":      edit("v1", func(m map[string]any) { delete(m, "Subject") }),
		"subject added":           edit("v2", set("Subject", "x")),
		"other time":              edit("v1", set("Timestamp", "2023-11-14T22:13:21.000Z")),
		"other type":              edit("v1", set("Type", "UnsubscribeConfirmation")),
		"no type":                 edit("v1", func(m map[string]any) { delete(m, "Type") }),
		"other version":           edit("v1", set("SignatureVersion", "2")),
		"no such version":         edit("v1", set("SignatureVersion", "3")),
		"no signature":            edit("v1", set("Signature", "")),
		"short signature":         edit("v1", set("Signature", "AAAA")),
		"token":                   edit("sub", set("Token", "t2")),
		"subscribe URL":           edit("sub", set("SubscribeURL", "https://sns.eu-west-1.amazonaws.com/?Action=Other")),
		"message twice":           strings.Replace(all["v1"], `{`, `{"Message":"x",`, 1),
		"raw delivery":            `{"amount":100}`,
		"not JSON":                `x`,
		"empty":                   ``,
		"certificate elsewhere":   edit("v1", set("SigningCertURL", "https://evil.example/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem")),
		"certificate by http":     edit("v1", set("SigningCertURL", strings.Replace(testCert, "https", "http", 1))),
		"certificate of a bucket": edit("v1", set("SigningCertURL", "https://sns.eu-west-1.amazonaws.com.evil.example/SimpleNotificationService-01.pem")),
		"certificate with a user": edit("v1", set("SigningCertURL", strings.Replace(testCert, "sns.", "sns.eu-west-1.amazonaws.com@sns.", 1))),
		"certificate's port":      edit("v1", set("SigningCertURL", strings.Replace(testCert, ".com/", ".com:8443/", 1))),
		"certificate's path":      edit("v1", set("SigningCertURL", "https://sns.eu-west-1.amazonaws.com/bucket/x.pem")),
		"certificate's query":     edit("v1", set("SigningCertURL", testCert+"?x=1")),
		"another region":          edit("v1", set("SigningCertURL", strings.Replace(testCert, "eu-west-1", "us-east-1", 1))),
		"metadata address":        edit("v1", set("SigningCertURL", "https://169.254.169.254/SimpleNotificationService-01.pem")),
	}
	for name, body := range forged {
		verdict, err := ver.Verify(snsRequest(body), snsNow)
		refused(t, name, verdict, err)
	}
	if len(w.asked) != 1 {
		t.Errorf("forged messages made us ask for %v", w.asked[1:])
	}
	verdict, err := ver.Verify(snsRequest(all["v1"]), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))
	refused(t, "an expired certificate", verdict, err)

	down := remoteVerifier(t, settings, &web{})
	if verdict, err := down.Verify(snsRequest(all["v1"]), snsNow); verdict.Valid || kapsel.CodeOf(err) != kapsel.QueueFull {
		t.Errorf("without the certificate: %+v, %v; want 503", verdict, err)
	}
	notCert := remoteVerifier(t, settings, &web{docs: map[string]string{testCert: "<html>"}})
	verdict, err = notCert.Verify(snsRequest(all["v1"]), snsNow)
	refused(t, "something else for a certificate", verdict, err)
}

// TestSNSStrangersWork checks that a long message of a topic that is not named is refused without a
// copy.
func TestSNSStrangersWork(t *testing.T) {
	ver := remoteVerifier(t, kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{testTopic}}, &web{})
	for _, fill := range []string{"x", `\u0041`} {
		r := snsRequest(`{"Type":"Notification","MessageId":"1","Timestamp":"t","TopicArn":"arn:aws:sns:eu-west-1:999999999999:orders","SignatureVersion":"2",` +
			`"Signature":"AAAA","SigningCertURL":"` + testCert + `","Message":"` + strings.Repeat(fill, 1<<20/len(fill)) + `"}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		verdict, err := ver.Verify(r, snsNow)
		runtime.ReadMemStats(&after)
		refused(t, "foreign topic", verdict, err)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 256<<10 {
			t.Errorf("a message of %.6q: %d bytes were allocated", fill, spent)
		}
	}
}

// TestSNSConfirmation checks that a subscription to a named topic is confirmed after its signature
// is verified, and that Amazon must send the message again if it does not answer.
func TestSNSConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := published(t)
		var sub struct{ SubscribeURL string }
		if err := json.Unmarshal([]byte(all["sub"]), &sub); err != nil {
			t.Fatal(err)
		}
		settings := kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{testTopic}}
		w := &web{docs: map[string]string{testCert: all["cert"]}}
		ver := remoteVerifier(t, settings, w)
		if _, err := ver.Handshake(snsRequest(all["sub"])); kapsel.CodeOf(err) != kapsel.QueueFull {
			t.Errorf("Amazon does not answer: %v, want 503", err)
		}
		w.docs[sub.SubscribeURL] = "<ConfirmSubscriptionResponse/>"
		time.Sleep(fetchEvery)
		for range 3 {
			if a, err := ver.Handshake(snsRequest(all["sub"])); err != nil || a == nil || a.Status != 200 {
				t.Errorf("confirmed: %+v, %v", a, err)
			}
		}
		if len(w.asked) != 2 {
			t.Errorf("asked for %v", w.asked)
		}
		for _, name := range []string{"v1", "v2"} {
			if a, err := ver.Handshake(snsRequest(all[name])); a != nil || err != nil {
				t.Errorf("%s is an event, and is answered %+v, %v", name, a, err)
			}
		}
		// Signed, of the topic, and still not Amazon's: nobody is asked.
		if a, err := ver.Handshake(snsRequest(all["evil"])); a != nil || kapsel.CodeOf(err) != kapsel.InvalidSignature || len(w.asked) != 2 {
			t.Errorf("a SubscribeURL elsewhere: %+v, %v, asked for %v", a, err, w.asked)
		}
	})
}

func TestAmazonURL(t *testing.T) {
	for raw, ok := range map[string]bool{
		"https://sns.eu-west-1.amazonaws.com/?Action=x":     true,
		"https://sns.eu-west-1.amazonaws.com:443/":          true,
		"https://sns.eu-west-1.amazonaws.com":               true,
		"http://sns.eu-west-1.amazonaws.com/":               false,
		"https://sns.eu-west-1.amazonaws.com.cn/":           false,
		"https://sns.eu-west-1.amazonaws.com:80/":           false,
		"https://sns.us-east-1.amazonaws.com/":              false,
		"https://a@sns.eu-west-1.amazonaws.com/":            false,
		"https://sns.eu-west-1.amazonaws.com@evil.example/": false,
		"https://sns.eu-west-1.amazonaws.com.evil.example/": false,
		"https://SNS.eu-west-1.amazonaws.com/":              false,
		"https://sns.eu-west-1.amazonaws.com./":             false,
		"https://sns.eu-west-1.amazonaws.com/#x":            false,
		"https:sns.eu-west-1.amazonaws.com/":                false,
		"//sns.eu-west-1.amazonaws.com/":                    false,
		"https://169.254.169.254/":                          false,
		"":                                                  false,
	} {
		if got := amazonURL(raw, testTopic) != nil; got != ok {
			t.Errorf("%s: %v", raw, got)
		}
	}
	if amazonURL("https://sns.cn-north-1.amazonaws.com.cn/", "arn:aws-cn:sns:cn-north-1:123456789012:a") == nil {
		t.Error("China's URL is refused")
	}
}

const (
	testAudience = "https://hooks.example.com/ingest/ep_1"
	testEmail    = "push@project.iam.gserviceaccount.com"
)

func bearer(token string) Request {
	return Request{Method: "POST", Header: http.Header{"Authorization": {"Bearer " + token}}, Body: []byte(`{"message":{"messageId":"1"}}`)}
}

// TestOIDC checks that Google's tokens for the endpoint's audience and account are accepted, only
// with RS256 and Google's keys.
func TestOIDC(t *testing.T) {
	all := published(t)
	now := time.Unix(1_700_000_100, 0)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(id string) string {
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &private.PublicKey, KeyID: id, Algorithm: "RS256", Use: "sig"}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	w := &web{docs: map[string]string{googleAccounts.keys: all["jwks"], googleChat.keys: set("chat-1")}}
	settings := kapsel.Verification{Provider: "google-oidc", Audience: testAudience, Email: testEmail}
	ver := remoteVerifier(t, settings, w)
	if verdict, err := ver.Verify(bearer(all["token"]), now); err != nil || !verdict.Valid {
		t.Fatalf("the published token: %+v, %v", verdict, err)
	}
	verdict, err := ver.Verify(bearer(all["chat"]), now)
	refused(t, "a token of Chat", verdict, err)

	// Tokens of the test's own: Google's keys are now those of the test.
	w = &web{docs: map[string]string{googleAccounts.keys: set("k1"), googleChat.keys: set("chat-1")}}
	ver = remoteVerifier(t, settings, w)
	claims := map[string]any{"iss": "https://accounts.google.com", "aud": testAudience, "email": testEmail, "email_verified": true, "iat": 1_700_000_000, "exp": 1_700_003_600}
	encode := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	token := func(header map[string]any, change map[string]any, sign func(text string) []byte) string {
		c := maps.Clone(claims)
		maps.Copy(c, change)
		text := encode(header) + "." + encode(c)
		return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
	}
	byKey := func(key *rsa.PrivateKey) func(string) []byte {
		return func(text string) []byte {
			sum := sha256.Sum256([]byte(text))
			s, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(set("k1"))})
	byPublic := func(text string) []byte {
		h := hmac.New(sha256.New, public)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	rs := map[string]any{"alg": "RS256", "kid": "k1", "typ": "JWT"}
	type change = map[string]any
	for _, tt := range []struct {
		name  string
		token string
		ok    bool
	}{
		{"as it is", token(rs, nil, byKey(private)), true},
		{"issuer without https", token(rs, change{"iss": "accounts.google.com"}, byKey(private)), true},
		{"several audiences", token(rs, change{"aud": []string{"a", testAudience}}, byKey(private)), true},
		{"foreign audience", token(rs, change{"aud": "https://other.example"}, byKey(private)), false},
		{"foreign issuer", token(rs, change{"iss": "https://evil.example"}, byKey(private)), false},
		{"Chat's issuer", token(change{"alg": "RS256", "kid": "chat-1"}, change{"iss": chatAccount}, byKey(private)), false},
		{"foreign account", token(rs, change{"email": "me@example.com"}, byKey(private)), false},
		{"account not verified", token(rs, change{"email_verified": false}, byKey(private)), false},
		{"no account", token(rs, change{"email": nil}, byKey(private)), false},
		{"expired", token(rs, change{"exp": 1_700_000_000}, byKey(private)), false},
		{"not yet valid", token(rs, change{"nbf": 1_700_000_300}, byKey(private)), false},
		{"never expires", token(rs, change{"exp": nil}, byKey(private)), false},
		{"another key", token(rs, nil, byKey(other)), false},
		{"unknown key id", token(change{"alg": "RS256", "kid": "k2"}, nil, byKey(private)), false},
		{"no key id", token(change{"alg": "RS256"}, nil, byKey(private)), false},
		{"alg none", token(change{"alg": "none", "kid": "k1"}, nil, func(string) []byte { return nil }), false},
		{"alg none, signed", token(change{"alg": "none", "kid": "k1"}, nil, byKey(private)), false},
		{"HS256 with the public key", token(change{"alg": "HS256", "kid": "k1"}, nil, byPublic), false},
		{"RS512", token(change{"alg": "RS512", "kid": "k1"}, nil, byKey(private)), false},
		{"key in the token", token(change{"alg": "RS256", "jwk": change{"kty": "RSA"}}, nil, byKey(other)), false},
		{"cut", token(rs, nil, byKey(private))[:100], false},
		{"long", strings.Repeat("a", maxToken+1), false},
		{"empty", "", false},
	} {
		verdict, err := ver.Verify(bearer(tt.token), now)
		if !tt.ok {
			refused(t, tt.name, verdict, err)
		} else if err != nil || !verdict.Valid {
			t.Errorf("%s: %+v, %v", tt.name, verdict, err)
		}
	}
	if len(w.asked) != 1 {
		t.Errorf("asked for %v", w.asked)
	}
	for _, r := range []Request{{Header: http.Header{}}, {Header: http.Header{"Authorization": {"Basic " + all["token"]}}}} {
		verdict, err := ver.Verify(r, now)
		refused(t, "no bearer token", verdict, err)
	}

	chat := remoteVerifier(t, kapsel.Verification{Provider: "google-oidc", Audience: "1234567890", Email: chatAccount}, w)
	ofChat := change{"iss": chatAccount, "aud": "1234567890", "email": nil, "email_verified": nil}
	if verdict, err := chat.Verify(bearer(token(change{"alg": "RS256", "kid": "chat-1"}, ofChat, byKey(private))), now); err != nil || !verdict.Valid {
		t.Errorf("Chat's own token: %+v, %v", verdict, err)
	}
	verdict, err = chat.Verify(bearer(token(change{"alg": "RS256", "kid": "k1"}, ofChat, byKey(private))), now)
	refused(t, "Chat's token with a key of Google's accounts", verdict, err)
	if verdict, err := chat.Verify(bearer(token(rs, change{"aud": "1234567890", "email": chatAccount}, byKey(private))), now); err != nil || !verdict.Valid {
		t.Errorf("Google's token of Chat's account: %+v, %v", verdict, err)
	}

	down := remoteVerifier(t, settings, &web{})
	if verdict, err := down.Verify(bearer(all["token"]), now); verdict.Valid || kapsel.CodeOf(err) != kapsel.QueueFull {
		t.Errorf("without keys: %+v, %v; want 503", verdict, err)
	}
}

// TestRemote checks that Remote makes one fetch at a time, and one a minute for a URL, whatever
// requests ask for.
func TestRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &web{docs: map[string]string{"https://a": "1"}}
		r := NewRemote(w.fetch)
		any := func([]byte) bool { return true }
		never := func([]byte) bool { return false }
		get := func(url string, good func([]byte) bool) string {
			body, fresh, err := r.get(url, time.Hour, good)
			return fmt.Sprintf("%s %v %v", body, fresh, err != nil)
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got := get("https://a", any); got != "1 true false" {
					t.Errorf("%s", got)
				}
			})
		}
		all.Wait()
		for range 1_000 { // what is kept does not have it
			get("https://a", never)
		}
		if len(w.asked) != 1 {
			t.Errorf("asked %d times in a minute", len(w.asked))
		}
		time.Sleep(fetchEvery)
		w.docs["https://a"] = "2"
		if got := get("https://a", any); got != "1 false false" {
			t.Errorf("what is kept: %s", got)
		}
		if got := get("https://a", never); got != "2 true false" {
			t.Errorf("fetched again: %s", got)
		}
		delete(w.docs, "https://a")
		time.Sleep(2 * time.Hour)
		if got := get("https://a", any); got != "2 false false" {
			t.Errorf("a fetch that fails: %s", got)
		}
		before := len(w.asked)
		for i := range 1_000 { // URLs that somebody makes up
			if got := get(fmt.Sprintf("https://new-%d", i), any); got != " false true" {
				t.Errorf("%s", got)
			}
		}
		if n := len(w.asked) - before; n != maxNews {
			t.Errorf("asked for %d new URLs in a minute, not %d", n, maxNews)
		}
		for range 2 * maxDocs {
			time.Sleep(fetchEvery)
			get(fmt.Sprintf("https://later-%d", len(w.asked)), any)
		}
		if len(r.docs) > maxDocs {
			t.Errorf("%d documents are kept", len(r.docs))
		}
		if got := get("https://a", any); got != "2 false false" {
			t.Errorf("after many URLs with nothing: %s", got)
		}
		for i := range 2 * maxNews { // what is forged for one verifier
			get(fmt.Sprintf("https://other-%d", i), any)
		}
		w.docs["https://b"] = "b"
		if body, _, err := r.own().get("https://b", time.Hour, any); string(body) != "b" || err != nil {
			t.Errorf("another verifier gets %q, %v", body, err)
		}
		if _, _, err := (*Remote)(nil).get("https://a", time.Hour, any); err == nil {
			t.Error("without a Remote something was fetched")
		}
	})
}
