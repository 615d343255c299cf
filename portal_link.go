package kapsel

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// PortalLink lets a customer of a tenant see and manage their own endpoints in a browser. Its token opens
// one session, once. Neither the token nor the session's secret is stored: Token and Session are hashes
// that find the link.
type PortalLink struct {
	ID        PortalLinkID
	TenantID  TenantID
	AppID     AppID // whose endpoints and events it shows; zero: all of the tenant
	Mode      PortalMode
	Sites     []string // origins whose pages may frame the portal; none: no page may
	KeyID     KeyID    // the key that made the link; zero: the admin key
	KeyHash   [32]byte // finds the key, without which the link is worth nothing
	Token     [32]byte
	Session   [32]byte // zero: the link was not used
	CreatedAt time.Time
	ExpiresAt time.Time // when the link and its session end
	UsedAt    time.Time // zero: the link was not used
	RevokedAt time.Time // zero: it was not revoked
}

// PortalMode says what a portal link's session may do.
type PortalMode string

// The modes of a portal link.
const (
	PortalRead   PortalMode = "read"   // see
	PortalManage PortalMode = "manage" // also add, change, test and send again
)

// How long a portal link and its session last: MaxPortalLife at most, and DefaultPortalLife where nobody
// says otherwise.
const (
	DefaultPortalLife = time.Hour
	MaxPortalLife     = 24 * time.Hour
	maxPortalSites    = 20
)

// Validate checks what people set on a link that is made now, and returns all wrong fields; nil if none
// is wrong.
func (l *PortalLink) Validate() []FieldError {
	var f fields
	f.oneOf("mode", string(l.Mode), string(PortalRead), string(PortalManage))
	f.lasts("expires_in", l.ExpiresAt.Sub(l.CreatedAt), time.Minute, MaxPortalLife)
	if len(l.Sites) > maxPortalSites {
		f.add("sites", "must be at most %d", maxPortalSites)
	}
	for _, site := range l.Sites {
		if !isSite(site) {
			f.add("sites", "must be origins such as https://app.example: https (or http on this machine), a host, perhaps a port, and nothing more")
			break
		}
	}
	return f
}

// isSite reports whether a text is an origin that may frame a page: it goes into a header of that page as
// it is.
func isSite(site string) bool {
	u, err := url.Parse(site)
	if err != nil || u.Host == "" || u.Hostname() == "" || site != u.Scheme+"://"+u.Host || len(site) > 255 {
		return false
	}
	if strings.Trim(u.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-:[]") != "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	own := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && own
}

// Live reports whether the link, or its session, is still worth something at a time, as far as its row says.
func (l *PortalLink) Live(now time.Time) bool {
	return l.RevokedAt.IsZero() && now.Before(l.ExpiresAt)
}

// Has reports whether the link's session sees what belongs to an app, or with the zero ID to none.
func (l *PortalLink) Has(app AppID) bool { return l.AppID.IsZero() || l.AppID == app }
