package signature

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

//go:generate go test -run ^TestProvidersPage$ . -update

var update = flag.Bool("update", false, "write docs/providers.md")

// TestProvidersPage holds docs/providers.md to what the providers' presets say.
func TestProvidersPage(t *testing.T) {
	const file = "../../docs/providers.md"
	want := providersPage()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/providers.md is not current; mend with go generate ./internal/signature")
	}
}

func TestSetups(t *testing.T) {
	for _, p := range Describe() {
		if p.Title == "" || p.Paste == "" || p.Find == "" || p.Secret == "" || p.Retries == "" || len(p.Sources) == 0 || p.Sources[0] == "" {
			t.Errorf("%s: nothing says how to set it up: %+v", p.Name, p)
		}
		switch p.Resigned {
		case "yes", "no", notKnown:
			if p.Tolerance == 0 && p.Name != "hmac" && p.Name != "google-oidc" {
				t.Errorf("%s: no time is checked, so it is of no matter whether retries are signed anew", p.Name)
			}
		case noTime:
			if p.Tolerance > 0 {
				t.Errorf("%s: a time is checked, and nothing says whether retries are signed anew", p.Name)
			}
		default:
			t.Errorf("%s: signed anew: %q", p.Name, p.Resigned)
		}
	}
	if len(setups) != len(Providers()) {
		t.Errorf("%d setups of %d providers", len(setups), len(Providers()))
	}
	if len(setups) < 60 {
		t.Errorf("%d providers, fewer than 60", len(setups))
	}
}

func providersPage() string {
	var b strings.Builder
	b.WriteString(`<!-- Made by go generate ./internal/signature of what the code checks; do not edit. -->
# Providers

Kapsel checks what providers sign before it stores an event. An endpoint's ` + "`verification`" + ` names the provider and has its secrets:

` + "```json" + `
{"verification": {"provider": "github", "secrets": ["the webhook's secret"]}}
` + "```" + `

Paste the endpoint's ` + "`ingest_url`" + ` where the table says, and give Kapsel the secret from there. Several secrets may be set at once, for the time of a rotation. What is not signed with one of them is answered 401 E1001 and not stored.

Where a time is signed, requests that were signed longer ago than the tolerance are refused, and those signed more than 5 minutes (or the tolerance, if that is shorter) ahead of Kapsel's clock; ` + "`verification.tolerance`" + ` changes it, up to 96 hours. Where a provider's retries keep the time of the first attempt, the tolerance covers them all. Challenges by which a provider makes sure that the URL is yours are answered, and are no events. Where there is a delivery id, a repeated delivery is a duplicate without anything to set.

## Setting up

| provider | name | paste the URL at | secret | found at |
| --- | --- | --- | --- | --- |
`)
	for _, p := range Describe() {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", p.Title, p.Name, p.Paste, p.Secret, p.Find)
	}
	b.WriteString(`
## What is checked, and what providers do

"Re-signed on retry" says whether a provider signs a request anew, with a new time, when it sends it again. Where it does not, the tolerance covers the whole schedule of retries, and what keeps an old request from being used again is its signed content, which Kapsel remembers for 96 hours. Where nobody says it in public, it is "not known": if retries are refused, raise the tolerance. Where a page does not say it, a schedule is what users report.

| name | header | tolerance | retry schedule | re-signed on retry | challenge | delivery id | its 200 holds | note | sources |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`)
	for _, p := range Describe() {
		tolerance, challenge := "", ""
		if p.Tolerance > 0 {
			tolerance = strings.Replace(strings.TrimSuffix(p.Tolerance.String(), "0s"), "h0m", "h", 1)
		}
		if p.Handshake {
			challenge = "answered"
		}
		delivery := code(p.DeliveryID)
		if p.DeliveryIn != "" {
			delivery = "`" + p.DeliveryIn + "` in the body"
		}
		header := "in the body"
		switch {
		case p.Name == "token":
			header = "as `in` says"
		case len(p.Headers) > 2:
			header = code(p.Headers[:2]) + ", …"
		case len(p.Headers) > 0:
			header = code(p.Headers)
		}
		holds := ""
		if a := p.Answer; a != nil {
			holds = strings.TrimSpace(fmt.Sprintf("%d %s", a.Status, orNothing(string(a.Body))))
		}
		var sources []string
		for i, source := range p.Sources {
			if strings.Contains(source, ".") {
				source = fmt.Sprintf("[%d](https://%s)", i+1, source)
			}
			sources = append(sources, source)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.Name, header, tolerance, p.Retries, p.Resigned, challenge, delivery, holds, p.Note, strings.Join(sources, ", "))
	}
	b.WriteString(`
Where the URL is signed too, set ` + "`KAPSEL_PUBLIC_URL`" + ` to what the provider was given. Where the body is not signed, or only a checksum of it, the connection's TLS is what keeps it. Where a provider names no tolerance, the one in the table is Kapsel's choice.

`)
	b.WriteString(customText)
	for _, p := range Describe() {
		if p.Name != "token" && len(p.Shared) > 0 {
			fmt.Fprintf(&b, "* `%s` may send the secret itself, in %s. Kapsel compares it and forgets it: it is stored and shown as `[redacted]`, and not sent along, whatever `headers.keep` says.\n", p.Name, code(p.Shared))
		}
	}
	return b.String()
}

// customText is about the providers that an endpoint's settings describe.
const customText = `## Amazon SNS and Google

These two share no secret: they sign with keys that they publish, and anybody with an account can have something signed. So an endpoint says what counts:

` + "```json" + `
{"verification": {"provider": "aws-sns", "topic_arns": ["arn:aws:sns:eu-west-1:123456789012:orders"]}}
{"verification": {"provider": "google-oidc", "audience": "https://hooks.example/ingest/ep_…", "email": "push@project.iam.gserviceaccount.com"}}
` + "```" + `

For Google Chat ` + "`email` is `chat@system.gserviceaccount.com`, and `audience`" + ` the app's URL or project number, as its configuration has it.

Kapsel asks for certificates, and confirms subscriptions, at ` + "`sns.REGION.amazonaws.com`" + ` of the topic's region, and asks for keys at ` + "`www.googleapis.com`" + `: by HTTPS, one request at a time, each URL at most once a minute, and no other host whatever a message names. While they do not answer, a request that may be right is answered 503, so that it is sent again.

## Secrets that come with a handshake

Asana and Notion choose the secret themselves and send it when the webhook is made. Nothing vouches for such a request, so it counts only while a person awaits it: make the endpoint without secrets, set ` + "`verification.awaiting_handshake: true`" + `, and make the webhook within 10 minutes. The secret is kept sealed, and the window closes; any other handshake is answered 401. Notion's must be pasted back: for 10 minutes ` + "`GET /v1/endpoints/{id}`" + ` shows it to keys of scope write, as ` + "`verification.handshake_secret`" + `. To await another, set ` + "`secrets` to `[]`" + ` first.

## Senders that are not in the table

The provider ` + "`hmac`" + ` checks an HMAC in the form that its settings describe:

| field | values | default |
| --- | --- | --- |
| ` + "`header`" + ` | the header that has the signature | ` + "`X-Webhook-Signature`" + ` |
| ` + "`algorithm`" + ` | ` + "`sha256`, `sha512`, `sha1`" + ` | ` + "`sha256`" + ` |
| ` + "`encoding`" + ` | of the signature: ` + "`hex`, `base64`" + ` | ` + "`hex`" + ` |
| ` + "`key_encoding`" + ` | of the secret: ` + "`text`, `hex`, `base64`" + ` | ` + "`text`" + ` |
| ` + "`signed`" + ` | what is signed: a text with ` + "`{body}`" + ` and any of ` + "`{time}` `{id}` (the header `webhook-id`) `{url}` (the ingest URL with its query) `{method}` `{header:Name}`" + ` | ` + "`{body}`" + ` |
| ` + "`format`" + ` | ` + "`plain`: one signature. `list`: several, separated by commas or spaces. `pairs`: such as `t=1700000000,v1=ab`, with the time as `t`, `ts` or `timestamp`" + ` | ` + "`plain`" + ` |
| ` + "`prefix`" + ` | what stands before each signature; with ` + "`pairs`" + ` the key of the signatures | none; ` + "`v1=`" + ` |
| ` + "`time_header`" + ` | the header that has the signed time, where ` + "`pairs`" + ` does not | none |
| ` + "`time_unit`" + ` | ` + "`seconds`, `milliseconds`, `rfc3339`" + ` | ` + "`seconds`" + ` |
| ` + "`decompress`" + ` | ` + "`true`: a body with `Content-Encoding: gzip` or `deflate` is signed as it is when decoded, up to 16 MiB" + ` | ` + "`false`" + ` |

` + "```json" + `
{"verification": {"provider": "hmac", "secrets": ["…"], "header": "X-Acme-Signature", "format": "pairs", "signed": "{time}.{body}"}}
` + "```" + `

A secret that the sender puts into a request as it is, is checked by the provider ` + "`token`" + `; its field ` + "`in`" + ` says where: ` + "`header:NAME`, `basic` (the secret is the user, a colon and the password) or `query:NAME`" + `. In a query it may stand several times, with one value. It is neither stored nor sent along.

` + "```json" + `
{"verification": {"provider": "token", "secrets": ["…"], "in": "header:X-Acme-Token"}}
` + "```" + `

What such a sender asks a URL before its first event is answered by the endpoint's fields ` + "`challenge` and `probe`" + `, which are for ` + "`none`, `hmac` and `token`" + `. ` + "`challenge.from`" + ` says where a request has its challenge: ` + "`query:NAME`, `header:NAME` or `json:$.NAME`" + `; ` + "`challenge.to`" + ` where the answer has it: ` + "`body`" + ` (as text), ` + "`json:NAME`" + `, or ` + "`header:NAME`" + ` with the same name. ` + "`probe: true`" + ` answers GET and HEAD with an empty 200.

` + "```json" + `
{"challenge": {"from": "json:$.challenge", "to": "json:challenge"}, "probe": true}
` + "```" + `

A POST is a challenge only if it has no body (from query or header), or a JSON object of at most 4 KiB with at most three members, all strings; any other is an event. A challenge has 1 to 1,024 printable ASCII characters. One that carries a signature or a token is answered only if that is right. A challenge is not stored, and counts for the tenant's rate.

## Secrets that are sent as they are

`

// orNothing returns a body in code, or that there is none.
func orNothing(body string) string {
	if body == "" {
		return "and nothing"
	}
	return "`" + body + "`"
}

func code(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "`" + strings.Join(names, "`, `") + "`"
}
