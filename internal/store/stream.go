package store

import (
	"bytes"
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Stream reads events in the order in which they become visible to readers, which is one for
// all readers, lasts, and is nearly that of their receipt: who goes on behind what it has read
// gets each event once and misses none, whatever was committed meanwhile and in which order.
type Stream interface {
	// StreamEvents looks at up to limit events behind a position and returns those that the
	// filter lets through, as ListEvents shows them, and the position behind all that it looked
	// at, to go on from. more is whether there may be more to look at now. What retention
	// deleted is passed over. Conflict: the position is ahead of all that was ever stored, so
	// it is of another database, or of this one before an old copy of it was restored.
	StreamEvents(ctx context.Context, f StreamFilter, after Position, now time.Time, limit int) (events []Streamed, next Position, more bool, err error)
	// StreamEnd is the position behind all that is visible now.
	StreamEnd(ctx context.Context, now time.Time) (Position, error)
	// StreamPosition is the position behind an event that is there, of any tenant when tenant
	// is zero.
	StreamPosition(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (Position, error)
}

// StreamFilter narrows StreamEvents; zero fields do not.
type StreamFilter struct {
	Tenants    []kapsel.TenantID
	EndpointID kapsel.EndpointID // events that have a delivery to it, or whose open expansion may make one
	SourceID   kapsel.SourceID   // events that came in at it
	Newest     int               // of the events of each tenant that were looked at: only so many, the newest
}

// Streamed is an event of the stream and the position behind it.
type Streamed struct {
	EventRecord
	At   Position
	Left int // events of the same tenant just before this one that StreamFilter.Newest left out
}

// Position is a place in the stream. The zero Position is before all events.
type Position struct {
	Seq int64          // grows in the order of the stream; several events may share one …
	ID  kapsel.EventID // … and are ordered by their ids. EndOfSeq: behind all of them
}

// EndOfSeq is above every event's id.
var EndOfSeq = kapsel.EventID(bytes.Repeat([]byte{0xff}, 16))

// Compare is negative when p is before q, and positive when it is behind.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Seq, q.Seq), bytes.Compare(p.ID[:], q.ID[:]))
}

// Later is the position that is behind the other.
func (p Position) Later(q Position) Position {
	if p.Compare(q) < 0 {
		return q
	}
	return p
}

// String returns the form of a position that clients keep: "evt_….SEQ" behind an event, "SEQ" behind all
// events with that sequence number.
func (p Position) String() string {
	seq := strconv.FormatInt(p.Seq, 10)
	if p.ID == EndOfSeq {
		return seq
	}
	return p.ID.String() + "." + seq
}

// ParsePosition returns the position that String gave a text for. ok is false for any other text.
func ParsePosition(text string) (p Position, ok bool) {
	p.ID = EndOfSeq
	if id, seq, ok := strings.Cut(text, "."); ok {
		var err error
		if p.ID, err = kapsel.ParseEventID(id); err != nil {
			return p, false
		}
		text = seq
	}
	seq, err := strconv.ParseUint(text, 10, 63)
	p.Seq = int64(seq)
	return p, err == nil && strconv.FormatUint(seq, 10) == text
}
