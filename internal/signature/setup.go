package signature

// setup is what a person does to connect a provider, in the provider's own words.
type setup struct {
	title string // the provider's name
	paste string // where the ingest URL goes
	find  string // where the secret is, or which it is
}

// notes are what is peculiar to a provider, and what its documentation leaves open.
var notes = map[string]string{
	"adyen":     "fields are signed as they are, without the escaping that older documentation describes; answered [accepted]",
	"bitbucket": "its documentation does not say whether the delivery id stays the same on a retry; Data Center's test of a connection is answered",
	"discord":   "it names no tolerance; it sends bad signatures on purpose, which are refused",
	"gitlab":    "signing tokens are in newer versions; the secret token alone does not cover the body",
	"hubspot":   "signatures of version 3 only; the URL is signed too",
	"mailgun":   "the time and a token are signed, the rest of the body is not; it names no tolerance",
	"meta":      "what is signed is the body with its escapes, as it was sent",
	"okta":      "the secret itself is sent; nothing covers the body",
	"paypal":    "a checksum of the body is signed; its documentation does not say whether a retry has a new time: raise the tolerance if retries are refused",
	"sendgrid":  "it names no tolerance",
	"square":    "the URL is signed too",
	"twilio":    "the URL is signed too; the delivery id is known from its libraries, not from its reference",
	"zendesk":   "it names no tolerance",
	"zoom":      "it names no tolerance",
}

// setups has a row for each provider.
var setups = map[string]setup{
	"adyen":             {"Adyen", "Customer Area, Developers, Webhooks, URL", "the webhook's HMAC key, shown when it is generated"},
	"bitbucket":         {"Bitbucket", "Repository settings, Webhooks, URL", "the secret that you enter there"},
	"clerk":             {"Clerk", "Dashboard, Webhooks, Endpoint URL", "the endpoint's signing secret"},
	"discord":           {"Discord", "Developer Portal, the application, Webhooks, Endpoint URL", "the application's public key, on its General Information page"},
	"gitea":             {"Gitea, Forgejo", "Repository settings, Webhooks, Target URL", "the secret that you enter there"},
	"github":            {"GitHub", "Repository or organization settings, Webhooks, Payload URL", "the secret that you enter there"},
	"gitlab":            {"GitLab", "Project or group settings, Webhooks, URL", "the signing token that GitLab shows, or the secret token that you enter there"},
	"hmac":              {"Any sender with an HMAC", "wherever the sender wants a URL", "the key that you and the sender share"},
	"hubspot":           {"HubSpot", "the app's settings, Webhooks, Target URL", "the app's client secret"},
	"intercom":          {"Intercom", "Developer Hub, the app, Webhooks, Endpoint URL", "the app's client secret, on its Basic information page"},
	"linear":            {"Linear", "Settings, API, Webhooks, URL", "the webhook's signing secret, on its page"},
	"mailgun":           {"Mailgun", "Send, Webhooks, URL", "the HTTP webhook signing key, under API security"},
	"meta":              {"Meta (WhatsApp, Messenger, Instagram)", "App dashboard, Webhooks, Callback URL", "the app secret, under Settings, Basic; the verify token that you enter beside the URL is verify_token"},
	"okta":              {"Okta", "Workflow, Event Hooks, URL", "the value that you enter as authentication secret, with Authorization as the field"},
	"openai":            {"OpenAI", "Project settings, Webhooks, Endpoint URL", "the signing secret, shown when the endpoint is made"},
	"paddle":            {"Paddle", "Developer tools, Notifications, URL", "the destination's secret key"},
	"paypal":            {"PayPal", "Developer Dashboard, the app, Webhooks, URL", "the webhook's id, beside its URL, and the certificate that the header PAYPAL-CERT-URL of a request leads to"},
	"replicate":         {"Replicate", "the webhook parameter of a prediction", "the default signing secret, from its API"},
	"resend":            {"Resend", "Webhooks, Endpoint URL", "the webhook's signing secret, on its page"},
	"sendgrid":          {"SendGrid", "Settings, Mail Settings, Event Webhook, Post URL", "the verification key, after signature verification was turned on"},
	"shopify":           {"Shopify", "the app's subscription, or Settings, Notifications, Webhooks, URL", "the app's client secret, or the one shown below the list of webhooks"},
	"slack":             {"Slack", "the app, Event Subscriptions, Request URL", "the signing secret, under Basic Information"},
	"square":            {"Square", "Developer Console, Webhooks, Notification URL", "the subscription's signature key"},
	"standard-webhooks": {"Any sender of Standard Webhooks", "wherever the sender wants a URL", "the secret (whsec_…) or public key (whpk_…) that the sender shows"},
	"stripe":            {"Stripe", "Workbench, Webhooks, Endpoint URL", "the endpoint's signing secret"},
	"supabase":          {"Supabase", "Authentication, Hooks, URL", "the hook's secret"},
	"svix":              {"Svix and who sends with it", "the sender's portal, Endpoint URL", "the endpoint's signing secret, on its page"},
	"token":             {"Any sender that sends the secret itself", "wherever the sender wants a URL, with the secret in a header, as Basic authentication or in the query", "the text that you and the sender share"},
	"twilio":            {"Twilio", "the number or service, as webhook with HTTP POST", "the account's auth token"},
	"x":                 {"X", "the webhook that you register with the API", "the app's consumer secret"},
	"xero":              {"Xero", "Developer portal, the app, Webhooks, delivery URL", "the webhook's key, on the same page"},
	"zendesk":           {"Zendesk", "Admin Center, Apps and integrations, Webhooks, Endpoint URL", "the webhook's signing secret, on its page"},
	"zoom":              {"Zoom", "App Marketplace, the app, Event Subscriptions, Event notification endpoint URL", "the app's secret token"},
}
