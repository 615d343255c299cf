package signature

import (
	"crypto/sha1"
	"crypto/sha256"
	"time"
)

// preset says how one provider signs.
type preset struct {
	secret     string        // what its secret is called, for people
	read       reader        // nil: readHeaders
	headers    []headers     // the first whose signature the request has counts
	format     format        // of the signature header; nil: plain
	prefix     string        // of a plain signature
	unit       unit          // of the signed time
	tolerance  time.Duration // how long ago a request may have been signed: 5 minutes, or the provider's whole schedule of retries where those keep the time
	unique     bool          // the signed id is of one delivery alone, and stands for all that is signed (see Verifier.Guard)
	content    content       // nil: bodyAlone
	decompress bool          // a compressed body is signed as it is when decoded
	key        keyer
	signedTime func(Request) (time.Time, error) // a time in the signed body, read after the check

	anySpace    bool                                 // white space may stand around the secret: people choose it, or it does no harm
	shared      []string                             // headers that may carry the secret itself
	sharedQuery []string                             // parameters of the query that may
	delivery    []string                             // headers that name a delivery, the same when it is sent again
	deliveryIn  inBody                               // where the signed body does
	handshake   func(v *Verifier, r Request) *Answer // nil: the provider has none
	accepted    *Answer                              // nil: the usual one
}

// headers are the canonical names of the headers that go together; "" where there is none.
type headers struct{ signature, id, time string }

const fiveMinutes = 5 * time.Minute

var (
	sha256Hex    = textKey(sha256.New, inHex)
	sha256Base64 = textKey(sha256.New, inBase64)
)

// presets are the providers by name, each with the page that says how it signs. "hmac" is
// made by hmacPreset.
var presets = map[string]*preset{
	// docs.stripe.com/webhooks#verify-manually. The key is the secret's whole text; v0 is for tests.
	"stripe": {
		secret:     "the endpoint's signing secret (whsec_…)",
		headers:    []headers{{signature: "Stripe-Signature"}},
		format:     pairs(",", "t", "v1"),
		tolerance:  fiveMinutes,
		content:    template("{time}.{body}"),
		key:        sha256Hex,
		deliveryIn: at("$.id"),
	},
	// docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries. The older
	// X-Hub-Signature (SHA-1) does not count.
	"github": {
		anySpace: true,
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Hub-Signature-256"}},
		prefix:   "sha256=",
		key:      sha256Hex,
		delivery: []string{"X-Github-Delivery"},
	},
	// shopify.dev/docs/apps/build/webhooks/subscribe/https
	"shopify": {
		secret:   "the app's client secret",
		headers:  []headers{{signature: "X-Shopify-Hmac-Sha256"}},
		key:      sha256Base64,
		delivery: []string{"X-Shopify-Webhook-Id"},
	},
	// docs.slack.dev/authentication/verifying-requests-from-slack
	"slack": {
		secret:     "the app's signing secret",
		headers:    []headers{{signature: "X-Slack-Signature", time: "X-Slack-Request-Timestamp"}},
		prefix:     "v0=",
		tolerance:  fiveMinutes,
		content:    template("v0:{time}:{body}"),
		key:        sha256Hex,
		handshake:  slackHandshake,
		deliveryIn: at("$.event_id"),
	},
	// www.twilio.com/docs/usage/security#validating-requests
	"twilio": {
		secret:   "the account's auth token",
		headers:  []headers{{signature: "X-Twilio-Signature"}},
		content:  twilioContent,
		key:      twilioKey,
		delivery: []string{"I-Twilio-Idempotency-Token"},
		accepted: &Answer{Status: 200, ContentType: "text/xml", Body: []byte("<Response/>")},
	},
	// www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
	"sendgrid": {
		secret: "the webhook's verification key",
		headers: []headers{{
			signature: "X-Twilio-Email-Event-Webhook-Signature",
			time:      "X-Twilio-Email-Event-Webhook-Timestamp",
		}},
		tolerance: fiveMinutes,
		content:   template("{time}{body}"),
		key:       p256Key,
	},
	// developer.squareup.com/docs/webhooks/step3validate
	"square": {
		secret:     "the subscription's signature key",
		headers:    []headers{{signature: "X-Square-Hmacsha256-Signature"}},
		content:    template("{url}{body}"),
		key:        sha256Base64,
		deliveryIn: at("$.event_id"),
	},
	// developer.paypal.com/api/rest/webhooks/rest (self verification)
	"paypal": {
		anySpace: true, // a PEM file ends with a line feed
		secret:   "the webhook's id, a line feed, and the certificate (PEM) that PAYPAL-CERT-URL leads to",
		read:     readPayPal,
		headers: []headers{{
			signature: "Paypal-Transmission-Sig",
			id:        "Paypal-Transmission-Id",
			time:      "Paypal-Transmission-Time",
		}},
		unit:      rfc3339,
		tolerance: 96 * time.Hour, // up to 25 retries in 3 days
		unique:    true,
		key:       paypalSecret,
		delivery:  []string{"Paypal-Transmission-Id"},
	},
	// developer.paddle.com/webhooks/signature-verification
	"paddle": {
		secret:     "the notification destination's secret key (pdl_ntfset_…)",
		headers:    []headers{{signature: "Paddle-Signature"}},
		format:     pairs(";", "ts", "h1"),
		tolerance:  fiveMinutes,
		content:    template("{time}:{body}"),
		key:        sha256Hex,
		deliveryIn: at("$.event_id"),
	},
	// linear.app/developers/webhooks#securing-webhooks
	"linear": {
		secret:     "the webhook's signing secret",
		headers:    []headers{{signature: "Linear-Signature"}},
		tolerance:  9 * time.Hour, // retries after 1 minute, 1 hour and 6 hours
		key:        sha256Hex,
		signedTime: linearTime,
		delivery:   []string{"Linear-Delivery"},
	},
	// developers.zoom.us/docs/api/webhooks#verify-webhook-events
	"zoom": {
		secret:    "the app's secret token",
		headers:   []headers{{signature: "X-Zm-Signature", time: "X-Zm-Request-Timestamp"}},
		prefix:    "v0=",
		tolerance: fiveMinutes,
		content:   template("v0:{time}:{body}"),
		key:       sha256Hex,
		handshake: zoomHandshake,
	},
	// docs.discord.com/developers/events/webhook-events
	"discord": {
		secret:    "the application's public key",
		headers:   []headers{{signature: "X-Signature-Ed25519", time: "X-Signature-Timestamp"}},
		tolerance: fiveMinutes,
		content:   template("{time}{body}"),
		key:       hexEd25519Key,
		handshake: discordHandshake,
		accepted:  &Answer{Status: 204},
	},
	// docs.gitlab.com/user/project/integrations/webhooks
	"gitlab": {
		anySpace:  true,
		secret:    "the webhook's signing token (whsec_…) or its secret token",
		read:      readGitLab,
		headers:   []headers{{"Webhook-Signature", "Webhook-Id", "Webhook-Timestamp"}},
		format:    tokens,
		tolerance: fiveMinutes,
		content:   template("{id}.{time}.{body}"),
		key:       gitlabKey,
		shared:    []string{gitlabToken},
		delivery:  []string{"Idempotency-Key", "Webhook-Id"},
	},
	// support.atlassian.com/bitbucket-cloud/docs/manage-webhooks#Secure-webhooks
	"bitbucket": {
		anySpace:  true,
		secret:    "the webhook's secret",
		headers:   []headers{{signature: "X-Hub-Signature"}},
		prefix:    "sha256=",
		key:       sha256Hex,
		handshake: bitbucketHandshake,
		delivery:  []string{"X-Request-Uuid"},
	},
	// developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation
	"hubspot": {
		secret:    "the app's client secret",
		headers:   []headers{{signature: "X-Hubspot-Signature-V3", time: "X-Hubspot-Request-Timestamp"}},
		unit:      millis,
		tolerance: fiveMinutes,
		content:   hubspotContent,
		key:       sha256Base64,
	},
	// developers.intercom.com/docs/webhooks/webhook-notifications#signed-notifications
	"intercom": {
		secret:     "the app's client secret",
		headers:    []headers{{signature: "X-Hub-Signature"}},
		prefix:     "sha1=",
		key:        textKey(sha1.New, inHex),
		handshake:  intercomHandshake,
		deliveryIn: at("$.id"),
	},
	// documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks. Only the
	// time and the token are signed: the rest of the body is as trustworthy as the connection.
	"mailgun": {
		secret:     "the account's HTTP webhook signing key",
		read:       readMailgun,
		tolerance:  12 * time.Hour, // retries after 10, 10, 15 and 30 minutes, 1, 2 and 4 hours
		unique:     true,
		content:    template("{time}{id}"),
		key:        sha256Hex,
		deliveryIn: at("$.signature.token"),
	},
	// docs.adyen.com/development-resources/webhooks/verify-hmac-signatures
	"adyen": {
		secret:   "the webhook's HMAC key, in hex",
		read:     readAdyen,
		headers:  []headers{{signature: "Hmacsignature"}},
		key:      adyenSecret,
		accepted: &Answer{Status: 200, ContentType: "text/plain", Body: []byte("[accepted]")},
	},
	// developer.xero.com/documentation/guides/webhooks/overview. Its intent to receive is a
	// request like others, signed well or badly.
	"xero": {
		secret:    "the webhook's signing key",
		headers:   []headers{{signature: "X-Xero-Signature"}},
		key:       sha256Base64,
		handshake: xeroHandshake,
		accepted:  &Answer{Status: 200},
	},
	// developers.facebook.com/docs/graph-api/webhooks/getting-started
	"meta": {
		secret:    "the app secret; the verify token is verify_token",
		headers:   []headers{{signature: "X-Hub-Signature-256"}},
		prefix:    "sha256=",
		key:       sha256Hex,
		handshake: verifyTokenHandshake,
	},
	// docs.x.com/x-api/webhooks/quickstart
	"x": {
		secret:    "the app's consumer secret",
		headers:   []headers{{signature: "X-Twitter-Webhooks-Signature"}},
		prefix:    "sha256=",
		content:   xContent,
		key:       sha256Base64,
		handshake: xHandshake,
	},
	// developer.okta.com/docs/concepts/event-hooks
	"okta": {
		anySpace:   true,
		secret:     "the value of the Authorization header",
		read:       readToken,
		headers:    []headers{{signature: "Authorization"}},
		key:        tokenSecret,
		shared:     []string{"Authorization"},
		handshake:  oktaHandshake,
		deliveryIn: at("$.eventId"),
	},
	// developer.zendesk.com/documentation/webhooks/verifying
	"zendesk": {
		secret:    "the webhook's signing secret",
		headers:   []headers{{signature: "X-Zendesk-Webhook-Signature", time: "X-Zendesk-Webhook-Signature-Timestamp"}},
		unit:      rfc3339,
		tolerance: fiveMinutes,
		content:   template("{time}{body}"),
		key:       sha256Base64,
		delivery:  []string{"X-Zendesk-Webhook-Invocation-Id"},
	},
	// docs.gitea.com/usage/repository/webhooks; Forgejo sends its own names as well.
	"gitea": {
		anySpace: true,
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Gitea-Signature"}, {signature: "X-Forgejo-Signature"}},
		key:      sha256Hex,
		delivery: []string{"X-Gitea-Delivery", "X-Forgejo-Delivery"},
	},

	"standard-webhooks": standard(),
	"svix":              standard(), // docs.svix.com/receiving/verifying-payloads/how-manual
	"openai":            standard(), // platform.openai.com/docs/guides/webhooks
	"clerk":             standard(), // clerk.com/docs/webhooks/overview
	"resend":            standard(), // resend.com/docs/dashboard/webhooks/verify-webhooks-requests
	"replicate":         standard(), // replicate.com/docs/topics/webhooks/verify-webhook
	"supabase":          standard(), // supabase.com/docs/guides/auth/auth-hooks
}

// standard is Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks), under
// its own header names or those of Svix, where it comes from.
func standard() *preset {
	return &preset{
		secret: "the webhook's signing secret (whsec_…) or public key (whpk_…)",
		headers: []headers{
			{"Webhook-Signature", "Webhook-Id", "Webhook-Timestamp"},
			{"Svix-Signature", "Svix-Id", "Svix-Timestamp"},
		},
		format:    tokens,
		tolerance: fiveMinutes,
		content:   template("{id}.{time}.{body}"),
		key:       standardKey,
		delivery:  []string{"Webhook-Id", "Svix-Id"},
	}
}

// init fills in what presets leave out.
func init() {
	for _, p := range presets {
		p.complete()
	}
}

func (p *preset) complete() *preset {
	if p.read == nil {
		p.read = readHeaders
	}
	if p.format == nil {
		p.format = plain
	}
	if p.content == nil {
		p.content = bodyAlone
	}
	if p.decompress {
		p.content = decompressed(p.content)
	}
	return p
}
