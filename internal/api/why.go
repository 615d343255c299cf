package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) why() {
	op := huma.Operation{
		OperationID: "get-why", Method: http.MethodGet, Path: "/v1/events/{id}/why", Tags: []string{"Events"},
		Summary: "Say of each endpoint that an event concerns what its delivery waits for, or why it has none",
	}
	add(a, access.Read, op, a.getWhy)
}

// EventReasons is the list of why an event is where it is.
type EventReasons struct {
	EventPath
	PageQuery
}

// Reason says why an endpoint has or has not received an event.
type Reason struct {
	EndpointID      kapsel.EndpointID  `json:"endpoint_id"`
	DeliveryID      *kapsel.DeliveryID `json:"delivery_id" nullable:"true" doc:"Its newest delivery of the event; null: there is none"`
	Status          *string            `json:"status" nullable:"true" doc:"Of the delivery"`
	WaitingFor      *string            `json:"waiting_for" nullable:"true" doc:"Of a delivery that is pending: scheduled, retry, circuit, paused, disabled, throttled, rate, concurrency, worker; null: nothing"`
	SettingsChanged bool               `json:"settings_changed" doc:"The endpoint was made or changed after the event came in; what is said is by its settings of now"`
	Reason          string             `json:"reason" doc:"In words"`
}

func (a *api) getWhy(ctx context.Context, in *EventReasons) (*out[list[Reason]], error) {
	reasons, err := a.Manage.Why(ctx, callerOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return paginate(ctx, in.PageQuery, reasons.Page,
		func(r manage.Reason) kapsel.EndpointID { return r.EndpointID },
		func(r manage.Reason) (Reason, error) {
			view := Reason{EndpointID: r.EndpointID, SettingsChanged: r.SettingsChanged, Reason: r.Words}
			if d := r.Delivery; d != nil {
				view.DeliveryID, view.Status, view.WaitingFor = &d.ID, new(d.Status.String()), orNull(d.WaitingFor)
			}
			return view, nil
		})
}
