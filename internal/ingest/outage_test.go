package ingest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/sim"
)

// outages are the documented waits between a provider's attempts. Where the documentation has
// only how long the provider goes on, the waits double from a minute on.
var outages = func() map[string][]time.Duration {
	const m, h = time.Minute, time.Hour
	doubling := func(total time.Duration) (waits []time.Duration) {
		for wait := m; total > 0; wait *= 2 {
			waits = append(waits, min(wait, total))
			total -= wait
		}
		return waits
	}
	times := func(n int, wait time.Duration) []time.Duration { return slices.Repeat([]time.Duration{wait}, n) }
	svix := []time.Duration{5 * time.Second, 5 * m, 30 * m, 2 * h, 5 * h, 10 * h, 10 * h}
	all := map[string][]time.Duration{
		"adyen":            append([]time.Duration{2 * m, 5 * m, 10 * m, 15 * m, 30 * m, h, 2 * h, 4 * h}, times(7*6, 4*h)...),
		"alchemy":          {15 * time.Second, m, 10 * m, h, 6 * h, 24 * h},
		"atlassian":        times(5, 15*m),
		"aws-sns":          times(3, 20*time.Second),
		"azure-event-grid": {10 * time.Second, 30 * time.Second, m, 5 * m, 10 * m, 30 * m, h, 3 * h, 6 * h, 12 * h},
		"clerk":            svix,
		"hubspot":          times(10, 24*h/10),
		"intercom":         {m},
		"lemonsqueezy":     {5 * time.Second, 25 * time.Second, 125 * time.Second},
		"paddle":           append(times(20, 3*m), times(40, 71*h/40)...),
		"paystack":         append(times(4, 3*m), times(72, h)...),
		"postmark":         {m, 5 * m, 10 * m, 10 * m, 10 * m, 15 * m, 30 * m, h, 2 * h, 6 * h},
		"resend":           svix,
		"shopify":          times(8, 30*m),
		"slack":            {0, m, 5 * m},
		"square":           times(11, 24*h/11),
		"svix":             svix,
		"trello":           {30 * time.Second, time.Minute, 2 * time.Minute},
		"webflow":          times(3, 10*m),
		"workos":           times(6, 12*h),
		"zoom":             {5 * m, 30 * m, 90 * m},
	}
	for provider, total := range map[string]time.Duration{
		"asana": 24 * h, "calendly": 24 * h, "discord": 10 * m, "docusign": 15 * 24 * h, "dropbox": 10 * m, "meta": 7 * 24 * h,
		"microsoft-graph": 4 * h, "mux": 24 * h, "notion": 24 * h, "openai": 72 * h, "pagerduty": 48 * h, "razorpay": 24 * h, "sanity": 30 * m,
		"sendgrid": 24 * h, "stripe": 3 * 24 * h, "telegram": 24 * h, "twitch": 10 * m, "typeform": 10 * h, "vercel": 24 * h, "xero": 24 * h,
	} {
		all[provider] = doubling(total)
	}
	return all
}()

// elsewhere are the providers with a documented schedule that TestOutages cannot play.
var elsewhere = map[string]string{ // retries keep what was signed
	"linear": "TestRetrySchedules", "mailgun": "TestRetrySchedules", "paypal": "TestRetrySchedules",
}

// TestOutages: the process is killed, and some or all but the last of a provider's attempts go
// by as documented. The first that arrives is accepted, survives another kill right after the
// answer, and is delivered. Where the provider names its deliveries, the next attempt, which a
// provider makes if the answer was lost, is the same event. A time is signed anew with each
// attempt: the test shows nothing of other providers.
func TestOutages(t *testing.T) {
	timed := regexp.MustCompile(`\d (s|min|h|days)\b`)
	for _, p := range signature.Describe() {
		if timed.MatchString(p.Retries) && outages[p.Name] == nil && elsewhere[p.Name] == "" {
			t.Errorf("the schedule of %s is not played: %s", p.Name, p.Retries)
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(outages)) {
		t.Run(provider, func(t *testing.T) {
			n := len(outages[provider])
			for _, missed := range slices.Compact([]int{1, n}) {
				synctest.Test(t, func(t *testing.T) { playOutage(t, provider, missed) })
			}
		})
	}
}

// playOutage plays all attempts of a provider while the process is down for the first missed.
func playOutage(t *testing.T, provider string, missed int) {
	from := newSender(t, provider)
	w := sim.New(t, sim.Options{Fetch: from.fetch})
	d := w.Net.Destination("shop.example", sim.Always(200))
	ep := w.NewEndpoint(d, func(ep *kapsel.Endpoint) {
		ep.Verification = from.settings
		if from.secret != "" {
			ep.Verification.Secrets = []kapsel.Secret{w.Seal(ep, from.secret)}
		}
	})
	process := w.Start()
	process.Kill()

	path := "/ingest/" + ep.ID.String()
	attempt := from.request("http://kapsel.example" + path)
	body := attempt.Body
	post := func() (id kapsel.EventID) {
		r := httptest.NewRequest(attempt.Method, path, bytes.NewReader(attempt.Body))
		r.Header = attempt.Header.Clone()
		answer := httptest.NewRecorder()
		process.Ingest.ServeHTTP(answer, r)
		id, err := kapsel.ParseEventID(answer.Header().Get("X-Kapsel-Event-Id"))
		if answer.Code/100 != 2 || err != nil {
			t.Fatalf("%d missed: answered %d %s", missed, answer.Code, answer.Body)
		}
		return id
	}
	var first kapsel.EventID
	for i, wait := range append([]time.Duration{0}, outages[provider]...) {
		time.Sleep(wait)
		attempt.Body = body
		from.sign(&attempt)
		switch i {
		case missed:
			process = w.Start()
			first = post()
			process.Kill() // the answer may be lost with it
		case missed + 1:
			process = w.Start()
			if id := post(); id != first && wait < 24*time.Hour && signature.NamesDeliveries(provider) {
				t.Errorf("%d missed: attempt %d is the event %v, was %v", missed, i+1, id, first)
			}
			process.Stop()
		}
	}
	process = w.Start()
	w.UntilDone(time.Hour)
	if w.Delivery(first).Status != kapsel.Delivered {
		t.Errorf("%d missed: the delivery is %+v", missed, w.Delivery(first))
	}
	if len(d.Requests()) == 0 {
		t.Errorf("%d missed: nothing was delivered", missed)
	}
}

// sender is a provider: how an endpoint verifies it, and what it sends.
type sender struct {
	settings kapsel.Verification
	secret   string
	fetch    signature.Fetch // what the provider publishes
	request  func(url string) signature.Request
	sign     func(r *signature.Request) // for an attempt at this time
}

func newSender(t *testing.T, provider string) sender {
	if provider == "aws-sns" {
		return newSNS(t)
	}
	settings := signature.SampleSettings(provider)
	sampler, err := signature.NewSampler(settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sender{
		settings: settings,
		secret:   string(sampler.Secret),
		request: func(url string) signature.Request {
			return signature.Samples(provider)[0].Request(url, time.Now())
		},
		sign: func(r *signature.Request) {
			if err := sampler.Sign(r, time.Now()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// newSNS returns an imitation of Amazon SNS with a certificate of the test's own, which it publishes where
// Amazon publishes its certificates. It signs a message once, and sends it again as it is.
func newSNS(t *testing.T) sender {
	const (
		topic = "arn:aws:sns:eu-west-1:123456789012:orders"
		where = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
	)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sns.amazonaws.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{
		"Type": "Notification", "MessageId": "m-1", "TopicArn": topic, "Message": `{"order":1}`,
		"Timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	signed := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(signed, "%s\n%s\n", name, m[name])
	}
	made, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, signed.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	m["SignatureVersion"], m["SigningCertURL"], m["Signature"] = "2", where, base64.StdEncoding.EncodeToString(made)
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return sender{
		settings: kapsel.Verification{Provider: "aws-sns", TopicARNs: []string{topic}},
		fetch: func(_ context.Context, url string) ([]byte, error) {
			if url != where {
				return nil, fmt.Errorf("%s is not published", url)
			}
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
		},
		request: func(url string) signature.Request {
			return signature.Request{Method: http.MethodPost, URL: url, Header: http.Header{"Content-Type": {"text/plain; charset=UTF-8"}}, Body: body}
		},
		sign: func(*signature.Request) {},
	}
}
