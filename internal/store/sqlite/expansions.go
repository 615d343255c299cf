package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Bounds of a step of an expansion, which holds up the hot path as long as it lasts.
const (
	expandTime = 10 * time.Millisecond
	expandLook = 1000 // endpoints; most of a tenant's may not subscribe
)

// OpenExpansions implements store.Expansions.
func (s *Store) OpenExpansions(ctx context.Context, limit int) (events []kapsel.EventID, err error) {
	err = s.read(ctx, func(c *conn) error {
		q := c.query(`SELECT event_id FROM expansions ORDER BY event_id LIMIT ?`, limit)
		for q.next() {
			events = append(events, q.colID())
		}
		return q.end()
	})
	return events, err
}

// Expand implements store.Expansions.
func (s *Store) Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (made int, more bool, err error) {
	err = s.writer.cold(ctx, func(c *conn) (err error) {
		made, more, err = expand(c, event, now, limit)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return made, more, nil
}

func expand(c *conn, event kapsel.EventID, now time.Time, limit int) (made int, more bool, err error) {
	start := time.Now()
	var after kapsel.EndpointID
	open, err := c.query(`SELECT after_endpoint FROM expansions WHERE event_id = ?`, event).
		one(func(s *stmt) { after = s.colID() })
	if err != nil || !open {
		return 0, false, err
	}
	var ev kapsel.Event
	var unreadable error
	found, err := c.query(`SELECT `+eventColumns+` FROM events WHERE id = ?`, event).
		one(func(s *stmt) { ev, _, unreadable = scanEvent(s, false) })
	if err = errors.Join(err, unreadable); err != nil {
		return 0, false, err
	}
	if !found {
		return 0, false, store.NotFound("event") // cannot be: what is expanded is not deleted
	}
	candidates, more, err := candidates(c, &ev, after)
	if err != nil {
		return 0, false, err
	}
	for i, candidate := range candidates {
		if made == limit || i > 0 && time.Since(start) > expandTime {
			more = true
			break
		}
		after = candidate.id
		if !candidate.mentions {
			continue
		}
		e, err := liveEndpoint(c, ev.TenantID, candidate.id)
		if err != nil {
			return 0, false, err
		}
		d, gets := rules.Expanded(&ev, &e, now)
		if !gets {
			continue
		}
		has, err := c.query(`SELECT 1 FROM deliveries WHERE endpoint_id = ? AND first_of = ?`, e.ID, event).one(func(*stmt) {})
		if err != nil {
			return 0, false, err
		}
		if has { // a person had it delivered
			continue
		}
		if err := c.insertDelivery(&d, event); err != nil {
			return 0, false, err
		}
		c.tally.Made(&d)
		made++
	}
	if !more {
		return made, false, c.exec(`DELETE FROM expansions WHERE event_id = ?`, event)
	}
	return made, true, c.exec(`UPDATE expansions SET after_endpoint = ? WHERE event_id = ?`, after, event)
}

// candidate is an endpoint that an expansion looks at. mentions says that its configuration may
// have a subscription to the event's origin.
type candidate struct {
	id       kapsel.EndpointID
	mentions bool
}

// candidates returns the next endpoints of an event's tenant behind an ID, and whether there may be
// more.
func candidates(c *conn, ev *kapsel.Event, after kapsel.EndpointID) (list []candidate, more bool, err error) {
	q := c.query(`SELECT id, instr(CAST(config AS TEXT), ?) > 0 FROM endpoints
		WHERE tenant_id = ? AND app_id IS ? AND id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?`,
		rules.SubscriptionText(kapsel.OriginID(ev.TenantID), ev.Origin()), ev.TenantID, ev.AppID, after, expandLook)
	for q.next() {
		list = append(list, candidate{q.colID(), q.colBool()})
	}
	return list, len(list) == expandLook, q.end()
}
