package api

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) tenants() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"Tenants"}}
	}
	create := op("create-tenant", http.MethodPost, "/v1/tenants", "Create a tenant")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Operate, takes[TenantInput](create), a.createTenant)
	add(a, access.Operate, op("list-tenants", http.MethodGet, "/v1/tenants", "List tenants"), a.listTenants)
	add(a, access.Read, op("get-tenant", http.MethodGet, "/v1/tenants/{id}", "Get a tenant"), a.getTenant)
	add(a, access.Operate, takes[TenantPatch](op("update-tenant", http.MethodPatch, "/v1/tenants/{id}", "Change a tenant")), a.updateTenant)
	add(a, access.Operate, fails(op("delete-tenant", http.MethodDelete, "/v1/tenants/{id}", "Delete a tenant that has no endpoints"), failure{409, kapsel.Conflict}), a.deleteTenant)
}

// TenantPath is a route below one tenant.
type TenantPath struct {
	ID kapsel.TenantID `path:"id"`
}

// TenantQuery narrows what the admin key sees. A tenant's key sees its tenant anyway.
type TenantQuery struct {
	TenantID kapsel.TenantID `query:"tenant_id" doc:"With the admin key: the tenant that is meant"`
}

// of is the tenant whose objects a list shows; zero: every tenant's.
func (q TenantQuery) of(c access.Caller) kapsel.TenantID { return c.TenantOr(q.TenantID) }

// owner is the tenant that a new object belongs to.
func (a *api) owner(ctx context.Context, q TenantQuery) (kapsel.Tenant, error) {
	id := q.of(callerOf(ctx))
	if id.IsZero() {
		return kapsel.Tenant{}, refused(field("tenant_id", "is needed with the admin key"))
	}
	return a.Store.Tenant(ctx, id)
}

// visibleTenant is a tenant that the caller may see: for a tenant's key its own.
func (a *api) visibleTenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error) {
	if c := callerOf(ctx); !c.IsAdmin() && c.Tenant != id {
		return kapsel.Tenant{}, store.NotFound("tenant")
	}
	return a.Store.Tenant(ctx, id)
}

func (a *api) createTenant(ctx context.Context, _ *struct{}) (*out[Tenant], error) {
	patch, err := readPatch[TenantInput](ctx) // all of a tenant's fields have defaults, so making one changes the default
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	t := kapsel.Tenant{ID: fresh(ctx, kapsel.NewTenantID(now)), Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	if err := changeTenant(&t, patch); err != nil {
		return nil, err
	}
	if t.DataKey, err = a.Keyring.NewDataKey(t.ID); err != nil {
		return nil, err
	}
	if err := a.Store.CreateTenant(ctx, t); err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewTenant(&t)), nil
}

func (a *api) listTenants(ctx context.Context, in *PageQuery) (*out[list[Tenant]], error) {
	return paginate(ctx, *in,
		func(p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error) { return a.Store.ListTenants(ctx, p) },
		func(t kapsel.Tenant) kapsel.TenantID { return t.ID },
		func(t kapsel.Tenant) (Tenant, error) { return viewTenant(&t), nil })
}

func (a *api) getTenant(ctx context.Context, in *TenantPath) (*out[Tenant], error) {
	t, err := a.visibleTenant(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return answer(viewTenant(&t)), nil
}

func (a *api) updateTenant(ctx context.Context, in *TenantPath) (*out[Tenant], error) {
	patch, err := readPatch[TenantInput](ctx)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	t, err := a.Store.UpdateTenant(ctx, in.ID, func(t *kapsel.Tenant) error {
		t.UpdatedAt = now
		return changeTenant(t, patch)
	})
	if err != nil {
		return nil, err
	}
	a.Changed()
	return answer(viewTenant(&t)), nil
}

func (a *api) deleteTenant(ctx context.Context, in *TenantPath) (*struct{}, error) {
	if err := a.Store.DeleteTenant(ctx, in.ID, a.Clock()); err != nil {
		return nil, err
	}
	a.Changed()
	return nil, nil
}

// TenantInput is what people set on a tenant.
type TenantInput struct {
	Name   string  `json:"name" minLength:"1" maxLength:"200"`
	Plan   string  `json:"plan,omitempty" enum:"free,team,unlimited" default:"unlimited"`
	Limits *Limits `json:"limits,omitempty" doc:"Limits of this tenant alone. What is left out keeps its value, null is no limit; null for the whole returns to the plan's"`
}

// TenantPatch is what PATCH takes.
type TenantPatch struct{ TenantInput }

// Limits are the limits in force; null is no limit.
type Limits struct {
	IngestPerSecond *float64  `json:"ingest_per_second" required:"false" nullable:"true"`
	IngestBurst     *int      `json:"ingest_burst" required:"false" nullable:"true"`
	Endpoints       *int      `json:"endpoints" required:"false" nullable:"true"`
	EventsPerMonth  *int64    `json:"events_per_month" required:"false" nullable:"true"`
	Retention       *duration `json:"retention" required:"false" nullable:"true" doc:"How long finished events are kept; null is 2160h"`
	ClosedCatalogue bool      `json:"closed_catalogue" required:"false" doc:"Only types in the tenant's catalogue, and not archived ones, may be published"`
}

// changeTenant applies a merge patch to a tenant. Limits that the patch sets are the
// tenant's own from then on, all of them: those it does not name keep the value in force.
func changeTenant(t *kapsel.Tenant, patch map[string]any) error {
	limits := viewLimits(t)
	now := TenantInput{Name: t.Name, Plan: t.Plan, Limits: &limits}
	next := TenantInput{Plan: kapsel.DefaultPlan}
	// A new plan brings its limits along, unless the tenant has its own.
	if plan, there := patch["plan"]; there && !t.Limits.Own {
		name, _ := plan.(string)
		limits = viewLimits(&kapsel.Tenant{Plan: cmp.Or(name, kapsel.DefaultPlan)})
	}
	if err := patched(now, patch, &next); err != nil {
		return err
	}
	t.Name, t.Plan = next.Name, next.Plan
	if set, there := patch["limits"]; there && set == nil {
		t.Limits = kapsel.Limits{}
	} else if there {
		l := next.Limits
		t.Limits = kapsel.Limits{Own: true, IngestPerSecond: l.IngestPerSecond, IngestBurst: l.IngestBurst, Endpoints: l.Endpoints, EventsPerMonth: l.EventsPerMonth, ClosedCatalogue: l.ClosedCatalogue}
		if l.Retention != nil {
			t.Limits.Retention = (*time.Duration)(l.Retention)
		}
	}
	if wrong := t.Validate(); wrong != nil {
		return refused(wrong)
	}
	return nil
}

// Tenant is a tenant as the API shows it.
type Tenant struct {
	ID        kapsel.TenantID `json:"id"`
	Name      string          `json:"name"`
	Plan      string          `json:"plan"`
	Limits    Limits          `json:"limits"`
	CreatedAt timestamp       `json:"created_at"`
}

func viewTenant(t *kapsel.Tenant) Tenant {
	return Tenant{t.ID, t.Name, t.Plan, viewLimits(t), timestamp(t.CreatedAt)}
}

func viewLimits(t *kapsel.Tenant) Limits {
	l, retention := t.Effective(), duration(t.Retention())
	return Limits{l.IngestPerSecond, l.IngestBurst, l.Endpoints, l.EventsPerMonth, &retention, l.ClosedCatalogue}
}
