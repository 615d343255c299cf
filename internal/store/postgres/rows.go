package postgres

import (
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
)

// deliveryColumns are the columns of a delivery d, as scanDelivery reads them.
const deliveryColumns = `d.id, d.event_id, d.endpoint_id, d.tenant_id, d.status, d.due_at, d.put_off_by, d.node, d.token,
	d.claims, d.attempts, d.counted, d.takeovers, d.last_status_code, d.last_error_code,
	d.replay_of, d.replayed_as, d.size, d.created_at, d.finished_at, d.by_duplicate`

func scanDelivery(r *row) kapsel.Delivery {
	return kapsel.Delivery{
		ID: r.id(), EventID: r.id(), EndpointID: r.id(), TenantID: r.id(),
		Status: kapsel.DeliveryStatus(r.int2()), DueAt: r.time(), PutOffBy: r.int4(), Node: r.id(), Token: r.id(),
		Claims: r.int4(), Attempts: r.int4(), Counted: r.int4(), Takeovers: r.int4(),
		LastStatusCode: r.int4(), LastErrorCode: kapsel.Code(r.text()),
		ReplayOf: r.id(), ReplayedAs: r.id(), Size: r.int4(), CreatedAt: r.time(), FinishedAt: r.time(),
		ByDuplicate: r.bool(),
	}
}

// queueDelivery adds to a batch an update of all columns of a delivery that change.
func queueDelivery(batch *pgx.Batch, d kapsel.Delivery) {
	batch.Queue(`
		UPDATE deliveries SET status = $3, due_at = $4, node = $5, token = $6, claims = $7, attempts = $8, counted = $9,
			takeovers = $10, last_status_code = $11, last_error_code = $12, finished_at = $13, put_off_by = nullif($14, 0)
		WHERE part = $1 AND id = $2`,
		part(d.ID), id(d.ID), int16(d.Status), at(d.DueAt), id(d.Node), id(d.Token), d.Claims, d.Attempts, d.Counted,
		d.Takeovers, d.LastStatusCode, string(d.LastErrorCode), at(d.FinishedAt), d.PutOffBy)
}

// These are the columns of an event e, as scanEvent reads them: all, all but the body, or all but the long ones.
const (
	eventHead = `e.id, e.tenant_id, e.endpoint_id, e.received_at, e.content_type, octet_length(e.body),
		e.idempotency_key, e.signature, e.traceparent, e.type, e.extra, e.app_id, e.erased_at`
	eventColumns         = eventHead + `, e.header, e.query, e.body, e.salt`
	bodylessEventColumns = eventHead + `, e.header, e.query, NULL::bytea, e.salt`
	shortEventColumns    = eventHead + `, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea`
)

func scanEvent(r *row) kapsel.Event {
	e := kapsel.Event{ID: r.id(), TenantID: r.id()}
	origin := kapsel.OriginID(r.id())
	e.ReceivedAt, e.ContentType, e.Size = r.time(), r.text(), r.int4()
	e.IdempotencyKey, e.Signature, e.TraceParent, e.Type = r.bytes(), scanVerdict(r), r.text(), r.text()
	if err := e.SetExtra(origin, r.next(-1)); err != nil && r.err == nil {
		r.err = err
	}
	e.AppID, e.ErasedAt = r.id(), r.time()
	e.Header, e.Query, e.Body, e.Salt = r.header(), r.text(), r.bytes(), r.bytes()
	return e
}

func scanVerdict(r *row) (v kapsel.SignatureVerdict) { scanJSON(r, &v); return v }

func scanJSON(r *row, v any) {
	text := r.next(-1)
	if text == nil {
		return
	}
	if err := json.Unmarshal(text, v); err != nil {
		r.err = fmt.Errorf("read column %d: %w", r.at, err)
	}
}

// attemptColumns are the columns of an attempt a, as scanAttempt reads them.
const attemptColumns = `a.id, a.delivery_id, a.event_id, a.endpoint_id, a.tenant_id, a.number, a.started_at, a.duration,
	a.status_code, a.error_code, a.error, a.request_headers, a.response_headers, a.response_body`

func scanAttempt(r *row) kapsel.Attempt {
	return kapsel.Attempt{
		ID: r.id(), DeliveryID: r.id(), EventID: r.id(), EndpointID: r.id(), TenantID: r.id(),
		Number: r.int4(), StartedAt: r.time(), Duration: r.duration(),
		StatusCode: r.int4(), ErrorCode: kapsel.Code(r.text()), Error: r.text(),
		RequestHeaders: r.header(), ResponseHeaders: r.header(), ResponseBody: r.bytes(),
	}
}
