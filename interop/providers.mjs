// The providers' own libraries, by Kapsel's names of the providers and the libraries' own.
//
// verify is given a webhook {url, header (names in lower case), body, secret} and returns whether
// the library accepts it; undefined says that the library does not know this form of webhook.
// sign is given the same and {id, time (Unix seconds)}, and returns the header that the library
// makes, and the body where the library signs in it; undefined as verify. It is missing where a
// library only verifies.
import "@shopify/shopify-api/adapters/web-api";
import { signWebhookPayload, verifyWebhookSignature } from "@notionhq/client";
import { sign as signGitHub, verify as verifyGitHub } from "@octokit/webhooks-methods";
import { encodeSignatureHeader, isValidSignature } from "@sanity/webhook";
import { EventWebhook, EventWebhookHeader } from "@sendgrid/eventwebhook";
import { shopifyApi } from "@shopify/shopify-api";
import { createPublicKey, verify as verifyBytes } from "node:crypto";
import { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

// Libraries whose entry points are of CommonJS alone.
const require = createRequire(import.meta.url);
const adyen = require("@adyen/api-library");
const autohook = require("twitter-autohook");
const box = require("box-node-sdk/lib/managers/webhooks");
const boxUtils = require("box-node-sdk/lib/internal/utils");
const { verifyWebhook: verifyClerk } = require("@clerk/backend/webhooks");
const { verifyKey } = require("discord-interactions");
const { ElevenLabsClient } = require("@elevenlabs/elevenlabs-js");
const gocardless = require("gocardless-nodejs/webhooks");
const { OAuth2Client } = require("google-auth-library");
const https = require("node:https");
const hubspot = require("@hubspot/api-client");
const { LinearWebhookClient } = require("@linear/sdk/webhooks");
const { Mux } = require("@mux/mux-node");
const nylas = require("nylas/lib/models/webhook-notification").default;
const { OpenAI } = require("openai");
const paddle = require("@paddle/paddle-node-sdk");
const { WebhooksValidator } = require(join(dirname(require.resolve("@paddle/paddle-node-sdk")), "notifications/helpers/webhooks-validator.js"));
const razorpay = require("razorpay");
const replicate = require("replicate");
const { Resend } = require("resend");
const { isValidSlackRequest } = require("@slack/bolt");
const SNSValidator = require("sns-validator");
const { WebhooksHelper } = require("square");
const { Webhook: Standard } = require("standardwebhooks");
const Stripe = require("stripe");
const { Webhook: Svix } = require("svix");
const twilio = require("twilio");
const twilioWebhooks = require("twilio/lib/webhooks/webhooks");
const { WebflowClient } = require("webflow-api");
// What computes and compares is not among the names that the package exports, and the server
// that it exports fails with any body.
const whatsapp = require(join(dirname(require.resolve("whatsapp/package.json")), "build/utils.js"));
const { WorkOS } = require("@workos-inc/node");
const { AwsLambdaReceiver } = require("@zoom/rivet/teamchat");

WebhooksValidator.MAX_VALID_TIME_DIFFERENCE = 300; // seconds; its own 5 are fewer than a run takes

const millis = ({ time }) => time * 1000;

// standard and svix are the libraries of Standard Webhooks and of Svix, under the header names
// that begin with prefix.
const standard = (prefix = "webhook") => ({
  verify({ header, body, secret }) {
    if (secret.startsWith("whpk_") || !header[`${prefix}-signature`]) {
      return undefined;
    }
    const headers = {};
    for (const name of ["id", "timestamp", "signature"]) {
      headers[`webhook-${name}`] = header[`${prefix}-${name}`];
    }
    new Standard(secret).verify(body, headers);
    return true;
  },
  sign({ id, time, body, secret }) {
    if (!secret.startsWith("whsec_")) {
      return undefined;
    }
    return {
      header: {
        [`${prefix}-id`]: id,
        [`${prefix}-timestamp`]: `${time}`,
        [`${prefix}-signature`]: new Standard(secret).sign(id, new Date(millis({ time })), body),
      },
    };
  },
});
const svix = (prefix = "svix") => ({
  verify({ header, body, secret }) {
    if (secret.startsWith("whpk_")) {
      return undefined;
    }
    new Svix(secret).verify(body, header);
    return true;
  },
  sign: ({ id, time, body, secret }) => ({
    header: {
      [`${prefix}-id`]: id,
      [`${prefix}-timestamp`]: `${time}`,
      [`${prefix}-signature`]: new Svix(secret).sign(id, new Date(millis({ time })), body),
    },
  }),
});

// ed25519 is Node's own crypto, by the letter of the Standard Webhooks specification: the two
// libraries do not know public keys.
const ed25519 = {
  verify({ header, body, secret }) {
    if (!secret.startsWith("whpk_")) {
      return undefined;
    }
    const x = Buffer.from(secret.slice("whpk_".length), "base64").toString("base64url");
    const publicKey = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    const signed = Buffer.from(`${header["webhook-id"]}.${header["webhook-timestamp"]}.${body}`);
    return header["webhook-signature"]
      .split(" ")
      .filter((token) => token.startsWith("v1a,"))
      .some((token) => verifyBytes(null, signed, publicKey, Buffer.from(token.slice("v1a,".length), "base64")));
  },
};

// twilioParameters are what a form of Twilio signs.
const twilioParameters = (body) => Object.fromEntries(new URLSearchParams(body));
const twilioAlgorithm = (header) => twilioWebhooks.getSignatureAlgorithm(header["x-twilio-webhooks-signature-settings"]);

// Shopify's library wants all that Shopify sends beside a signature.
const shopifyHeaders = Object.fromEntries(
  ["topic", "shop-domain", "api-version", "webhook-id", "event-id"].flatMap((name) => [
    [`shopify-${name}`, "any"],
    [`x-shopify-${name}`, "any"],
  ]),
);

const boxHeaders = { "box-signature-version": "1", "box-signature-algorithm": "HmacSHA256" };

export const libraries = {
  adyen: {
    "@adyen/api-library": {
      verify({ header, body, secret }) {
        const validator = new adyen.hmacValidator();
        if (header.hmacsignature) {
          return validator.validateHMACSignature(secret, header.hmacsignature, body);
        }
        return JSON.parse(body).notificationItems.every((item) => validator.validateHMAC(item.NotificationRequestItem, secret));
      },
      sign({ body, secret }) {
        const notification = JSON.parse(body);
        for (const { NotificationRequestItem: item } of notification.notificationItems) {
          item.additionalData = { hmacSignature: new adyen.hmacValidator().calculateHmac(item, secret) };
        }
        return { header: {}, body: JSON.stringify(notification) };
      },
    },
  },
  // The secret is the certificate that SigningCertURL leads to.
  "aws-sns": {
    "sns-validator": {
      verify({ body, secret }) {
        const { get } = https;
        https.get = (url, answer) => {
          const response = Object.assign(new EventEmitter(), { statusCode: 200 });
          process.nextTick(() => {
            answer(response);
            response.emit("data", secret);
            response.emit("end");
          });
          return new EventEmitter();
        };
        return new Promise((resolve) => new SNSValidator().validate(body, (error) => resolve(!error))).finally(() => {
          https.get = get;
        });
      },
    },
  },
  box: {
    "box-node-sdk": {
      verify: ({ header, body, secret }) =>
        box.WebhooksManager.validateMessage(body, { ...header, ...boxHeaders }, secret, { secondaryKey: secret }),
      async sign({ time, body, secret }) {
        const header = { "box-delivery-timestamp": new Date(millis({ time })).toISOString(), ...boxHeaders };
        return { header: { ...header, "box-signature-primary": await boxUtils.computeWebhookSignature(body, header, secret) } };
      },
    },
  },
  clerk: {
    "@clerk/backend": {
      verify: async ({ url, header, body, secret }) =>
        !!(await verifyClerk(new Request(url, { method: "POST", headers: header, body }), { signingSecret: secret })),
    },
    svix: svix(),
  },
  discord: {
    "discord-interactions": {
      verify: ({ header, body, secret }) =>
        verifyKey(body, header["x-signature-ed25519"], header["x-signature-timestamp"], secret),
    },
  },
  elevenlabs: {
    "@elevenlabs/elevenlabs-js": {
      verify: async ({ header, body, secret }) =>
        !!(await new ElevenLabsClient({ apiKey: "none" }).webhooks.constructEvent(body, header["elevenlabs-signature"], secret)),
    },
  },
  github: {
    "@octokit/webhooks-methods": {
      verify: ({ header, body, secret }) => verifyGitHub(secret, body, header["x-hub-signature-256"]),
      sign: async ({ body, secret }) => ({ header: { "x-hub-signature-256": await signGitHub(secret, body) } }),
    },
  },
  // Its signing tokens are Standard Webhooks; the older secret token signs nothing.
  gitlab: { standardwebhooks: standard() },
  gocardless: {
    "gocardless-nodejs": {
      verify({ header, body, secret }) {
        gocardless.verifySignature(body, secret, header["webhook-signature"]);
        return true;
      },
    },
  },
  // The secret is Google's keys, by their ids as PEM, and the audience.
  "google-oidc": {
    "google-auth-library": {
      async verify({ header, secret }) {
        const { keys, audience } = JSON.parse(secret);
        const token = header.authorization.replace(/^Bearer /, "");
        await new OAuth2Client().verifySignedJwtWithCertsAsync(token, keys, audience, ["accounts.google.com", "https://accounts.google.com"]);
        return true;
      },
    },
  },
  hubspot: {
    "@hubspot/api-client": {
      verify: ({ url, header, body, secret }) =>
        hubspot.Signature.isValid({
          signatureVersion: "v3",
          signature: header["x-hubspot-signature-v3"],
          timestamp: Number(header["x-hubspot-request-timestamp"]),
          method: "POST",
          clientSecret: secret,
          requestBody: body,
          url,
        }),
      sign({ url, time, body, secret }) {
        const timestamp = millis({ time });
        const signature = hubspot.Signature.getSignature("POST", "v3", { clientSecret: secret, requestBody: body, url, timestamp });
        return { header: { "x-hubspot-signature-v3": signature, "x-hubspot-request-timestamp": `${timestamp}` } };
      },
    },
  },
  linear: {
    "@linear/sdk": {
      verify: ({ header, body, secret }) =>
        new LinearWebhookClient(secret).verify(Buffer.from(body), header["linear-signature"], JSON.parse(body).webhookTimestamp),
    },
  },
  meta: {
    whatsapp: {
      verify: ({ header, body, secret }) => header["x-hub-signature-256"] === "sha256=" + whatsapp.generateXHub256Sig(body, secret),
      sign: ({ body, secret }) => ({ header: { "x-hub-signature-256": "sha256=" + whatsapp.generateXHub256Sig(body, secret) } }),
    },
  },
  mux: {
    "@mux/mux-node": {
      async verify({ header, body, secret }) {
        await new Mux({ tokenId: "none", tokenSecret: "none", webhookSecret: secret }).webhooks.verifySignature(body, header, secret);
        return true;
      },
    },
  },
  notion: {
    "@notionhq/client": {
      verify: ({ header, body, secret }) =>
        verifyWebhookSignature({ body, signature: header["x-notion-signature"], verificationToken: secret }),
      sign: async ({ body, secret }) => ({
        header: { "x-notion-signature": await signWebhookPayload({ body, verificationToken: secret }) },
      }),
    },
  },
  nylas: {
    nylas: { verify: ({ header, body, secret }) => nylas.verifyWebhookSignature(header["x-nylas-signature"], body, secret) },
  },
  openai: {
    openai: {
      async verify({ header, body, secret }) {
        await new OpenAI({ apiKey: "none" }).webhooks.verifySignature(body, header, secret);
        return true;
      },
    },
    standardwebhooks: standard(),
  },
  paddle: {
    "@paddle/paddle-node-sdk": {
      verify: async ({ header, body, secret }) =>
        !!(await new paddle.Paddle("none").webhooks.isSignatureValid(body, secret, header["paddle-signature"])),
    },
  },
  razorpay: {
    razorpay: {
      verify: ({ header, body, secret }) => razorpay.validateWebhookSignature(body, header["x-razorpay-signature"], secret),
    },
  },
  replicate: {
    replicate: {
      verify: ({ header, body, secret }) =>
        replicate.validateWebhook({
          id: header["webhook-id"],
          timestamp: header["webhook-timestamp"],
          signature: header["webhook-signature"],
          body,
          secret,
        }),
    },
    standardwebhooks: standard(),
  },
  resend: {
    resend: {
      verify({ header, body, secret }) {
        const headers = { id: header["svix-id"], timestamp: header["svix-timestamp"], signature: header["svix-signature"] };
        new Resend("re_none").webhooks.verify({ payload: body, headers, webhookSecret: secret });
        return true;
      },
    },
    svix: svix(),
  },
  sanity: {
    "@sanity/webhook": {
      verify: ({ header, body, secret }) => isValidSignature(body, header["sanity-webhook-signature"], secret),
      sign: async ({ time, body, secret }) => ({
        header: { "sanity-webhook-signature": await encodeSignatureHeader(body, millis({ time }), secret) },
      }),
    },
  },
  sendgrid: {
    "@sendgrid/eventwebhook": {
      verify({ header, body, secret }) {
        const webhook = new EventWebhook();
        return webhook.verifySignature(
          webhook.convertPublicKeyToECDSA(secret),
          body,
          header[EventWebhookHeader.SIGNATURE().toLowerCase()],
          header[EventWebhookHeader.TIMESTAMP().toLowerCase()],
        );
      },
    },
  },
  shopify: {
    "@shopify/shopify-api": {
      async verify({ url, header, body, secret }) {
        const api = shopifyApi({
          apiKey: "none",
          apiSecretKey: secret,
          apiVersion: "2026-01",
          hostName: "shop.example",
          isEmbeddedApp: false,
          logger: { log: () => {} },
        });
        const rawRequest = new Request(url, { method: "POST", headers: { ...shopifyHeaders, ...header }, body });
        return (await api.webhooks.validate({ rawBody: body, rawRequest })).valid;
      },
    },
  },
  slack: {
    "@slack/bolt": {
      verify: ({ header, body, secret }) =>
        isValidSlackRequest({
          signingSecret: secret,
          body,
          headers: {
            "x-slack-signature": header["x-slack-signature"],
            "x-slack-request-timestamp": Number(header["x-slack-request-timestamp"]),
          },
        }),
    },
  },
  square: {
    square: {
      verify: ({ url, header, body, secret }) =>
        WebhooksHelper.verifySignature({
          requestBody: body,
          signatureHeader: header["x-square-hmacsha256-signature"],
          signatureKey: secret,
          notificationUrl: url,
        }),
    },
  },
  "standard-webhooks": { standardwebhooks: standard(), svix: svix("webhook"), "node:crypto": ed25519 },
  stripe: {
    stripe: {
      verify: ({ header, body, secret }) => !!new Stripe("none").webhooks.constructEvent(body, header["stripe-signature"], secret),
      sign: ({ time, body, secret }) => ({
        header: {
          "stripe-signature": new Stripe("none").webhooks.generateTestHeaderString({ payload: body, secret, timestamp: time }),
        },
      }),
    },
  },
  // Its documentation takes the secret without what stands before the key.
  supabase: { standardwebhooks: standard() },
  svix: { svix: svix(), standardwebhooks: standard("svix") },
  twilio: {
    twilio: {
      verify: ({ url, header, body, secret }) =>
        twilio.validateRequest(secret, header["x-twilio-signature"], url, twilioParameters(body), twilioAlgorithm(header)),
      sign: ({ url, header, body, secret }) => ({
        header: {
          "x-twilio-signature": twilioWebhooks.getExpectedTwilioSignature(secret, url, twilioParameters(body), twilioAlgorithm(header)),
        },
      }),
    },
  },
  webflow: {
    "webflow-api": {
      verify: ({ header, body, secret }) =>
        new WebflowClient({ accessToken: "none" }).webhooks.verifySignature({ headers: header, body, secret }),
    },
  },
  workos: {
    "@workos-inc/node": {
      verify: ({ header, body, secret }) =>
        new WorkOS("none").webhooks.verifyHeader({ payload: JSON.parse(body), sigHeader: header["workos-signature"], secret }),
      async sign({ time, body, secret }) {
        const timestamp = millis({ time });
        const signature = await new WorkOS("none").webhooks.computeSignature(timestamp, JSON.parse(body), secret);
        return { header: { "workos-signature": `t=${timestamp}, v1=${signature}` } };
      },
    },
  },
  x: {
    "twitter-autohook": {
      verify: ({ header, body, secret }) => autohook.validateSignature(header, { consumer_secret: secret }, body),
    },
  },
  zoom: {
    "@zoom/rivet": {
      verify: async ({ header, body, secret }) =>
        (await new AwsLambdaReceiver({ webhooksSecretToken: secret }).start()({ headers: header, body })).statusCode === 200,
    },
  },
};
