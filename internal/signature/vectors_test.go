package signature

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// vectors are signed requests, each with its origin: where it is published, which version of
// the provider's public library accepts it and refuses it with another body, or what made it
// where there is no such library.
var vectors = []vector{
	{
		name:         "standard-webhooks, of the specification",
		origin:       "published: github.com/standard-webhooks/standard-webhooks, test vectors",
		verification: kapsel.Verification{Provider: "standard-webhooks"},
		secret:       "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		header: map[string]string{
			"webhook-id":        "msg_p5jXN8AQM9LWM0D4loKWxJek",
			"webhook-timestamp": "1614265330",
			"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
		body: `{"test": 2432232314}`,
		at:   1614265330 + 7,
		skew: 7 * time.Second,
	},
	{
		name:         "standard-webhooks, Svix's names",
		origin:       "published: github.com/svix/svix-webhooks, tests of its libraries",
		verification: kapsel.Verification{Provider: "standard-webhooks"},
		secret:       "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		header: map[string]string{
			"svix-id":        "msg_p5jXN8AQM9LWM0D4loKWxJek",
			"svix-timestamp": "1614265330",
			"svix-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
		body: `{"test": 2432232314}`,
		at:   1614265330,
	},
	{
		name:         "github, of its documentation",
		origin:       "published: docs.github.com, validating webhook deliveries; npm @octokit/webhooks-methods 6.0.0 accepts it",
		verification: kapsel.Verification{Provider: "github"},
		secret:       "It's a Secret to Everybody",
		header:       map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
		body:         "Hello, World!",
		hex:          true,
	},
	{
		name:         "stripe",
		origin:       "npm stripe 23.1.0 accepts it",
		verification: kapsel.Verification{Provider: "stripe"},
		secret:       "whsec_test_secret",
		header:       map[string]string{"Stripe-Signature": "t=1700000000,v1=0c8670ed117751cc551a20e35839447075c42800ea3cf3e8a2fbda99cd1e6edd"},
		body:         `{"id":"evt_1","object":"event"}`,
		hex:          true,
		at:           1700000000 - 300,
		skew:         -300 * time.Second,
	},
	{
		name:         "shopify",
		origin:       "npm @shopify/shopify-api 13.1.0 accepts it",
		verification: kapsel.Verification{Provider: "shopify"},
		secret:       "hush",
		header:       map[string]string{"X-Shopify-Hmac-SHA256": "ZnNwYDsb9SzWYgyVq8mSd47Xx7V7w5L8c5mmRauh67I="},
		body:         `{"id":820982911946154508,"note":"caf\u00e9"}`,
	},
	{
		name:         "hmac, its defaults",
		origin:       "published: the examples of Wikipedia's article on HMAC",
		verification: kapsel.Verification{Provider: "hmac"},
		secret:       "key",
		header:       map[string]string{"X-Webhook-Signature": "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"},
		body:         "The quick brown fox jumps over the lazy dog",
		hex:          true,
	},
	{
		name:         "hmac, SHA-1 in base64 after a prefix",
		origin:       "published: the examples of Wikipedia's article on HMAC",
		verification: kapsel.Verification{Provider: "hmac", Header: "x-acme", Algorithm: "sha1", Encoding: "base64", Prefix: "sha1="},
		secret:       "key",
		header:       map[string]string{"X-Acme": "sha1=3nybhbi3iqa8ino29wqQcBydtNk="},
		body:         "The quick brown fox jumps over the lazy dog",
	},
	{
		name:         "hmac, SHA-512",
		origin:       "published: the examples of Wikipedia's article on HMAC",
		verification: kapsel.Verification{Provider: "hmac", Algorithm: "sha512"},
		secret:       "key",
		header: map[string]string{"X-Webhook-Signature": "b42af09057bac1e2d41708e48a902e09b5ff7f12ab428a4fe86653c73dd248fb" +
			"82f948a549f7b791a5b41915ee4d1ec3935357e4e2317250d0372afa2ebeeb3a"},
		body: "The quick brown fox jumps over the lazy dog",
		hex:  true,
	},
	{
		name:         "hmac, empty body",
		origin:       "OpenSSL",
		verification: kapsel.Verification{Provider: "hmac"},
		secret:       "key",
		header:       map[string]string{"X-Webhook-Signature": "5d5d139563c95b5967b9bd9a8c9b233a9dedb45072794cd232dc1b74832607d0"},
		hex:          true,
	},
	{
		name:         "slack, of its documentation",
		origin:       "published: docs.slack.dev, verifying requests from Slack",
		verification: kapsel.Verification{Provider: "slack"},
		secret:       `8f742231b10e8888abcd99yyyzzz85a5`,
		header: map[string]string{
			"X-Slack-Request-Timestamp": "1531420618",
			"X-Slack-Signature":         "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
		},
		body: `token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c`,
		at:   1531420618,
		hex:  true,
	},
	{
		name:         "twilio, of its library",
		origin:       "published: github.com/twilio/twilio-go, tests; npm twilio 6.3.1 accepts it",
		verification: kapsel.Verification{Provider: "twilio"},
		secret:       `12345`,
		url:          "https://mycompany.com/myapp.php?foo=1&bar=2",
		contentType:  "application/x-www-form-urlencoded",
		header: map[string]string{
			"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
		},
		body: `Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309`,
		at:   0,
	},
	{
		name:         "twilio, of its library, signed with the port",
		origin:       "published: github.com/twilio/twilio-go, tests",
		verification: kapsel.Verification{Provider: "twilio"},
		secret:       `12345`,
		url:          "https://mycompany.com/myapp.php?foo=1&bar=2",
		contentType:  "application/x-www-form-urlencoded; charset=UTF-8",
		header: map[string]string{
			"X-Twilio-Signature": "kvajT1Ptam85bY51eRf/AJRuM3w=",
		},
		body: `Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309`,
		at:   0,
	},
	{
		name:         "twilio, of its library, signed without the port",
		origin:       "published: github.com/twilio/twilio-go, tests",
		verification: kapsel.Verification{Provider: "twilio"},
		secret:       `12345`,
		url:          "https://mycompany.com:1234/myapp.php?foo=1&bar=2",
		contentType:  "application/x-www-form-urlencoded",
		header: map[string]string{
			"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
		},
		body: `Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309`,
		at:   0,
	},
	{
		name:         "twilio, of its library, JSON",
		origin:       "published: github.com/twilio/twilio-go, tests; npm twilio 6.3.1 accepts it",
		verification: kapsel.Verification{Provider: "twilio"},
		secret:       `12345`,
		url:          "https://mycompany.com/myapp.php?foo=1&bar=2&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620",
		contentType:  "application/json",
		header: map[string]string{
			"X-Twilio-Signature": "a9nBmqA0ju/hNViExpshrM61xv4=",
		},
		body: `{"property": "value", "boolean": true}`,
		at:   0,
	},
	{
		name:         "twilio, signed by a shared key",
		origin:       "npm twilio 6.3.1 accepts it",
		verification: kapsel.Verification{Provider: "twilio"},
		secret:       `12345`,
		url:          "https://mycompany.com/myapp.php?foo=1&bar=2",
		contentType:  "application/x-www-form-urlencoded",
		header: map[string]string{
			"X-Twilio-Signature": "033hgUJA9M/hXIZsYjwkerEP/DBm35nEri5FhCYjA5s=",
		},
		body: `Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309`,
		at:   0,
	},
	{
		name:         "sendgrid, of its library",
		origin:       "published: github.com/sendgrid/sendgrid-go, tests; npm @sendgrid/eventwebhook 8.0.0 accepts it",
		verification: kapsel.Verification{Provider: "sendgrid"},
		secret:       `MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==`,
		header: map[string]string{
			"X-Twilio-Email-Event-Webhook-Signature": "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH2j/0=",
			"X-Twilio-Email-Event-Webhook-Timestamp": "1588788367",
		},
		body: `{"category":"example_payload","event":"test_event","message_id":"message_id"}`,
		at:   1588788367,
	},
	{
		name:         "square",
		origin:       "npm square 46.0.0 accepts it",
		verification: kapsel.Verification{Provider: "square"},
		secret:       `asdf1234`,
		url:          "https://hooks.example.com/ingest/ep_1",
		header: map[string]string{
			"x-square-hmacsha256-signature": "NG7h6N7iuFD6wAWseaT+QvfIrgyd13WOcIkE+tIfQW0=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
	},
	{
		name:         "paddle, of its library",
		origin:       "published: github.com/PaddleHQ, tests of its libraries; npm @paddle/paddle-node-sdk 3.10.0 accepts it",
		verification: kapsel.Verification{Provider: "paddle"},
		secret:       `pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_hKkRiCGyyRhbFwIUuqiTBgI7gnWoV0Gr`,
		header: map[string]string{
			"Paddle-Signature": "ts=1710929255;h1=6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8",
		},
		body: `{"data":{"id":"pri_01hsdn96k2hxjzsq5yerecdj9j","name":null,"status":"active","quantity":{"maximum":999999,"minimum":1},"tax_mode":"account_setting","product_id":"pro_01hsdn8qp7yydry3x1yeg6a9rv","unit_price":{"amount":"1000","currency_code":"USD"},"custom_data":null,"description":"testing","import_meta":null,"trial_period":null,"billing_cycle":{"interval":"month","frequency":1},"unit_price_overrides":[]},"event_id":"evt_01hsdn97563968dy0szkmgjwh3","event_type":"price.created","occurred_at":"2024-03-20T10:07:35.590857Z","notification_id":"ntf_01hsdn977e920kbgzt6r6c9rqc"}`,
		at:   1710929255,
		hex:  true,
	},
	{
		name:         "linear",
		origin:       "npm @linear/sdk 98.0.0 accepts it",
		verification: kapsel.Verification{Provider: "linear"},
		secret:       `lin_wh_secret`,
		header: map[string]string{
			"Linear-Signature": "b7ac96abbe206cc5f9f9f4a7df6f0aaf2ef8bf32ba0a5761c808f699f3d111ee",
		},
		body: `{"action":"create","webhookTimestamp":1700000000123}`,
		at:   1700000060,
		skew: 59877 * time.Millisecond,
		hex:  true,
	},
	{
		name:         "zoom",
		origin:       "npm @zoom/rivet 0.4.0 accepts it",
		verification: kapsel.Verification{Provider: "zoom"},
		secret:       `zoomsecret`,
		header: map[string]string{
			"x-zm-signature":         "v0=7519b9e4d086ef830d77d82e6ed97ca8f3bff706c5ac86fa443921e06db1a91b",
			"x-zm-request-timestamp": "1700000000",
		},
		body: `{"event":"meeting.started","event_ts":1700000000000,"payload":{"account_id":"a","object":{"id":"1"}}}`,
		at:   1700000000,
		hex:  true,
	},
	{
		name:         "discord",
		origin:       "npm discord-interactions 4.4.0 accepts it",
		verification: kapsel.Verification{Provider: "discord"},
		secret:       `888c8d9e50f072acddb2988b33a01c42f37f757a1bc7492b08a0a4e59180b25c`,
		header: map[string]string{
			"X-Signature-Ed25519":   "bffe18fe9a29a6ea5f27d2b56609c605357f490ad926c51028ab30e01110fc8d60f3d74aeac89b5907507895ab836ede5b702a45c73c56390371b4f479ab1c0f",
			"X-Signature-Timestamp": "1700000000",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
		hex:  true,
	},
	{
		name:         "standard-webhooks, Ed25519",
		origin:       "OpenSSL",
		verification: kapsel.Verification{Provider: "standard-webhooks"},
		secret:       `whpk_iIyNnlDwcqzdspiLM6AcQvN/dXobx0krCKCk5ZGAslw=`,
		header: map[string]string{
			"webhook-id":        "msg_1",
			"webhook-timestamp": "1700000000",
			"webhook-signature": "v1a,ahbO0Wik4tQ+HnhuSyUAA1zdAQRRUbeax94cZb7IgE/5UGRYsFtJf6xHUMbY1BnspO3nAs+SutRxf18z/p+2CQ==",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "gitlab, secret token",
		origin:       "the token itself",
		verification: kapsel.Verification{Provider: "gitlab"},
		secret:       `plain-token`,
		header: map[string]string{
			"X-Gitlab-Token": "plain-token",
		},
		body:     `{"event":"made","n":1,"text":"café"}`,
		at:       0,
		unsigned: true,
	},
	{
		name:         "gitlab, signing token",
		origin:       "npm standardwebhooks 1.1.1 accepts it",
		verification: kapsel.Verification{Provider: "gitlab"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"webhook-id":        "f5e5f430",
			"webhook-timestamp": "1700000000",
			"webhook-signature": "v1,OasAwGibewGbR4Lv2WGQ6q3ZjEEbGkw1XoNnTcWt8tU=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "svix",
		origin:       "npm svix 1.99.1 accepts it",
		verification: kapsel.Verification{Provider: "svix"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"svix-id":        "msg_2",
			"svix-timestamp": "1700000000",
			"svix-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "openai",
		origin:       "npm openai 6.49.0 accepts it",
		verification: kapsel.Verification{Provider: "openai"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"webhook-id":        "msg_2",
			"webhook-timestamp": "1700000000",
			"webhook-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "clerk",
		origin:       "npm @clerk/backend 3.25.0 accepts it",
		verification: kapsel.Verification{Provider: "clerk"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"svix-id":        "msg_2",
			"svix-timestamp": "1700000000",
			"svix-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "resend",
		origin:       "npm resend 6.38.0 accepts it",
		verification: kapsel.Verification{Provider: "resend"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"svix-id":        "msg_2",
			"svix-timestamp": "1700000000",
			"svix-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "replicate",
		origin:       "npm replicate 1.4.0 accepts it",
		verification: kapsel.Verification{Provider: "replicate"},
		secret:       `whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"webhook-id":        "msg_2",
			"webhook-timestamp": "1700000000",
			"webhook-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "supabase",
		origin:       "npm standardwebhooks 1.1.1 accepts it",
		verification: kapsel.Verification{Provider: "supabase"},
		secret:       `v1,whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=`,
		header: map[string]string{
			"webhook-id":        "msg_2",
			"webhook-timestamp": "1700000000",
			"webhook-signature": "v1,g/e3Fbv2Y0Z7RR/ChB8jEc9LBnQYG5QikdA9Z8lBlgc=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "bitbucket",
		origin:       "published: support.atlassian.com, manage webhooks; npm @octokit/webhooks-methods 6.0.0 accepts it",
		verification: kapsel.Verification{Provider: "bitbucket"},
		secret:       `It's a Secret to Everybody`,
		header: map[string]string{
			"X-Hub-Signature": "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9",
		},
		body: `Hello World!`,
		at:   0,
		hex:  true,
	},
	{
		name:         "hubspot",
		origin:       "npm @hubspot/api-client 13.5.0 accepts it, given the decoded URL",
		verification: kapsel.Verification{Provider: "hubspot"},
		secret:       `client-secret`,
		url:          "https://hooks.example.com/ingest/ep_1?q=a%40b%3Ac%2Fd%20e%2b",
		header: map[string]string{
			"X-HubSpot-Signature-v3":      "qzH0kd8QxLzuOI0DjHiNch932ECHOwPWqUScXnfnrAA=",
			"X-HubSpot-Request-Timestamp": "1700000000500",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
		skew: -500 * time.Millisecond,
	},
	{
		name:         "intercom",
		origin:       "OpenSSL",
		verification: kapsel.Verification{Provider: "intercom"},
		secret:       `intercom-secret`,
		header: map[string]string{
			"X-Hub-Signature": "sha1=fa7a37a26bcc0a404d9a669c6d6298fc5e694aff",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
		hex:  true,
	},
	{
		name:         "xero",
		origin:       "OpenSSL",
		verification: kapsel.Verification{Provider: "xero"},
		secret:       `xerokey`,
		header: map[string]string{
			"x-xero-signature": "dNGIJRv6PHRo5UxSyQYPexSDmpOtkd7nwIYe++I0wnU=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
	},
	{
		name:         "meta",
		origin:       "npm @octokit/webhooks-methods 6.0.0 accepts it: the scheme is GitHub's",
		verification: kapsel.Verification{Provider: "meta"},
		secret:       `app-secret`,
		header: map[string]string{
			"X-Hub-Signature-256": "sha256=471e036f38484b342efefb98842cabf1885b8c9c1594fea0d7254caff3636706",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
		hex:  true,
	},
	{
		name:         "x",
		origin:       "npm twitter-autohook 1.7.2 accepts it",
		verification: kapsel.Verification{Provider: "x"},
		secret:       `consumer-secret`,
		header: map[string]string{
			"X-Twitter-Webhooks-Signature": "sha256=u5UaI0w8xCM8apdd1oTy+/9ehsyslhQGDMbr3ga8RQg=",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
	},
	{
		name:         "okta",
		origin:       "the token itself",
		verification: kapsel.Verification{Provider: "okta"},
		secret:       `Bearer okta-secret`,
		header: map[string]string{
			"Authorization": "Bearer okta-secret",
		},
		body:     `{"event":"made","n":1,"text":"café"}`,
		at:       0,
		unsigned: true,
	},
	{
		name:         "zendesk",
		origin:       "OpenSSL",
		verification: kapsel.Verification{Provider: "zendesk"},
		secret:       `dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ==`,
		header: map[string]string{
			"X-Zendesk-Webhook-Signature":           "fh+K6LGWtShcEj6jTo2sCDZQgC6AiOk66FcaWMb3Mcw=",
			"X-Zendesk-Webhook-Signature-Timestamp": "2023-11-14T22:13:20Z",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
	{
		name:         "gitea",
		origin:       "Go code.gitea.io/sdk/gitea v0.25.1 accepts it",
		verification: kapsel.Verification{Provider: "gitea"},
		secret:       `giteasecret`,
		header: map[string]string{
			"X-Gitea-Signature": "7643abd8b3664574b0d646f00717943eb89b91393d3b76968a06d31e77a7a7d0",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
		hex:  true,
	},
	{
		name:         "gitea, Forgejo",
		origin:       "Go code.gitea.io/sdk/gitea v0.25.1 accepts it",
		verification: kapsel.Verification{Provider: "gitea"},
		secret:       `giteasecret`,
		header: map[string]string{
			"X-Forgejo-Signature": "7643abd8b3664574b0d646f00717943eb89b91393d3b76968a06d31e77a7a7d0",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   0,
		hex:  true,
	},
	{
		name:         "adyen, the whole body, of its library",
		origin:       "published: github.com/Adyen, tests of its libraries; npm @adyen/api-library 32.1.0 accepts it",
		verification: kapsel.Verification{Provider: "adyen"},
		secret:       `DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00`,
		header: map[string]string{
			"HmacSignature": "yitBTPnDGtbAMG9rTxUa1e6lFGpa4PnrD6rErOmEhJ8=",
		},
		body: `{
    "type": "merchant.created",
    "environment": "test",
    "createdAt": "01-01-2024",
    "data": {
        "capabilities": {
            "sendToTransferInstrument": {
                "requested": true,
                "requestedLevel": "notApplicable"
            }
        },
        "companyId": "YOUR_COMPANY_ID",
        "merchantId": YOUR_MERCHANT_ACCOUNT",
        "status": "PreActive"
    }
}`,
		at: 0,
	},
	{
		name:         "paypal",
		origin:       "PyPI paypalrestsdk 1.13.3 makes the same text to sign; signed by OpenSSL",
		verification: kapsel.Verification{Provider: "paypal"},
		secret: `8PT597110X687430LKGECATA
-----BEGIN CERTIFICATE-----
MIIDPzCCAiegAwIBAgIUceFl7+OpTLF/+5y6fSJH50v8vYIwDQYJKoZIhvcNAQEL
BQAwLjEsMCoGA1UEAwwjbWVzc2FnZXZlcmlmaWNhdGlvbmNlcnRzLnBheXBhbC5j
b20wIBcNMjYxMTIzMTkwNTEzWhgPMjEyNjEwMzAxOTA1MTNaMC4xLDAqBgNVBAMM
I21lc3NhZ2V2ZXJpZmljYXRpb25jZXJ0cy5wYXlwYWwuY29tMIIBIjANBgkqhkiG
9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyOpq0JTIturvsFmXWSeH4lmQRTX05SYt7Sx3
ea+J80BXkEFza/pv0yT25Qq31l1dAQ3hp5UIn+texHMvbEQ1HQ0uvq9IZ1D64BbW
xef/5rypV3au/g8YqsVlvAsMAXYGaG2oKwJEJTU3iw7A7h3UDaRD9Cghwth7j1xx
atMtw3hABYl6ee8fuRgZXaLBwQrNnOoPsZ8KZrq5UFw0o8hXpz8KII/eb7EqeLbj
p0hIzQniOOhuWl/tRd1FwPjuqB/QASXX6p7DYxKfwgsqDCu/2qooLYRDrmS1Nbt9
pWq7YIDILWsSJCaM/24yr09utL/qKInzuKk7NXNMY1pTBuUlPwIDAQABo1MwUTAd
BgNVHQ4EFgQU/VwqksGxWt7MPq2opnZpSidfZFIwHwYDVR0jBBgwFoAU/VwqksGx
Wt7MPq2opnZpSidfZFIwDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAAOC
AQEAhzDy5xDmEgD6Dfwx3oJJYl14o0BRmZeFJ405bswRKGKHskzehHczYJeBE8k3
FQWkzsLIIYrTNsuCKKRmc4fh9A6EsDT0voBOSn7dGSbu6p0CUEDS5Rgj0StAlEOj
TAy3xXUzH2P68Xez/6WED89yUoBTOOQmwH4RcGe1M15wDztzy7a5qIV5kKs7Atla
AwCy0dlcs25zf9YtKZzULTLrWkP8+LvD393ZJ1dlCpzJ2WGILaguGIfZXVMP3uRs
9CWzk39hMPfIwtPiFS8A2Tzxg1/Ndkz1aTUhYUtsx1P8w1UDvI57bXkqFXASqVRJ
IUrgYJAfKPpaINIyoSiQWuiVBQ==
-----END CERTIFICATE-----
`,
		header: map[string]string{
			"Paypal-Transmission-Id":   "69cd13f0-d67a-11e5-baa3-778b53f4ae55",
			"Paypal-Transmission-Time": "2023-11-14T22:13:20Z",
			"Paypal-Transmission-Sig":  "RpBpuFWlWSjSuB+JqASaATMto+zhkadpnURGpInaS6iEJLh5EkqAd4bWeJm6zC5+F9Q4uswGXoZ+GgM/z1OD2iCC8KhVcUYsiR+q+fY6Tyxvaz//I/TZJUgvlA9sIrC7eLqa0Ua++0XIaUUWAhAiY3l7tRpM7Sw/e2j1EMgemAXb+jBR6xn6rHaiiNSTunAB2iaSRNowx8zjB6Mzl5fAeeMauKhJl182tQlnrE+ZS0RdYWalz19Sgb3FNXj1HRzKQ9agBAz8QQTGB2ocHTAOItWcdutq0PInTorttZs6UodSDpoN80eVpZ8BmJtNsq+gAw4Ye25aHq/6OGiCqHEF6Q==",
			"Paypal-Auth-Algo":         "SHA256withRSA",
		},
		body: `{"event":"made","n":1,"text":"café"}`,
		at:   1700000000,
	},
}
