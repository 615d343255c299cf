package signature

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// preset describes how one provider signs.
type preset struct {
	secret     string                                            // the provider's name for the secret, for people
	verify     func(v *Verifier, r Request, now time.Time) error // replaces the generic check if no secret is shared; nil: the generic check
	read       reader                                            // zero: readHeaders
	headers    []headers                                         // candidates; the first whose signature header the request has counts
	several    bool                                              // all signature headers count, with the time and the ID of the first
	format     format                                            // of the signature header; zero: plain
	prefix     string                                            // of a plain signature
	unit       unit                                              // of the signed time
	tolerance  time.Duration                                     // greatest age of a signature: 5 minutes, or the length of the retry schedule if the provider's retries keep the old time
	unique     bool                                              // the signed ID is never used for another delivery, so it identifies the signed content (see Verifier.Guard)
	content    content                                           // nil: bodyAlone
	decompress bool                                              // the signature is over the decoded body
	key        keyer
	pair       func() (secret []byte, s signer, err error) // makes a secret for samples and its signer, if the secret is a public key or has a special form
	signedTime func(Request) (time.Time, error)            // reads a time from the signed body, after the check; nil: none

	anySpace    bool                                          // the secret may begin or end with white space, because people choose it, or because it is ignored
	shared      []string                                      // headers that may carry the secret itself
	sharedQuery []string                                      // query parameters that may carry the secret itself
	delivery    []string                                      // headers with the provider's ID of a delivery, which stays the same on retries
	deliveryIn  inBody                                        // place of such an ID in the signed body
	handshake   func(v *Verifier, r Request) *Answer          // answers the provider's challenge; nil: the provider has none, or none that is signed
	confirm     func(v *Verifier, r Request) (*Answer, error) // like handshake, for challenges that are answered by asking the provider; nil: none
	brings      func(r Request) (secret string, a *Answer)    // reads the secret from a handshake that carries it; nil: none
	shown       bool                                          // people must paste that secret back into the provider
	unsigned    func(v *Verifier, r Request) *Answer          // like handshake, for challenges that are unsigned POSTs; nil: none
	accepted    *Answer                                       // answer to an accepted event; nil: the usual one
}

// headers holds the canonical names of headers that belong together; "" if there is none.
type headers struct{ signature, id, time string }

const fiveMinutes = 5 * time.Minute

var (
	sha256Hex    = textKey(sha256.New, inHex)
	sha256Base64 = textKey(sha256.New, inBase64)
)

// Answers for providers that act on the body of an answer; these mean nothing to them.
var (
	empty       = &Answer{Status: 200}
	emptyObject = &Answer{Status: 200, ContentType: "application/json", Body: []byte("{}")}
)

// answering sets the answer to accepted events.
func answering(a *Answer, p *preset) *preset {
	p.accepted = a
	return p
}

// presets holds the providers by name, each with the page that says how it signs. hmacPreset and
// tokenPreset make those of "hmac" and "token".
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
	// X-Hub-Signature (SHA-1) is ignored.
	"github": {
		anySpace: true,
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Hub-Signature-256"}},
		prefix:   "sha256=",
		key:      sha256Hex,
		delivery: []string{"X-Github-Delivery"},
	},
	// shopify.dev/docs/apps/build/webhooks/subscribe/https; Events webhooks have names without X-.
	"shopify": {
		secret:   "the app's client secret",
		headers:  []headers{{signature: "Shopify-Hmac-Sha256"}, {signature: "X-Shopify-Hmac-Sha256"}},
		key:      sha256Base64,
		delivery: []string{"Shopify-Webhook-Id", "X-Shopify-Webhook-Id"},
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
		accepted:   empty, // a body is an answer to a command, or an error to a view_submission
	},
	// www.twilio.com/docs/usage/security#validating-requests
	"twilio": {
		secret:   "the account's auth token, or a shared key",
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
		pair:      p256Pair,
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
		pair:      paypalPair,
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
		pair:      hexEd25519Pair,
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
		handshake:  probe(http.MethodHead),
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
	// request like others, with a valid or a wrong signature.
	"xero": {
		secret:    "the webhook's signing key",
		headers:   []headers{{signature: "X-Xero-Signature"}},
		key:       sha256Base64,
		handshake: xeroHandshake,
		accepted:  empty,
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
		accepted:   empty,
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

	// developer.pagerduty.com/docs/verifying-webhook-signatures. Two signatures while a secret changes.
	"pagerduty": {
		secret:     "the subscription's signing secret",
		headers:    []headers{{signature: "X-Pagerduty-Signature"}},
		format:     list,
		prefix:     "v1=",
		key:        sha256Hex,
		deliveryIn: at("$.event.id"),
	},
	// developer.calendly.com/api-docs/webhook-signatures
	"calendly": {
		secret:    "the subscription's signing key",
		headers:   []headers{{signature: "Calendly-Webhook-Signature"}},
		format:    pairs(",", "t", "v1"),
		tolerance: fiveMinutes,
		content:   template("{time}.{body}"),
		key:       sha256Hex,
		anySpace:  true, // the person who makes the subscription chooses the key
	},
	// workos.com/docs/events/data-syncing/webhooks; github.com/workos/workos-node. The time is in milliseconds.
	"workos": {
		secret:     "the endpoint's secret",
		headers:    []headers{{signature: "Workos-Signature"}},
		format:     pairs(",", "t", "v1"),
		unit:       millis,
		tolerance:  fiveMinutes,
		content:    template("{time}.{body}"),
		key:        sha256Hex,
		deliveryIn: at("$.id"),
	},
	// developer.atlassian.com/cloud/jira/platform/webhooks#securing-admin-webhooks
	"atlassian": {
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Hub-Signature"}},
		prefix:   "sha256=",
		key:      sha256Hex,
		anySpace: true,
		delivery: []string{"X-Atlassian-Webhook-Identifier"},
	},
	// www.dropbox.com/developers/reference/webhooks
	"dropbox": {
		secret:    "the app's secret",
		headers:   []headers{{signature: "X-Dropbox-Signature"}},
		key:       sha256Hex,
		handshake: echoQuery("challenge"),
	},
	// developer.atlassian.com/cloud/trello/guides/rest-api/webhooks
	"trello": {
		secret:     "the application's secret",
		headers:    []headers{{signature: "X-Trello-Webhook"}},
		content:    template("{body}{url}"),
		key:        textKey(sha1.New, inBase64),
		handshake:  probe(http.MethodHead),
		deliveryIn: at("$.action.id"),
	},
	// airtable.com/developers/web/api/webhooks-overview
	"airtable": {
		secret:   "the webhook's macSecretBase64",
		headers:  []headers{{signature: "X-Airtable-Content-Mac"}},
		prefix:   "hmac-sha256=",
		key:      decodedKey(sha256.New, inHex, keyEncodings["base64"]),
		accepted: empty,
	},
	// developer.box.com/guides/webhooks/v2/signatures-v2. Each of two keys signs.
	"box": {
		secret: "the primary or the secondary signature key, or both as two secrets",
		headers: []headers{
			{signature: "Box-Signature-Primary", time: "Box-Delivery-Timestamp"},
			{signature: "Box-Signature-Secondary", time: "Box-Delivery-Timestamp"},
		},
		several:   true,
		unit:      rfc3339,
		tolerance: 10 * time.Minute,
		content:   template("{body}{time}"),
		key:       sha256Base64,
		delivery:  []string{"Box-Delivery-Id"},
	},
	// woocommerce.com/document/webhooks
	"woocommerce": {
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Wc-Webhook-Signature"}},
		key:      sha256Base64,
		anySpace: true,
		unsigned: woocommercePing,
		delivery: []string{"X-Wc-Webhook-Delivery-Id"},
	},
	// mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks#authenticating-webhook-requests
	"mailchimp": {
		secret:    "the webhook's authentication key",
		headers:   []headers{{signature: "X-Mandrill-Signature"}},
		content:   mailchimpContent,
		key:       textKey(sha1.New, inBase64),
		handshake: probe(http.MethodHead, http.MethodGet),
		unsigned:  mailchimpTest,
	},
	// core.telegram.org/bots/api#setwebhook
	"telegram": {
		secret:     "the secret_token given to setWebhook",
		read:       readToken,
		headers:    []headers{{signature: "X-Telegram-Bot-Api-Secret-Token"}},
		key:        tokenSecret,
		shared:     []string{"X-Telegram-Bot-Api-Secret-Token"},
		deliveryIn: at("$.update_id"),
		accepted:   empty, // a body could be a call of the Bot API
	},
	// www.typeform.com/developers/webhooks/secure-your-webhooks
	"typeform": {
		secret:     "the webhook's secret",
		headers:    []headers{{signature: "Typeform-Signature"}},
		prefix:     "sha256=",
		key:        sha256Base64,
		anySpace:   true,
		deliveryIn: at("$.event_id"),
	},
	// vercel.com/docs/webhooks/webhooks-api
	"vercel": {
		secret:     "the webhook's secret, or the integration's client secret",
		headers:    []headers{{signature: "X-Vercel-Signature"}},
		key:        textKey(sha1.New, inHex),
		deliveryIn: at("$.id"),
	},
	// docs.sentry.io/organization/integrations/integration-platform/webhooks
	"sentry": {
		secret:   "the integration's client secret",
		headers:  []headers{{signature: "Sentry-Hook-Signature"}},
		key:      sha256Hex,
		delivery: []string{"Request-Id"},
	},
	// docs.lemonsqueezy.com/help/webhooks/signing-requests
	"lemonsqueezy": {
		secret:   "the webhook's signing secret",
		headers:  []headers{{signature: "X-Signature"}},
		key:      sha256Hex,
		anySpace: true,
	},
	// razorpay.com/docs/webhooks/validate-test
	"razorpay": {
		secret:   "the webhook's secret",
		headers:  []headers{{signature: "X-Razorpay-Signature"}},
		key:      sha256Hex,
		anySpace: true,
		delivery: []string{"X-Razorpay-Event-Id"},
	},
	// developers.docusign.com/platform/webhooks/connect/validate. One header for each key of the account.
	"docusign": {
		secret:  "a Connect HMAC key",
		headers: numbered("X-Docusign-Signature-", maxSignatures),
		several: true,
		key:     sha256Base64,
	},
	// www.alchemy.com/docs/reference/notify-api-quickstart
	"alchemy": {
		secret:     "the webhook's signing key",
		headers:    []headers{{signature: "X-Alchemy-Signature"}},
		key:        sha256Hex,
		deliveryIn: at("$.id"),
	},
	// learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/add-outgoing-webhook
	"microsoft-teams": {
		secret:  "the outgoing webhook's security token, in base64",
		headers: []headers{{signature: "Authorization"}},
		prefix:  "HMAC ",
		key:     decodedKey(sha256.New, inBase64, keyEncodings["base64"]),
	},
	// learn.microsoft.com/graph/change-notifications-delivery-webhooks. Nothing is signed: the
	// clientState in the body is the secret.
	"microsoft-graph": {
		secret:   "the subscription's clientState",
		read:     readGraph,
		key:      tokenSecret,
		anySpace: true,
		unsigned: echoEmpty("validationToken"),
		accepted: &Answer{Status: 202},
	},
	// github.com/cloudevents/spec, http-webhook.md: an access token and a handshake by OPTIONS.
	"cloudevents": cloudEvents(),
	// learn.microsoft.com/azure/event-grid/end-point-validation-event-grid-events-schema
	"azure-event-grid": cloudEvents(),
	// www.w3.org/TR/websub
	"websub": {
		secret:    "the hub.secret of the subscription",
		headers:   []headers{{signature: "X-Hub-Signature"}},
		format:    method,
		key:       methodKey,
		anySpace:  true,
		handshake: websubHandshake,
	},
	// dev.twitch.tv/docs/eventsub/handling-webhook-events
	"twitch": {
		secret: "the subscription's secret",
		headers: []headers{{
			signature: "Twitch-Eventsub-Message-Signature",
			id:        "Twitch-Eventsub-Message-Id",
			time:      "Twitch-Eventsub-Message-Timestamp",
		}},
		prefix:    "sha256=",
		unit:      rfc3339,
		tolerance: 10 * time.Minute,
		content:   template("{id}{time}{body}"),
		key:       sha256Hex,
		anySpace:  true,
		handshake: twitchHandshake,
		delivery:  []string{"Twitch-Eventsub-Message-Id"},
	},
	// developers.webflow.com/data/docs/working-with-webhooks#validating-request-signatures
	"webflow": {
		secret:    "the webhook's secret key, or the app's client secret",
		headers:   []headers{{signature: "X-Webflow-Signature", time: "X-Webflow-Timestamp"}},
		unit:      millis,
		tolerance: fiveMinutes,
		content:   template("{time}:{body}"),
		key:       sha256Hex,
	},
	// paystack.com/docs/payments/webhooks#verify-event-origin
	"paystack": {
		secret:  "the account's secret key (sk_…)",
		headers: []headers{{signature: "X-Paystack-Signature"}},
		key:     textKey(sha512.New, inHex),
	},
	// developer.gocardless.com/getting-started/staying-up-to-date-with-webhooks
	"gocardless": {
		secret:   "the webhook endpoint's secret",
		headers:  []headers{{signature: "Webhook-Signature"}},
		key:      sha256Hex,
		anySpace: true,
	},
	// circleci.com/docs/webhooks#validate-webhooks
	"circleci": {
		secret:     "the webhook's secret token",
		headers:    []headers{{signature: "Circleci-Signature"}},
		format:     list,
		prefix:     "v1=",
		key:        sha256Hex,
		anySpace:   true,
		deliveryIn: at("$.id"),
	},
	// www.mux.com/docs/core/verify-webhook-signatures
	"mux": {
		secret:     "the webhook's signing secret",
		headers:    []headers{{signature: "Mux-Signature"}},
		format:     pairs(",", "t", "v1"),
		tolerance:  fiveMinutes,
		content:    template("{time}.{body}"),
		key:        sha256Hex,
		deliveryIn: at("$.id"),
	},
	// github.com/sanity-io/webhook-toolkit. The time is in milliseconds.
	"sanity": {
		secret:    "the webhook's secret",
		headers:   []headers{{signature: "Sanity-Webhook-Signature"}},
		format:    pairs(",", "t", "v1"),
		unit:      millis,
		tolerance: fiveMinutes,
		content:   template("{time}.{body}"),
		key:       textKey(sha256.New, inBase64URL),
		anySpace:  true,
	},
	// buildkite.com/docs/apis/webhooks#webhook-signature
	"buildkite": {
		secret:    "the notification service's token",
		headers:   []headers{{signature: "X-Buildkite-Signature"}},
		format:    pairs(",", "timestamp", "signature"),
		tolerance: fiveMinutes,
		content:   template("{time}.{body}"),
		key:       sha256Hex,
	},
	// elevenlabs.io/docs/product-guides/administration/webhooks#authentication
	"elevenlabs": {
		secret:    "the webhook's secret (wsec_…)",
		headers:   []headers{{signature: "Elevenlabs-Signature"}},
		format:    pairs(",", "t", "v0"),
		tolerance: 30 * time.Minute,
		content:   template("{time}.{body}"),
		key:       sha256Hex,
	},
	// docs.customer.io/journeys/webhooks#securely-verify-requests
	"customerio": {
		secret:     "the webhook's signing key",
		headers:    []headers{{signature: "X-Cio-Signature", time: "X-Cio-Timestamp"}},
		tolerance:  fiveMinutes,
		content:    template("v0:{time}:{body}"),
		key:        sha256Hex,
		deliveryIn: at("$.event_id"),
	},
	// developer.nylas.com/docs/v3/notifications
	"nylas": {
		secret:     "the webhook's secret",
		headers:    []headers{{signature: "X-Nylas-Signature"}},
		key:        sha256Hex,
		handshake:  echoQuery("challenge"),
		deliveryIn: at("$.id"),
	},
	// docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
	"aws-sns": {
		secret:     "none: topic_arns names the topics",
		verify:     verifySNS,
		confirm:    confirmSNS,
		deliveryIn: at("$.MessageId"),
	},
	// docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions, developers.google.com/workspace/chat/verify-requests-from-chat
	"google-oidc": {
		secret:     "none: audience and email say whose tokens count",
		verify:     verifyOIDC,
		headers:    []headers{{signature: "Authorization"}},
		shared:     []string{"Authorization"},
		delivery:   []string{"X-Goog-Pubsub-Message-Id"},
		deliveryIn: at("$.message.messageId"),
		accepted:   emptyObject, // Chat shows what a body says
	},
	// developers.asana.com/docs/webhooks-guide
	"asana": {
		secret:  "none to enter: it comes with the handshake, while awaiting_handshake is on",
		headers: []headers{{signature: "X-Hook-Signature"}},
		key:     sha256Hex,
		brings:  asanaHandshake,
	},
	// developers.notion.com/reference/webhooks
	"notion": {
		secret:     "none to enter: the verification token comes with the handshake, while awaiting_handshake is on",
		headers:    []headers{{signature: "X-Notion-Signature"}},
		prefix:     "sha256=",
		key:        sha256Hex,
		brings:     notionHandshake,
		shown:      true,
		deliveryIn: at("$.id"),
	},
	// postmarkapp.com/developer/webhooks/webhooks-overview#protecting-your-webhook
	"postmark": {
		secret:   "the user, a colon and the password that the URL has",
		read:     readBasic,
		headers:  []headers{{signature: "Authorization"}},
		key:      tokenSecret,
		anySpace: true,
		shared:   []string{"Authorization"},
	},
	// developers.google.com/workspace/calendar/api/guides/push
	"google-calendar": {
		secret:   "the channel's token",
		read:     readToken,
		headers:  []headers{{signature: "X-Goog-Channel-Token"}},
		key:      tokenSecret,
		anySpace: true,
		shared:   []string{"X-Goog-Channel-Token"},
	},

	"standard-webhooks": standard(),
	"svix":              svix(),                             // docs.svix.com/receiving/verifying-payloads/how-manual
	"openai":            standard(),                         // platform.openai.com/docs/guides/webhooks
	"clerk":             svix(),                             // clerk.com/docs/webhooks/overview
	"resend":            svix(),                             // resend.com/docs/dashboard/webhooks/verify-webhooks-requests
	"replicate":         standard(),                         // replicate.com/docs/topics/webhooks/verify-webhook
	"supabase":          answering(emptyObject, standard()), // a hook's answer has a meaning: supabase.com/docs/guides/auth/auth-hooks
}

// standard returns the preset of Standard Webhooks 1.0
// (github.com/standard-webhooks/standard-webhooks), with its own header names or those of Svix,
// where the specification comes from.
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
		pair:      standardPair,
		delivery:  []string{"Webhook-Id", "Svix-Id"},
	}
}

// svix returns standard for senders that use Svix's header names. These come first, and samples
// use them, because these senders' own libraries read no others.
func svix() *preset {
	p := standard()
	slices.Reverse(p.headers)
	slices.Reverse(p.delivery)
	return p
}

// cloudEvents returns the preset of CloudEvents' HTTP webhook: an access token in Authorization or
// in the query.
func cloudEvents() *preset {
	return &preset{
		secret:      "the access token",
		read:        readAccessToken,
		headers:     []headers{{signature: "Authorization"}},
		key:         tokenSecret,
		anySpace:    true,
		shared:      []string{"Authorization"},
		sharedQuery: []string{"access_token"},
		handshake:   cloudEventsHandshake,
	}
}

// numbered returns headers whose names end in 1, 2, …, n.
func numbered(name string, n int) (list []headers) {
	for i := 1; i <= n; i++ {
		list = append(list, headers{signature: name + strconv.Itoa(i)})
	}
	return list
}

// init fills in the defaults of all presets.
func init() {
	for _, p := range presets {
		p.complete()
	}
}

func (p *preset) complete() *preset {
	if p.read.read == nil {
		p.read = readHeaders
	}
	if p.format.read == nil {
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
