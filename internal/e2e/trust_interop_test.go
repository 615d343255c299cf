//go:build interop

package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// webhook is a webhook that a provider's library must verify or sign.
type webhook struct {
	Provider string            `json:"provider"`
	URL      string            `json:"url"`
	Header   map[string]string `json:"header"` // names in lower case
	Body     string            `json:"body"`
	Secret   string            `json:"secret"`
	ID       string            `json:"id"`   // to sign
	Time     int64             `json:"time"` // to sign, in Unix seconds
}

// webhookOf returns a request to a URL in the form that libraries take.
func webhookOf(provider, url, secret string, r request) webhook {
	w := webhook{Provider: provider, URL: url, Header: map[string]string{}, Body: r.body, Secret: secret}
	for name, value := range r.header {
		w.Header[strings.ToLower(name)] = value
	}
	return w
}

// parts holds what a library makes to sign a webhook: headers, and the body if the signature is in it.
type parts struct {
	Header map[string]string `json:"header"`
	Body   string            `json:"body"`
}

// ask asks all libraries of a webhook's provider to verify (T is bool) or to sign it (T is
// parts), and returns what those that can do it answer, by their names.
func ask[T any](t *testing.T, verb string, webhooks []webhook) []map[string]T {
	t.Helper()
	var tasks []map[string]webhook
	for _, w := range webhooks {
		tasks = append(tasks, map[string]webhook{verb: w})
	}
	in, err := json.Marshal(tasks)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]map[string]T, len(webhooks))
	for registry, command := range map[string][]string{"npm": {"node", "interop.mjs"}, "PyPI": {filepath.Join(".venv", "bin", "python"), "providers.py"}} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = "../../interop"
		cmd.Stdin = bytes.NewReader(in)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command[1], err, stderr.String())
		}
		var answers []map[string]T
		if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(tasks) {
			t.Fatalf("%s: %d answers of %d: %v", command[1], len(answers), len(tasks), err)
		}
		for i, answer := range answers {
			for library, said := range answer {
				if all[i] == nil {
					all[i] = map[string]T{}
				}
				all[i][registry+" "+library] = said
			}
		}
	}
	return all
}

// TestInterop_B68_Rotation checks that other libraries accept what Kapsel signs before, during
// and after a rotation with the keys that are good at the time, and nothing else. They are
// standardwebhooks and svix (v1) and Node's crypto (v1a), with every key there was.
func TestInterop_B68_Rotation(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	node := w.nodes[0]
	var made struct {
		ID     string `json:"id"`
		URL    string `json:"ingest_url"`
		Secret string `json:"signing_secret"`
	}
	api := func(method, path string, in, out any) {
		t.Helper()
		if err := node.API(w.ctx, method, path, in, out); err != nil {
			t.Fatal(err)
		}
	}
	api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{"name": "e", "url": w.sink.URL(1), "signing": map[string]any{"v1a": true}}, &made)
	newest := func() string {
		t.Helper()
		var p page[struct {
			PublicKey string `json:"public_key"`
		}]
		api("GET", "/v1/signing-keys?endpoint_id="+made.ID, nil, &p)
		return p.Data[0].PublicKey
	}
	rotate := func(overlap string) string {
		t.Helper()
		api("POST", "/v1/endpoints/"+made.ID+"/secrets/rotate", map[string]string{"overlap": overlap}, &made)
		return made.Secret
	}
	body := `{"name":"Grüße","n":1.10e1}`
	send := func() harness.SinkRequest {
		t.Helper()
		status, code, event := post(t, made.URL, map[string]string{"Content-Type": "application/json"}, strings.NewReader(body))
		if status != 200 {
			t.Fatalf("answered %d %s", status, code)
		}
		return w.arrived(event)
	}
	keys := []string{made.Secret, newest()} // v1 and v1a of each generation
	before := send()
	keys = append(keys, rotate("1h"), newest())
	during := send()
	keys = append(keys, rotate("0s"), newest())
	after := send()

	var webhooks []webhook
	var want []bool
	for _, c := range []struct {
		r    harness.SinkRequest
		good [3]bool // with the keys of each generation
	}{{before, [3]bool{true, false, false}}, {during, [3]bool{true, true, false}}, {after, [3]bool{false, false, true}}} {
		r := request{map[string]string{}, string(c.r.Body)}
		for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			r.header[name] = c.r.Get(name)
		}
		for i, key := range keys {
			webhooks = append(webhooks,
				webhookOf("standard-webhooks", made.URL, key, r),
				webhookOf("standard-webhooks", made.URL, key, request{r.header, r.body + " "}))
			want = append(want, c.good[i/2], false)
		}
	}
	for i, got := range ask[bool](t, "verify", webhooks) {
		if len(got) == 0 {
			t.Errorf("nothing was asked of %v", webhooks[i])
		}
		for library, verified := range got {
			if verified != want[i] {
				t.Errorf("%s: %v, want %v of %v", library, verified, want[i], webhooks[i])
			}
		}
	}
}

// notCovered are the providers that no official library on npm or PyPI can verify or sign for,
// and why that is so. OpenSSL signs their webhooks, from their documentation (schemes).
var notCovered = map[string]string{
	"airtable":         "its library does not know webhooks",
	"alchemy":          "its library does not verify",
	"asana":            "its libraries do not verify",
	"atlassian":        "no library of its own",
	"azure-event-grid": "the secret itself is sent",
	"bitbucket":        "no library of its own",
	"buildkite":        "no library of its own",
	"calendly":         "no library of its own",
	"circleci":         "no library of its own",
	"cloudevents":      "the secret itself is sent",
	"customerio":       "its libraries do not verify",
	"docusign":         "its libraries do not verify",
	"dropbox":          "its libraries do not verify",
	"gitea":            "its library is in Go",
	"google-calendar":  "the secret itself is sent",
	"hmac":             "any sender's",
	"intercom":         "its libraries do not verify",
	"lemonsqueezy":     "its library does not verify",
	"mailchimp":        "its libraries do not verify",
	"microsoft-graph":  "the secret itself is sent",
	"microsoft-teams":  "no library verifies outgoing webhooks",
	"okta":             "the secret itself is sent",
	"pagerduty":        "its libraries on npm and PyPI do not verify",
	"paystack":         "its library does not verify",
	"postmark":         "the secret itself is sent",
	"sentry":           "no library of its own verifies",
	"telegram":         "the secret itself is sent",
	"token":            "any sender's",
	"trello":           "no library of its own",
	"twitch":           "no library of its own",
	"typeform":         "its library does not verify",
	"vercel":           "its library does not verify",
	"websub":           "a protocol; hubs are anybody's",
	"woocommerce":      "its library does not verify",
	"xero":             "its libraries do not verify",
	"zendesk":          "no library of its own",
}

// remote are the providers whose keys Kapsel fetches: TestInterop_B71_PublishedKeys.
var remote = []string{"aws-sns", "google-oidc"}

// libraries holds the names of the libraries that have been asked, by provider.
type libraries map[string]map[string]bool

func (l libraries) add(provider, library string) {
	if l[provider] == nil {
		l[provider] = map[string]bool{}
	}
	l[provider][library] = true
}

// complete fails the test unless the libraries of each provider have been asked. It leaves out the providers in
// notCovered and those that other tests try.
func (l libraries) complete(t *testing.T, elsewhere ...string) {
	t.Helper()
	for _, provider := range signature.Providers() {
		switch why := notCovered[provider]; {
		case slices.Contains(elsewhere, provider):
		case len(l[provider]) == 0 && why == "":
			t.Errorf("%s: no library was asked, and nothing says why", provider)
		case len(l[provider]) > 0 && why != "":
			t.Errorf("%s: %v was asked, and there is said to be none: %s", provider, l.of(provider), why)
		}
	}
}

func (l libraries) of(provider string) string {
	return strings.Join(slices.Sorted(maps.Keys(l[provider])), ", ")
}

// tampered returns the request with one byte changed: a byte of the body or, if the signature does not cover the
// body, one in each place that holds the secret.
func (s scheme) tampered(r request) request {
	if !s.bodyFree {
		return request{r.header, strings.Replace(r.body, "100", "101", 1)}
	}
	out := request{map[string]string{}, strings.Replace(r.body, s.secret, flipped(s.secret, 0), 1)}
	for name, value := range r.header {
		out.header[name] = flipped(value, len(value)-1)
	}
	return out
}

// answered posts a webhook and fails the test unless Kapsel accepts it or, if it must be refused, answers 401
// E1001.
func answered(t *testing.T, what, url string, r request, accepted bool) {
	t.Helper()
	status, body, event := r.send(t, url)
	switch {
	case accepted && (status/100 != 2 || event == ""):
		t.Errorf("%s: Kapsel answered %d %s", what, status, body)
	case !accepted && (status != 401 || !bytes.Contains(body, []byte(`"E1001"`)) || event != ""):
		t.Errorf("%s, with a byte changed: Kapsel answered %d %s", what, status, body)
	}
}

// TestInterop_B71_Providers checks that webhooks of each provider that OpenSSL signed are
// accepted by Kapsel and by the provider's libraries, and refused by both after a byte was
// changed.
func TestInterop_B71_Providers(t *testing.T) {
	w := newWorld(t, "")
	type trial struct {
		name, url string
		r         request
		good      bool
	}
	var trials []trial
	var webhooks []webhook
	for name, s := range schemes(t, "a secret of this test") {
		url := w.verifying(name, s).IngestURL
		r := s.sign(time.Now(), url)
		for _, c := range []trial{{name, url, r, true}, {name, url, s.tampered(r), false}} {
			trials = append(trials, c)
			webhooks = append(webhooks, webhookOf(providerOf(name), url, s.secret, c.r))
		}
	}
	asked := libraries{}
	for i, verdicts := range ask[bool](t, "verify", webhooks) {
		c := trials[i]
		answered(t, c.name, c.url, c.r, c.good)
		for library, accepts := range verdicts {
			asked.add(providerOf(c.name), library)
			if accepts != c.good {
				t.Errorf("%s, signed by OpenSSL: %s accepts it: %v, want %v", c.name, library, accepts, c.good)
			}
		}
	}
	asked.complete(t, remote...)
	for _, provider := range signature.Providers() {
		t.Logf("%-17s %s%s", provider, asked.of(provider), notCovered[provider])
	}
}

// TestInterop_B71_Libraries checks that Kapsel accepts webhooks that the providers' own
// libraries signed, and refuses them after a byte was changed.
func TestInterop_B71_Libraries(t *testing.T) {
	w := newWorld(t, "")
	var names, urls []string
	var webhooks []webhook
	for name, s := range schemes(t, "a secret of this test") {
		url := w.verifying(name, s).IngestURL
		of := webhookOf(providerOf(name), url, s.secret, s.sign(time.Now(), url))
		of.ID, of.Time = "msg_library", time.Now().Unix()
		names, urls, webhooks = append(names, name), append(urls, url), append(webhooks, of)
	}
	signers := libraries{}
	for i, answers := range ask[parts](t, "sign", webhooks) {
		for library, made := range answers {
			signers.add(providerOf(names[i]), library)
			r := request{map[string]string{}, made.Body}
			for _, name := range []string{"content-type", "x-twilio-webhooks-signature-settings"} {
				if value := webhooks[i].Header[name]; value != "" {
					r.header[name] = value
				}
			}
			maps.Copy(r.header, made.Header)
			what := names[i] + ", signed by " + library
			answered(t, what, urls[i], r, true)
			answered(t, what, urls[i], request{r.header, strings.Replace(r.body, "100", "101", 1)}, false)
		}
	}
	if len(signers) < 19 {
		t.Errorf("libraries have signed for %d providers: %v", len(signers), signers)
	}
	for _, provider := range slices.Sorted(maps.Keys(signers)) {
		t.Logf("%-17s %s", provider, signers.of(provider))
	}
}

// TestInterop_B71_Trigger checks that the providers' libraries accept what kapsel trigger
// sends, and refuse it after a byte was changed.
func TestInterop_B71_Trigger(t *testing.T) {
	d := startDev(t)
	d.printed(1, `^and see it arrive`)
	server, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	// What kapsel trigger sends goes by here: the secret in the endpoint that it makes, and the webhook.
	var mu sync.Mutex
	var secret string
	var sent request
	var path string
	through := httputil.NewSingleHostReverseProxy(server)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		var endpoint struct {
			Verification struct{ Secrets []string }
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/ingest/"):
			sent, path = request{map[string]string{}, string(body)}, r.URL.RequestURI()
			for name := range r.Header {
				sent.header[name] = r.Header.Get(name)
			}
		case json.Unmarshal(body, &endpoint) == nil && len(endpoint.Verification.Secrets) == 1:
			secret = endpoint.Verification.Secrets[0]
		}
		mu.Unlock()
		through.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	var names []string
	var webhooks []webhook
	for _, provider := range signature.Providers() {
		if slices.Contains(remote, provider) {
			continue
		}
		cmd := d.kapsel("trigger", provider)
		cmd.Env = append(cmd.Env, "KAPSEL_URL="+proxy.URL)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("kapsel trigger %s: %v\n%s", provider, err, out)
			continue
		}
		mu.Lock()
		last := strings.LastIndex(sent.body, "e")
		changed := request{sent.header, sent.body[:last] + "f" + sent.body[last+1:]}
		for _, r := range []request{sent, changed} {
			names = append(names, provider)
			webhooks = append(webhooks, webhookOf(provider, d.url+path, secret, r))
		}
		mu.Unlock()
	}
	asked := libraries{}
	for i, verdicts := range ask[bool](t, "verify", webhooks) {
		for library, accepts := range verdicts {
			asked.add(names[i], library)
			if want := i%2 == 0; accepts != want {
				t.Errorf("%s: %s accepts what kapsel trigger has sent: %v, want %v; %v", names[i], library, accepts, want, webhooks[i])
			}
		}
	}
	asked.complete(t, append(remote, "gitlab")...) // with the secret that is made, GitLab sends it and signs nothing
}

// TestInterop_B71_PublishedKeys checks that webhooks of the two providers whose keys Kapsel
// fetches are accepted by Kapsel and by the libraries, and refused after a byte was changed.
// The keys are the test's own: messages of SNS that OpenSSL signs, and tokens that Google's
// library in Python signs.
func TestInterop_B71_PublishedKeys(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	certificate := string(run(t, nil, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/CN=sns.amazonaws.com", "-days", "2"))
	const (
		topic    = "arn:aws:sns:eu-west-1:123456789012:orders"
		certURL  = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
		keysURL  = "https://www.googleapis.com/oauth2/v3/certs"
		audience = "https://hooks.example.com/ingest/ep_1"
		account  = "push@project.iam.gserviceaccount.com"
	)
	public := run(t, nil, "pkey", "-in", key, "-pubout")
	block, _ := pem.Decode(public)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: parsed, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	published := signature.NewRemote(func(_ context.Context, url string) ([]byte, error) {
		switch url {
		case certURL:
			return []byte(certificate), nil
		case keysURL:
			return set, nil
		}
		return nil, fmt.Errorf("%s is not published", url)
	})
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	type trial struct {
		webhook
		what string
		good bool
	}
	var trials []trial
	for _, m := range []map[string]string{
		{"Type": "Notification", "SignatureVersion": "1"},
		{"Type": "Notification", "SignatureVersion": "2", "Subject": "orders"},
		{"Type": "SubscriptionConfirmation", "SignatureVersion": "2", "Token": "t-1", "SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"},
	} {
		maps.Copy(m, map[string]string{"MessageId": "m-1", "TopicArn": topic, "Timestamp": "2026-03-01T12:00:00.000Z", "Message": `{"amount":100}`})
		signed := ""
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if name != "SignatureVersion" {
				signed += name + "\n" + m[name] + "\n"
			}
		}
		digest := map[string]string{"1": "-sha1", "2": "-sha256"}[m["SignatureVersion"]]
		m["Signature"] = base64.StdEncoding.EncodeToString(run(t, []byte(signed), "dgst", digest, "-sign", key))
		m["SigningCertURL"] = certURL
		body := encode(m)
		what := m["Type"] + ", version " + m["SignatureVersion"]
		of := webhook{Provider: "aws-sns", Body: body, Secret: certificate}
		changed := of
		changed.Body = strings.Replace(body, "100", "101", 1)
		trials = append(trials, trial{of, what, true}, trial{changed, what, false})
	}

	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	claims := map[string]any{
		"iss": "https://accounts.google.com", "aud": audience, "email": account, "email_verified": true,
		"sub": "1", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	token := webhook{Provider: "google-oidc", Body: "{}", Secret: encode(map[string]any{"key": string(private), "id": "k1", "claims": claims})}
	for library, made := range ask[parts](t, "sign", []webhook{token})[0] {
		of := webhook{Provider: "google-oidc", Header: made.Header, Body: made.Body, Secret: encode(map[string]any{"keys": map[string]string{"k1": string(public)}, "audience": audience})}
		changed := of
		bearer := made.Header["authorization"]
		changed.Header = map[string]string{"authorization": flipped(bearer, len(bearer)-20)}
		trials = append(trials, trial{of, "signed by " + library, true}, trial{changed, "signed by " + library, false})
	}

	settings := map[string]kapsel.Verification{
		"aws-sns":     {Provider: "aws-sns", TopicARNs: []string{topic}},
		"google-oidc": {Provider: "google-oidc", Audience: audience, Email: account},
	}
	var webhooks []webhook
	for _, c := range trials {
		webhooks = append(webhooks, c.webhook)
	}
	asked := libraries{}
	for i, verdicts := range ask[bool](t, "verify", webhooks) {
		c := trials[i]
		verifier, err := signature.New(settings[c.Provider], nil, "", published)
		if err != nil {
			t.Fatal(err)
		}
		r := signature.Request{Method: http.MethodPost, URL: audience, Header: http.Header{}, Body: []byte(c.Body)}
		for name, value := range c.Header {
			r.Header.Set(name, value)
		}
		verdict, err := verifier.Verify(r, time.Now())
		if verdict.Valid != c.good || !c.good && kapsel.CodeOf(err) != kapsel.InvalidSignature {
			t.Errorf("%s, %s, unchanged %v: Kapsel's verdict is %+v, %v", c.Provider, c.what, c.good, verdict, err)
		}
		for library, accepts := range verdicts {
			asked.add(c.Provider, library)
			if accepts != c.good {
				t.Errorf("%s, %s, unchanged %v: %s accepts it: %v", c.Provider, c.what, c.good, library, accepts)
			}
		}
	}
	for _, provider := range remote {
		if asked[provider] == nil {
			t.Errorf("%s: no library was asked", provider)
		}
		t.Logf("%-17s %s", provider, asked.of(provider))
	}
}
