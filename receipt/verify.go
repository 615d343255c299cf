package receipt

import (
	"crypto/hmac"
	"errors"
	"fmt"
	"time"
)

// Part is a part of an exchange that a leaf has a commitment to.
type Part string

// The parts of an exchange.
const (
	Payload  Part = "payload"  // the event's body
	URL      Part = "URL"      // that was called
	Request  Part = "request"  // the body as it was sent
	Response Part = "response" // the body of the response, at most its first 64 KiB
)

// Parts are all parts.
var Parts = []Part{Payload, URL, Request, Response}

// MaxResponse is how many bytes of a response's body a leaf has a commitment to, at most.
const MaxResponse = 64 << 10

// Proven is what a package proves.
type Proven struct {
	Leaf   Leaf
	Index  int64  // of the leaf in the log
	Signed Signed // the head that the leaf is under

	salt *Salt
}

// Verify checks a package with the public key of the log and the keys of any witnesses: that a key of the
// log signed the checkpoint, that the leaf is in the tree of the checkpoint at its index, and that the leaf's
// text is a leaf. It needs no network. Several keys of a log are its keys over time: one of them must have
// signed.
func (p *Package) Verify(keys ...Key) (*Proven, error) {
	signed, err := OpenCheckpoint(p.Checkpoint, keys...)
	if err != nil {
		return nil, err
	}
	proof := &p.InclusionProof
	switch {
	case proof.TreeSize != signed.Size:
		return nil, fmt.Errorf("the inclusion proof is for a log of %d leaves, and the checkpoint signs %d", proof.TreeSize, signed.Size)
	case proof.RootHash != signed.Root:
		return nil, errors.New("the root hash of the inclusion proof is not the one that the checkpoint signs")
	case proof.LeafHash != LeafHash([]byte(p.Leaf)):
		return nil, errors.New("the leaf's text does not have the hash that the inclusion proof is for: the text was changed")
	}
	if err := proof.Check(); err != nil {
		return nil, err
	}
	leaf, err := ParseLeaf(p.Leaf)
	if err != nil {
		return nil, err
	}
	return &Proven{Leaf: leaf, Index: proof.LeafIndex, Signed: *signed, salt: p.Opening.Salt}, nil
}

// Why a commitment cannot be compared with a value.
var (
	ErrNoSalt       = errors.New("the package has no salt, so nothing can be compared with its commitments: the event's contents were erased, or the event is older than the log")
	ErrNoCommitment = errors.New("the leaf has no commitment to it")
	ErrDiffers      = errors.New("it is not what the leaf has a commitment to")
)

// Compare returns nil if the leaf has a commitment to a value as a part of its exchange. The error is
// ErrNoSalt, ErrNoCommitment or ErrDiffers. A wrong salt in a package makes every value differ. Of a
// Response only the first MaxResponse bytes count.
func (p *Proven) Compare(part Part, value []byte) error {
	want, label := p.commitment(part)
	switch {
	case want == nil:
		return ErrNoCommitment
	case p.salt == nil:
		return ErrNoSalt
	}
	if part == Response {
		value = value[:min(len(value), MaxResponse)]
	}
	if sum := Commitment(p.salt[:], label, value); !hmac.Equal(sum[:], want) {
		return ErrDiffers
	}
	return nil
}

// commitment returns the leaf's commitment to a part, and its label. The commitment is nil if the leaf
// has none.
func (p *Proven) commitment(part Part) (sum []byte, label string) {
	a, ok := p.Leaf.(*Attempt)
	if !ok {
		return nil, ""
	}
	switch part {
	case Payload:
		return a.Payload, PayloadLabel
	case URL:
		return a.URL, URLLabel(a.AttemptID)
	case Request:
		return a.Request, RequestLabel(a.AttemptID)
	case Response:
		return a.Response, ResponseLabel(a.AttemptID)
	}
	return nil, ""
}

// Shows returns what is proven, as sentences for people.
func (p *Proven) Shows() []string {
	s := &p.Signed
	shows := []string{
		p.says(),
		fmt.Sprintf("It is leaf %d of the log %s, whose key signed a head of %d leaves that contains it.", p.Index, s.Origin, s.Size),
	}
	for _, c := range s.Cosignatures {
		shows = append(shows, fmt.Sprintf("The witness %s saw this head at %s: the record existed by then, and the log has only grown before.", c.Key.Name, c.At.Format(time.RFC3339)))
	}
	return shows
}

// ShowsNot returns what a reader could take for proven and is not, as sentences for people.
func (p *Proven) ShowsNot() []string {
	not := []string{"What the receiver did: the record is the word of who runs this Kapsel."}
	if p.Signed.Witnesses() == 0 {
		not = append(not, "When the record was made, and that everybody is shown the same log: no witness whose key was given has signed this head.")
	}
	if _, ok := p.Leaf.(*Attempt); ok && p.salt == nil {
		not = append(not, "What was sent and received: the package has no salt.")
	}
	return not
}

// says returns what the leaf says.
func (p *Proven) says() string {
	switch l := p.Leaf.(type) {
	case *Attempt:
		outcome := "without an answer"
		if l.StatusCode != 0 {
			outcome = fmt.Sprintf("with status %d", l.StatusCode)
		}
		switch l.ErrorCode {
		case "":
		case "E2010": // OUTCOME_UNKNOWN
			outcome = "and its outcome is unknown (E2010)"
		default:
			outcome += " (" + l.ErrorCode + ")"
		}
		return fmt.Sprintf("Kapsel recorded attempt %s: number %d of delivery %s, of event %s to endpoint %s. It began at %s and ended at %s, %s.",
			l.AttemptID, l.Number, l.DeliveryID, l.EventID, l.EndpointID, millis(l.AttemptedAtMS), millis(l.EndedAtMS), outcome)
	case *KeyChange:
		return fmt.Sprintf("Kapsel recorded at %s that the log's heads are signed with another key: %s.", millis(l.ChangedAtMS), Key{Public: l.PublicKey})
	case *Erased:
		return fmt.Sprintf("Kapsel recorded at %s that the contents of event %s were erased, with the texts of %d leaves.", millis(l.ErasedAtMS), l.EventID, len(l.AttemptIDs))
	}
	return ""
}

// millis returns a time of a leaf for people.
func millis(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
