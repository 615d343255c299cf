package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) endpoints() {
	op := tagged("Endpoints")
	post := func(id, path, summary string) huma.Operation {
		return op(id, http.MethodPost, path, summary)
	}
	create := post("create-endpoint", "/v1/endpoints", "Create an endpoint; its signing secret is in this answer only")
	create.DefaultStatus = http.StatusCreated
	taken := failure{409, kapsel.Conflict}
	create = fails(create, failure{404, kapsel.NotFound}, failure{403, kapsel.QuotaExceeded}, failure{422, kapsel.DestinationBlocked}, taken)
	add(a, access.Write, takes[EndpointInput](create), a.createEndpoint)
	add(a, access.Read, op("list-endpoints", http.MethodGet, "/v1/endpoints", "List endpoints"), a.listEndpoints)
	add(a, access.Read, op("get-endpoint", http.MethodGet, "/v1/endpoints/{id}", "Get an endpoint"), got(a.Manage.Endpoint, (*EndpointPath).ref, viewEndpoint))
	update := op("update-endpoint", http.MethodPatch, "/v1/endpoints/{id}", "Change an endpoint; waiting deliveries follow the change")
	add(a, access.Write, takes[EndpointPatch](fails(update, failure{422, kapsel.DestinationBlocked}, taken)), a.updateEndpoint)
	remove := op("delete-endpoint", http.MethodDelete, "/v1/endpoints/{id}", "Delete an endpoint; its waiting deliveries are canceled. Refused while others subscribe to its ingest, unless that is kept")
	add(a, access.Write, fails(remove, taken, failure{422, kapsel.InvalidRequest}), a.deleteEndpoint)
	add(a, access.Write, mayTake[Nothing](post("pause-endpoint", "/v1/endpoints/{id}/pause", "Start no more deliveries; events are still accepted")), acted(a.Manage.PauseEndpoint, (*EndpointPath).ref, viewEndpoint))
	add(a, access.Write, mayTake[Nothing](post("resume-endpoint", "/v1/endpoints/{id}/resume", "Start deliveries again")), acted(a.Manage.ResumeEndpoint, (*EndpointPath).ref, viewEndpoint))
	add(a, access.Write, mayTake[Nothing](post("test-endpoint", "/v1/endpoints/{id}/test", "Send a test event to the destination; the answer is the event. Refused with what it would wait for while the endpoint sends nothing")), acted(a.Manage.TestEndpoint, (*EndpointPath).ref, viewEvent))
	add(a, access.Write, mayTake[Nothing](post("reset-circuit", "/v1/endpoints/{id}/circuit/reset", "Close the circuit now, and end what the destination asked for with Retry-After")), acted(a.Manage.ResetCircuit, (*EndpointPath).ref, viewEndpoint))
	add(a, access.Write, mayTake[RotateInput](post("rotate-secret", "/v1/endpoints/{id}/secrets/rotate", "Make a new signing secret; it is in this answer only")), a.rotateSecret)
}

// EndpointPath is a route below one endpoint.
type EndpointPath struct {
	ID kapsel.EndpointID `path:"id"`
}

func (in *EndpointPath) ref() kapsel.EndpointID { return in.ID }

func (a *api) createEndpoint(ctx context.Context, in *TenantQuery) (*out[NewEndpoint], error) {
	body := inputOf(manage.DefaultEndpoint())
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	e, err := a.Manage.CreateEndpoint(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.EndpointID](ctx), body.settings(nil))
	return shownAs(viewNewEndpoint, e, err)
}

// EndpointsList is the list of endpoints.
type EndpointsList struct {
	TenantQuery
	PageQuery
	AppID string `query:"app_id" doc:"Those of this app: its id or uid. A uid needs tenant_id with the admin key"`
}

func (a *api) listEndpoints(ctx context.Context, in *EndpointsList) (*out[list[Endpoint]], error) {
	app, err := a.Manage.AppFilter(ctx, callerOf(ctx), manage.AppRef{Tenant: in.TenantID, Ref: in.AppID})
	if err != nil {
		return nil, err
	}
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error) {
			return a.Manage.ListEndpoints(ctx, callerOf(ctx), in.TenantID, app, p)
		},
		func(e kapsel.Endpoint) kapsel.EndpointID { return e.ID },
		func(e kapsel.Endpoint) (Endpoint, error) {
			described, err := a.Manage.Describe(ctx, e)
			return viewEndpoint(&described), err
		})
}

func (a *api) updateEndpoint(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	patch, err := readPatch[EndpointPatch](ctx)
	if err != nil {
		return nil, err
	}
	change := manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error {
		current := EndpointPatch{EndpointInput: inputOf(*s)}
		current.forgetProvider(patch)
		next := EndpointPatch{EndpointInput: inputOf(manage.DefaultEndpoint())}
		if err := patched(current, patch, &next); err != nil {
			return err
		}
		*s = next.settings(patch)
		return nil
	}}
	_, change.SetsURL = said(patch, "url")
	if state, there := patch["state"]; there {
		change.State = new(kapsel.EndpointActive) // null is the default
		if name, ok := state.(string); ok {
			*change.State = kapsel.EndpointState(name)
		}
	}
	e, err := a.Manage.UpdateEndpoint(ctx, callerOf(ctx), in.ID, change)
	return shownAs(viewEndpoint, e, err)
}

// EndpointDeletion says what is deleted of an endpoint.
type EndpointDeletion struct {
	EndpointPath
	KeepIngest bool `query:"keep_ingest" doc:"Make a source of its ingest, with the same UUID (src_…): its ingest URL, its verification and idempotency and the subscriptions to it go on"`
}

func (a *api) deleteEndpoint(ctx context.Context, in *EndpointDeletion) (*struct{}, error) {
	return nil, a.Manage.DeleteEndpoint(ctx, callerOf(ctx), in.ID, in.KeepIngest)
}

func (a *api) rotateSecret(ctx context.Context, in *EndpointPath) (*out[NewEndpoint], error) {
	body := RotateInput{Overlap: duration(manage.DefaultOverlap)}
	if err := readOptional(ctx, &body); err != nil {
		return nil, err
	}
	e, err := a.Manage.RotateSecret(ctx, callerOf(ctx), in.ID, time.Duration(body.Overlap))
	return shownAs(viewNewEndpoint, e, err)
}
