package signature

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
)

// TestBadInput_B71_EveryProviderHasAVector checks that each provider has a test vector that
// did not come from this project, and can be set up with nothing but a secret.
func TestBadInput_B71_EveryProviderHasAVector(t *testing.T) {
	have := map[string]bool{"mailgun": true} // TestMailgun
	for _, v := range vectors {
		if strings.HasPrefix(v.origin, "published: ") || regexp.MustCompile(`^(npm|Go|PyPI) \S+ v?[0-9.]+ `).MatchString(v.origin) {
			have[v.verification.Provider] = true
		} else if v.origin == "" {
			t.Errorf("%s has no origin", v.name)
		}
	}
	// These have vectors by OpenSSL.
	const (
		noLibrary = "it publishes neither a vector nor a library that checks signatures"
		noSigning = "it sends its secret and signs nothing"
	)
	own := map[string]string{}
	for _, name := range strings.Fields(`intercom xero zendesk airtable alchemy asana atlassian buildkite calendly circleci customerio docusign dropbox
		lemonsqueezy mailchimp microsoft-teams pagerduty paystack sentry trello twitch typeform vercel websub woocommerce`) {
		own[name] = noLibrary
	}
	own["aws-sns"], own["google-oidc"] = "TestSNS", "TestOIDC"
	for _, name := range strings.Fields(`okta token azure-event-grid cloudevents google-calendar microsoft-graph postmark telegram`) {
		own[name] = noSigning
	}
	for _, name := range Providers() {
		if have[name] == (own[name] != "") {
			t.Errorf("%s: a vector of another's: %v; excused: %q", name, have[name], own[name])
		}
		settings := kapsel.Verification{Provider: name, Secrets: []kapsel.Secret{{}}}
		switch name {
		case "token":
			settings.In = "basic"
		case "aws-sns":
			settings.TopicARNs, settings.Secrets = []string{testTopic}, nil
		case "google-oidc":
			settings.Audience, settings.Email, settings.Secrets = "a", "me@example.com", nil
		}
		if fields := Check(settings); fields != nil {
			t.Errorf("Check(%s) = %v", name, fields)
		}
		if err := CheckSecret(settings, nil); err == nil {
			t.Errorf("%s accepts an empty secret", name)
		}
	}
	// The first two lines are names that others rely on.
	want := strings.Fields(`hmac stripe github shopify slack twilio sendgrid square paypal paddle linear standard-webhooks svix zoom discord
		gitlab bitbucket hubspot intercom mailgun adyen xero meta x okta zendesk openai clerk resend replicate supabase gitea token
		microsoft-graph cloudevents telegram pagerduty calendly workos atlassian dropbox trello airtable box woocommerce mailchimp
		asana notion typeform vercel sentry lemonsqueezy razorpay docusign alchemy
		azure-event-grid buildkite circleci customerio elevenlabs gocardless google-calendar google-oidc aws-sns microsoft-teams mux nylas paystack postmark sanity twitch webflow websub`)
	slices.Sort(want)
	if diff := cmp.Diff(want, Providers()); diff != "" {
		t.Errorf("Providers (-want +got):\n%s", diff)
	}
}

func TestDescribe(t *testing.T) {
	list := Describe()
	if len(list) != len(Providers()) {
		t.Errorf("%d of %d providers", len(list), len(Providers()))
	}
	for _, p := range list {
		if p.Secret == "" || p.Headers == nil && !slices.Contains([]string{"mailgun", "token", "microsoft-graph", "aws-sns"}, p.Name) {
			t.Errorf("%+v lacks something", p)
		}
	}
	i := slices.IndexFunc(list, func(p Provider) bool { return p.Name == "slack" })
	want := Provider{
		Name: "slack", Title: "Slack", Paste: "the app, Event Subscriptions, Request URL",
		Secret: "the app's signing secret", Find: "the signing secret, under Basic Information",
		Headers: []string{"X-Slack-Signature"}, Tolerance: 5 * time.Minute, Handshake: true, DeliveryIn: "$.event_id",
		Note: "answered with an empty body: Slack shows what a body says", Retries: "at once, 1 min, 5 min", Resigned: "yes",
		Sources: []string{"docs.slack.dev/authentication/verifying-requests-from-slack"}, Answer: &Answer{Status: 200},
	}
	if diff := cmp.Diff(want, list[i]); diff != "" {
		t.Errorf("slack (-want +got):\n%s", diff)
	}
}

func TestPresetsNameCanonicalHeaders(t *testing.T) {
	canonical := func(provider, name string) {
		if name != http.CanonicalHeaderKey(name) {
			t.Errorf("%s: %s is not canonical", provider, name)
		}
	}
	for provider, p := range presets {
		for _, h := range p.headers {
			for _, name := range []string{h.signature, h.id, h.time} {
				canonical(provider, name)
			}
		}
		for _, name := range p.delivery {
			canonical(provider, name)
		}
	}
}

func TestMailgun(t *testing.T) {
	const (
		stamp     = "1700000000"
		token     = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"
		signature = "9eb2c25b3518bc801d5f646c6d0d3bfe2c7bed7c548f660d76340cb164e1ad87" // by OpenSSL
	)
	ver := verifier(t, kapsel.Verification{Provider: "mailgun"}, "mailgun-key")
	now := time.Unix(1700000000, 0)
	object := func(stamp, token, signature string) string {
		return fmt.Sprintf(`{"signature":{"timestamp":%s,"token":%q,"signature":%q},"event-data":{"id":"1"}}`, stamp, token, signature)
	}
	form := func(names ...string) (string, string) {
		all := url.Values{"timestamp": {stamp}, "token": {token}, "signature": {signature}, "event": {"delivered"}}
		for _, name := range names {
			all.Add(name, "again")
		}
		return "application/x-www-form-urlencoded", all.Encode()
	}
	parts := func(names ...string) (string, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for name, value := range map[string]string{"timestamp": stamp, "token": token, "signature": signature} {
			w.WriteField(name, value)
		}
		for _, name := range names {
			w.WriteField(name, "again")
		}
		file, _ := w.CreateFormFile("attachment-1", "a.bin")
		file.Write(bytes.Repeat([]byte{0}, 100_000))
		w.Close()
		return w.FormDataContentType(), b.String()
	}
	json := func(body string) func() (string, string) {
		return func() (string, string) { return "application/json", body }
	}
	for name, tt := range map[string]struct {
		make func() (contentType, body string)
		ok   bool
	}{
		"JSON":                   {json(object(`"`+stamp+`"`, token, signature)), true},
		"JSON, time as a number": {json(object(stamp, token, signature)), true},
		"form":                   {func() (string, string) { return form() }, true},
		"multipart":              {func() (string, string) { return parts() }, true},
		"another time":           {json(object(`"1700000001"`, token, signature)), false},
		"old time":               {json(object(`"1699956799"`, token, signature)), false},
		"another token":          {json(object(`"`+stamp+`"`, "b"+token[1:], signature)), false},
		"digit moved":            {json(object(`"170000000"`, "0"+token, signature)), false},
		"another signature":      {json(object(`"`+stamp+`"`, token, "0"+signature[1:])), false},
		"no signature":           {json(`{"event-data":{}}`), false},
		"empty signature":        {json(object(`"`+stamp+`"`, token, "")), false},
		"signature twice":        {json(object(`"`+stamp+`"`, token, signature)[:1] + `"signature":{},` + object(`"`+stamp+`"`, token, signature)[1:]), false},
		"not JSON":               {json("hello"), false},
		"JSON list":              {json("[]"), false},
		"nothing":                {json(""), false},
		"junk after":             {json(object(`"`+stamp+`"`, token, signature) + "{}"), false},
		"form, token twice":      {func() (string, string) { return form("token") }, false},
		"multipart, token twice": {func() (string, string) { return parts("token") }, false},
		"multipart, no boundary": {func() (string, string) { _, b := parts(); return "multipart/form-data", b }, false},
	} {
		t.Run(name, func(t *testing.T) {
			contentType, body := tt.make()
			r := Request{Method: "POST", Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)}
			verdict, err := ver.Verify(r, now)
			if !tt.ok {
				refused(t, name, verdict, err)
			} else if err != nil || !verdict.Valid {
				t.Errorf("%+v, %v", verdict, err)
			}
		})
	}
}

func TestAdyenItems(t *testing.T) {
	const (
		key = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00"
		// Of Adyen's library.
		first = `{"NotificationRequestItem":{"additionalData":{"hmacSignature":"ipnxGCaUZ4l8TUW75a71/ghd2Fe5ffvX0pV4TLTntIc="},` +
			`"amount":{"currency":"EUR","value":1000},"eventCode":"EVENT","merchantAccountCode":"merchantAccount","merchantReference":"reference",` +
			`"originalReference":"originalReference","pspReference":"pspReference","reason":"reason","success":"true"}}`
		// By OpenSSL: one without an originalReference.
		second = `{"NotificationRequestItem":{"additionalData":{"hmacSignature":"vOkMI5OBun1AJyRRqY+sI3dj8E3jVEQxt3f6bT5/Gto="},` +
			`"amount":{"currency":"EUR","value":0},"eventCode":"CANCELLATION","merchantAccountCode":"merchantAccount","merchantReference":"ref2",` +
			`"pspReference":"psp2","success":"true"}}`
	)
	ver := verifier(t, kapsel.Verification{Provider: "adyen"}, key)
	for name, tt := range map[string]struct {
		body string
		ok   bool
	}{
		"one":                     {`{"live":"false","notificationItems":[` + first + `]}`, true},
		"two":                     {`{"notificationItems":[` + first + `,` + second + `]}`, true},
		"second forged":           {`{"notificationItems":[` + first + `,` + strings.Replace(second, "CANCELLATION", "AUTHORISATION", 1) + `]}`, false},
		"amount":                  {`{"notificationItems":[` + strings.Replace(first, "1000", "1001", 1) + `]}`, false},
		"success":                 {`{"notificationItems":[` + strings.Replace(first, `"true"`, `"false"`, 1) + `]}`, false},
		"none":                    {`{"notificationItems":[]}`, false},
		"no list":                 {`{}`, false},
		"unsigned":                {`{"notificationItems":[` + strings.Replace(first, "hmacSignature", "x", 1) + `]}`, false},
		"field twice":             {`{"notificationItems":[` + strings.Replace(first, `"reason":`, `"pspReference":"other","reason":`, 1) + `]}`, false},
		"list twice":              {`{"notificationItems":[` + first + `],"notificationItems":[` + first + `]}`, false},
		"item twice":              {`{"notificationItems":[` + first[:len(first)-1] + `,` + first[1:] + `]}`, false},
		"not JSON":                {`x`, false},
		"a field of another kind": {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":{"a":1},"success"`, 1) + `]}`, false},
		"a field that is true":    {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":true,"success"`, 1) + `]}`, false},
		"a long field":            {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":"`+strings.Repeat("8", 5000)+`","success"`, 1) + `]}`, false},
		"half a character":        {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":"883\ud800","success"`, 1) + `]}`, false},
		"a field that is null":    {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":null,"success"`, 1) + `]}`, true},
		"an empty field":          {`{"notificationItems":[` + strings.Replace(second, `"success"`, `"originalReference":"","success"`, 1) + `]}`, true},
		"another case of a name":  {`{"notificationItems":[` + strings.Replace(first, "pspReference", "PSPReference", 1) + `]}`, false},
	} {
		r := Request{Method: "POST", Header: http.Header{}, Body: []byte(tt.body)}
		verdict, err := ver.Verify(r, time.Time{})
		if !tt.ok {
			refused(t, name, verdict, err)
		} else if err != nil || !verdict.Valid {
			t.Errorf("%s: %+v, %v", name, verdict, err)
		}
	}
}

// TestGitLab checks that a request needs the proof that the endpoint's secrets are for: a token does
// not replace a signature, nor a signature a token.
func TestGitLab(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	signing := "whsec_" + base64.StdEncoding.EncodeToString(key)
	const stamp, id = "1700000000", "uuid"
	now := time.Unix(1700000000, 0)
	right := "v1," + base64.StdEncoding.EncodeToString(sum(string(key), id+"."+stamp+".body"))
	signed := func(signature string) map[string]string {
		return map[string]string{"Webhook-Signature": signature, "Webhook-Id": id, "Webhook-Timestamp": stamp}
	}
	with := func(h map[string]string, name, value string) map[string]string {
		h[name] = value
		return h
	}
	for _, tt := range []struct {
		name    string
		secrets []string
		header  map[string]string
		ok      bool
	}{
		{"token", []string{"t"}, map[string]string{"X-Gitlab-Token": "t"}, true},
		{"another token", []string{"t"}, map[string]string{"X-Gitlab-Token": "T"}, false},
		{"no token", []string{"t"}, nil, false},
		{"signed", []string{signing}, signed(right), true},
		{"signed wrongly", []string{signing}, signed("v1," + base64.StdEncoding.EncodeToString(make([]byte, 32))), false},
		{"both, for both", []string{"t", signing}, with(signed(right), "X-Gitlab-Token", "t"), true},
		{"both, for the signature", []string{signing}, with(signed(right), "X-Gitlab-Token", "t"), true},
		{"token for a signing secret", []string{signing}, map[string]string{"X-Gitlab-Token": signing}, false},
		{"signed for a token", []string{"t"}, signed(right), false},
		{"token as a signature", []string{"t"}, signed("token,t"), false},
	} {
		r := Request{Method: "POST", Header: http.Header{}, Body: []byte("body")}
		for name, value := range tt.header {
			r.Header.Set(name, value)
		}
		if verdict, err := verifier(t, kapsel.Verification{Provider: "gitlab"}, tt.secrets...).Verify(r, now); verdict.Valid != tt.ok {
			t.Errorf("%s: %+v, %v", tt.name, verdict, err)
		}
	}
}

func TestLinearTime(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "linear"}, "s")
	now := time.UnixMilli(1_700_000_000_000)
	for body, ok := range map[string]bool{
		`{"webhookTimestamp":1700000000000}`:   true,
		`{"webhookTimestamp":1699967600000}`:   true, // 9 hours ago
		`{"webhookTimestamp":1699967599999}`:   false,
		`{"webhookTimestamp":1700000300000}`:   true,
		`{"webhookTimestamp":1700000300001}`:   false,
		`{"webhookTimestamp":"1700000000000"}`: false,
		`{"webhookTimestamp":1.7e12}`:          false,
		`{"WebhookTimestamp":1700000000000}`:   false,
		`{}`:                                   false,
		`[]`:                                   false,
		``:                                     false,
	} {
		r := Request{Header: http.Header{"Linear-Signature": {hex.EncodeToString(sum("s", body))}}, Body: []byte(body)}
		verdict, err := ver.Verify(r, now)
		if !ok {
			refused(t, body, verdict, err)
		} else if err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestTwilioBodies(t *testing.T) {
	ver := verifier(t, kapsel.Verification{Provider: "twilio"}, "12345")
	v := vectors[slices.IndexFunc(vectors, func(v vector) bool { return v.name == "twilio, of its library, JSON" })]
	for name, change := range map[string]func(r *Request){
		"no bodySHA256":   func(r *Request) { r.URL = strings.Split(r.URL, "&body")[0] },
		"two bodySHA256":  func(r *Request) { r.URL += "&bodySHA256=00" },
		"no URL":          func(r *Request) { r.URL = "" },
		"empty body":      func(r *Request) { r.Body = nil },
		"said to be form": func(r *Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
		"bad form": func(r *Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Body = []byte("%zz")
		},
	} {
		r := v.request()
		change(&r)
		verdict, err := ver.Verify(r, time.Time{})
		refused(t, name, verdict, err)
	}
}

func TestHandshakes(t *testing.T) {
	get := func(query string, header ...string) Request {
		r := Request{Method: "GET", URL: "https://hooks.example.com/ingest/ep_1?" + query, Header: http.Header{}}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	post := func(body string, header ...string) Request {
		r := get("", header...)
		r.Method, r.Body = "POST", []byte(body)
		return r
	}
	answer := func(status int, contentType, body string) *Answer {
		a := &Answer{Status: status, ContentType: contentType}
		if body != "" {
			a.Body = []byte(body)
		}
		return a
	}
	head := get("hub.mode=subscribe&hub.verify_token=verify+me&hub.challenge=1158201444")
	head.Method = "HEAD"
	const plain = "text/plain; charset=utf-8"
	for _, tt := range []struct {
		provider, secret string
		r                Request
		want             *Answer
	}{
		{"none", "", get("a=b"), nil},
		{"stripe", "s", get("hub.mode=subscribe&hub.challenge=1"), nil},

		{"slack", "s", post(`{"token":"x","challenge":"3eZbrw1aB","type":"url_verification"}`), answer(200, plain, "3eZbrw1aB")},
		{"slack", "s", post(`{"type":"event_callback","challenge":"3eZbrw1aB"}`), nil},
		{"slack", "s", post(`{"type":"url_verification"}`), nil},
		{"slack", "s", post(`{"type":"url_verification","challenge":"a\nb"}`), nil},
		{"slack", "s", post(`{"type":"url_verification","challenge":"` + strings.Repeat("a", maxHandshake) + `"}`), nil},
		{"slack", "s", get("challenge=a"), nil},

		{"zoom", "zoomsecret", post(`{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1,"event":"endpoint.url_validation"}`),
			answer(200, "application/json", `{"encryptedToken":"83b2a60d4bbe49dc93763ed9e727a9a7690cbe4c1f8bb0adc0ffccd09ecb1384","plainToken":"qgg8vlvZRS6UYooatFL8Aw"}`)},
		{"zoom", "zoomsecret", post(`{"payload":{"plainToken":"v0:1:{}"},"event":"endpoint.url_validation"}`), nil},
		{"zoom", "zoomsecret", post(`{"payload":{},"event":"meeting.started"}`), nil},

		{"discord", strings.Repeat("00", 32), post(`{"version":1,"application_id":"1","type":0}`), answer(204, "application/json", "")},
		{"discord", strings.Repeat("00", 32), post(`{"type":1,"id":"1","token":"t"}`), answer(200, "application/json", `{"type":1}`)},
		{"discord", strings.Repeat("00", 32), post(`{"type":1,"event":{"type":"X"}}`), nil},

		{"bitbucket", "s", post(`{"test":true}`, "X-Event-Key", "diagnostics:ping"), answer(200, "", "")},
		{"bitbucket", "s", post(`{"test":true}`, "X-Event-Key", "repo:push"), nil},

		{"intercom", "s", head, answer(200, "", "")},
		{"intercom", "s", get(""), nil},
		{"stripe", "s", head, nil},
		{"meta", "app secret", head, nil},

		{"xero", "s", post(`{"events":[],"lastEventSequence":0,"firstEventSequence":0,"entropy":"S0m3"}`), answer(200, "", "")},
		{"xero", "s", post(`{"events":[{}]}`), nil},
		{"xero", "s", post(`{}`), nil},

		{"meta", "app secret", get("hub.mode=subscribe&hub.verify_token=verify+me&hub.challenge=1158201444"), answer(200, plain, "1158201444")},
		{"meta", "app secret", get("hub.mode=subscribe&hub.verify_token=app+secret&hub.challenge=1158201444"), answer(403, "", "")},
		{"meta", "app secret", get("hub.mode=subscribe&hub.verify_token=other&hub.challenge=1158201444"), answer(403, "", "")},
		{"meta", "app secret", get("hub.mode=subscribe&hub.challenge=1158201444"), answer(403, "", "")},
		{"meta", "app secret", get("hub.mode=subscribe&hub.verify_token=verify+me"), nil},
		{"meta", "app secret", post("{}"), nil},

		{"x", "consumer-secret", get("crc_token=CrcToken-1"), answer(200, "application/json", `{"response_token":"sha256=9KjDG3UH93Vq2FdWM1izySmGrHlmTDvYfnTbpgNUQ04="}`)},
		{"x", "consumer-secret", get("crc_token=" + url.QueryEscape(`{"for_user_id":"1"}`)), nil}, // no oracle for bodies
		{"x", "consumer-secret", get("crc_token="), nil},
		{"x", "consumer-secret", get(""), nil},

		{"twitch", "s", post(`{"challenge":"c-1","subscription":{"id":"1","a":[]}}`, "Twitch-Eventsub-Message-Type", "webhook_callback_verification"), answer(200, plain, "c-1")},
		{"twitch", "s", post(`{"challenge":"c-1"}`, "Twitch-Eventsub-Message-Type", "notification"), nil},
		{"dropbox", "s", get("challenge=c-1"), answer(200, plain, "c-1")},
		{"dropbox", "s", get("challenge=%0a"), nil},
		{"dropbox", "s", post("", "X", "y"), nil},
		{"websub", "s", get("hub.mode=subscribe&hub.topic=t&hub.challenge=c"), answer(200, plain, "c")},
		{"websub", "s", get("hub.mode=subscribe&hub.challenge=c"), nil},
		{"websub", "s", get("hub.mode=unsubscribe&hub.topic=t&hub.challenge=c"), nil},
		{"cloudevents", "s", post(`[{"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c","validationUrl":"https://x"}}]`), answer(200, "application/json", `{"validationResponse":"c"}`)},
		{"cloudevents", "s", post(`[{"eventType":"Other","data":{"validationCode":"c"}}]`), nil},
		{"cloudevents", "s", get("", "Webhook-Request-Origin", "x"), nil},

		{"okta", "s", get("", "X-Okta-Verification-Challenge", "c-1"), answer(200, "application/json", `{"verification":"c-1"}`)},
		{"okta", "s", get(""), nil},
		{"okta", "s", post("{}", "X-Okta-Verification-Challenge", "c-1"), nil},
	} {
		var ver *Verifier
		if tt.provider == None {
			ver, _ = New(kapsel.Verification{}, nil, "", nil)
		} else {
			ver = verifier(t, kapsel.Verification{Provider: tt.provider}, tt.secret)
			ver.verifyToken = "verify me"
		}
		got, err := ver.Handshake(tt.r)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %s %s %s (-want +got):\n%s", tt.provider, tt.r.Method, tt.r.URL, tt.r.Body, diff)
		}
	}
}

// TestUnsigned checks that challenges that nobody signs are answered before a signature is
// required, and that a request that could be an event is not taken for a challenge.
func TestUnsigned(t *testing.T) {
	for _, tt := range []struct {
		provider, method, query, body string
		status                        int // 0: it is no challenge
		text                          string
	}{
		{"microsoft-graph", "POST", "validationToken=a+b", "", 200, "a b"},
		{"microsoft-graph", "POST", "validationToken=" + strings.Repeat("a", maxHandshake+1), "", 0, ""},
		{"microsoft-graph", "POST", "validationToken=a%0d%0aX:b", "", 0, ""},
		{"microsoft-graph", "POST", "validationToken=a", "{}", 0, ""},
		{"microsoft-graph", "GET", "validationToken=a", "", 0, ""},
		{"woocommerce", "POST", "", "webhook_id=1", 200, ""},
		{"woocommerce", "POST", "", "webhook_id=", 0, ""},
		{"woocommerce", "POST", "", "webhook_id=1x", 0, ""},
		{"woocommerce", "POST", "", "webhook_id=" + strings.Repeat("1", 60), 0, ""},
		{"mailchimp", "POST", "", "mandrill_events=%5B%5D", 200, ""},
		{"mailchimp", "POST", "", "mandrill_events=[]", 200, ""},
		{"mailchimp", "POST", "", "mandrill_events=[{}]", 0, ""},
		{"github", "POST", "validationToken=a", "", 0, ""},
	} {
		r := Request{Method: tt.method, URL: "https://hooks.example.com/ingest/ep_1?" + tt.query, Header: http.Header{}, Body: []byte(tt.body)}
		a := verifier(t, kapsel.Verification{Provider: tt.provider}, "s").Unsigned(r)
		switch {
		case a == nil:
			if tt.status != 0 {
				t.Errorf("%+v: not answered", tt)
			}
		case a.Status != tt.status || string(a.Body) != tt.text || a.Header != nil:
			t.Errorf("%+v: %+v", tt, a)
		}
	}
	r := Request{Method: "OPTIONS", Header: http.Header{"Webhook-Request-Origin": {"a.example.com"}}}
	a, _ := verifier(t, kapsel.Verification{Provider: "cloudevents"}, "s").Handshake(r)
	want := map[string]string{"Allow": "POST", "Webhook-Allowed-Origin": "a.example.com", "Webhook-Allowed-Rate": "*"}
	if a == nil || a.Status != 200 || !cmp.Equal(a.Header, want) {
		t.Errorf("cloudevents by OPTIONS: %+v", a)
	}
}

// TestBrought checks which requests count as a handshake that brings the secret.
func TestBrought(t *testing.T) {
	for _, tt := range []struct {
		provider, body string
		header         http.Header
		want           string
	}{
		{"asana", "{}", http.Header{"X-Hook-Secret": {"b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"}}, "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"},
		{"asana", "{}", http.Header{"X-Hook-Secret": {"a", "b"}}, ""},
		{"asana", "{}", http.Header{"X-Hook-Secret": {"a\x01"}}, ""},
		{"asana", "{}", http.Header{"X-Hook-Secret": {"a"}, "X-Hook-Signature": {"00"}}, ""},
		{"asana", "{}", nil, ""},
		{"notion", `{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}`, nil, "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"},
		{"notion", `{"verification_token":"a b"}`, nil, ""},
		{"notion", `{"type":"page.created"}`, nil, ""},
		{"notion", `{"verification_token":"secret_a"}`, http.Header{"X-Notion-Signature": {"sha256=00"}}, ""},
		{"github", `{"verification_token":"secret_a"}`, http.Header{"X-Hook-Secret": {"a"}}, ""},
	} {
		ver, err := New(kapsel.Verification{Provider: tt.provider}, []Key{{Value: []byte("s")}}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, a := ver.Brought(Request{Method: "POST", Header: tt.header, Body: []byte(tt.body)}); got != tt.want || (a != nil) != (got != "") {
			t.Errorf("%s %s %v: %q, %+v", tt.provider, tt.body, tt.header, got, a)
		}
	}
	for _, provider := range []string{"asana", "notion"} { // before its handshake
		ver, err := New(kapsel.Verification{Provider: provider}, nil, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		r := Request{Method: "POST", Header: http.Header{"X-Hook-Signature": {hex.EncodeToString(sum("", "{}"))}, "X-Notion-Signature": {"sha256=" + hex.EncodeToString(sum("", "{}"))}}, Body: []byte("{}")}
		verdict, err := ver.Verify(r, time.Now())
		refused(t, provider+" without a secret", verdict, err)
		window := kapsel.Verification{Provider: provider, AwaitingUntil: time.Now()}
		if fields := Check(window); fields != nil {
			t.Errorf("%s: %v", provider, fields)
		}
		window.Secrets = []kapsel.Secret{{}}
		if fields := Check(window); len(fields) != 1 || fields[0].Field != "verification.awaiting_handshake" {
			t.Errorf("%s with a secret: %v", provider, fields)
		}
	}
}

// TestVerifyToken checks that the verify token verifies no signature, and that no challenge is
// answered without one.
func TestVerifyToken(t *testing.T) {
	ver, err := New(kapsel.Verification{Provider: "meta"}, []Key{{Value: []byte("app secret")}}, "verify me", nil)
	if err != nil {
		t.Fatal(err)
	}
	for secret, ok := range map[string]bool{"app secret": true, "verify me": false} {
		r := Request{Method: "POST", Header: http.Header{"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(sum(secret, "{}"))}}, Body: []byte("{}")}
		if verdict, err := ver.Verify(r, time.Now()); verdict.Valid != ok {
			t.Errorf("signed with %s: %+v, %v", secret, verdict, err)
		}
	}
	r := Request{Method: "GET", URL: "https://hooks.example.com/?hub.mode=subscribe&hub.verify_token=&hub.challenge=1"}
	if a, _ := verifier(t, kapsel.Verification{Provider: "meta"}, "app secret").Handshake(r); a == nil || a.Status != 403 {
		t.Errorf("without a verify token a challenge is answered %+v", a)
	}
	for provider, want := range map[string]bool{"meta": true, "github": false, "none": false, "hmac": false} {
		fields := Check(kapsel.Verification{Provider: provider, Secrets: []kapsel.Secret{{}}, VerifyToken: &kapsel.Secret{}})
		if (fields == nil) != want {
			t.Errorf("verify_token for %s: %v", provider, fields)
		}
	}
}

func TestAccepted(t *testing.T) {
	for provider, want := range map[string]*Answer{
		"xero":            {Status: 200},
		"slack":           {Status: 200},
		"okta":            {Status: 200},
		"airtable":        {Status: 200},
		"telegram":        {Status: 200},
		"supabase":        {Status: 200, ContentType: "application/json", Body: []byte("{}")},
		"microsoft-graph": {Status: 202},
		"discord":         {Status: 204},
		"twilio":          {Status: 200, ContentType: "text/xml", Body: []byte("<Response/>")},
		"adyen":           {Status: 200, ContentType: "text/plain", Body: []byte("[accepted]")},
		"github":          nil,
		"none":            nil,
	} {
		if diff := cmp.Diff(want, Accepted(provider)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", provider, diff)
		}
	}
}

func TestSecretsOfOneForm(t *testing.T) {
	for _, tt := range []struct{ provider, secret string }{
		{"discord", "zz"}, {"discord", strings.Repeat("0", 62)},
		{"sendgrid", "AAAA"}, {"sendgrid", "not base64"},
		{"adyen", "no hex"},
		{"paypal", "8PT597110X687430LKGECATA"}, {"paypal", "8PT\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
		{"gitlab", "whsec_no base64"},
		{"svix", "whsec_no base64"},
	} {
		err := CheckSecret(kapsel.Verification{Provider: tt.provider}, []byte(tt.secret))
		if err == nil || strings.Contains(err.Error(), tt.secret) {
			t.Errorf("CheckSecret(%s, %q) = %v", tt.provider, tt.secret, err)
		}
	}
}

// FuzzSignatureHeader gives every provider anything for its headers and body. Without the
// secret nothing is accepted, and nothing panics.
func FuzzSignatureHeader(f *testing.F) {
	for _, v := range vectors {
		for _, value := range v.header {
			f.Add(value, "1700000000", "id", v.body, v.contentType, v.url)
		}
	}
	f.Add("t=1,v1=", "", ".", `{"signature":{"timestamp":"1","token":"","signature":""}}`, "multipart/form-data; boundary=x", "https://[::1]:1?bodySHA256=")
	var verifiers []*Verifier
	for _, v := range vectors {
		verifiers = append(verifiers, v.verifier(f, v.secret))
	}
	verifiers = append(verifiers, verifier(f, kapsel.Verification{Provider: "mailgun"}, "k"))
	f.Fuzz(func(t *testing.T, signature, stamp, id, body, contentType, rawURL string) {
		for _, ver := range verifiers {
			p := ver.preset
			r := Request{Method: "POST", URL: rawURL, Header: http.Header{"Content-Type": {contentType}, "X-Gitlab-Token": {signature}}, Body: []byte(body)}
			for _, h := range p.headers {
				r.Header[h.id], r.Header[h.time], r.Header[h.signature] = []string{id}, []string{stamp}, []string{signature}
			}
			verdict, err := ver.Verify(r, time.Unix(1_700_000_000, 0))
			if (err == nil) != verdict.Valid || err != nil && kapsel.CodeOf(err) != kapsel.InvalidSignature {
				t.Fatalf("%s: %+v, %v", ver.name, verdict, err)
			}
			for _, method := range []string{"GET", "POST"} {
				r.Method = method
				if a, _ := ver.Handshake(r); a != nil && (a.Status < 200 || len(a.Body) > 2*maxHandshake) {
					t.Fatalf("%s: %+v", ver.name, a)
				}
			}
		}
	})
}
