"""Asks the providers' libraries in Python, as interop.mjs asks those in JavaScript.

It reads a list of tasks as JSON from standard input, and writes what each library that can do a
task answers, by its name. interop.mjs says what tasks and answers are. What it needs is in
providers.txt, by version and hash.
"""

import json
import sys
import types

import Adyen.util
import discord_interactions
import google.auth.crypt
import google.auth.jwt
import google.oauth2.id_token
import hubspot.utils.signature
import OpenSSL.crypto
import paypalrestsdk.notifications
import slack_sdk.signature
from mailgun.security import SecurityGuard


def verify_adyen(w):
    if "hmacsignature" in w["header"]:
        return Adyen.util.is_valid_hmac_payload(w["header"]["hmacsignature"], w["secret"], w["body"].encode())
    return Adyen.util.is_valid_hmac_notification(json.loads(w["body"]), w["secret"])


def sign_adyen(w):
    notification = json.loads(w["body"])
    for item in notification["notificationItems"]:
        item = item["NotificationRequestItem"]
        item.pop("additionalData", None)
        item["additionalData"] = {"hmacSignature": Adyen.util.generate_notification_sig(item, w["secret"]).decode()}
    return {"header": {}, "body": json.dumps(notification)}


def verify_discord(w):
    h = w["header"]
    return discord_interactions.verify_key(w["body"].encode(), h["x-signature-ed25519"], h["x-signature-timestamp"], w["secret"])


def verify_google(w):
    """The secret is Google's keys, by their ids as PEM, and the audience."""
    secret = json.loads(w["secret"])
    answer = types.SimpleNamespace(status=200, data=json.dumps(secret["keys"]).encode())
    token = w["header"]["authorization"].removeprefix("Bearer ")
    return bool(google.oauth2.id_token.verify_oauth2_token(token, lambda *_, **__: answer, secret["audience"]))


def sign_google(w):
    """The secret is a private key, its id and the claims."""
    secret = json.loads(w["secret"])
    signer = google.auth.crypt.RSASigner.from_string(secret["key"], secret["id"])
    return {"header": {"authorization": "Bearer " + google.auth.jwt.encode(signer, secret["claims"]).decode()}}


def verify_hubspot(w):
    h = w["header"]
    return hubspot.utils.signature.Signature.is_valid(
        h["x-hubspot-signature-v3"], w["secret"], w["body"], w["url"], "POST", "v3", h["x-hubspot-request-timestamp"])


def sign_hubspot(w):
    stamp = str(w["time"] * 1000)
    signature = hubspot.utils.signature.Signature.get_signature(w["secret"], w["body"], "v3", w["url"], "POST", stamp)
    return {"header": {"x-hubspot-signature-v3": signature, "x-hubspot-request-timestamp": stamp}}


def verify_mailgun(w):
    s = json.loads(w["body"])["signature"]
    return SecurityGuard.verify_webhook(w["secret"], s["token"], s["timestamp"], s["signature"])


def verify_paypal(w):
    """The certificate is the test's own: whether PayPal has it signed is not what is tried."""
    webhook_id, pem = w["secret"].split("\n", 1)
    event = paypalrestsdk.notifications.WebhookEvent
    event._get_cert = staticmethod(lambda _: OpenSSL.crypto.load_certificate(OpenSSL.crypto.FILETYPE_PEM, pem.encode()))
    event._verify_certificate = classmethod(lambda *_: True)
    h = w["header"]
    return event.verify(
        h["paypal-transmission-id"], h["paypal-transmission-time"], webhook_id, w["body"], "any", h["paypal-transmission-sig"], h["paypal-auth-algo"])


def verify_slack(w):
    return slack_sdk.signature.SignatureVerifier(w["secret"]).is_valid_request(w["body"], w["header"])


def sign_slack(w):
    stamp = str(w["time"])
    signature = slack_sdk.signature.SignatureVerifier(w["secret"]).generate_signature(timestamp=stamp, body=w["body"])
    return {"header": {"x-slack-signature": signature, "x-slack-request-timestamp": stamp}}


# By Kapsel's name of the provider: the library, what verifies, and what signs where it can.
LIBRARIES = {
    "adyen": ("adyen", verify_adyen, sign_adyen),
    "discord": ("discord-interactions", verify_discord, None),
    "google-oidc": ("google-auth", verify_google, sign_google),
    "hubspot": ("hubspot-api-client", verify_hubspot, sign_hubspot),
    "mailgun": ("mailgun", verify_mailgun, None),
    "paypal": ("paypalrestsdk", verify_paypal, None),
    "slack": ("slack-sdk", verify_slack, sign_slack),
}


def accepts(verify, webhook):
    try:
        return verify(webhook)
    except Exception:
        return False


def answer(task):
    webhook = task.get("verify") or task["sign"]
    name, verify, sign = LIBRARIES.get(webhook["provider"], (None, None, None))
    if "verify" in task:
        return {name: accepts(verify, webhook)} if verify else {}
    return {name: {"body": webhook["body"], **sign(webhook)}} if sign else {}


if __name__ == "__main__":
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    json.dump([answer(task) for task in json.load(sys.stdin)], output)
