package main

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel/client"
)

// providersCmd shows what /v1/providers lists.
type providersCmd struct {
	Name string `arg:"" optional:"" complete:"provider" help:"One provider's name: what to paste where, and how it sends again."`
}

// Help has examples.
func (providersCmd) Help() string {
	return `Examples:
  kapsel providers
  kapsel providers stripe
  kapsel providers --json`
}

func (c providersCmd) do(ctx context.Context, s *session) error {
	if _, err := s.ListProviders(ctx); err != nil {
		return err
	}
	all, err := membersOf[client.Provider](s.raw, "data")
	if err != nil {
		return err
	}
	if c.Name == "" {
		return list(s, each(all), listing{}, false, nil,
			column[client.Provider]{"NAME", func(p client.Provider) string { return p.Name }},
			column[client.Provider]{"PROVIDER", func(p client.Provider) string { return p.Title }},
			column[client.Provider]{"TOLERANCE", func(p client.Provider) string { return or(p.Tolerance) }},
			column[client.Provider]{"RETRIES", func(p client.Provider) string { return p.Retries }},
			column[client.Provider]{"RE-SIGNED", func(p client.Provider) string { return p.Resigned }})
	}
	i := slices.IndexFunc(all, func(p found[client.Provider]) bool { return p.object.Name == c.Name })
	if i < 0 {
		return settingError("there is no provider %q; kapsel providers lists them, and hmac and token check others", c.Name)
	}
	p := all[i].object
	s.raw = all[i].raw
	challenge := ""
	if p.Handshake {
		challenge = "answered"
	}
	return s.show(p.Name, func(w io.Writer) {
		card(w, fact{"name", p.Name}, fact{"provider", p.Title}, fact{"paste the ingest URL at", p.Paste}, fact{"secret", p.Secret}, fact{"found at", p.Find},
			fact{"signature in", strings.Join(p.Headers, ", ")}, fact{"tolerance", there(p.Tolerance)}, fact{"challenge", challenge},
			fact{"delivery id", strings.Join(append(p.DeliveryIDHeaders, there(p.DeliveryIDPath)), ", ")},
			fact{"retries", p.Retries}, fact{"re-signed on retry", p.Resigned}, fact{"its answer", there(p.Answer)}, fact{"note", p.Note}, fact{"sources", strings.Join(p.Sources, ", ")})
	})
}
