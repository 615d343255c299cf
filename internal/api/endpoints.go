package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/breaker"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) endpoints() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"Endpoints"}}
	}
	post := func(id, path, summary string) huma.Operation {
		return op(id, http.MethodPost, path, summary)
	}
	create := post("create-endpoint", "/v1/endpoints", "Create an endpoint; its signing secret is in this answer only")
	create.DefaultStatus = http.StatusCreated
	create = fails(create, failure{404, kapsel.NotFound}, failure{403, kapsel.QuotaExceeded}, failure{422, kapsel.DestinationBlocked})
	add(a, access.Write, takes[EndpointInput](create), a.createEndpoint)
	add(a, access.Read, op("list-endpoints", http.MethodGet, "/v1/endpoints", "List endpoints"), a.listEndpoints)
	add(a, access.Read, op("get-endpoint", http.MethodGet, "/v1/endpoints/{id}", "Get an endpoint"), a.getEndpoint)
	update := op("update-endpoint", http.MethodPatch, "/v1/endpoints/{id}", "Change an endpoint; waiting deliveries follow the change")
	add(a, access.Write, takes[EndpointPatch](fails(update, failure{422, kapsel.DestinationBlocked})), a.updateEndpoint)
	remove := op("delete-endpoint", http.MethodDelete, "/v1/endpoints/{id}", "Delete an endpoint; its waiting deliveries are canceled. Refused while others subscribe to its ingest, unless that is kept")
	add(a, access.Write, fails(remove, failure{409, kapsel.Conflict}, failure{422, kapsel.InvalidRequest}), a.deleteEndpoint)
	add(a, access.Write, mayTake[Nothing](post("pause-endpoint", "/v1/endpoints/{id}/pause", "Start no more deliveries; events are still accepted")), a.pauseEndpoint)
	add(a, access.Write, mayTake[Nothing](post("resume-endpoint", "/v1/endpoints/{id}/resume", "Start deliveries again")), a.resumeEndpoint)
	add(a, access.Write, mayTake[Nothing](post("test-endpoint", "/v1/endpoints/{id}/test", "Send a test event to the destination; the answer is the event. Refused with what it would wait for while the endpoint sends nothing")), a.testEndpoint)
	add(a, access.Write, mayTake[Nothing](post("reset-circuit", "/v1/endpoints/{id}/circuit/reset", "Close the circuit now, and end what the destination asked for with Retry-After")), a.resetCircuit)
	add(a, access.Write, mayTake[RotateInput](post("rotate-secret", "/v1/endpoints/{id}/secrets/rotate", "Make a new signing secret; it is in this answer only")), a.rotateSecret)
}

// EndpointPath is a route below one endpoint.
type EndpointPath struct {
	ID kapsel.EndpointID `path:"id"`
}

func (a *api) createEndpoint(ctx context.Context, in *TenantQuery) (*out[NewEndpoint], error) {
	body := inputOf(kapsel.DefaultEndpoint())
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	t, err := a.owner(ctx, *in)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	e := kapsel.Endpoint{ID: fresh(ctx, kapsel.NewEndpointID(now)), TenantID: t.ID, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, Destination: 1}
	e.Part, e.NoIngest = kapsel.PartOf(e.ID), body.Subscriptions != nil
	var wrong []kapsel.FieldError
	if body.App != nil {
		app, err := a.manage.App(ctx, callerOf(ctx), manage.AppRef{Tenant: t.ID, Ref: *body.App})
		if missing(err) {
			wrong = kapsel.NoApp("app").Fields
		} else if err != nil {
			return nil, err
		}
		e.AppID = app.ID
	}
	if err := a.configure(&e, &t, &body, nil, now, wrong...); err != nil {
		return nil, err
	}
	if err := a.CheckURL(e.URL); err != nil {
		return nil, err
	}
	text, err := a.addSigningSecret(&e, &t, now)
	if err != nil {
		return nil, err
	}
	most := 0
	if l := t.Effective().Endpoints; l != nil {
		most = *l
	}
	if err := a.Store.CreateEndpoint(ctx, e, most); err != nil {
		return nil, err
	}
	a.Changed()
	view, err := a.viewEndpoint(ctx, &e)
	if err != nil {
		return nil, err
	}
	return answer(NewEndpoint{view, text.Reveal()}), nil
}

// EndpointsList is the list of endpoints.
type EndpointsList struct {
	TenantQuery
	PageQuery
	AppID string `query:"app_id" doc:"Those of this app: its id or uid. A uid needs tenant_id with the admin key"`
}

func (a *api) listEndpoints(ctx context.Context, in *EndpointsList) (*out[list[Endpoint]], error) {
	app, err := a.manage.AppFilter(ctx, callerOf(ctx), manage.AppRef{Tenant: in.TenantID, Ref: in.AppID})
	if err != nil {
		return nil, err
	}
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error) {
			return a.Store.ListEndpoints(ctx, in.of(callerOf(ctx)), app, p)
		},
		func(e kapsel.Endpoint) kapsel.EndpointID { return e.ID },
		func(e kapsel.Endpoint) (Endpoint, error) { return a.viewEndpoint(ctx, &e) })
}

func (a *api) getEndpoint(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	e, err := a.Store.Endpoint(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	view, err := a.viewEndpoint(ctx, &e)
	if err != nil {
		return nil, err
	}
	view.Verification.HandshakeSecret, err = a.brought(ctx, e.TenantID, e.ID.String(), e.Verification)
	if err != nil {
		return nil, err
	}
	return answer(view), nil
}

func (a *api) updateEndpoint(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	patch, err := readPatch[EndpointPatch](ctx)
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	if _, there := said(patch, "state"); there && !c.IsAdmin() {
		return nil, kapsel.Errorf(kapsel.Forbidden, "only the admin key may set state; use /pause and /resume")
	}
	// Once on a copy, so that the URL is checked and most mistakes are found outside of the
	// store's transaction; then on the row as it is inside of it.
	e, err := a.Store.Endpoint(ctx, c.Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	t, err := a.Store.Tenant(ctx, e.TenantID)
	if err != nil {
		return nil, err
	}
	if ref, ok := patch["app"].(string); ok {
		app, err := a.manage.App(ctx, callerOf(ctx), manage.AppRef{Tenant: t.ID, Ref: ref})
		if err != nil && !missing(err) {
			return nil, err
		}
		if err == nil {
			patch["app"] = app.ID.String()
		}
	}
	now := a.Clock()
	if err := a.change(&e, &t, patch, now); err != nil {
		return nil, err
	}
	if _, there := said(patch, "url"); there {
		if err := a.CheckURL(e.URL); err != nil {
			return nil, err
		}
	}
	e, err = a.Store.UpdateEndpoint(ctx, c.Tenant, in.ID, func(e *kapsel.Endpoint) error { return a.change(e, &t, patch, now) })
	if err != nil {
		return nil, err
	}
	a.Changed()
	return a.answerEndpoint(ctx, &e)
}

// EndpointDeletion says what is deleted of an endpoint.
type EndpointDeletion struct {
	EndpointPath
	KeepIngest bool `query:"keep_ingest" doc:"Make a source of its ingest, with the same UUID (src_…): its ingest URL, its verification and idempotency and the subscriptions to it go on"`
}

func (a *api) deleteEndpoint(ctx context.Context, in *EndpointDeletion) (*struct{}, error) {
	var err error
	if in.KeepIngest {
		err = a.keepIngest(ctx, callerOf(ctx).Tenant, in.ID)
	} else {
		err = a.Store.DeleteEndpoint(ctx, callerOf(ctx).Tenant, in.ID, a.Clock())
	}
	if err != nil {
		return nil, err
	}
	a.Changed()
	return nil, nil
}

// keepIngest deletes an endpoint but for its ingest, whose secrets it seals for the source.
func (a *api) keepIngest(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) error {
	e, err := a.Store.Endpoint(ctx, tenant, id)
	if err != nil {
		return err
	}
	t, err := a.Store.Tenant(ctx, e.TenantID)
	if err != nil {
		return err
	}
	_, err = a.Store.KeepIngest(ctx, tenant, id, a.Clock(), func(src *kapsel.Source) (err error) {
		from, to, v := id.String(), src.ID.String(), &src.Verification
		v.Secrets = slices.Clone(v.Secrets)
		for i := range v.Secrets {
			if v.Secrets[i], err = a.Vault.Move(&t, from, to, v.Secrets[i]); err != nil {
				return err
			}
		}
		if v.VerifyToken != nil {
			token, err := a.Vault.Move(&t, from, to, *v.VerifyToken)
			if err != nil {
				return err
			}
			v.VerifyToken = &token
		}
		return nil
	})
	return err
}

func (a *api) pauseEndpoint(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	return a.act(ctx, in, func(e *kapsel.Endpoint) error {
		if e.State == kapsel.EndpointDisabled {
			return kapsel.Errorf(kapsel.Conflict, "the endpoint is disabled; /resume makes it active")
		}
		e.State = kapsel.EndpointPaused
		return nil
	})
}

func (a *api) resumeEndpoint(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	admin := callerOf(ctx).IsAdmin()
	return a.act(ctx, in, func(e *kapsel.Endpoint) error {
		if e.State == kapsel.EndpointDisabled && e.DisabledReason == kapsel.DisabledAdmin && !admin {
			return kapsel.Errorf(kapsel.Forbidden, "the operator disabled the endpoint; only the admin key resumes it")
		}
		e.State, e.DisabledReason = kapsel.EndpointActive, ""
		return nil
	})
}

// act does a POST without a body to an endpoint.
func (a *api) act(ctx context.Context, in *EndpointPath, change func(*kapsel.Endpoint) error) (*out[Endpoint], error) {
	if err := readOptional(ctx, &Nothing{}); err != nil {
		return nil, err
	}
	now := a.Clock()
	e, err := a.Store.UpdateEndpoint(ctx, callerOf(ctx).Tenant, in.ID, func(e *kapsel.Endpoint) error {
		e.UpdatedAt = now
		return change(e)
	})
	if err != nil {
		return nil, err
	}
	a.Changed()
	return a.answerEndpoint(ctx, &e)
}

// testEndpoint makes an event of our own. It takes the way of every other that has to wait:
// it is stored, and a node claims its delivery, this one at once if it can.
func (a *api) testEndpoint(ctx context.Context, in *EndpointPath) (*out[Event], error) {
	if err := readOptional(ctx, &Nothing{}); err != nil {
		return nil, err
	}
	e, err := a.Store.Endpoint(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	if err := a.sendsNow(ctx, &e); err != nil {
		return nil, err
	}
	now := a.Clock()
	id := kapsel.NewEventID(now, e.Part)
	sent, _ := timestamp(now).MarshalText()
	body := fmt.Appendf(nil, `{"type":"kapsel.test","id":%q,"endpoint_id":%q,"sent_at":%q}`, id, e.ID, sent)
	event := kapsel.Event{
		ID: id, TenantID: e.TenantID, EndpointID: e.ID, ReceivedAt: now, ContentType: "application/json",
		Header: kapsel.Header{{Name: "Content-Type", Value: "application/json"}}, Body: body, Size: len(body),
		Signature: kapsel.SignatureVerdict{Scheme: signature.None},
	}
	delivery := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, e.Part), EventID: id, EndpointID: e.ID, TenantID: e.TenantID, Status: kapsel.Pending, DueAt: now, Size: len(body), CreatedAt: now,
	}
	if _, err := a.Store.Accept(ctx, store.Acceptance{Event: event, Deliveries: []kapsel.Delivery{delivery}}); err != nil {
		return nil, err
	}
	a.Due(delivery)
	return answer(viewEvent(&store.EventRecord{Event: event, Deliveries: []kapsel.Delivery{delivery}})), nil
}

func (a *api) resetCircuit(ctx context.Context, in *EndpointPath) (*out[Endpoint], error) {
	if err := readOptional(ctx, &Nothing{}); err != nil {
		return nil, err
	}
	e, err := a.Store.Endpoint(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	for range 5 {
		c, err := a.Store.Circuit(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		switch _, err := a.Store.SaveCircuit(ctx, breaker.Reset(e.CircuitNow(c), a.Clock())); {
		case err == nil:
			a.Changed()
			return a.answerEndpoint(ctx, &e)
		case kapsel.CodeOf(err) != kapsel.Conflict:
			return nil, err
		}
		// A node moved the circuit in between: read it again.
	}
	return nil, errBusy
}

const maxOverlap = 168 * time.Hour

func (a *api) rotateSecret(ctx context.Context, in *EndpointPath) (*out[NewEndpoint], error) {
	body := RotateInput{Overlap: duration(24 * time.Hour)}
	if err := readOptional(ctx, &body); err != nil {
		return nil, err
	}
	overlap := time.Duration(body.Overlap)
	if overlap < 0 || overlap > maxOverlap {
		return nil, refused(field("overlap", "must be 0s to 168h"))
	}
	tenant := callerOf(ctx).Tenant
	e, err := a.Store.Endpoint(ctx, tenant, in.ID)
	if err != nil {
		return nil, err
	}
	t, err := a.Store.Tenant(ctx, e.TenantID)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	var text secret.Text
	e, err = a.Store.UpdateEndpoint(ctx, tenant, in.ID, func(e *kapsel.Endpoint) (err error) {
		e.UpdatedAt = now
		e.Signing.Secrets = overlapping(e.Signing.Secrets, now, now.Add(overlap))
		text, err = a.addSigningSecret(e, &t, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.Changed()
	view, err := a.viewEndpoint(ctx, &e)
	if err != nil {
		return nil, err
	}
	return answer(NewEndpoint{view, text.Reveal()}), nil
}

// overlapping are the former signing secrets that deliveries still carry after now, until
// end at most; of many the newest.
func overlapping(former []kapsel.Secret, now, end time.Time) []kapsel.Secret {
	var kept []kapsel.Secret
	for _, s := range former {
		if s.ExpiresAt.IsZero() || s.ExpiresAt.After(end) {
			s.ExpiresAt = end
		}
		if s.ExpiresAt.After(now) {
			kept = append(kept, s)
		}
	}
	return kept[:min(len(kept), kapsel.MaxSecrets-1)]
}

// addSigningSecret puts a new signing secret before the others, and returns its text.
func (a *api) addSigningSecret(e *kapsel.Endpoint, t *kapsel.Tenant, now time.Time) (secret.Text, error) {
	text, key := secret.NewSigningSecret()
	s, err := a.Vault.Seal(t, e.ID.String(), key, now)
	if err != nil {
		return text, err
	}
	e.Signing.Secrets = append([]kapsel.Secret{s}, e.Signing.Secrets...)
	return text, nil
}
