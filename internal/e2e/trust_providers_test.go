package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// request is a webhook as its provider sends it.
type request struct {
	header map[string]string
	body   string
}

// scheme signs as a provider does. It is written from the provider's documentation, with OpenSSL, independently
// of Kapsel's own code.
type scheme struct {
	secret    string
	tolerance time.Duration // into the past, 5 minutes at most into the future; 0: no time is signed
	sign      func(at time.Time, url string) request
	bodyFree  bool           // the body is not covered
	settings  map[string]any // of verification, beside provider and secrets
}

// run runs OpenSSL.
func run(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// schemes returns the schemes of all providers, with a secret or with fresh key pairs. Bodies hold
// "100" once, to be changed.
func schemes(t *testing.T, key string) map[string]scheme {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	const body = `{"amount":100}`
	hexOf, b64Of := hex.EncodeToString, base64.StdEncoding.EncodeToString
	mac := func(parts ...string) []byte {
		return openssl(t, "sha256", []byte(key), []byte(strings.Join(parts, "")))
	}
	unix := func(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
	plain := func(name, prefix string, encode func([]byte) string, algorithm string) scheme {
		return scheme{secret: key, sign: func(time.Time, string) request {
			return request{map[string]string{name: prefix + encode(openssl(t, algorithm, []byte(key), []byte(body)))}, body}
		}}
	}
	standard := func(prefix string) scheme {
		return scheme{"whsec_" + b64Of([]byte(key)), 5 * time.Minute, func(at time.Time, _ string) request {
			return request{map[string]string{
				prefix + "-Id": "msg_1", prefix + "-Timestamp": unix(at), prefix + "-Signature": "v1," + b64Of(mac("msg_1.", unix(at), ".", body)),
			}, body}
		}, false, nil}
	}
	timed := func(sign func(at string) map[string]string) scheme {
		return scheme{key, 5 * time.Minute, func(at time.Time, _ string) request { return request{sign(unix(at)), body} }, false, nil}
	}
	with := func(s scheme, settings map[string]any) scheme {
		s.settings = settings
		return s
	}

	run(t, nil, "genpkey", "-algorithm", "ed25519", "-out", file("ed25519"))
	ed25519 := run(t, nil, "pkey", "-in", file("ed25519"), "-pubout", "-outform", "DER")
	run(t, nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file("ec"))
	ec := run(t, nil, "pkey", "-in", file("ec"), "-pubout", "-outform", "DER")
	run(t, nil, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", file("rsa"), "-out", file("cert"), "-subj", "/CN=messageverificationcerts.paypal.com", "-days", "2")
	certificate, err := os.ReadFile(file("cert"))
	if err != nil {
		t.Fatal(err)
	}
	const adyenFields = `"pspReference":"p1","originalReference":"","merchantAccountCode":"m1","merchantReference":"r1","amount":{"value":100,"currency":"EUR"},"eventCode":"AUTHORISATION","success":"true"`

	all := map[string]scheme{
		"hmac":      plain("X-Webhook-Signature", "", hexOf, "sha256"),
		"github":    plain("X-Hub-Signature-256", "sha256=", hexOf, "sha256"),
		"bitbucket": plain("X-Hub-Signature", "sha256=", hexOf, "sha256"),
		"meta":      plain("X-Hub-Signature-256", "sha256=", hexOf, "sha256"),
		"intercom":  plain("X-Hub-Signature", "sha1=", hexOf, "sha1"),
		"gitea":     plain("X-Gitea-Signature", "", hexOf, "sha256"),
		"shopify":   plain("X-Shopify-Hmac-SHA256", "", b64Of, "sha256"),
		"xero":      plain("X-Xero-Signature", "", b64Of, "sha256"),
		"x":         plain("X-Twitter-Webhooks-Signature", "sha256=", b64Of, "sha256"),
		"hmac: list": with(scheme{secret: key, sign: func(time.Time, string) request {
			return request{map[string]string{"X-Webhook-Signature": "v1=" + strings.Repeat("00", 32) + ",v1=" + hexOf(mac(body))}, body}
		}}, map[string]any{"format": "list", "prefix": "v1="}),
		"hmac: pairs": with(timed(func(at string) map[string]string {
			return map[string]string{"X-Webhook-Signature": "t=" + at + ", v1=" + hexOf(mac(at, ".", body))}
		}), map[string]any{"format": "pairs", "signed": "{time}.{body}"}),
		"hmac: time and URL": with(scheme{key, 5 * time.Minute, func(at time.Time, url string) request {
			return request{map[string]string{"X-Time": unix(at), "X-Sig": b64Of(mac("POST", url, body, unix(at)))}, body}
		}, false, nil}, map[string]any{"signed": "{method}{url}{body}{time}", "time_header": "x-time", "header": "X-Sig", "encoding": "base64"}),
		"hmac: key in hex": with(scheme{secret: hexOf([]byte(key)), sign: func(time.Time, string) request {
			return request{map[string]string{"X-Webhook-Signature": hexOf(mac(body))}, body}
		}}, map[string]any{"key_encoding": "hex"}),
		"token": with(scheme{key, 0, func(time.Time, string) request { return request{map[string]string{"X-Webhook-Token": key}, body} }, true, nil},
			map[string]any{"in": "header:X-Webhook-Token"}),
		"token: basic": with(scheme{"me:" + key, 0, func(time.Time, string) request {
			return request{map[string]string{"Authorization": "Basic " + b64Of([]byte("me:"+key))}, body}
		}, true, nil}, map[string]any{"in": "basic"}),
		"gitlab": {key, 0, func(time.Time, string) request { return request{map[string]string{"X-Gitlab-Token": key}, body} }, true, nil},
		"okta":   {key, 0, func(time.Time, string) request { return request{map[string]string{"Authorization": key}, body} }, true, nil},
		"stripe": timed(func(at string) map[string]string {
			return map[string]string{"Stripe-Signature": "t=" + at + ",v1=" + hexOf(mac(at, ".", body))}
		}),
		"paddle": timed(func(at string) map[string]string {
			return map[string]string{"Paddle-Signature": "ts=" + at + ";h1=" + hexOf(mac(at, ":", body))}
		}),
		"slack": timed(func(at string) map[string]string {
			return map[string]string{"X-Slack-Request-Timestamp": at, "X-Slack-Signature": "v0=" + hexOf(mac("v0:", at, ":", body))}
		}),
		"zoom": {key, 5 * time.Minute, func(at time.Time, _ string) request {
			const body = `{"event":"meeting.started","payload":{"amount":100}}`
			return request{map[string]string{"X-Zm-Request-Timestamp": unix(at), "X-Zm-Signature": "v0=" + hexOf(mac("v0:", unix(at), ":", body))}, body}
		}, false, nil},
		"zendesk": {key, 5 * time.Minute, func(at time.Time, _ string) request {
			stamp := at.UTC().Format(time.RFC3339)
			return request{map[string]string{"X-Zendesk-Webhook-Signature-Timestamp": stamp, "X-Zendesk-Webhook-Signature": b64Of(mac(stamp, body))}, body}
		}, false, nil},
		"hubspot": {key, 5 * time.Minute, func(at time.Time, url string) request {
			stamp := strconv.FormatInt(at.UnixMilli(), 10)
			return request{map[string]string{"X-HubSpot-Request-Timestamp": stamp, "X-HubSpot-Signature-v3": b64Of(mac("POST", url, body, stamp))}, body}
		}, false, nil},
		"square": {secret: key, sign: func(_ time.Time, url string) request {
			return request{map[string]string{"X-Square-HmacSha256-Signature": b64Of(mac(url, body))}, body}
		}},
		"twilio": {secret: key, sign: func(_ time.Time, url string) request {
			return request{map[string]string{
				"Content-Type":       "application/x-www-form-urlencoded",
				"X-Twilio-Signature": b64Of(openssl(t, "sha1", []byte(key), []byte(url+"Amount100Body"+"a b"))),
			}, "Body=a+b&Amount=100"}
		}},
		"twilio: shared key": {secret: key, sign: func(_ time.Time, url string) request {
			return request{map[string]string{
				"Content-Type":                         "application/x-www-form-urlencoded",
				"X-Twilio-Webhooks-Signature-Settings": "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256",
				"X-Twilio-Signature":                   b64Of(mac(url, "Amount100Body", "a b")),
			}, "Body=a+b&Amount=100"}
		}},
		"linear": {key, 9 * time.Hour, func(at time.Time, _ string) request {
			body := fmt.Sprintf(`{"amount":100,"webhookTimestamp":%d}`, at.UnixMilli())
			return request{map[string]string{"Linear-Signature": hexOf(mac(body))}, body}
		}, false, nil},
		"mailgun": {key, 12 * time.Hour, func(at time.Time, _ string) request {
			token := "t100t" + unix(at) // Mailgun uses none twice
			return request{nil, fmt.Sprintf(`{"signature":{"timestamp":"%s","token":"%s","signature":"%s"}}`, unix(at), token, hexOf(mac(unix(at), token)))}
		}, false, nil},
		"adyen": {secret: hexOf([]byte(key)), sign: func(time.Time, string) request {
			return request{nil, `{"notificationItems":[{"NotificationRequestItem":{` + adyenFields +
				`,"additionalData":{"hmacSignature":"` + b64Of(mac("p1::m1:r1:100:EUR:AUTHORISATION:true")) + `"}}}]}`}
		}},
		"discord": {hexOf(ed25519[len(ed25519)-32:]), 5 * time.Minute, func(at time.Time, _ string) request {
			message := filepath.Join(dir, "discord-"+unix(at))
			if err := os.WriteFile(message, []byte(unix(at)+body), 0o600); err != nil {
				t.Fatal(err)
			}
			return request{map[string]string{
				"X-Signature-Timestamp": unix(at), "X-Signature-Ed25519": hexOf(run(t, nil, "pkeyutl", "-sign", "-inkey", file("ed25519"), "-rawin", "-in", message)),
			}, body}
		}, false, nil},
		"sendgrid": {b64Of(ec), 5 * time.Minute, func(at time.Time, _ string) request {
			return request{map[string]string{
				"X-Twilio-Email-Event-Webhook-Timestamp": unix(at),
				"X-Twilio-Email-Event-Webhook-Signature": b64Of(run(t, []byte(unix(at)+body), "dgst", "-sha256", "-sign", file("ec"))),
			}, body}
		}, false, nil},
		"paypal": {"WH-1\n" + string(certificate), 96 * time.Hour, func(at time.Time, _ string) request {
			stamp := at.UTC().Format(time.RFC3339)
			id := "tr-" + unix(at)
			signed := fmt.Sprintf("%s|%s|WH-1|%d", id, stamp, crc32.ChecksumIEEE([]byte(body)))
			return request{map[string]string{
				"Paypal-Transmission-Id": id, "Paypal-Transmission-Time": stamp, "Paypal-Auth-Algo": "SHA256withRSA", "Paypal-Cert-Url": "https://api.paypal.com/cert",
				"Paypal-Transmission-Sig": b64Of(run(t, []byte(signed), "dgst", "-sha256", "-sign", file("rsa"))),
			}, body}
		}, false, nil},
	}
	// In order: the header, what stands before the signature, its encoding, the hash.
	for name, form := range map[string]struct {
		header, prefix string
		encode         func([]byte) string
		algorithm      string
	}{
		"alchemy":              {"X-Alchemy-Signature", "", hexOf, "sha256"},
		"asana":                {"X-Hook-Signature", "", hexOf, "sha256"},
		"notion":               {"X-Notion-Signature", "sha256=", hexOf, "sha256"},
		"atlassian":            {"X-Hub-Signature", "sha256=", hexOf, "sha256"},
		"circleci":             {"circleci-signature", "v1=", hexOf, "sha256"},
		"docusign":             {"X-DocuSign-Signature-1", "", b64Of, "sha256"},
		"docusign: second key": {"X-DocuSign-Signature-2", "", b64Of, "sha256"},
		"dropbox":              {"X-Dropbox-Signature", "", hexOf, "sha256"},
		"gocardless":           {"Webhook-Signature", "", hexOf, "sha256"},
		"lemonsqueezy":         {"X-Signature", "", hexOf, "sha256"},
		"nylas":                {"X-Nylas-Signature", "", hexOf, "sha256"},
		"pagerduty":            {"X-PagerDuty-Signature", "v1=" + strings.Repeat("00", 32) + ",v1=", hexOf, "sha256"},
		"paystack":             {"x-paystack-signature", "", hexOf, "sha512"},
		"razorpay":             {"X-Razorpay-Signature", "", hexOf, "sha256"},
		"sentry":               {"Sentry-Hook-Signature", "", hexOf, "sha256"},
		"shopify: Events":      {"Shopify-Hmac-Sha256", "", b64Of, "sha256"},
		"typeform":             {"Typeform-Signature", "sha256=", b64Of, "sha256"},
		"vercel":               {"x-vercel-signature", "", hexOf, "sha1"},
		"websub":               {"X-Hub-Signature", "sha256=", hexOf, "sha256"},
		"websub: SHA-1":        {"X-Hub-Signature", "sha1=", hexOf, "sha1"},
		"woocommerce":          {"X-WC-Webhook-Signature", "", b64Of, "sha256"},
	} {
		all[name] = plain(form.header, form.prefix, form.encode, form.algorithm)
	}
	// In order: the header, the keys of the time and of the signature, the time's unit, the encoding.
	b64url := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	for name, form := range map[string]struct {
		header, time, signature string
		unit                    time.Duration
		encode                  func([]byte) string
	}{
		"buildkite":  {"X-Buildkite-Signature", "timestamp=", ",signature=", time.Second, hexOf},
		"calendly":   {"Calendly-Webhook-Signature", "t=", ",v1=", time.Second, hexOf},
		"elevenlabs": {"ElevenLabs-Signature", "t=", ",v0=", time.Second, hexOf},
		"mux":        {"Mux-Signature", "t=", ",v1=", time.Second, hexOf},
		"sanity":     {"sanity-webhook-signature", "t=", ",v1=", time.Millisecond, b64url},
		"workos":     {"WorkOS-Signature", "t=", ", v1=", time.Millisecond, hexOf},
	} {
		tolerance := 5 * time.Minute
		if name == "elevenlabs" {
			tolerance = 30 * time.Minute
		}
		all[name] = scheme{key, tolerance, func(at time.Time, _ string) request {
			stamp := strconv.FormatInt(at.UnixNano()/int64(form.unit), 10)
			return request{map[string]string{form.header: form.time + stamp + form.signature + form.encode(mac(stamp, ".", body))}, body}
		}, false, nil}
	}
	// Secrets that are sent as they are.
	for name, form := range map[string]struct{ secret, header, value string }{
		"azure-event-grid": {key, "Authorization", "Bearer " + key},
		"cloudevents":      {key, "Authorization", "Bearer " + key},
		"google-calendar":  {key, "X-Goog-Channel-Token", key},
		"postmark":         {"me:" + key, "Authorization", "Basic " + b64Of([]byte("me:"+key))},
		"telegram":         {key, "X-Telegram-Bot-Api-Secret-Token", key},
	} {
		all[name] = scheme{form.secret, 0, func(time.Time, string) request { return request{map[string]string{form.header: form.value}, body} }, true, nil}
	}
	all["microsoft-graph"] = scheme{key, 0, func(time.Time, string) request {
		return request{map[string]string{}, `{"value":[{"clientState":"` + key + `"},{"id":"100","clientState":"` + key + `"}]}`}
	}, true, nil}
	all["airtable"] = scheme{b64Of([]byte(key)), 0, func(time.Time, string) request {
		return request{map[string]string{"X-Airtable-Content-MAC": "hmac-sha256=" + hexOf(mac(body))}, body}
	}, false, nil}
	all["microsoft-teams"] = scheme{b64Of([]byte(key)), 0, func(time.Time, string) request {
		return request{map[string]string{"Authorization": "HMAC " + b64Of(mac(body))}, body}
	}, false, nil}
	all["trello"] = scheme{key, 0, func(_ time.Time, url string) request {
		return request{map[string]string{"X-Trello-Webhook": b64Of(openssl(t, "sha1", []byte(key), []byte(body+url)))}, body}
	}, false, nil}
	all["mailchimp"] = scheme{key, 0, func(_ time.Time, url string) request {
		return request{map[string]string{
			"Content-Type":         "application/x-www-form-urlencoded",
			"X-Mandrill-Signature": b64Of(openssl(t, "sha1", []byte(key), []byte(url+"a100"+"mandrill_events[{}]"))),
		}, "mandrill_events=%5B%7B%7D%5D&a=100"}
	}, false, nil}
	all["box"] = scheme{key, 10 * time.Minute, func(at time.Time, _ string) request {
		stamp := at.UTC().Format(time.RFC3339)
		return request{map[string]string{"BOX-DELIVERY-TIMESTAMP": stamp, "BOX-SIGNATURE-SECONDARY": b64Of(mac(body, stamp))}, body}
	}, false, nil}
	all["twitch"] = scheme{key, 10 * time.Minute, func(at time.Time, _ string) request {
		stamp := at.UTC().Format(time.RFC3339Nano)
		return request{map[string]string{
			"Twitch-Eventsub-Message-Id": "m-1", "Twitch-Eventsub-Message-Timestamp": stamp,
			"Twitch-Eventsub-Message-Signature": "sha256=" + hexOf(mac("m-1", stamp, body)),
		}, body}
	}, false, nil}
	all["webflow"] = scheme{key, 5 * time.Minute, func(at time.Time, _ string) request {
		stamp := strconv.FormatInt(at.UnixMilli(), 10)
		return request{map[string]string{"x-webflow-timestamp": stamp, "x-webflow-signature": hexOf(mac(stamp, ":", body))}, body}
	}, false, nil}
	all["customerio"] = timed(func(at string) map[string]string {
		return map[string]string{"X-CIO-Timestamp": at, "X-CIO-Signature": hexOf(mac("v0:", at, ":", body))}
	})
	for _, name := range []string{"standard-webhooks", "openai", "replicate", "supabase", "gitlab: signing token"} {
		all[name] = standard("Webhook")
	}
	for _, name := range []string{"svix", "clerk", "resend"} {
		all[name] = standard("Svix")
	}
	return all
}

// providerOf returns the provider of a scheme, which may have several: what comes before the colon.
func providerOf(name string) string {
	provider, _, _ := strings.Cut(name, ":")
	return provider
}

// verifying makes an endpoint that verifies a scheme and takes no event for a duplicate.
func (w *world) verifying(name string, s scheme) harness.Endpoint {
	w.t.Helper()
	verification := map[string]any{"provider": providerOf(name), "secrets": []string{s.secret}}
	maps.Copy(verification, s.settings)
	return w.endpoint(name, map[string]any{"verification": verification, "idempotency": map[string]any{"strategy": "none"}})
}

// unread holds headers that no check reads.
var unread = []string{"Content-Type", "Paypal-Cert-Url", "X-Twilio-Webhooks-Signature-Settings"}

// changes returns the changes that an attacker on the way could make. Each must be refused.
func (s scheme) changes(r request) map[string]request {
	list := map[string]request{}
	if !s.bodyFree {
		list["body"] = request{r.header, strings.Replace(r.body, "100", "101", 1)}
	}
	for name, value := range r.header {
		if slices.Contains(unread, name) {
			continue
		}
		at := len(value) - 1
		if strings.Contains(strings.ToLower(name), "sig") {
			at = len(value) * 2 / 3
		}
		header := maps.Clone(r.header)
		header[name] = flipped(value, at)
		list[name] = request{header, r.body}
		header = maps.Clone(r.header)
		delete(header, name)
		list["no "+name] = request{header, r.body}
	}
	for name, value := range r.header {
		if slices.Contains(unread, name) || !strings.Contains(strings.ToLower(name), "sig") && name != "Authorization" && !strings.Contains(name, "Token") && !strings.Contains(name, "Hmac") {
			continue
		}
		header := maps.Clone(r.header)
		header[name] = many(value)
		list["many wrong signatures in "+name] = request{header, r.body}
	}
	return list
}

// many returns a signature header with 20 wrong signatures before the right one, in the form that
// the provider has for several, or as lines of their own.
func many(value string) string {
	wrong := flipped(value, len(value)*2/3)
	for _, form := range []struct{ begin, separator string }{{",v1=", ","}, {";h1=", ";"}, {"v1,", " "}} {
		if i := strings.Index(value, form.begin); i >= 0 {
			one := strings.TrimPrefix(value[i:], form.separator)
			bad := flipped(one, len(one)*2/3)
			return value[:i] + strings.Repeat(form.separator+bad, 20) + form.separator + one
		}
	}
	return strings.Repeat(wrong+"\n", 20) + value
}

// send posts a webhook and returns the answer's status, body and event id.
func (r request) send(t *testing.T, url string) (status int, body []byte, event string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range r.header {
		for line := range strings.SplitSeq(v, "\n") {
			req.Header.Add(k, line)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body, resp.Header.Get("X-Kapsel-Event-Id")
}

// TestTrust_B71_EveryProvider checks that webhooks of every provider are accepted over HTTP up
// to the last second of the tolerance, and get 401 E1001 and are not stored a second later or
// after any change of what is signed.
func TestTrust_B71_EveryProvider(t *testing.T) {
	all, strangers := schemes(t, "a secret of this test"), schemes(t, "another secret of this test")
	providers := map[string]bool{"aws-sns": true, "google-oidc": true} // TestTrust_ForeignHosts
	for name := range all {
		providers[providerOf(name)] = true
	}
	if got, want := slices.Sorted(maps.Keys(providers)), signature.Providers(); !slices.Equal(got, want) {
		t.Fatalf("schemes of %v, providers are %v", got, want)
	}
	w := newWorld(t, "")
	endpoints := map[string]harness.Endpoint{}
	for name, s := range all {
		endpoints[name] = w.verifying(name, s)
	}
	t.Run("providers", func(t *testing.T) {
		for name, s := range all {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s.check(t, endpoints[name].IngestURL, strangers[name])
			})
		}
	})
	w.quiet()
	accepted, sent := 0, map[string]bool{}
	for _, s := range all {
		if accepted++; s.tolerance != 0 {
			accepted += 2
		}
	}
	for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
		sent[d.EventID] = true
	}
	if len(sent) != accepted {
		t.Errorf("%d events are stored of %d accepted webhooks", len(sent), accepted)
	}
}

func (s scheme) check(t *testing.T, url string, stranger scheme) {
	accept := func(what string, r request) {
		t.Helper()
		if status, body, event := r.send(t, url); status/100 != 2 || event == "" {
			t.Errorf("%s: answered %d %s", what, status, body)
		}
	}
	refuse := func(what string, r request) {
		t.Helper()
		if status, body, event := r.send(t, url); status != 401 || !bytes.Contains(body, []byte(`"E1001"`)) || event != "" {
			t.Errorf("%s: answered %d %s", what, status, body)
		}
	}
	r := s.sign(time.Now(), url)
	accept("signed", r)
	for what, changed := range s.changes(r) {
		refuse("changed "+what, changed)
	}
	refuse("signed with another secret", stranger.sign(time.Now(), url))
	if s.tolerance == 0 {
		return
	}
	const second = time.Second
	edge := func(offset time.Duration) request { return s.sign(time.Now().Truncate(second).Add(offset), url) }
	refuse("signed a second more than the tolerance ago", edge(-second-s.tolerance))
	future := min(s.tolerance, 5*time.Minute)
	accept("signed a second less than the tolerance in the future", edge(future-second))
	// Time makes these two wrong, and signed times are whole seconds: at the beginning of one
	// there is most of a second for the request.
	now := time.Now()
	time.Sleep(now.Truncate(second).Add(second).Sub(now))
	accept("signed a second less than the tolerance ago", edge(second-s.tolerance))
	now = time.Now()
	time.Sleep(now.Truncate(second).Add(second).Sub(now))
	refuse("signed a second more than the tolerance in the future", edge(future+second))
}
