package ingest_test

import (
	"bytes"
	"maps"
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
var elsewhere = map[string]string{
	"aws-sns": "only Amazon can sign",
	"linear":  "TestRetrySchedules", "mailgun": "TestRetrySchedules", "paypal": "TestRetrySchedules", // retries keep what was signed
}

// TestOutages: the process is killed, and some or all but the last of a provider's attempts go
// by as documented. The first that arrives is accepted, survives another kill right after the
// answer, and is delivered. Where the provider names its deliveries, the next attempt, which a
// provider makes if the answer was lost, is the same event. A time is signed anew with each
// attempt: the test shows nothing of providers of which that is not known.
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
	w := sim.New(t, sim.Options{})
	d := w.Net.Destination("shop.example", sim.Always(200))
	settings := signature.SampleSettings(provider)
	sampler, err := signature.NewSampler(settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	ep := w.NewEndpoint(d, func(ep *kapsel.Endpoint) {
		ep.Verification = settings
		ep.Verification.Secrets = []kapsel.Secret{w.Seal(ep, string(sampler.Secret))}
	})
	process := w.Start()
	process.Kill()

	path := "/ingest/" + ep.ID.String()
	attempt := signature.Samples(provider)[0].Request("http://kapsel.example"+path, time.Now())
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
		if err := sampler.Sign(&attempt, time.Now()); err != nil {
			t.Fatal(err)
		}
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
