package kapsel

import "time"

// Session is a sign-in of a person, made with a key. Its secret, the token, is nowhere: Hash finds the
// session.
type Session struct {
	ID        SessionID
	Hash      [32]byte
	TenantID  TenantID // of the key; zero: the session was made with the admin key
	KeyID     KeyID    // the key; zero: the admin key
	KeyHash   [32]byte // finds the key, without which the session is worth nothing
	Address   string   // where the sign-in came from
	Agent     string   // the browser, as it names itself
	CreatedAt time.Time
	SeenAt    time.Time // when the session was last used, to the minute
}

// A session ends SessionIdle after its last use, and SessionLife after the sign-in at the latest.
const (
	SessionIdle = 30 * time.Minute
	SessionLife = 12 * time.Hour
)

// ExpiresAt returns when the session ends if it is not used again.
func (s *Session) ExpiresAt() time.Time {
	idle, end := s.SeenAt.Add(SessionIdle), s.CreatedAt.Add(SessionLife)
	if idle.Before(end) {
		return idle
	}
	return end
}
