package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// MaxSessions is how many sessions of a key, or of a person who signs in without one, there are at a time.
const MaxSessions = 50

// Sessions are the sign-ins of people. They are read for each request of a session, so that a
// session that ends on one node ends on all at once.
type Sessions interface {
	// CreateSession stores a session. It does nothing if the session is there already. Of the sessions of
	// a key, or of a person without one, the newest MaxSessions stay and the others end. NotFound: its
	// tenant is not there.
	CreateSession(ctx context.Context, s kapsel.Session) error
	// SessionByHash returns NotFound for a session that there is not, that has expired at now, or whose
	// tenant is deleted.
	SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error)
	// TouchSession sets when a session was last used. It is not durable on return, sets no time that
	// is earlier than the stored one, and does nothing for a session that is not there.
	TouchSession(ctx context.Context, id kapsel.SessionID, seen time.Time) error
	// ListSessions returns sessions that have not expired at now, newest first: those of
	// a tenant, or all when tenant is zero.
	ListSessions(ctx context.Context, tenant kapsel.TenantID, now time.Time, p Page[kapsel.SessionID]) ([]kapsel.Session, error)
	// DeleteSession ends a session that ListSessions would return. NotFound: there is none.
	DeleteSession(ctx context.Context, tenant kapsel.TenantID, id kapsel.SessionID) error
	// DeleteSessions ends all sessions made with a key of a tenant; with the admin key, when tenant and
	// key are zero.
	DeleteSessions(ctx context.Context, tenant kapsel.TenantID, key kapsel.KeyID) error
	// DeleteSessionsOf ends all sessions of a person who signs in without a key, whatever they may see.
	DeleteSessionsOf(ctx context.Context, subject string) error
}
