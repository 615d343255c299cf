package dashboard

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// The settings of an ingest URL, which a source and an endpoint have in common.

// The inputs of secrets, beside that of a new one: the IDs of those that stay, and whether the verify token
// goes.
const (
	keptSecret  = "verification.secrets.kept"
	tokenRemove = "verification.verify_token.remove"
)

// providerChoices returns the providers by their titles.
func providerChoices() []option {
	list := []option{}
	for _, about := range signature.Describe() {
		list = append(list, option{about.Name, about.Title})
	}
	slices.SortFunc(list, func(a, b option) int { return cmp.Compare(strings.ToLower(a.label), strings.ToLower(b.label)) })
	return append([]option{{signature.None, "none: anyone who knows the URL can send"}}, list...)
}

// intakeMain are the inputs that a new ingest URL needs: who sends, and the secret.
func intakeMain(p *page, in *kapsel.Intake) []input {
	return []input{
		{name: "verification.provider", label: "Who sends", kind: choice, is: orNone(in.Verification.Provider), choices: providerChoices(), wide: true,
			hint:  "What the provider does not sign is answered 401 and not stored.",
			attrs: templ.Attributes{"hx-get": string(p.link("/providers/guide")), "hx-target": "#guide"}},
		{name: "verification.secrets", label: "A secret of the provider", kind: hidden,
			hint: "What Kapsel verifies with. It is sealed, and never shown again. To change a secret without a gap, add the new one, and take the former away later."},
	}
}

// intakeGroups are the other settings of an ingest URL.
func intakeGroups(in *kapsel.Intake) []group {
	v, base := in.Verification, kapsel.DefaultIntake()
	usual := signature.InForce(kapsel.Verification{Provider: v.Provider, Format: v.Format, In: v.In})
	// set returns a setting of the verification, "" where it is the provider's usual one.
	set := func(is, usual string) string {
		if is == usual {
			return ""
		}
		return is
	}
	unset := v
	unset.Tolerance = 0
	usual.Tolerance = signature.InForce(unset).Tolerance
	tolerance := ""
	if v.Tolerance != 0 && v.Tolerance != usual.Tolerance {
		tolerance = lasting(v.Tolerance)
	}
	token := input{name: "verification.verify_token", label: "Verify token", kind: hidden, hint: "For meta: what it asks for before the first event."}
	if v.VerifyToken != nil {
		token.hint += " One is set; left empty, it stays."
	}
	hmac := signature.InForce(kapsel.Verification{Provider: "hmac"})
	response, challenge := kapsel.Response{}, kapsel.Challenge{}
	status := ""
	if in.Response != nil {
		response = *in.Response
		status = strconv.Itoa(response.Status)
	}
	if in.Challenge != nil {
		challenge = *in.Challenge
	}
	return []group{
		{title: "More of the verification", fields: []input{
			{name: "verification.tolerance", label: "Age of a signature, at most", is: tolerance, standard: "the provider's usual one" + beside(usual.Tolerance.String(), usual.Tolerance != 0), hint: "1s to 96h"},
			token,
			{name: "verification.awaiting_handshake", label: "Await a handshake that brings the secret", kind: choice, choices: []option{{"", "as it is"}, {"true", "for 10 minutes from now"}, {"false", "no"}},
				hint: "For asana and notion, which choose the secret themselves."},
			{name: "verification.in", label: "Where the secret is", is: v.In, hint: "For the provider token: header:NAME, basic or query:NAME."},
			{name: "verification.topic_arns", label: "Topics", kind: area, is: strings.Join(v.TopicARNs, "\n"), hint: "For aws-sns: the topics whose messages count, one a line."},
			{name: "verification.audience", label: "Audience", is: v.Audience, hint: "For google-oidc: that of the tokens that count."},
			{name: "verification.email", label: "Service account", is: v.Email, hint: "For google-oidc: whose tokens count."},
		}},
		{title: "The form of an HMAC", about: "For the provider hmac: any sender that signs with a shared key.", fields: []input{
			{name: "verification.header", label: "Header of the signature", is: set(v.Header, usual.Header), standard: hmac.Header},
			{name: "verification.algorithm", label: "Algorithm", kind: choice, is: set(v.Algorithm, usual.Algorithm), choices: optional("as usual: "+hmac.Algorithm, "sha256", "sha512", "sha1")},
			{name: "verification.encoding", label: "Encoding of the signature", kind: choice, is: set(v.Encoding, usual.Encoding), choices: optional("as usual: "+hmac.Encoding, "hex", "base64")},
			{name: "verification.key_encoding", label: "How the secret is written", kind: choice, is: set(v.KeyEncoding, usual.KeyEncoding), choices: optional("as usual: "+hmac.KeyEncoding, "text", "hex", "base64")},
			{name: "verification.signed", label: "What is signed", is: set(v.Signed, usual.Signed), standard: hmac.Signed, hint: "{body} with any of {time} {id} {url} {method} {header:Name}"},
			{name: "verification.format", label: "Format of the header", kind: choice, is: set(v.Format, hmac.Format), choices: optional("as usual: "+hmac.Format, "plain", "list", "pairs")},
			{name: "verification.prefix", label: "What stands before a signature", is: set(v.Prefix, usual.Prefix), hint: "With pairs the key of the signatures: v1= without it."},
			{name: "verification.time_header", label: "Header of the signed time", is: v.TimeHeader},
			{name: "verification.time_unit", label: "Unit of the signed time", kind: choice, is: set(v.TimeUnit, usual.TimeUnit), choices: optional("as usual: "+hmac.TimeUnit, "seconds", "milliseconds", "rfc3339")},
			{name: "verification.decompress", label: "Signed as it is when decoded", kind: flag, is: strconv.FormatBool(v.Decompress), hint: "Where the body has a Content-Encoding."},
		}},
		{title: "What senders are answered", fields: []input{
			{name: "response.status", label: "Status", kind: choice, is: status, choices: optional("the provider's, else 200 with the event's id", "200", "201", "202", "204")},
			{name: "response.content_type", label: "Content type", kind: choice, is: cmp.Or(response.ContentType, kapsel.NoContentType), choices: options(kapsel.NoContentType, "text/plain", "application/json"), standard: kapsel.NoContentType},
			{name: "response.body", label: "Body", kind: area, is: response.Body, hint: "At most 4 KiB; none with 204."},
			{name: "challenge.from", label: "Where a challenge is", is: challenge.From, hint: "For none, hmac and token: query:NAME, header:NAME or json:$.NAME."},
			{name: "challenge.to", label: "Where its answer has it", is: challenge.To, hint: "body, json:NAME or header:NAME"},
			{name: "probe", label: "Answer GET and HEAD with 200", kind: flag, is: strconv.FormatBool(in.Probe), hint: "For none, hmac and token."},
		}},
		{title: "Repeated and missing webhooks", fields: []input{
			{name: "idempotency.strategy", label: "What makes two webhooks one", kind: choice, is: in.Idempotency.Strategy, standard: base.Idempotency.Strategy,
				choices: []option{{kapsel.KeyFromHeader, "header: a header or the provider's delivery id"}, {kapsel.KeyFromContent, "content: the same body"}, {kapsel.KeyFromSourceID, "source_id: a value in a JSON body"}, {kapsel.KeyNone, "none: nothing does"}}},
			{name: "idempotency.header", label: "Header of your own", is: in.Idempotency.Header, hint: "Looked at before X-Idempotency-Key and Idempotency-Key."},
			{name: "idempotency.path", label: "Path into the body", is: in.Idempotency.Path, hint: "For source_id, such as $.data.id."},
			{name: "idempotency.window", label: "How long a key is remembered", is: lasting(in.Idempotency.Window), standard: lasting(base.Idempotency.Window), hint: "1m to 720h"},
			{name: "expect_every", label: "Notice if nothing comes in for", is: lastingOrNone(in.ExpectEvery), standard: "any time", hint: "1m to 720h; empty: no notice"},
		}},
	}
}

// beside returns a text in brackets where something is so.
func beside(text string, is bool) string {
	if !is {
		return ""
	}
	return " (" + text + ")"
}

// intake reads the settings of an ingest URL into next. was is the ingest URL as it was shown.
func (r *reading) intake(was, next *kapsel.Intake) (s manage.IntakeSecrets) {
	shown := map[string]string{}
	for _, g := range intakeGroups(was) {
		for _, x := range g.fields {
			shown[x.name] = x.is
		}
	}
	provider := r.text("verification.provider")
	same := provider == orNone(was.Verification.Provider)
	// Of the former provider only what was entered anew counts for the next.
	text := func(name string) string {
		if name = "verification." + name; !same && r.long(name) == shown[name] {
			r.form.Set(name, "")
		}
		return r.text(name)
	}
	v := kapsel.Verification{
		Provider: provider, Header: text("header"), Algorithm: text("algorithm"), Encoding: text("encoding"), Prefix: text("prefix"), Signed: text("signed"), Format: text("format"),
		TimeHeader: text("time_header"), TimeUnit: text("time_unit"), KeyEncoding: text("key_encoding"), Decompress: text("decompress") == "true",
		In: text("in"), TopicARNs: words(text("topic_arns")), Audience: text("audience"), Email: text("email"),
	}
	if v.Prefix != "" {
		v.Prefix = r.form.Get("verification.prefix") // a space at its end counts
	}
	if text("tolerance") != "" {
		v.Tolerance = r.duration("verification.tolerance", 0)
	}
	next.Verification = v
	s = r.secrets(&was.Verification, same)

	next.Challenge = nil
	if from, to := r.text("challenge.from"), r.text("challenge.to"); from != "" || to != "" {
		next.Challenge = &kapsel.Challenge{From: from, To: to}
	}
	next.Probe = r.flag("probe")
	next.Response = nil
	answer := kapsel.Response{Status: r.number("response.status", 0), ContentType: r.text("response.content_type"), Body: r.long("response.body")}
	if answer != (kapsel.Response{ContentType: kapsel.NoContentType}) {
		answer.Status = cmp.Or(answer.Status, 200)
		next.Response = &answer
	}
	base := kapsel.DefaultIntake()
	next.Idempotency = kapsel.Idempotency{
		Strategy: r.text("idempotency.strategy"), Header: r.text("idempotency.header"), Path: r.text("idempotency.path"), Window: r.duration("idempotency.window", base.Idempotency.Window),
	}
	next.ExpectEvery = r.duration("expect_every", 0)
	return s
}

// secrets reads what becomes of an ingest URL's secrets. same says that the provider is what it was: the
// secrets of another go anyway.
func (r *reading) secrets(was *kapsel.Verification, same bool) (s manage.IntakeSecrets) {
	if same {
		for _, had := range was.Secrets {
			if slices.Contains(r.form[keptSecret], had.ID.String()) {
				s.List = append(s.List, manage.SecretSetting{Keep: true, ID: had.ID})
			} else {
				s.Replace = true
			}
		}
	}
	if text := strings.TrimRight(r.long("verification.secrets"), "\n"); text != "" {
		s.Replace, s.List = true, append(s.List, manage.SecretSetting{Text: secret.NewText(text)})
	}
	if !s.Replace {
		s.List = nil
	}
	switch token := strings.TrimRight(r.long("verification.verify_token"), "\n"); {
	case token != "":
		s.ReplaceToken, s.VerifyToken = true, new(secret.NewText(token))
	case r.form.Has(tokenRemove):
		s.ReplaceToken = true
	}
	switch r.text("verification.awaiting_handshake") {
	case "true":
		s.AwaitHandshake = new(true)
	case "false":
		s.AwaitHandshake = new(false)
	}
	return s
}
