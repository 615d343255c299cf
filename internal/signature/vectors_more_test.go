package signature

import (
	"time"

	"github.com/kapsel-hq/kapsel"
)

// moreVectors are as vectors, of providers that publish neither a vector nor a library that
// checks signatures, but where the origin says so.
var moreVectors = []vector{
	{
		name: "pagerduty", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "pagerduty"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-PagerDuty-Signature": "v1=63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "calendly", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "calendly"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Calendly-Webhook-Signature": "t=1700000000,v1=ee0658aa4e37018df69c24227df01e0f680eb3b87c7f1f9bd936e283cfe01d9b",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "workos", origin: "npm @workos-inc/node 8.13.0 accepts it",
		verification: kapsel.Verification{Provider: "workos"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"WorkOS-Signature": "t=1700000000000, v1=240f8267aeeee0b201194af0e82677f384a8411e483e9a3d846494c79b9361b6",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "atlassian", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "atlassian"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hub-Signature": "sha256=63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "dropbox", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "dropbox"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Dropbox-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "trello", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "trello"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		url:          "https://hooks.example.com/ingest/ep_1?a=b",
		header: map[string]string{
			"X-Trello-Webhook": "WW5LKoiq69fxytGSa1HBBZkBsiY=",
		},
	},
	{
		name: "airtable", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "airtable"},
		secret:       "AAECAwQFBgcI",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Airtable-Content-MAC": "hmac-sha256=0301c6ab4daef18a77527e1a82a48a5d5fa061fe3d10886c8ebf452adf5e40bc",
		},
		hex: true,
	},
	{
		name: "box", origin: "npm box-node-sdk 10.12.0 accepts it",
		verification: kapsel.Verification{Provider: "box"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"BOX-SIGNATURE-PRIMARY":  "91Eva7Yi/889aV8Eee+SFmJz70DM4sFH7MZVXmP6jNA=",
			"BOX-DELIVERY-TIMESTAMP": "2023-11-14T22:13:20Z",
		},
		at: 1700000000,
	},
	{
		name: "box, by the secondary key alone", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "box"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"BOX-SIGNATURE-SECONDARY": "91Eva7Yi/889aV8Eee+SFmJz70DM4sFH7MZVXmP6jNA=",
			"BOX-DELIVERY-TIMESTAMP":  "2023-11-14T22:13:20Z",
		},
		at: 1700000000,
	},
	{
		name: "woocommerce", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "woocommerce"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-WC-Webhook-Signature": "Y92rNNpYOOODVF6ckLQPdKTj2qvF3ZqNSaUYda1LJBg=",
		},
	},
	{
		name: "mailchimp", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "mailchimp"},
		secret:       "s3cret",
		body:         "mandrill_events=%5B%7B%22event%22%3A%22send%22%7D%5D",
		url:          "https://hooks.example.com/ingest/ep_1?a=b",
		contentType:  "application/x-www-form-urlencoded",
		header: map[string]string{
			"X-Mandrill-Signature": "OA+pGfYmYLL34H6xGtDkZjnb7p8=",
		},
	},
	{
		name: "telegram", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "telegram"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Telegram-Bot-Api-Secret-Token": "s3cret",
		},
		unsigned: true,
	},
	{
		name: "typeform", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "typeform"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Typeform-Signature": "sha256=Y92rNNpYOOODVF6ckLQPdKTj2qvF3ZqNSaUYda1LJBg=",
		},
	},
	{
		name: "vercel", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "vercel"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"x-vercel-signature": "2f0ee5192ed120c9fc4d16555636ddb35811f47e",
		},
		hex: true,
	},
	{
		name: "sentry", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "sentry"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Sentry-Hook-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "lemonsqueezy", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "lemonsqueezy"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "razorpay", origin: "npm razorpay 2.9.8 accepts it",
		verification: kapsel.Verification{Provider: "razorpay"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Razorpay-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "docusign", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "docusign"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-DocuSign-Signature-1": "Y92rNNpYOOODVF6ckLQPdKTj2qvF3ZqNSaUYda1LJBg=",
		},
	},
	{
		name: "docusign, by the second key", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "docusign"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-DocuSign-Signature-2": "Y92rNNpYOOODVF6ckLQPdKTj2qvF3ZqNSaUYda1LJBg=",
		},
	},
	{
		name: "alchemy", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "alchemy"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Alchemy-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "microsoft-teams", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "microsoft-teams"},
		secret:       "AAECAwQFBgcI",
		body:         `{"id":1}`,
		header: map[string]string{
			"Authorization": "HMAC AwHGq02u8Yp3Un4agqSKXV+gYf49EIhsjr9FKt9eQLw=",
		},
	},
	{
		name: "microsoft-graph", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "microsoft-graph"},
		secret:       "s3cret",
		body:         `{"value":[{"subscriptionId":"1","clientState":"s3cret"},{"clientState":"s3cret"}]}`,
		unsigned:     true,
	},
	{
		name: "cloudevents", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "cloudevents"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Authorization": "Bearer s3cret",
		},
		unsigned: true,
	},
	{
		name: "azure-event-grid", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "azure-event-grid"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Authorization": "Bearer s3cret",
		},
		unsigned: true,
	},
	{
		name: "websub", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "websub"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hub-Signature": "sha256=63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "websub, sha1", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "websub"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hub-Signature": "sha1=2f0ee5192ed120c9fc4d16555636ddb35811f47e",
		},
		hex: true,
	},
	{
		name: "websub, sha384", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "websub"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hub-Signature": "sha384=5995b60760ef97662dda7f63f450f2f404cbaa0a80d768920d6cdc1d8132b1929b67db4fbfd3af651a303b5a5e22d441",
		},
		hex: true,
	},
	{
		name: "websub, sha512", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "websub"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hub-Signature": "sha512=44bafa0a3af0f6ccfcff76c3b9e8f5b19cfea893e41f5965295f98701d00519caa67960b74d5c36f6f33cf4dd4dbbb93b1f1e4d37276d1f6f468c9069cb57d39",
		},
		hex: true,
	},
	{
		name: "twitch", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "twitch"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Twitch-Eventsub-Message-Id":        "msg-1",
			"Twitch-Eventsub-Message-Timestamp": "2023-11-14T22:13:20.123456789Z",
			"Twitch-Eventsub-Message-Signature": "sha256=cdfe72226c160f67e852457f9c93f3d75b85caaf81c08a8be31448594739ca92",
		},
		hex:  true,
		at:   1700000000,
		skew: -123456789,
	},
	{
		name: "webflow", origin: "npm webflow-api 3.3.4 accepts it",
		verification: kapsel.Verification{Provider: "webflow"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"x-webflow-timestamp": "1700000000000",
			"x-webflow-signature": "fd6f2d96f6b9552c5d2982c67237e901689e987d3826056c4d96ca2c10c33d56",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "paystack", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "paystack"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"x-paystack-signature": "44bafa0a3af0f6ccfcff76c3b9e8f5b19cfea893e41f5965295f98701d00519caa67960b74d5c36f6f33cf4dd4dbbb93b1f1e4d37276d1f6f468c9069cb57d39",
		},
		hex: true,
	},
	{
		name: "gocardless", origin: "npm gocardless-nodejs 10.1.2 accepts it",
		verification: kapsel.Verification{Provider: "gocardless"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Webhook-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "circleci", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "circleci"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"circleci-signature": "v1=63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "mux", origin: "npm @mux/mux-node 15.3.0 accepts it",
		verification: kapsel.Verification{Provider: "mux"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Mux-Signature": "t=1700000000,v1=ee0658aa4e37018df69c24227df01e0f680eb3b87c7f1f9bd936e283cfe01d9b",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "sanity", origin: "published: github.com/sanity-io/webhook-toolkit, tests",
		verification: kapsel.Verification{Provider: "sanity"},
		secret:       "test",
		body:         `{"_id":"resume"}`,
		header: map[string]string{
			"sanity-webhook-signature": "t=1633519811129,v1=tLa470fx7qkLLEcMOcEUFuBbRSkGujyskxrNXcoh0N0",
		},
		at:   1633519811,
		skew: -129 * time.Millisecond,
	},
	{
		name: "buildkite", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "buildkite"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Buildkite-Signature": "timestamp=1700000000,signature=ee0658aa4e37018df69c24227df01e0f680eb3b87c7f1f9bd936e283cfe01d9b",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "elevenlabs", origin: "npm @elevenlabs/elevenlabs-js 2.73.0 accepts it",
		verification: kapsel.Verification{Provider: "elevenlabs"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"ElevenLabs-Signature": "t=1700000000,v0=ee0658aa4e37018df69c24227df01e0f680eb3b87c7f1f9bd936e283cfe01d9b",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "customerio", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "customerio"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-CIO-Timestamp": "1700000000",
			"X-CIO-Signature": "63803cdf820909657998071cf66b959e18a908dad77e0d0c4df7fc7fca4aa713",
		},
		hex: true,
		at:  1700000000,
	},
	{
		name: "nylas", origin: "npm nylas 6.11.1 accepts it",
		verification: kapsel.Verification{Provider: "nylas"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Nylas-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "postmark", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "postmark"},
		secret:       "me:s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Authorization": "Basic bWU6czNjcmV0",
		},
		unsigned: true,
	},
	{
		name: "google-calendar", origin: "it sends its secret and signs nothing",
		verification: kapsel.Verification{Provider: "google-calendar"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Goog-Channel-Token": "s3cret",
		},
		unsigned: true,
	},
	{
		name: "shopify, Events webhooks", origin: "npm @shopify/shopify-api 13.1.0 accepts it",
		verification: kapsel.Verification{Provider: "shopify"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"Shopify-Hmac-Sha256": "Y92rNNpYOOODVF6ckLQPdKTj2qvF3ZqNSaUYda1LJBg=",
		},
	},
	{
		name: "asana", origin: "OpenSSL",
		verification: kapsel.Verification{Provider: "asana"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Hook-Signature": "63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
	{
		name: "notion", origin: "npm @notionhq/client 5.26.0 accepts it",
		verification: kapsel.Verification{Provider: "notion"},
		secret:       "s3cret",
		body:         `{"id":1}`,
		header: map[string]string{
			"X-Notion-Signature": "sha256=63ddab34da5838e383545e9c90b40f74a4e3daabc5dd9a8d49a51875ad4b2418",
		},
		hex: true,
	},
}

func init() { vectors = append(vectors, moreVectors...) }
