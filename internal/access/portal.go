package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
)

// PortalLinks keeps the links into the portal of all nodes. store.PortalLinks says what its methods do.
type PortalLinks interface {
	PortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID) (kapsel.PortalLink, error)
	OpenPortal(ctx context.Context, token, session [32]byte, now time.Time) (kapsel.PortalLink, error)
	PortalBySession(ctx context.Context, session [32]byte, now time.Time) (kapsel.PortalLink, error)
}

var (
	// ErrNoLink refuses a token of a portal link: whether it was used, has expired or never was is not said.
	ErrNoLink = kapsel.Errorf(kapsel.Unauthorized, "this link was used already, or has expired; ask for a new one")
	// ErrPortalEnded refuses a request without a session of the portal, or with one that has ended.
	ErrPortalEnded = kapsel.Errorf(kapsel.Unauthorized, "your visit has ended; ask for a new link")
)

// NewPortalToken returns the token of a new link and the hash that finds the link. The hash is an HMAC
// under the admin key, so all links end when the admin key changes, and who reads the store can neither use
// nor make one.
func (g *Guard) NewPortalToken() (token secret.Text, hash [32]byte) {
	token = newToken()
	return token, g.tokenHash("portal token", token.Reveal())
}

// OpenPortal uses the token of the link with an ID and returns the link with the secret of its session, which
// is nowhere else. The error is ErrNoLink for a token that is worth nothing; guesses are limited as those of
// Caller, and the token of a link that was used or has ended is no guess. A link whose key cannot be looked
// up stays unused.
func (g *Guard) OpenPortal(r *http.Request, id kapsel.PortalLinkID, token string) (l kapsel.PortalLink, session secret.Text, err error) {
	ctx, client, now := r.Context(), g.Client(r), g.Clock()
	if err := g.guesses.may(ctx, g.Log, client, now); err != nil {
		return l, session, err
	}
	hash := g.tokenHash("portal token", token)
	l, err = g.Portals.PortalLink(ctx, kapsel.TenantID{}, id)
	known := err == nil && subtle.ConstantTimeCompare(l.Token[:], hash[:]) == 1
	if err == nil && known {
		_, err = g.portalCaller(ctx, &l, now)
	}
	if err == nil && known {
		session = g.newSessionToken("portal session")
		l, err = g.Portals.OpenPortal(ctx, hash, g.tokenHash("portal session", session.Reveal()), now)
	}
	missing := err == nil && !known || kapsel.CodeOf(err) == kapsel.NotFound
	if missing || errors.Is(err, ErrPortalEnded) {
		err = ErrNoLink
		if !known {
			if limited := g.guesses.count(ctx, g.Log, client, now); !errors.Is(limited, ErrUnauthorized) {
				err = limited
			}
		}
	}
	return l, session, err
}

// Portal returns the link of a session and the caller that it makes. The error is ErrPortalEnded if the
// session, its link, or the key that made the link has ended, that of Portals or Keys, or RateLimited as
// Session's.
func (g *Guard) Portal(r *http.Request, session string) (l kapsel.PortalLink, c Caller, err error) {
	ctx, now := r.Context(), g.Clock()
	if !g.made("portal session", session) {
		return l, c, g.forgery(r, now, ErrPortalEnded)
	}
	l, err = g.Portals.PortalBySession(ctx, g.tokenHash("portal session", session), now)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		err = ErrPortalEnded
	}
	if err == nil {
		c, err = g.portalCaller(ctx, &l, now)
		c.Actor.Client = g.Client(r)
	}
	return l, c, err
}

// portalCaller returns the caller that a live link makes: of its tenant, with no more right than its mode.
func (g *Guard) portalCaller(ctx context.Context, l *kapsel.PortalLink, now time.Time) (Caller, error) {
	c := Caller{Right: Read, Tenant: l.TenantID, Key: l.KeyID, Until: l.ExpiresAt,
		Actor: kapsel.Actor{Kind: kapsel.ActorPortal, KeyID: l.KeyID, Session: l.ID.String()}}
	if l.Mode == kapsel.PortalManage {
		c.Right = Write
	}
	if l.KeyID.IsZero() {
		return c, nil
	}
	_, err := g.holder(ctx, l.KeyHash, now)
	if errors.Is(err, ErrUnauthorized) {
		err = ErrPortalEnded
	}
	return c, err
}
