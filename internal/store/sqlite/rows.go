package sqlite

import (
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// This file says what rows hold and how they become the domain's types. Callers must bind times of
// columns that are NOT NULL with at, and other times with stmt.time.

// at binds microseconds since the epoch, for the zero time too.
func (s *stmt) at(t time.Time) *stmt { return s.int(t.UnixMicro()) }

const deliveryColumns = `id, event_id, endpoint_id, tenant_id, status, due_at, put_off_by, node, token,
	claims, attempts, counted, takeovers, last_status_code, last_error_code,
	replay_of, replayed_as, size, created_at, finished_at, by_duplicate`

func scanDelivery(s *stmt) kapsel.Delivery {
	return kapsel.Delivery{
		ID: s.colID(), EventID: s.colID(), EndpointID: s.colID(), TenantID: s.colID(),
		Status: kapsel.DeliveryStatus(s.colInt()), DueAt: s.colTime(), PutOffBy: int(s.colInt()), Node: s.colID(), Token: s.colID(),
		Claims: int(s.colInt()), Attempts: int(s.colInt()), Counted: int(s.colInt()), Takeovers: int(s.colInt()),
		LastStatusCode: int(s.colInt()), LastErrorCode: kapsel.Code(s.colText()),
		ReplayOf: s.colID(), ReplayedAs: s.colID(), Size: int(s.colInt()),
		CreatedAt: s.colTime(), FinishedAt: s.colTime(), ByDuplicate: s.colBool(),
	}
}

// deliveries reads all rows of a query for deliveryColumns.
func deliveries(q *stmt) (all []kapsel.Delivery, err error) {
	for q.next() {
		all = append(all, scanDelivery(q))
	}
	return all, q.end()
}

// delivery reads a delivery by its id.
func (c *conn) delivery(id kapsel.DeliveryID) (d kapsel.Delivery, found bool, err error) {
	found, err = c.query(`SELECT `+deliveryColumns+` FROM deliveries WHERE id = ?`, id).
		one(func(s *stmt) { d = scanDelivery(s) })
	return d, found, err
}

// insertDelivery writes a new delivery; callers must count it. If the delivery is its event's first one to an endpoint
// that is not the event's origin, firstOf must be the event, else zero.
func (c *conn) insertDelivery(d *kapsel.Delivery, firstOf kapsel.EventID) error {
	s := c.stmt(`INSERT INTO deliveries (` + deliveryColumns + `, first_of, told)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	s.id(d.ID).id(d.EventID).id(d.EndpointID).id(d.TenantID).int(int64(d.Status))
	s.due(d).id(d.Node).id(d.Token)
	s.int(int64(d.Claims)).int(int64(d.Attempts)).int(int64(d.Counted)).int(int64(d.Takeovers))
	s.int(int64(d.LastStatusCode)).text(string(d.LastErrorCode))
	s.id(d.ReplayOf).id(d.ReplayedAs).int(int64(d.Size)).at(d.CreatedAt).time(d.FinishedAt).bool(d.ByDuplicate).id(firstOf)
	if c.tally.Told == nil {
		s.null()
	} else {
		s.int(store.ToldMade)
	}
	return s.exec()
}

// moveDelivery writes d, a delivery to which something other than an attempt happened at now. It
// writes nothing and returns false if the delivery is no longer in the state was and under token.
func (c *conn) moveDelivery(was kapsel.DeliveryStatus, token kapsel.AttemptID, d *kapsel.Delivery, now time.Time) (bool, error) {
	s := c.stmt(`UPDATE deliveries SET status = ?, due_at = ?, put_off_by = ?, node = ?, token = ?, claims = ?, finished_at = ?, told = nullif(coalesce(told, 0) | ?, 0)
		WHERE id = ? AND status = ? AND token IS ?`)
	s.int(int64(d.Status)).due(d).id(d.Node).id(d.Token).int(int64(d.Claims)).time(d.FinishedAt).int(c.toldBy(d))
	s.id(d.ID).int(int64(was)).id(token)
	if err := s.exec(); err != nil {
		return false, err
	}
	if c.changes() == 0 {
		return false, nil
	}
	c.tally.End(d, now)
	return true, nil
}

// endAttempt writes the attempt a, under whose id a delivery was held, and d, the delivery after
// that attempt, and adds an entry to c.entries. It writes nothing and returns false if the
// delivery is no longer held under that id.
func (c *conn) endAttempt(a *kapsel.Attempt, d *kapsel.Delivery, sums *kapsel.Commitments) (bool, error) {
	var previous kapsel.AttemptID
	if d.Attempts > 1 {
		_, err := c.stmt(`SELECT last_attempt FROM deliveries WHERE id = ?`).id(d.ID).
			one(func(s *stmt) { previous = s.colID() })
		if err != nil {
			return false, err
		}
	}
	s := c.stmt(`UPDATE deliveries SET status = ?, due_at = ?, put_off_by = ?, node = ?, token = ?,
			claims = ?, attempts = ?, counted = ?, takeovers = ?,
			last_status_code = ?, last_error_code = ?, last_attempt = ?, finished_at = ?, told = nullif(coalesce(told, 0) | ?, 0)
		WHERE id = ? AND status = 1 AND token = ?`)
	s.int(int64(d.Status)).due(d).id(d.Node).id(d.Token)
	s.int(int64(d.Claims)).int(int64(d.Attempts)).int(int64(d.Counted)).int(int64(d.Takeovers))
	s.int(int64(d.LastStatusCode)).text(string(d.LastErrorCode)).id(a.ID).time(d.FinishedAt).int(c.toldBy(d))
	s.id(d.ID).id(a.ID)
	if err := s.exec(); err != nil || c.changes() == 0 {
		return false, err
	}
	s = c.stmt(`INSERT INTO attempts (id, delivery_id, number, previous, started_at, duration, status_code,
			error_code, error, request_headers, response_headers, response_body, logged)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)`)
	s.id(a.ID).id(a.DeliveryID).int(int64(a.Number)).id(previous).at(a.StartedAt).int(int64(a.Duration))
	s.int(int64(a.StatusCode)).text(string(a.ErrorCode)).bytes(a.Error)
	s.header(a.RequestHeaders).header(a.ResponseHeaders).blob(a.ResponseBody)
	if err := s.exec(); err != nil {
		return true, err
	}
	c.entries.add(a.ID, store.AppendEntry(c.entries.text, a, sums))
	c.tally.Attempt(a, d)
	return true, nil
}

// toldBy returns the bit that a delivery's row gets because its end is told.
func (c *conn) toldBy(d *kapsel.Delivery) int64 {
	if c.tally.Told == nil || !d.Status.Terminal() {
		return 0
	}
	return store.ToldEnd
}

// orNone binds an id of a column that is NOT NULL: the empty BLOB for the zero id.
func (s *stmt) orNone(id [16]byte) *stmt {
	if id == [16]byte{} {
		return s.blob(nil)
	}
	return s.blob(id[:])
}

// due binds when a pending delivery is due and who put it off, NULL if nobody did. For a delivery
// in another state it binds NULL twice.
func (s *stmt) due(d *kapsel.Delivery) *stmt {
	if d.Status != kapsel.Pending {
		return s.null().null()
	}
	if s.at(d.DueAt); d.PutOffBy == 0 {
		return s.null()
	}
	return s.int(int64(d.PutOffBy))
}

const (
	// eventColumns are the columns that lists show, eventContent the others.
	eventColumns = `id, tenant_id, endpoint_id, received_at, scheme, valid, secret, skew,
		idempotency_key, trace_parent, content_type, length(body), type, extra, delivery_id, app_id, erased_at`
	eventContent = `query, header, body, salt`
)

// scanEvent reads eventColumns and, if all is set, eventContent. first is the id of the first
// delivery to the event's origin, zero if there is none. scanEvent fails if the column extra
// cannot be read.
func scanEvent(s *stmt, all bool) (e kapsel.Event, first kapsel.DeliveryID, err error) {
	e = kapsel.Event{ID: s.colID(), TenantID: s.colID()}
	origin := kapsel.OriginID(s.colID())
	e.ReceivedAt = s.colTime()
	e.Signature = kapsel.SignatureVerdict{Scheme: s.colText(), Valid: s.colBool(), KeyID: s.colText(), Skew: time.Duration(s.colInt())}
	e.IdempotencyKey, e.TraceParent, e.ContentType, e.Size = s.colBlob(), s.colText(), s.colText(), int(s.colInt())
	e.Type = s.colText()
	err = e.SetExtra(origin, s.view())
	first, e.AppID, e.ErasedAt = s.colID(), s.colID(), s.colTime()
	if all {
		e.Query, e.Header, e.Body, e.Salt = s.colText(), s.colHeader(), s.colBlob(), s.colBlob()
	}
	return e, first, err
}

// header binds header lines.
func (s *stmt) header(h kapsel.Header) *stmt {
	s.c.scratch, _ = h.AppendBinary(s.c.scratch[:0]) // never fails
	return s.blob(s.c.scratch)
}

// colHeader returns the header lines in the next column, nil if there are none.
func (s *stmt) colHeader() (h kapsel.Header) {
	if b := s.view(); len(b) > 0 {
		_ = h.UnmarshalBinary(b) // never fails
	}
	return h
}

// attemptColumns are columns of attempts a and of their deliveries d.
const attemptColumns = `a.id, a.delivery_id, d.event_id, d.endpoint_id, d.tenant_id, a.number,
	a.started_at, a.duration, a.status_code, a.error_code, a.error,
	a.request_headers, a.response_headers, a.response_body`

func scanAttempt(s *stmt) kapsel.Attempt {
	a := kapsel.Attempt{
		ID: s.colID(), DeliveryID: s.colID(), EventID: s.colID(), EndpointID: s.colID(), TenantID: s.colID(),
		Number: int(s.colInt()), StartedAt: s.colTime(), Duration: time.Duration(s.colInt()),
		StatusCode: int(s.colInt()), ErrorCode: kapsel.Code(s.colText()), Error: s.colText(),
		RequestHeaders: s.colHeader(), ResponseHeaders: s.colHeader(),
	}
	if b := s.colBlob(); len(b) > 0 {
		a.ResponseBody = b
	}
	return a
}
