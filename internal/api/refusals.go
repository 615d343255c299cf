package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

func (a *api) refusals() {
	add(a, access.Read, huma.Operation{
		OperationID: "get-refusals", Method: http.MethodGet, Path: "/v1/endpoints/{id}/refusals", Tags: []string{"Endpoints"},
		Summary: "See why webhooks were refused",
	}, a.getRefusals)
}

func (a *api) getRefusals(ctx context.Context, in *EndpointPath) (*out[Refusals], error) {
	found, err := a.Manage.Refusals(ctx, callerOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	view := Refusals{EndpointID: in.ID, Since: timestamp(found.Since), Counts: map[string]int64{}}
	for code, n := range found.Counts {
		view.Total += n
		if code == "" {
			code = "internal"
		}
		view.Counts[string(code)] += n
	}
	view.Data = mapped(found.Last, viewRefusal)
	return answer(view), nil
}

// Refusals are the webhooks to an endpoint that were answered with an error, as far as the node
// that answers remembers.
type Refusals struct {
	EndpointID kapsel.EndpointID `json:"endpoint_id"`
	Since      timestamp         `json:"since" doc:"From when on this node remembers them: its start, or later for an endpoint that others have displaced"`
	Total      int64             `json:"total" doc:"All since then"`
	Counts     map[string]int64  `json:"counts" doc:"Of them, by code; internal: a bug of ours"`
	Data       []Refusal         `json:"data" doc:"The last 50, newest first"`
}

// Refusal is one webhook that was refused.
type Refusal struct {
	Time   timestamp    `json:"time"`
	Status int          `json:"status"`
	Code   *kapsel.Code `json:"code" nullable:"true" doc:"null: a bug of ours"`
	Detail string       `json:"detail" doc:"What the sender was told"`
}

func viewRefusal(r kapsel.Refusal) Refusal {
	return Refusal{timestamp(r.At), r.Status, orNull(r.Code), r.Detail}
}
