// Reads a list of tasks as JSON from standard input and writes a list of answers.
//
//   {"verify": {"headers": {…}, "body": "…", "key": "whsec_… | whpk_…"}} → {"standardwebhooks": true, "svix": true}
//   {"accepts": {"provider": "…", "url": "…", "header": {…}, "body": "…", "secret": "…"}} → {"accepts": true | false | null}
//   {"sign": {"id": "…", "time": 0, "body": "…", "key": "whsec_…"}}      → {"signature": "v1,…"}
//
// accepts asks the provider's own library (providers.mjs), and is null where there is none.
// whsec_ keys are for the two libraries; whpk_ keys (v1a), which they do not know, for Node's
// own crypto, by the letter of the Standard Webhooks specification.
import { createPublicKey, verify as verifyBytes } from "node:crypto";
import { text } from "node:stream/consumers";
import { Webhook as Standard } from "standardwebhooks";
import { Webhook as Svix } from "svix";
import { accepts, providers } from "./providers.mjs";

function verifies(check) {
  try {
    check();
    return true;
  } catch {
    return false;
  }
}

function verifyV1a({ headers, body, key }) {
  const x = Buffer.from(key.slice("whpk_".length), "base64").toString("base64url");
  const publicKey = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const signed = Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`);
  return headers["webhook-signature"]
    .split(" ")
    .filter((token) => token.startsWith("v1a,"))
    .some((token) => verifyBytes(null, signed, publicKey, Buffer.from(token.slice("v1a,".length), "base64")));
}

async function answer(task) {
  if (task.accepts) {
    return { accepts: task.accepts.provider in providers ? await accepts(task.accepts) : null };
  }
  if (task.sign) {
    const { id, time, body, key } = task.sign;
    return { signature: new Standard(key).sign(id, new Date(time * 1000), body) };
  }
  const { headers, body, key } = task.verify;
  if (key.startsWith("whpk_")) {
    return { node: verifyV1a(task.verify) };
  }
  return {
    standardwebhooks: verifies(() => new Standard(key).verify(body, headers)),
    svix: verifies(() => new Svix(key).verify(body, headers)),
  };
}

// Answers go to standard output, and what libraries print does not.
console.log = console.info = console.debug = console.error;
const answers = await Promise.all(JSON.parse(await text(process.stdin)).map(answer));
process.stdout.write(JSON.stringify(answers));
