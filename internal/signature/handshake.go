package signature

// Answer is what a provider is to be answered instead of the usual body.
type Answer struct {
	Status      int
	ContentType string // "": none
	Body        []byte
}

// Handshake is the answer to a request that is a provider's challenge and no event; nil if
// it is none. Ask it of GET requests as they come, and of POST requests that Verify accepted.
func (v *Verifier) Handshake(r Request) *Answer {
	return nil
}

// Accepted is the answer that the provider demands for an accepted event; nil: the usual one.
func (v *Verifier) Accepted() *Answer {
	return nil
}
