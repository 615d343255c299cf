package signature

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// unsampled are the providers that no sample can be made for, and why.
var unsampled = map[string]string{
	"aws-sns":     "Amazon alone has the keys that its hosts publish",
	"google-oidc": "Google alone has the keys that its hosts publish",
}

// notBound are the providers whose signature does not cover the body.
var notBound = []string{"okta", "telegram", "token", "postmark", "google-calendar", "cloudevents", "azure-event-grid", "microsoft-graph", "mailgun", "gitlab"}

// TestSamples checks that every sample of every provider is accepted only with the secret that it
// was made with, is an event and no handshake, and is not taken for a duplicate of another sample.
func TestSamples(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const url = "http://127.0.0.1:8080/ingest/ep_01m84yz4zqfgjtcypmsesbpznb"
	for _, provider := range Providers() {
		t.Run(provider, func(t *testing.T) {
			settings := SampleSettings(provider)
			if unsampled[provider] != "" {
				if s, err := NewSampler(settings, nil); err == nil {
					t.Errorf("it is signed by %+v", s)
				}
				return
			}
			ids := map[string]bool{}
			for _, sample := range Samples(provider) {
				found, err := FindSample(provider, sample.Event)
				if err != nil || found.Body != sample.Body {
					t.Fatalf("%s is not found: %v", sample.Event, err)
				}
				s, err := NewSampler(settings, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := CheckSecret(settings, s.Secret); err != nil {
					t.Fatalf("the secret that was made: %v", err)
				}
				ver, err := New(settings, []Key{{Value: s.Secret}}, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				other, err := NewSampler(settings, nil)
				if err != nil {
					t.Fatal(err)
				}
				stranger, err := New(settings, []Key{{Value: other.Secret}}, "", nil)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 {
					r := sample.Request(url, now)
					if err := s.Sign(&r, now); err != nil {
						t.Fatal(err)
					}
					if strings.Contains(string(r.Body), "{{") || r.Header.Get("Content-Type") == "application/json" && !json.Valid(r.Body) {
						t.Errorf("%s: the body is %s", sample.Event, r.Body)
					}
					if verdict, err := ver.Verify(r, now); err != nil || !verdict.Valid {
						t.Fatalf("%s: %+v, %v\n%s %v\n%s", sample.Event, verdict, err, r.URL, r.Header, r.Body)
					}
					if verdict, err := stranger.Verify(r, now); err == nil || verdict.Valid {
						t.Errorf("%s: another secret accepts it", sample.Event)
					}
					if a, err := ver.Handshake(r); a != nil || err != nil {
						t.Errorf("%s: it is answered as a handshake: %+v", sample.Event, a)
					}
					if id := DeliveryID(provider, r.Header, r.Body); ids[id] && id != "" {
						t.Errorf("%s: it has the id %s of another", sample.Event, id)
					} else {
						ids[id] = true
					}
					changed := r
					changed.Body = append(slices.Clone(r.Body), ' ')
					if _, err := ver.Verify(changed, now); (err != nil) == slices.Contains(notBound, provider) {
						t.Errorf("%s: with another body: %v", sample.Event, err)
					}
				}
			}
		})
	}
	for provider := range maps.Keys(samples) {
		if presets[provider] == nil {
			t.Errorf("there are samples of %s, which is no provider", provider)
		}
	}
	if _, err := FindSample("stripe", "nonsense"); err == nil || !strings.Contains(err.Error(), "payment_intent.succeeded") {
		t.Errorf("an event without a sample: %v", err)
	}
}

// TestSampleForms checks that samples have the sender's header names, and secrets the form that the
// sender gives out, if its own library accepts no other.
func TestSampleForms(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for provider, header := range map[string]string{
		"svix": "Svix-", "clerk": "Svix-", "resend": "Svix-",
		"standard-webhooks": "Webhook-", "openai": "Webhook-", "replicate": "Webhook-", "supabase": "Webhook-",
	} {
		s, err := NewSampler(SampleSettings(provider), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(s.Secret), "whsec_") {
			t.Errorf("%s: the secret is %s", provider, s.Secret)
		}
		r := Samples(provider)[0].Request("http://127.0.0.1:8080/ingest/x", now)
		if err := s.Sign(&r, now); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Id", "Timestamp", "Signature"} {
			if r.Header.Get(header+name) == "" {
				t.Errorf("%s: no %s%s in %v", provider, header, name, r.Header)
			}
		}
	}
}

// TestSamplerOfSettings checks that a sampler signs by an endpoint's own settings, with its secret.
func TestSamplerOfSettings(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, v := range map[string]struct {
		settings kapsel.Verification
		secret   string
	}{
		"pairs over time and body": {kapsel.Verification{Provider: "hmac", Signed: "{time}.{body}", Format: "pairs", TimeUnit: "milliseconds"}, "key"},
		"URL, method and a header": {kapsel.Verification{Provider: "hmac", Signed: "{method}{url}{header:X-Shop}{body}", Algorithm: "sha512", Encoding: "base64", Prefix: "v1="}, "key"},
		"id and time in headers":   {kapsel.Verification{Provider: "hmac", Signed: "{id}.{time}.{body}", TimeHeader: "X-Time", TimeUnit: "rfc3339", KeyEncoding: "hex", Format: "list"}, "00ff"},
		"token in the query":       {kapsel.Verification{Provider: "token", In: "query:key"}, "a&b c"},
		"token as Basic":           {kapsel.Verification{Provider: "token", In: "basic"}, "user:password"},
		"gitlab's signing token":   {kapsel.Verification{Provider: "gitlab"}, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		"stripe":                   {kapsel.Verification{Provider: "stripe"}, "whsec_x"},
	} {
		s, err := NewSampler(v.settings, []byte(v.secret))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ver := verifier(t, v.settings, v.secret)
		sample, err := FindSample(v.settings.Provider, "")
		if err != nil {
			t.Fatal(err)
		}
		r := sample.Request("http://127.0.0.1:8080/ingest/x?a=b", now)
		if err := s.Sign(&r, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if verdict, err := ver.Verify(r, now); err != nil || !verdict.Valid {
			t.Errorf("%s: %+v, %v: %v %s", name, verdict, err, r.Header, r.URL)
		}
	}
	for provider, secret := range map[string]string{
		"standard-webhooks": "whpk_" + strings.Repeat("A", 43) + "=", "discord": strings.Repeat("00", 32), "adyen": "not hex",
	} {
		if s, err := NewSampler(kapsel.Verification{Provider: provider}, []byte(secret)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %+v, %v", provider, s, err)
		}
	}
	s, err := NewSampler(kapsel.Verification{}, nil)
	if err != nil || s.Sign(&Request{}, now) != nil {
		t.Errorf("without a provider: %v", err)
	}
}
