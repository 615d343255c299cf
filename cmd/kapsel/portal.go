package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type portalLinksCmd struct {
	List   ask[portalLinksList]   `cmd:"" help:"List links that have not expired."`
	Create ask[portalLinksCreate] `cmd:"" help:"Create a link for a customer; its URL is shown once and opens once."`
	Revoke ask[portalLinksRevoke] `cmd:"" aliases:"delete" help:"Revoke a link, and end its session."`
}

const portalLinksPath = "/v1/portal-links"

// portalLinks describes the portal links of the API.
var portalLinks = objects[client.PortalLink]{
	path:    portalLinksPath,
	id:      func(v client.PortalLink) string { return v.ID },
	created: func(v client.PortalLink) time.Time { return v.CreatedAt },
	columns: []column[client.PortalLink]{
		{"ID", func(v client.PortalLink) string { return v.ID }},
		{"APP", func(v client.PortalLink) string { return or(v.App) }},
		{"MODE", func(v client.PortalLink) string { return v.Mode }},
		{"STATE", portalLinkState},
		{"EXPIRES", func(v client.PortalLink) string { return ago(v.ExpiresAt) }},
		{"SITES", func(v client.PortalLink) string { return strings.Join(v.Sites, " ") }},
	},
	removed: "revoked",
}

func portalLinkState(v client.PortalLink) string {
	switch {
	case v.RevokedAt != nil:
		return "revoked"
	case v.ExpiresAt.Before(time.Now()):
		return "expired"
	case v.UsedAt != nil:
		return "used"
	}
	return "unused"
}

// newPortalLinks describes links in the answer that makes them, which has their URL. With --quiet the URL
// is printed, not the id.
var newPortalLinks = objects[client.NewPortalLink]{
	id: func(v client.NewPortalLink) string { return v.URL },
	card: func(w io.Writer, v client.NewPortalLink, _ []byte) {
		card(w, fact{"id", v.ID}, fact{"app", there(v.App)}, fact{"mode", v.Mode}, fact{"sites", strings.Join(v.Sites, " ")},
			fact{"expires", at(v.ExpiresAt)}, fact{"url", v.URL}, fact{"", "(shown once, opens once)"})
	},
}

type portalLinksList struct {
	ofTenant
	listing
}

// Help has an example.
func (portalLinksList) Help() string {
	return `Example:
  kapsel portal-links list --tenant acme`
}

func (c portalLinksList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return portalLinks.list(s, c.listing, raws(s, s.ListPortalLinks(ctx, client.ListPortalLinksFilter{TenantID: tenant})))
}

type portalLinksCreate struct {
	ofTenant
	App       string        `complete:"app" placeholder:"APP" help:"The app, by id, uid or name, whose endpoints and events it shows; without it all of the tenant."`
	Mode      string        `enum:"read,manage" default:"read" help:"read or manage (default ${default})."`
	ExpiresIn time.Duration `default:"1h" placeholder:"DURATION" help:"How long the link and its session last, 1m to 24h (default ${default})."`
	Site      []string      `placeholder:"ORIGIN" help:"A site whose pages may show the portal in a frame, such as https://app.example; can be repeated."`
}

// Help has examples.
func (portalLinksCreate) Help() string {
	return `The URL is printed once, and opens once: lead the customer there. With --quiet only it is printed.

Examples:
  kapsel portal-links create --app customer-17
  kapsel portal-links create --app customer-17 --mode manage --site https://app.example --expires-in 15m -q`
}

func (c portalLinksCreate) do(ctx context.Context, s *session) error {
	tenant, err := s.newOwner(ctx, c.Tenant)
	if err != nil {
		return err
	}
	in := client.PortalLinkInput{Mode: c.Mode, Sites: c.Site, ExpiresIn: new(client.Duration(c.ExpiresIn))}
	if c.App != "" {
		app, err := s.appNamed(ctx, c.App, tenant)
		if err != nil {
			return err
		}
		in.App = client.Some(app)
	}
	s.named = sentBy{"sites": "--site"}
	return newPortalLinks.ask(ctx, s, http.MethodPost, ownedBy(tenant, portalLinksPath), in)
}

type portalLinksRevoke struct {
	Link string `arg:"" name:"link" help:"The link's id, plk_…"`
}

// Help has an example.
func (portalLinksRevoke) Help() string {
	return `Example:
  kapsel portal-links revoke plk_01m84yz4zqfgjtcypmsesbpznb`
}

func (c portalLinksRevoke) do(ctx context.Context, s *session) error {
	if err := s.RevokePortalLink(ctx, c.Link); err != nil {
		return err
	}
	return s.removed(c.Link, "revoked")
}
