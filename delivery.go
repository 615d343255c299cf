package kapsel

import (
	"fmt"
	"slices"
	"time"
)

// Delivery is the obligation to bring one event to one endpoint.
type Delivery struct {
	ID         DeliveryID
	EventID    EventID
	EndpointID EndpointID
	TenantID   TenantID
	Status     DeliveryStatus
	DueAt      time.Time // pending: when the next attempt may start; zero in other states
	PutOffBy   int       // pending: the Endpoint.Destination whose Retry-After DueAt is; 0: none
	Node       NodeID    // delivering: who holds it
	Token      AttemptID // delivering: the id of the attempt about to be made
	Claims     int       // how often a node took it
	Attempts   int       // attempt rows; the last number on the wire
	Counted    int       // attempts with a known outcome: compared with the policy's maximum
	Takeovers  int       // in a row, from nodes that died with it
	// LastStatusCode and LastErrorCode are of the newest attempt; 0 and "" without one.
	LastStatusCode int
	LastErrorCode  Code
	ReplayOf       DeliveryID // the delivery that this one repeats
	ReplayedAs     DeliveryID // the one that repeats this
	ByDuplicate    bool       // a duplicate of the event made it, after the one that it repeats was given up
	Size           int        // of the event's body
	CreatedAt      time.Time
	FinishedAt     time.Time // when it became terminal
}

// DeliveryStatus is the state of a delivery.
type DeliveryStatus uint8

// The states. Terminal ones never change.
const (
	Pending    DeliveryStatus = iota // waits until DueAt
	Delivering                       // held by a node
	Delivered                        // answered 2xx
	Failed                           // refused by the destination
	DeadLetter                       // out of attempts
	Canceled                         // by a person, or with its endpoint
)

var statusNames = [...]string{"pending", "delivering", "delivered", "failed", "dead_letter", "canceled"}

func (s DeliveryStatus) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("DeliveryStatus(%d)", uint8(s))
}

// MarshalText writes the state's name.
func (s DeliveryStatus) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseDeliveryStatus reads a state's name.
func ParseDeliveryStatus(name string) (DeliveryStatus, error) {
	if i := slices.Index(statusNames[:], name); i >= 0 {
		return DeliveryStatus(i), nil
	}
	return 0, fmt.Errorf("no such status; one of %v", statusNames)
}

// Terminal reports whether the state is final.
func (s DeliveryStatus) Terminal() bool { return s >= Delivered }

// Scheduled reports whether the delivery waits for the time that its event was published for
// (Event.DeliverAt), and was not due before now. What no node has taken yet is due in the future for
// no other reason. A person's retry makes it due, and nothing else moves it.
func (d *Delivery) Scheduled(now time.Time) bool {
	return d.Status == Pending && d.Claims == 0 && d.DueAt.After(now)
}

// MaxTakeovers is how many nodes in a row may die with a delivery before it is a dead
// letter: a delivery that kills its process would otherwise come back for ever.
const MaxTakeovers = 5

// Transition is something that happens to a delivery. Delivery.After says which state follows.
type Transition interface{ transition() }

// The transitions.
type (
	// Claim: a node takes a pending delivery for the attempt named Token.
	Claim struct {
		Node  NodeID
		Token AttemptID
	}
	// GiveBack: the node that holds it sends nothing; it waits again, due at Due.
	GiveBack struct{ Due time.Time }
	// Answer: an attempt ended with a known outcome.
	Answer struct {
		Status int  // 0: none
		Code   Code // "": a 2xx
		// Retry: the outcome is one that is retried.
		Retry bool
		// Delay is the policy's, jitter included; NotBefore the Retry-After (zero: none) of the
		// destination with the number Destination, which counts only when it is later.
		Delay       time.Duration
		NotBefore   time.Time
		Destination int
		MaxAttempts int
		// Gone: the endpoint was deleted meanwhile; what would be retried is canceled.
		Gone bool
	}
	// Lost: whether the attempt's request was sent and answered is unknown, because the
	// node that held it died or was cut short.
	Lost struct{ Takeover bool }
	// Retry: a person wants the next attempt now.
	Retry struct{}
	// Replan: the endpoint's retry policy or destination has changed. What waits for longer
	// than the policy can make it wait is due by the policy, unless the present destination
	// asked for it.
	Replan struct {
		Ended       time.Time // the newest attempt
		Policy      RetryPolicy
		Destination int     // the present one
		Random      float64 // in [0, 1), for the delay
	}
	// Cancel: a person, or the deletion of the endpoint, ends it.
	Cancel struct{}
)

func (Claim) transition()    {}
func (GiveBack) transition() {}
func (Answer) transition()   {}
func (Lost) transition()     {}
func (Retry) transition()    {}
func (Replan) transition()   {}
func (Cancel) transition()   {}

// After returns the delivery after something happened to it at now. No other code decides how deliveries
// change their state. After returns a Conflict, and the delivery as it is, if the state does not allow
// what happened.
//
//	pending ── Claim ──► delivering ── Answer 2xx ───────────► delivered
//	   ▲ │                   │ ├────── Answer, not retried ──► failed
//	   │ └─ Cancel ─► canceled │ └──── out of attempts ──────► dead_letter
//	   └── GiveBack, Lost, Answer to retry ◄──┘
//
// Retry and Replan move only DueAt.
func (d Delivery) After(t Transition, now time.Time) (Delivery, error) {
	need := Delivering
	switch t.(type) {
	case Claim, Retry, Replan, Cancel:
		need = Pending
	}
	if d.Status != need {
		return d, Errorf(Conflict, "the delivery is %s, not %s", d.Status, need)
	}
	switch h := t.(type) {
	case Claim:
		d.Status, d.DueAt, d.PutOffBy, d.Node, d.Token = Delivering, time.Time{}, 0, h.Node, h.Token
		d.Claims++
	case GiveBack:
		d = d.wait(h.Due)
	case Retry:
		d.DueAt, d.PutOffBy = now, 0
	case Replan:
		if d.PutOffBy == h.Destination && d.PutOffBy != 0 || d.Counted == 0 {
			break
		}
		// The delay with the largest jitter: what is due by then may be due by this policy.
		if latest := h.Ended.Add(h.Policy.Delay(d.Counted, 1)); d.DueAt.After(latest) && d.DueAt.After(now) {
			d.DueAt, d.PutOffBy = h.Ended.Add(h.Policy.Delay(d.Counted, h.Random)), 0
			if d.DueAt.Before(now) {
				d.DueAt = now
			}
		}
	case Cancel:
		d = d.end(Canceled, now)
	case Answer:
		d.Attempts++
		d.Counted++
		d.Takeovers = 0
		d.LastStatusCode, d.LastErrorCode = h.Status, h.Code
		switch {
		case h.Code == "":
			d = d.end(Delivered, now)
		case !h.Retry:
			d = d.end(Failed, now)
		case d.Counted >= h.MaxAttempts:
			d = d.end(DeadLetter, now)
		case h.Gone:
			d = d.end(Canceled, now)
		default:
			d = d.wait(now.Add(h.Delay))
			if h.NotBefore.After(d.DueAt) {
				d.DueAt, d.PutOffBy = h.NotBefore, h.Destination
			}
		}
	case Lost:
		d.Attempts++
		d.LastStatusCode, d.LastErrorCode = 0, OutcomeUnknown
		if h.Takeover {
			d.Takeovers++
		}
		if d.Takeovers >= MaxTakeovers {
			d = d.end(DeadLetter, now)
		} else {
			d = d.wait(now)
		}
	default:
		return d, fmt.Errorf("unknown transition %T", h)
	}
	return d, nil
}

func (d Delivery) wait(due time.Time) Delivery {
	d.Status, d.DueAt, d.PutOffBy, d.Node, d.Token = Pending, due, 0, NodeID{}, AttemptID{}
	return d
}

func (d Delivery) end(s DeliveryStatus, now time.Time) Delivery {
	d.Status, d.DueAt, d.PutOffBy, d.Node, d.Token = s, time.Time{}, 0, NodeID{}, AttemptID{}
	d.FinishedAt = now
	return d
}
