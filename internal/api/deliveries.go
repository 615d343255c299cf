package api

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) deliveries() {
	op := tagged("Deliveries")
	add(a, access.Read, op("list-deliveries", http.MethodGet, "/v1/deliveries", "List deliveries; the open dead letters are status=dead_letter&replayed=false"), a.listDeliveries)
	add(a, access.Read, op("get-delivery", http.MethodGet, "/v1/deliveries/{id}", "Get a delivery"), got(a.Manage.Delivery, (*DeliveryPath).ref, viewDelivery))
	add(a, access.Read, op("list-attempts", http.MethodGet, "/v1/deliveries/{id}/attempts", "List a delivery's attempts by number"), a.listAttempts)
	add(a, access.Write, mayTake[Nothing](op("cancel-delivery", http.MethodPost, "/v1/deliveries/{id}/cancel", "End a pending delivery")), acted(a.Manage.CancelDelivery, (*DeliveryPath).ref, viewDelivery))
	add(a, access.Write, mayTake[Nothing](op("retry-delivery", http.MethodPost, "/v1/deliveries/{id}/retry", "Make a pending delivery due now; refused with what it waits for while its endpoint sends nothing")), acted(a.Manage.RetryDelivery, (*DeliveryPath).ref, viewDelivery))
	add(a, access.Read, op("get-attempt", http.MethodGet, "/v1/attempts/{id}", "Get an attempt"), got(a.Manage.Attempt, (*AttemptPath).ref, viewAttempt))
}

// DeliveryPath is a route below one delivery.
type DeliveryPath struct {
	ID kapsel.DeliveryID `path:"id"`
}

func (in *DeliveryPath) ref() kapsel.DeliveryID { return in.ID }

// DeliveriesList is the list of deliveries.
type DeliveriesList struct {
	TenantQuery
	PageQuery
	EndpointID kapsel.EndpointID `query:"endpoint_id"`
	Status     string            `query:"status" enum:"pending,delivering,delivered,failed,dead_letter,canceled"`
	Replayed   string            `query:"replayed" enum:"true,false" doc:"Whether a later delivery repeats it"`
}

func (a *api) listDeliveries(ctx context.Context, in *DeliveriesList) (*out[list[Delivery]], error) {
	f := store.DeliveryFilter{EndpointID: in.EndpointID}
	if in.Status != "" {
		status, err := kapsel.ParseDeliveryStatus(in.Status)
		if err != nil {
			return nil, err // the schema's list and the domain's differ
		}
		f.Status = &status
	}
	if in.Replayed != "" {
		replayed := in.Replayed == "true"
		f.Replayed = &replayed
	}
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.DeliveryID]) ([]manage.Delivery, error) {
			return a.Manage.ListDeliveries(ctx, callerOf(ctx), in.TenantID, f, p)
		},
		func(d manage.Delivery) kapsel.DeliveryID { return d.ID },
		func(d manage.Delivery) (Delivery, error) { return viewDelivery(&d), nil })
}

// AttemptsList is the list of a delivery's attempts.
type AttemptsList struct {
	DeliveryPath
	PageQuery
}

// listAttempts is the one list in ascending order: its cursors hold the last number.
func (a *api) listAttempts(ctx context.Context, in *AttemptsList) (*out[list[Attempt]], error) {
	c := callOf(ctx)
	after := 0
	if in.Cursor != "" {
		last, err := a.openCursor(c, in.Cursor)
		if err != nil {
			return nil, err
		}
		after = int(binary.BigEndian.Uint64(last[8:]))
	}
	rows, err := a.Manage.ListAttempts(ctx, c.caller, in.ID, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	var page list[Attempt]
	if len(rows) > in.Limit {
		rows = rows[:in.Limit]
		var last [16]byte
		binary.BigEndian.PutUint64(last[8:], uint64(rows[len(rows)-1].Number))
		next := a.cursor(c, last)
		page.NextCursor = &next
	}
	page.Data = mapped(rows, func(t manage.Attempt) Attempt { return viewAttempt(&t) })
	return answer(page), nil
}

// AttemptPath is the route of one attempt.
type AttemptPath struct {
	ID kapsel.AttemptID `path:"id"`
}

func (in *AttemptPath) ref() kapsel.AttemptID { return in.ID }

// Delivery is a delivery as the API shows it.
type Delivery struct {
	ID             kapsel.DeliveryID  `json:"id"`
	EventID        kapsel.EventID     `json:"event_id"`
	EndpointID     kapsel.EndpointID  `json:"endpoint_id"`
	Status         string             `json:"status" enum:"pending,delivering,delivered,failed,dead_letter,canceled"`
	Attempts       int                `json:"attempts" doc:"Made so far, those with an unknown outcome included"`
	MaxAttempts    *int               `json:"max_attempts" nullable:"true" doc:"null: the endpoint is deleted"`
	NextAttemptAt  *timestamp         `json:"next_attempt_at" nullable:"true" doc:"While pending"`
	WaitingFor     *string            `json:"waiting_for" nullable:"true" doc:"While pending, what keeps the next attempt from starting: scheduled, retry, circuit, paused, disabled, throttled, rate, concurrency or worker"`
	LastStatusCode *int               `json:"last_status_code" nullable:"true"`
	LastErrorCode  *kapsel.Code       `json:"last_error_code" nullable:"true"`
	ReplayOf       *kapsel.DeliveryID `json:"replay_of" nullable:"true" doc:"The delivery that this one repeats"`
	ReplayedAs     *kapsel.DeliveryID `json:"replayed_as" nullable:"true" doc:"The delivery that repeats this one"`
	CreatedAt      timestamp          `json:"created_at"`
	FinishedAt     *timestamp         `json:"finished_at" nullable:"true"`
}

func viewDelivery(d *manage.Delivery) Delivery {
	view := Delivery{
		ID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, Status: d.Status.String(), Attempts: d.Attempts,
		NextAttemptAt: timeOrNull(d.DueAt), WaitingFor: orNull(d.WaitingFor), LastStatusCode: orNull(d.LastStatusCode), LastErrorCode: orNull(d.LastErrorCode),
		ReplayOf: orNull(d.ReplayOf), ReplayedAs: orNull(d.ReplayedAs), CreatedAt: timestamp(d.CreatedAt), FinishedAt: timeOrNull(d.FinishedAt),
	}
	if d.Endpoint != nil {
		view.MaxAttempts = &d.Endpoint.Retry.MaxAttempts
	}
	return view
}

func viewDeliveries(list []manage.Delivery) []Delivery {
	return mapped(list, func(d manage.Delivery) Delivery { return viewDelivery(&d) })
}

// Attempt is an attempt as the API shows it.
type Attempt struct {
	ID                 kapsel.AttemptID  `json:"id"`
	DeliveryID         kapsel.DeliveryID `json:"delivery_id"`
	EventID            kapsel.EventID    `json:"event_id"`
	EndpointID         kapsel.EndpointID `json:"endpoint_id"`
	Number             int               `json:"number" doc:"1, 2, …; as X-Kapsel-Delivery-Attempt said"`
	StartedAt          timestamp         `json:"started_at"`
	DurationMS         float64           `json:"duration_ms"`
	StatusCode         *int              `json:"status_code" nullable:"true" doc:"null: there was no answer"`
	ErrorCode          *kapsel.Code      `json:"error_code" nullable:"true" doc:"null: delivered"`
	Error              *string           `json:"error" nullable:"true" doc:"What happened"`
	RequestHeaders     lines             `json:"request_headers" doc:"As sent, [[\"Name\",\"value\"],…]; secret values are redacted"`
	ResponseHeaders    lines             `json:"response_headers"`
	ResponseBody       *string           `json:"response_body" nullable:"true" doc:"The first 4 KiB; null where it is not UTF-8"`
	ResponseBodyBase64 string            `json:"response_body_base64,omitempty" doc:"The body where it is not UTF-8"`
	LeafIndex          *int64            `json:"leaf_index" nullable:"true" doc:"In the audit log; null until it is there"`
}

func viewAttempt(t *manage.Attempt) Attempt {
	v := Attempt{
		ID: t.ID, DeliveryID: t.DeliveryID, EventID: t.EventID, EndpointID: t.EndpointID, Number: t.Number, StartedAt: timestamp(t.StartedAt),
		DurationMS: float64(t.Duration.Round(time.Microsecond)) / float64(time.Millisecond),
		StatusCode: orNull(t.StatusCode), ErrorCode: orNull(t.ErrorCode), Error: orNull(t.Error),
		RequestHeaders: linesOf(t.RequestHeaders), ResponseHeaders: linesOf(t.ResponseHeaders), LeafIndex: t.LeafIndex,
	}
	if body := string(t.ResponseBody); utf8.ValidString(body) {
		v.ResponseBody = &body
	} else {
		v.ResponseBodyBase64 = base64.StdEncoding.EncodeToString(t.ResponseBody)
	}
	return v
}
