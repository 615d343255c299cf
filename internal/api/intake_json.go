package api

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// IntakeInput is what people set on an ingest URL, an endpoint's or a source's.
type IntakeInput struct {
	Verification VerificationInput `json:"verification" required:"false"`
	Challenge    *Challenge        `json:"challenge" required:"false" doc:"For the providers none, hmac and token: what the sender asks the URL before the first event"`
	Probe        bool              `json:"probe" required:"false" doc:"For the providers none, hmac and token: GET and HEAD are answered 200, with nothing"`
	Response     *Response         `json:"response" required:"false" doc:"What accepted webhooks are answered; null: what the provider wants, or the event's id"`
	Idempotency  Idempotency       `json:"idempotency" required:"false"`
	ExpectEvery  *duration         `json:"expect_every" required:"false" doc:"How long nothing may come in before a notice says so, 1m to 720h; null: any time"`
}

// intakeOf returns an intake as its owner would set it, without the secrets.
func intakeOf(c kapsel.Intake) IntakeInput {
	v, i := c.Verification, c.Idempotency
	in := IntakeInput{
		Verification: VerificationInput{
			Provider: v.Provider, Header: v.Header, Algorithm: v.Algorithm, Encoding: v.Encoding, Prefix: v.Prefix, Signed: v.Signed, Format: v.Format,
			TimeHeader: v.TimeHeader, TimeUnit: v.TimeUnit, KeyEncoding: v.KeyEncoding, Decompress: v.Decompress, In: v.In,
			TopicARNs: v.TopicARNs, Audience: v.Audience, Email: v.Email,
		},
		Challenge: (*Challenge)(c.Challenge), Probe: c.Probe, Response: viewResponse(c.Response),
		Idempotency: Idempotency{i.Strategy, i.Header, i.Path, duration(i.Window)},
	}
	if c.ExpectEvery != 0 {
		in.ExpectEvery = (*duration)(&c.ExpectEvery)
	}
	if v.Provider == "" {
		in.Verification.Provider = signature.None
	}
	if v.Tolerance != 0 {
		in.Verification.Tolerance = (*duration)(&v.Tolerance)
	}
	return in
}

// config returns the input in the domain's form, without the secrets.
func (in *IntakeInput) config() kapsel.Intake {
	v, i := in.Verification, in.Idempotency
	config := kapsel.Intake{
		Verification: kapsel.Verification{
			Provider: v.Provider, Header: v.Header, Algorithm: v.Algorithm, Encoding: v.Encoding, Prefix: v.Prefix, Signed: v.Signed, Format: v.Format,
			TimeHeader: v.TimeHeader, TimeUnit: v.TimeUnit, KeyEncoding: v.KeyEncoding, Decompress: v.Decompress, In: v.In,
			TopicARNs: v.TopicARNs, Audience: v.Audience, Email: v.Email,
		},
		Challenge: (*kapsel.Challenge)(in.Challenge), Probe: in.Probe, Response: in.Response.config(),
		Idempotency: kapsel.Idempotency{Strategy: i.Strategy, Header: i.Header, Path: i.Path, Window: time.Duration(i.Window)},
	}
	if in.ExpectEvery != nil {
		config.ExpectEvery = time.Duration(*in.ExpectEvery)
	}
	if v.Tolerance != nil {
		config.Verification.Tolerance = time.Duration(*v.Tolerance)
	}
	return config
}

// forgetProvider removes what was set for one provider if a patch sets another, to which it means nothing.
func (in *IntakeInput) forgetProvider(patch map[string]any) {
	if provider, there := said(patch, "verification", "provider"); there && provider != in.Verification.Provider {
		in.Verification = VerificationInput{}
	}
}

// secrets returns what becomes of the secrets. Those that the patch, which led to the input, does not
// mention stay; a nil patch mentions none.
func (in *IntakeInput) secrets(patch map[string]any) manage.IntakeSecrets {
	v := &in.Verification
	of := func(name string) bool { _, there := said(patch, "verification", name); return there }
	s := manage.IntakeSecrets{
		Replace: of("secrets") || v.Secrets != nil, List: mapped(v.Secrets, SecretInput.setting),
		ReplaceToken: of("verify_token") || v.VerifyToken != nil, VerifyToken: v.VerifyToken,
		AwaitHandshake: v.AwaitingHandshake,
	}
	if of("awaiting_handshake") && v.AwaitingHandshake == nil {
		s.AwaitHandshake = new(bool) // null closes the window
	}
	return s
}
