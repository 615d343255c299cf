package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// PortalLinks are the links that let customers of a tenant into the portal, and the session of each. They
// are read for each request of the portal, so that a link that is revoked on one node ends on all at once.
type PortalLinks interface {
	// CreatePortalLink is a Conflict when the link's ID is there already.
	CreatePortalLink(ctx context.Context, l kapsel.PortalLink) error
	// PortalLink reads a link, of any tenant when tenant is zero, whatever has become of it. NotFound:
	// there is none.
	PortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID) (kapsel.PortalLink, error)
	// OpenPortal uses a link: it returns the live link that has the hash of a token and was not used,
	// under the session's hash from then on. Of several calls one succeeds; NotFound: there is no such link.
	// A link is live until it expires, is revoked, or its tenant or its app is deleted.
	OpenPortal(ctx context.Context, token, session [32]byte, now time.Time) (kapsel.PortalLink, error)
	// PortalBySession returns the live link whose session has a hash. NotFound: there is none.
	PortalBySession(ctx context.Context, session [32]byte, now time.Time) (kapsel.PortalLink, error)
	// ListPortalLinks returns links, of any tenant when tenant is zero, newest first, those that are used,
	// revoked and expired included until they are deleted.
	ListPortalLinks(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error)
	// RevokePortalLink ends a link and its session; one that has ended stays as it is. NotFound: there is none.
	RevokePortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID, now time.Time) error
}

// PortalLogos are the pictures at the heads of tenants' portals, at most one for each tenant. A logo ends with
// its tenant.
type PortalLogos interface {
	// SetPortalLogo stores a tenant's logo in the place of the one that it had. NotFound: the tenant is not there.
	SetPortalLogo(ctx context.Context, l kapsel.PortalLogo) error
	// PortalLogo reads a tenant's logo. NotFound: it has none.
	PortalLogo(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error)
	// PortalLogoHead reads what PortalLogo does, without the image.
	PortalLogoHead(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error)
	// DeletePortalLogo deletes a tenant's logo. NotFound: it has none.
	DeletePortalLogo(ctx context.Context, tenant kapsel.TenantID) error
}
