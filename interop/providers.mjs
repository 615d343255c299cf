// Checks webhooks with the providers' own libraries, by Kapsel's names of the providers: each
// is given {url, header (names in lower case), body, secret} and says whether it accepts them.
// A library that throws does not.
import * as paddle from "@paddle/paddle-node-sdk";
import { verify as github } from "@octokit/webhooks-methods";
import { isValidSignature as sanity } from "@sanity/webhook";
import { EventWebhook, EventWebhookHeader } from "@sendgrid/eventwebhook";
import { createRequire } from "node:module";

// Libraries whose entry points are of CommonJS alone.
const require = createRequire(import.meta.url);
const adyen = require("@adyen/api-library");
const box = require("box-node-sdk/lib/managers/webhooks");
const { ElevenLabsClient } = require("@elevenlabs/elevenlabs-js");
const gocardless = require("gocardless-nodejs/webhooks");
const hubspot = require("@hubspot/api-client");
const { LinearWebhookClient } = require("@linear/sdk/webhooks");
const { Mux } = require("@mux/mux-node");
const { OpenAI } = require("openai");
const razorpay = require("razorpay");
const { WebhooksHelper } = require("square");
const Stripe = require("stripe");
const twilio = require("twilio");
const { verifyKey } = require("discord-interactions");
const { WorkOS } = require("@workos-inc/node");
const { Webhook: Standard } = require("standardwebhooks");
const { Webhook: Svix } = require("svix");

const standard = ({ header, body, secret }) => !!new Standard(secret).verify(body, header);
const svix = ({ header, body, secret }) => !!new Svix(secret).verify(body, header);

export const providers = {
  adyen: ({ body, secret }) =>
    JSON.parse(body).notificationItems.every((item) =>
      new adyen.hmacValidator().validateHMAC(item.NotificationRequestItem, secret),
    ),
  box: ({ header, body, secret }) =>
    box.WebhooksManager.validateMessage(
      body,
      { ...header, "box-signature-version": "1", "box-signature-algorithm": "HmacSHA256" },
      secret,
      { secondaryKey: secret },
    ),
  clerk: svix,
  discord: ({ header, body, secret }) =>
    verifyKey(body, header["x-signature-ed25519"], header["x-signature-timestamp"], secret),
  elevenlabs: async ({ header, body, secret }) =>
    !!(await new ElevenLabsClient({ apiKey: "none" }).webhooks.constructEvent(body, header["elevenlabs-signature"], secret)),
  github: ({ header, body, secret }) => github(secret, body, header["x-hub-signature-256"]),
  gocardless: ({ header, body, secret }) => {
    gocardless.verifySignature(body, secret, header["webhook-signature"]);
    return true;
  },
  hubspot: ({ url, header, body, secret }) =>
    hubspot.Signature.isValid({
      signatureVersion: "v3",
      signature: header["x-hubspot-signature-v3"],
      timestamp: Number(header["x-hubspot-request-timestamp"]),
      method: "POST",
      clientSecret: secret,
      requestBody: body,
      url,
    }),
  linear: ({ header, body, secret }) =>
    new LinearWebhookClient(secret).verify(Buffer.from(body), header["linear-signature"], JSON.parse(body).webhookTimestamp),
  mux: async ({ header, body, secret }) => {
    await new Mux({ tokenId: "none", tokenSecret: "none", webhookSecret: secret }).webhooks.verifySignature(body, header, secret);
    return true;
  },
  openai: async ({ header, body, secret }) => {
    await new OpenAI({ apiKey: "none" }).webhooks.verifySignature(body, header, secret);
    return true;
  },
  paddle: async ({ header, body, secret }) =>
    !!(await new paddle.Paddle("none").webhooks.isSignatureValid(body, secret, header["paddle-signature"])),
  razorpay: ({ header, body, secret }) => razorpay.validateWebhookSignature(body, header["x-razorpay-signature"], secret),
  replicate: standard,
  resend: svix,
  sanity: ({ header, body, secret }) => sanity(body, header["sanity-webhook-signature"], secret),
  sendgrid: ({ header, body, secret }) => {
    const webhook = new EventWebhook();
    return webhook.verifySignature(
      webhook.convertPublicKeyToECDSA(secret),
      body,
      header[EventWebhookHeader.SIGNATURE().toLowerCase()],
      header[EventWebhookHeader.TIMESTAMP().toLowerCase()],
    );
  },
  square: ({ url, header, body, secret }) =>
    WebhooksHelper.verifySignature({
      requestBody: body,
      signatureHeader: header["x-square-hmacsha256-signature"],
      signatureKey: secret,
      notificationUrl: url,
    }),
  "standard-webhooks": standard,
  stripe: ({ header, body, secret }) => !!new Stripe("none").webhooks.constructEvent(body, header["stripe-signature"], secret),
  svix,
  twilio: ({ url, header, body, secret }) =>
    twilio.validateRequest(secret, header["x-twilio-signature"], url, Object.fromEntries(new URLSearchParams(body))),
  workos: ({ header, body, secret }) =>
    new WorkOS("none").webhooks.verifyHeader({ payload: JSON.parse(body), sigHeader: header["workos-signature"], secret }),
};

// accepts says whether the provider's library accepts a webhook.
export async function accepts(webhook) {
  try {
    return (await providers[webhook.provider](webhook)) === true;
  } catch {
    return false;
  }
}
