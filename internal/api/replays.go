package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) replays() {
	op := tagged("Replays")
	create := op("create-replay", http.MethodPost, "/v1/replays", "Deliver again, at a rate, what has ended, or deliver what is missing or waits; a dry run only counts it")
	create.DefaultStatus = http.StatusAccepted
	schema := func(body reflect.Type) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(body, true, "")}}
	}
	create.Responses = map[string]*huma.Response{"202": {Description: "The replay, which goes on by itself", Content: schema(reflect.TypeFor[Replay]())}}
	add(a, access.Write, takes[ReplayInput](fails(create, failure{404, kapsel.NotFound})), a.createReplay)
	registered(a.huma.OpenAPI(), create.Method, create.Path).Responses["200"] = &huma.Response{
		Description: "What a dry run found", Content: schema(reflect.TypeFor[ReplayPreview]()),
	}
	add(a, access.Read, op("list-replays", http.MethodGet, "/v1/replays", "List replays"), listed(a.Manage.ListReplays, func(r kapsel.Replay) kapsel.ReplayID { return r.ID }, viewReplay))
	add(a, access.Read, op("get-replay", http.MethodGet, "/v1/replays/{id}", "Get a replay"), got(a.Manage.Replay, (*ReplayPath).ref, viewReplay))
	add(a, access.Write, mayTake[Nothing](op("pause-replay", http.MethodPost, "/v1/replays/{id}/pause", "Make no more deliveries for now; those made go on")), a.moveReplay(kapsel.ReplayPaused))
	add(a, access.Write, mayTake[Nothing](op("resume-replay", http.MethodPost, "/v1/replays/{id}/resume", "Go on with a paused replay")), a.moveReplay(kapsel.ReplayRunning))
	add(a, access.Write, mayTake[Nothing](op("cancel-replay", http.MethodPost, "/v1/replays/{id}/cancel", "Make no more deliveries; those made go on")), a.moveReplay(kapsel.ReplayCanceled))
}

// ReplayPath is a route below one replay.
type ReplayPath struct {
	ID kapsel.ReplayID `path:"id"`
}

func (in *ReplayPath) ref() kapsel.ReplayID { return in.ID }

// ReplayInput is what a replay is made of.
type ReplayInput struct {
	EndpointID *kapsel.EndpointID `json:"endpoint_id,omitempty" nullable:"true" doc:"null: all endpoints"`
	Since      *timestamp         `json:"since" doc:"Events received at this time or later"`
	Until      *timestamp         `json:"until,omitempty" nullable:"true" doc:"Events received before this time; null: no end"`
	Statuses   []string           `json:"statuses,omitempty" nullable:"true" enum:"pending,delivered,failed,dead_letter,canceled" doc:"How the deliveries to repeat have ended; null: dead_letter and failed. pending, alone: what waits after an attempt is due now, and nothing is made"`
	Missing    bool               `json:"missing,omitempty" doc:"Instead of what has ended: the events that subscriptions match and that the endpoint never got"`
	Rate       *int               `json:"rate,omitempty" nullable:"true" minimum:"1" maximum:"1000" doc:"New deliveries a second at most; null: 50"`
	DryRun     bool               `json:"dry_run,omitempty" doc:"Make nothing; say what would be made"`
}

// request returns what the input says.
func (in *ReplayInput) request() manage.ReplayRequest {
	r := manage.ReplayRequest{Missing: in.Missing, Rate: in.Rate}
	if in.EndpointID != nil {
		r.EndpointID = *in.EndpointID
	}
	if in.Since != nil {
		r.Since = time.Time(*in.Since)
	}
	if in.Until != nil {
		r.Until = time.Time(*in.Until)
	}
	if in.Statuses != nil {
		r.Statuses = mapped(in.Statuses, func(name string) kapsel.DeliveryStatus {
			status, err := kapsel.ParseDeliveryStatus(name)
			if err != nil {
				return kapsel.Delivering // none that can be replayed either
			}
			return status
		})
	}
	return r
}

// replayed is the answer to a POST: a replay, or what a dry run found.
type replayed struct {
	Status int
	Body   any
}

func (a *api) createReplay(ctx context.Context, in *TenantQuery) (*replayed, error) {
	var body ReplayInput
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	if body.DryRun {
		p, err := a.Manage.PreviewReplay(ctx, callerOf(ctx), in.TenantID, body.request(), kapsel.MaxReplay)
		if err != nil {
			return nil, err
		}
		view := ReplayPreview{Count: p.Count, Sample: viewDeliveries(p.Sample)}
		for _, d := range p.Missing {
			view.Missing = append(view.Missing, MissingDelivery{d.EventID, d.EndpointID})
		}
		return &replayed{http.StatusOK, view}, nil
	}
	r, err := a.Manage.CreateReplay(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.ReplayID](ctx), body.request())
	if err != nil {
		return nil, err
	}
	return &replayed{http.StatusAccepted, viewReplay(&r)}, nil
}

// moveReplay returns the handler that brings a replay to a state.
func (a *api) moveReplay(to kapsel.ReplayStatus) func(context.Context, *ReplayPath) (*out[Replay], error) {
	return acted(func(ctx context.Context, c access.Caller, id kapsel.ReplayID) (kapsel.Replay, error) {
		return a.Manage.MoveReplay(ctx, c, id, to)
	}, (*ReplayPath).ref, viewReplay)
}

// Replay is a bulk replay as the API shows it.
type Replay struct {
	ID         kapsel.ReplayID     `json:"id"`
	TenantID   kapsel.TenantID     `json:"tenant_id"`
	EndpointID *kapsel.EndpointID  `json:"endpoint_id" nullable:"true" doc:"null: all endpoints"`
	Since      timestamp           `json:"since"`
	Until      *timestamp          `json:"until" nullable:"true"`
	Statuses   []string            `json:"statuses" doc:"Empty for a replay of what is missing"`
	Missing    bool                `json:"missing" doc:"It is of what endpoints never got"`
	Rate       int                 `json:"rate" doc:"New deliveries a second at most"`
	Status     kapsel.ReplayStatus `json:"status" enum:"running,paused,canceled,done" doc:"done: all new deliveries were made and have ended"`
	Total      int                 `json:"total" doc:"How many deliveries there were to repeat when it was made"`
	Created    int                 `json:"created" doc:"How many new deliveries were made, or for pending how many were moved; those replayed otherwise meanwhile are passed over"`
	Delivered  int                 `json:"delivered" doc:"How many of the new deliveries were delivered"`
	Failed     int                 `json:"failed" doc:"How many of the new deliveries ended otherwise"`
	CreatedAt  timestamp           `json:"created_at"`
	FinishedAt *timestamp          `json:"finished_at" nullable:"true"`
}

// ReplayPreview is what a dry run found.
type ReplayPreview struct {
	Count  int        `json:"count" doc:"How many deliveries would be repeated; counting stops at a million"`
	Sample []Delivery `json:"sample" doc:"Some of them, as they are; empty for what is missing"`

	Missing []MissingDelivery `json:"missing,omitempty" doc:"Of what is missing: some of the deliveries that would be made"`
}

// MissingDelivery is a delivery that a replay of what is missing would make.
type MissingDelivery struct {
	EventID    kapsel.EventID    `json:"event_id"`
	EndpointID kapsel.EndpointID `json:"endpoint_id"`
}

func viewReplay(r *kapsel.Replay) Replay {
	v := Replay{
		ID: r.ID, TenantID: r.TenantID, EndpointID: orNull(r.EndpointID), Since: timestamp(r.Since), Until: timeOrNull(r.Until), Statuses: []string{}, Missing: r.Missing,
		Rate: r.Rate, Status: r.Status, Total: r.Total, Created: r.Created, Delivered: r.Delivered, Failed: r.Failed,
		CreatedAt: timestamp(r.CreatedAt), FinishedAt: timeOrNull(r.FinishedAt),
	}
	for _, s := range r.Statuses {
		v.Statuses = append(v.Statuses, s.String())
	}
	return v
}
