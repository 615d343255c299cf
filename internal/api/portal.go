package api

import (
	"context"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) portalLinks() {
	op := tagged("Portal")
	create := op("create-portal-link", http.MethodPost, "/v1/portal-links", "Create a link into the portal; its URL is in this answer only, and opens once")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, with(takes[PortalLinkInput](fails(create, failure{404, kapsel.NotFound})), "secret", true), a.createPortalLink)
	add(a, access.Read, op("list-portal-links", http.MethodGet, "/v1/portal-links", "List links that have not expired, used and revoked ones included"),
		listed(a.Manage.ListPortalLinks, func(l kapsel.PortalLink) kapsel.PortalLinkID { return l.ID }, viewPortalLink))
	add(a, access.Read, op("get-portal-link", http.MethodGet, "/v1/portal-links/{id}", "Get a link"), got(a.Manage.PortalLink, (*PortalLinkPath).id, viewPortalLink))
	add(a, access.Write, op("revoke-portal-link", http.MethodDelete, "/v1/portal-links/{id}", "Revoke a link, and end its session"), removed(a.Manage.RevokePortalLink, (*PortalLinkPath).id))
}

// PortalLinkPath is the route of one portal link.
type PortalLinkPath struct {
	ID kapsel.PortalLinkID `path:"id"`
}

func (in *PortalLinkPath) id() kapsel.PortalLinkID { return in.ID }

func (a *api) createPortalLink(ctx context.Context, in *TenantQuery) (*out[NewPortalLink], error) {
	var body PortalLinkInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	s := manage.PortalLinkSettings{App: body.App, Mode: body.Mode, Sites: body.Sites}
	if body.ExpiresIn != nil {
		s.Life = time.Duration(*body.ExpiresIn)
	}
	l, url, err := a.Manage.CreatePortalLink(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.PortalLinkID](ctx), s)
	if err != nil {
		return nil, err
	}
	return answer(NewPortalLink{viewPortalLink(&l), url.Reveal()}), nil
}

// PortalLinkInput is what people set on a portal link.
type PortalLinkInput struct {
	App       *string           `json:"app,omitempty" nullable:"true" doc:"The id or uid of the app whose endpoints and events the link shows; left out: all of the tenant"`
	Mode      kapsel.PortalMode `json:"mode" enum:"read,manage" doc:"read: see; manage: also add, change and test endpoints, and send again"`
	ExpiresIn *duration         `json:"expires_in,omitempty" doc:"How long the link and its session last, 1m to 24h; 1h by default"`
	Sites     []string          `json:"sites,omitempty" maxItems:"20" doc:"Origins, such as https://app.example, whose pages may show the portal in a frame; left out: none"`
}

// PortalLink is a portal link as the API shows it.
type PortalLink struct {
	ID        kapsel.PortalLinkID `json:"id"`
	TenantID  kapsel.TenantID     `json:"tenant_id"`
	App       *kapsel.AppID       `json:"app" nullable:"true" doc:"Whose endpoints and events it shows; null: all of the tenant"`
	Mode      kapsel.PortalMode   `json:"mode" enum:"read,manage"`
	Sites     []string            `json:"sites" doc:"Origins whose pages may show the portal in a frame"`
	KeyID     *kapsel.KeyID       `json:"key_id" nullable:"true" doc:"The key that made the link, and with which it ends; null: the admin key"`
	CreatedAt timestamp           `json:"created_at"`
	ExpiresAt timestamp           `json:"expires_at" doc:"When the link and its session end"`
	UsedAt    *timestamp          `json:"used_at" nullable:"true" doc:"When the link was opened; null: it was not"`
	RevokedAt *timestamp          `json:"revoked_at" nullable:"true"`
}

// NewPortalLink is a portal link in the one answer that has its URL.
type NewPortalLink struct {
	PortalLink
	URL string `json:"url" doc:"Shown once, and opens once: lead the customer there"`
}

func viewPortalLink(l *kapsel.PortalLink) PortalLink {
	return PortalLink{
		l.ID, l.TenantID, orNull(l.AppID), l.Mode, orEmpty(l.Sites), orNull(l.KeyID),
		timestamp(l.CreatedAt), timestamp(l.ExpiresAt), timeOrNull(l.UsedAt), timeOrNull(l.RevokedAt),
	}
}
