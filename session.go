package kapsel

import "time"

// Session is a sign-in of a person, made with a key or by single sign-on. Its secret, the token, is
// nowhere: Hash finds the session.
type Session struct {
	ID        SessionID
	Hash      [32]byte
	TenantID  TenantID // whose objects the person sees; zero: all, as the operator of the instance
	KeyID     KeyID    // the tenant's key; zero: the admin key, or none
	KeyHash   [32]byte // without what it names the session is worth nothing: the tenant's key, or the settings of the single sign-on
	Subject   string   // who it is, as the provider of the single sign-on says and never changes; "": made with a key
	Name      string   // what the person is called there; the provider may change it
	Scope     Scope    // of a person of a tenant; "": the key has it, or it is the operator
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
