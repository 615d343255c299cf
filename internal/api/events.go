package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) events() {
	op := tagged("Events")
	payload := op("get-payload", http.MethodGet, "/v1/events/{id}/payload", "Get an event's body, byte for byte")
	payload = fails(payload, failure{410, kapsel.NotFound})
	payload.Responses = map[string]*huma.Response{"200": {
		Description: "The body",
		Content:     map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}}
	add(a, access.Read, op("list-events", http.MethodGet, "/v1/events", "List events"), a.listEvents)
	add(a, access.Read, op("get-event", http.MethodGet, "/v1/events/{id}", "Get an event with its headers and deliveries"), got(a.Manage.Event, (*EventPath).ref, viewEventDetail))
	add(a, access.Read, payload, a.getPayload)
	add(a, access.Write, mayTake[ReplayEventInput](op("replay-event", http.MethodPost, "/v1/events/{id}/replay", "Deliver an event again; the answer is the new delivery")), a.replayEvent)
	cancel := op("cancel-event", http.MethodPost, "/v1/events/{id}/cancel", "Cancel the event's deliveries that are pending; the answer is the event")
	add(a, access.Write, with(mayTake[CancelEventInput](cancel), "shows now", true), a.cancelEvent)
	erase := op("erase-event", http.MethodPost, "/v1/events/{id}/erase", "Erase an event's contents for ever; the answer is the event")
	add(a, access.Write, mayTake[Nothing](erase), acted(a.Manage.EraseEvent, (*EventPath).ref, viewEventDetail))
}

// EventPath is a route below one event.
type EventPath struct {
	ID kapsel.EventID `path:"id"`
}

func (in *EventPath) ref() kapsel.EventID { return in.ID }

// EventsList is the list of events.
type EventsList struct {
	TenantQuery
	PageQuery
	EndpointID     kapsel.EndpointID `query:"endpoint_id" doc:"Those that have a delivery to it"`
	SourceID       kapsel.SourceID   `query:"source_id" doc:"Those that came in at it"`
	Status         string            `query:"status" enum:"received,pending,delivering,delivered,failed,dead_letter,canceled,unmatched"`
	Since          timestamp         `query:"since" doc:"Received at this time or later"`
	Until          timestamp         `query:"until" doc:"Received before this time"`
	IdempotencyKey string            `query:"idempotency_key" maxLength:"255"`
	Type           string            `query:"type" maxLength:"255" doc:"Those of exactly this type"`
	AppID          string            `query:"app_id" doc:"Those that were published to this app: its id or uid. A uid needs tenant_id with the admin key"`
}

func (a *api) listEvents(ctx context.Context, in *EventsList) (*out[list[Event]], error) {
	app, err := a.Manage.AppFilter(ctx, callerOf(ctx), manage.AppRef{Tenant: in.TenantID, Ref: in.AppID})
	if err != nil {
		return nil, err
	}
	f := store.EventFilter{
		EndpointID: in.EndpointID, SourceID: in.SourceID, AppID: app, Type: in.Type, Status: kapsel.EventStatus(in.Status), Since: time.Time(in.Since), Until: time.Time(in.Until),
	}
	if in.IdempotencyKey != "" {
		f.IdempotencyKey = storedKey(in.IdempotencyKey)
	}
	return paginateUntil(ctx, in.PageQuery,
		func(p store.Page[kapsel.EventID]) ([]store.EventRecord, kapsel.EventID, error) {
			return a.Manage.ListEvents(ctx, callerOf(ctx), in.TenantID, f, p)
		},
		func(r store.EventRecord) kapsel.EventID { return r.Event.ID },
		func(r store.EventRecord) (Event, error) { return viewEvent(&r), nil })
}

// payload is an answer with a customer's bytes. A browser keeps it as a file and never shows it as a page.
type payload struct {
	ContentType string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        []byte
}

func (a *api) getPayload(ctx context.Context, in *EventPath) (*payload, error) {
	e, err := a.Manage.Payload(ctx, callerOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	if more := store.BodyTime(int64(e.Size)); more > 0 {
		// As long as such a body may take to arrive; where deadlines cannot be set the server's holds.
		_ = http.NewResponseController(callOf(ctx).w).SetWriteDeadline(time.Now().Add(time.Minute + 3*more))
	}
	return &payload{"application/octet-stream", `attachment; filename="` + in.ID.String() + `"`, e.Body}, nil
}

// ReplayEventInput says to whom an event is delivered again.
type ReplayEventInput struct {
	EndpointID *kapsel.EndpointID `json:"endpoint_id,omitempty" nullable:"true" doc:"The endpoint, which need not have had it; null: the only one that it went to, or the only one where it failed"`
}

func (a *api) replayEvent(ctx context.Context, in *EventPath) (*out[Delivery], error) {
	var body ReplayEventInput
	if err := readOptional(ctx, &body); err != nil {
		return nil, err
	}
	d, err := a.Manage.ReplayEvent(ctx, callerOf(ctx), in.ID, body.EndpointID)
	return shownAs(viewDelivery, d, err)
}

// CancelEventInput says which of an event's deliveries are canceled.
type CancelEventInput struct {
	EndpointID *kapsel.EndpointID `json:"endpoint_id,omitempty" nullable:"true" doc:"Only the delivery to this endpoint; null: all"`
}

func (a *api) cancelEvent(ctx context.Context, in *EventPath) (*out[EventDetail], error) {
	var body CancelEventInput
	if err := readOptional(ctx, &body); err != nil {
		return nil, err
	}
	var to kapsel.EndpointID
	if body.EndpointID != nil {
		to = *body.EndpointID
	}
	if callOf(ctx).repeated {
		e, err := a.Manage.Event(ctx, callerOf(ctx), in.ID)
		return shownAs(viewEventDetail, e, err)
	}
	e, err := a.Manage.CancelEvent(ctx, callerOf(ctx), in.ID, to)
	return shownAs(viewEventDetail, e, err)
}

// Event is an event as the API lists it.
type Event struct {
	ID             kapsel.EventID     `json:"id"`
	EndpointID     *kapsel.EndpointID `json:"endpoint_id" nullable:"true" doc:"At whose ingest it came in; null: at none"`
	SourceID       *kapsel.SourceID   `json:"source_id" nullable:"true" doc:"The source that it came in at; null: at none"`
	AppID          *kapsel.AppID      `json:"app_id" nullable:"true" doc:"The app that it was published to; null: none"`
	TenantID       kapsel.TenantID    `json:"tenant_id"`
	Type           *string            `json:"type" nullable:"true" doc:"What subscriptions choose by; null: none"`
	Channels       []string           `json:"channels" doc:"Of a published event"`
	OrderingKey    *string            `json:"ordering_key" nullable:"true" doc:"Of a published event; null: none"`
	DeliverAt      *timestamp         `json:"deliver_at" nullable:"true" doc:"When a published event's deliveries are due first; null: at once"`
	Status         kapsel.EventStatus `json:"status" enum:"received,pending,delivering,delivered,failed,dead_letter,canceled,unmatched"`
	Expanding      bool               `json:"expanding" doc:"It goes to so many endpoints that some deliveries are still being made"`
	ReceivedAt     timestamp          `json:"received_at"`
	DeliveredAt    *timestamp         `json:"delivered_at" nullable:"true" doc:"When a destination first answered 2xx"`
	ContentType    string             `json:"content_type"`
	Size           int                `json:"size" doc:"Of the body, in bytes"`
	ErasedAt       *timestamp         `json:"erased_at" nullable:"true" doc:"When the event's contents were erased: its body, headers and query, and what its attempts kept of requests and answers; null: they were not"`
	IdempotencyKey *string            `json:"idempotency_key" nullable:"true"`
	Signature      Verdict            `json:"signature"`
}

// EventDetail is an event with everything but its body.
type EventDetail struct {
	Event
	Headers    lines      `json:"headers" doc:"[[\"Name\",\"value\"],…]; those that carry credentials are redacted"`
	Query      string     `json:"query" doc:"As it was sent, without the question mark"`
	Deliveries []Delivery `json:"deliveries" doc:"Oldest first"`
}

// Verdict is what the check of an event's signature found.
type Verdict struct {
	Scheme string    `json:"scheme" doc:"The provider; none: not checked"`
	Valid  bool      `json:"valid"`
	KeyID  *string   `json:"key_id" nullable:"true" doc:"Which secret"`
	Skew   *duration `json:"skew" nullable:"true" doc:"Our time less the signed one"`
}

func viewEventDetail(e *manage.EventDetail) EventDetail {
	return EventDetail{viewEvent(&e.EventRecord), linesOf(e.Event.Header), e.Event.Query, viewDeliveries(e.Described)}
}

func viewEvent(r *store.EventRecord) Event {
	e := &r.Event
	v := Event{
		ID: e.ID, EndpointID: orNull(e.EndpointID), SourceID: orNull(e.SourceID), AppID: orNull(e.AppID), TenantID: e.TenantID,
		Type: orNull(e.Type), Channels: orEmpty(e.Channels), OrderingKey: orNull(e.OrderingKey), DeliverAt: timeOrNull(e.DeliverAt), Expanding: r.Expanding,
		ReceivedAt: timestamp(e.ReceivedAt), ContentType: e.ContentType, Size: e.Size, ErasedAt: timeOrNull(e.ErasedAt),
		IdempotencyKey: shownKey(e.IdempotencyKey),
		Signature:      Verdict{cmp.Or(e.Signature.Scheme, "none"), e.Signature.Valid, orNull(e.Signature.KeyID), orNull(duration(e.Signature.Skew))},
	}
	var delivered time.Time
	for _, d := range r.Deliveries {
		if d.Status == kapsel.Delivered && (delivered.IsZero() || d.FinishedAt.Before(delivered)) {
			delivered = d.FinishedAt
		}
	}
	v.Status = r.Status()
	v.DeliveredAt = timeOrNull(delivered)
	return v
}

// contentKey begins the text of a key that was made of a body's content. Such a key is a SHA-256, 32 bytes
// that are no text; answers and filters have it as sha256: and hex.
const contentKey = "sha256:"

func shownKey(key []byte) *string {
	if key == nil {
		return nil
	}
	s := string(key)
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		s = contentKey + hex.EncodeToString(key)
	}
	return &s
}

// storedKey returns the key that shownKey shows as s.
func storedKey(s string) []byte {
	if text, ok := strings.CutPrefix(s, contentKey); ok {
		if sum, err := hex.DecodeString(text); err == nil && len(sum) == sha256.Size {
			return sum
		}
	}
	return []byte(s)
}
