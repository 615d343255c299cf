package sqlite

import (
	"context"
	"errors"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Backlog implements store.Queue.
func (s *Store) Backlog(ctx context.Context) (backlog []store.Waiting, err error) {
	err = s.read(ctx, func(c *conn) error {
		var endpoint kapsel.EndpointID
		for {
			found, err := c.stmt(`SELECT endpoint_id FROM deliveries
				WHERE status = 0 AND endpoint_id > ? ORDER BY endpoint_id LIMIT 1`).blob(endpoint[:]).
				one(func(s *stmt) { endpoint = s.colID() })
			if err != nil || !found {
				return err
			}
			due, err := oldestDue(c, endpoint)
			if err != nil {
				return err
			}
			backlog = append(backlog, store.Waiting{EndpointID: endpoint, DueAt: due})
		}
	})
	return backlog, err
}

// oldestDue returns when the first of an endpoint's pending deliveries is due, the zero time if
// there is none.
func oldestDue(c *conn, endpoint kapsel.EndpointID) (due time.Time, err error) {
	_, err = c.query(`SELECT due_at FROM deliveries WHERE status = 0 AND endpoint_id = ? ORDER BY due_at LIMIT 1`, endpoint).
		one(func(s *stmt) { due = s.colTime() })
	return due, err
}

// Claim implements store.Queue. The writer takes the deliveries; after that, Claim reads their
// events on a connection for reads, because nothing changes or deletes the events of held
// deliveries.
func (s *Store) Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) (taken []store.Claimed, cut kapsel.EndpointID, err error) {
	if err := ctx.Err(); err != nil {
		return nil, cut, store.Unavailable(err)
	}
	err = s.writer.hotly(func(c *conn) (err error) {
		taken, cut, err = claim(c, node, now, wants, maxBytes)
		return err
	})
	if err != nil || len(taken) == 0 {
		return nil, cut, err
	}
	unread := store.Unread{}
	err = s.read(ctx, func(c *conn) error {
		clear(unread)
		var last kapsel.Event // deliveries of one event are often due together
		for i := range taken {
			id := taken[i].Delivery.EventID
			if id != last.ID && unread[id] == nil {
				event, _, err := eventOf(c, kapsel.TenantID{}, id, eventColumns+", "+eventContent)
				switch {
				case damaged(err):
					unread[id] = err
				case err != nil:
					return err
				default:
					last = event
				}
			}
			if id == last.ID {
				taken[i].Event = last
			}
		}
		return nil
	})
	if err != nil {
		// Nobody will send these deliveries, so they must wait again. If GiveBack fails too, Held returns
		// them.
		back := make([]kapsel.Delivery, len(taken))
		for i := range taken {
			back[i] = taken[i].Delivery
			back[i].DueAt = taken[i].DueSince
		}
		_ = s.GiveBack(context.WithoutCancel(ctx), back)
		return nil, cut, err
	}
	taken, back := unread.Split(taken, now, s.log)
	if len(back) > 0 {
		if err := s.GiveBack(context.WithoutCancel(ctx), back); err != nil {
			s.log.Warn("deliveries without a readable event could not be given back; this node finds them", "error", err)
		}
	}
	return taken, cut, nil
}

// damaged reports whether an error of eventOf may be about that event alone: the file is damaged or cannot
// be read there, or the row is not there or cannot be understood.
func damaged(err error) bool {
	var e *dbError
	if !errors.As(err, &e) {
		return err != nil
	}
	return codeOf(err) == sqlite3.SQLITE_CORRUPT || codeOf(err) == sqlite3.SQLITE_IOERR && e.code != sqlite3.SQLITE_IOERR_NOMEM
}

func claim(c *conn, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) (taken []store.Claimed, cut kapsel.EndpointID, err error) {
	size := 0
	for _, want := range wants {
		first := len(taken)
		q := c.query(`SELECT `+deliveryColumns+` FROM deliveries
			WHERE status = 0 AND endpoint_id = ? AND due_at <= ? ORDER BY due_at LIMIT ?`,
			want.EndpointID, now, want.Limit)
		for q.next() {
			d := scanDelivery(q)
			if len(taken) > 0 && size+d.Size > maxBytes {
				cut = want.EndpointID
				break
			}
			size += d.Size
			taken = append(taken, store.Claimed{Delivery: d, DueSince: d.DueAt})
		}
		if err := q.end(); err != nil {
			return nil, cut, err
		}
		for i := first; i < len(taken); i++ {
			was := taken[i].Delivery
			d, err := was.After(kapsel.Claim{Node: node, Token: kapsel.NewAttemptID(now, was.ID.Part())}, now)
			if err != nil {
				return nil, cut, err
			}
			if _, err := c.moveDelivery(was.Status, was.Token, &d, now); err != nil {
				return nil, cut, err
			}
			taken[i].Delivery = d
		}
		if !cut.IsZero() {
			break
		}
	}
	return taken, cut, nil
}

// Complete implements store.Queue.
func (s *Store) Complete(_ context.Context, done store.Completion) error {
	return s.writer.do(&completeCall{done}, 1, 0)
}

// completeCall is one Complete in a batch.
type completeCall struct{ store.Completion }

func (call *completeCall) write(c *conn) error {
	a, d := &call.Attempt, &call.Delivery
	ended, err := c.endAttempt(a, d, &call.Commitments)
	if err != nil || ended {
		return err
	}
	var stored kapsel.Attempt
	found, err := c.stmt(`SELECT started_at, duration, status_code, error_code FROM attempts WHERE id = ?`).id(a.ID).
		one(func(s *stmt) {
			stored.StartedAt, stored.Duration = s.colTime(), time.Duration(s.colInt())
			stored.StatusCode, stored.ErrorCode = int(s.colInt()), kapsel.Code(s.colText())
		})
	if err != nil || found && rules.SameOutcome(a, &stored) {
		return err
	}
	return rules.NotHeld()
}

// GiveBack implements store.Queue.
func (s *Store) GiveBack(_ context.Context, held []kapsel.Delivery) error {
	return s.writer.hotly(func(c *conn) error {
		for _, d := range held {
			err := c.stmt(`UPDATE deliveries SET status = 0, due_at = ?, put_off_by = NULL, node = NULL, token = NULL
				WHERE id = ? AND status = 1 AND token = ?`).at(d.DueAt).id(d.ID).id(d.Token).exec()
			if err != nil {
				return err
			}
		}
		return nil
	})
}
