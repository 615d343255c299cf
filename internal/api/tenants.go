package api

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) tenants() {
	op := tagged("Tenants")
	create := op("create-tenant", http.MethodPost, "/v1/tenants", "Create a tenant")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Operate, takes[TenantInput](create), a.createTenant)
	add(a, access.Operate, op("list-tenants", http.MethodGet, "/v1/tenants", "List tenants"), a.listTenants)
	add(a, access.Read, op("get-tenant", http.MethodGet, "/v1/tenants/{id}", "Get a tenant"), got(a.Manage.Tenant, (*TenantPath).ref, viewTenant))
	add(a, access.Operate, takes[TenantPatch](op("update-tenant", http.MethodPatch, "/v1/tenants/{id}", "Change a tenant")), a.updateTenant)
	add(a, access.Operate, fails(op("delete-tenant", http.MethodDelete, "/v1/tenants/{id}", "Delete a tenant that has no endpoints"), failure{409, kapsel.Conflict}), removed(a.Manage.DeleteTenant, (*TenantPath).ref))
}

// TenantPath is a route below one tenant.
type TenantPath struct {
	ID kapsel.TenantID `path:"id"`
}

func (in *TenantPath) ref() kapsel.TenantID { return in.ID }

// TenantQuery narrows what the admin key sees. A tenant's key sees its tenant anyway.
type TenantQuery struct {
	TenantID kapsel.TenantID `query:"tenant_id" doc:"With the admin key: the tenant that is meant"`
}

func (a *api) createTenant(ctx context.Context, _ *struct{}) (*out[Tenant], error) {
	patch, err := readPatch[TenantInput](ctx) // all of a tenant's fields have defaults, so making one changes the default
	if err != nil {
		return nil, err
	}
	t, err := a.Manage.CreateTenant(ctx, callerOf(ctx), reserved[kapsel.TenantID](ctx), patchTenant(patch))
	return shownAs(viewTenant, t, err)
}

func (a *api) listTenants(ctx context.Context, in *PageQuery) (*out[list[Tenant]], error) {
	return paginate(ctx, *in,
		func(p store.Page[kapsel.TenantID]) ([]kapsel.Tenant, error) {
			return a.Manage.ListTenants(ctx, callerOf(ctx), p)
		},
		func(t kapsel.Tenant) kapsel.TenantID { return t.ID },
		func(t kapsel.Tenant) (Tenant, error) { return viewTenant(&t), nil })
}

func (a *api) updateTenant(ctx context.Context, in *TenantPath) (*out[Tenant], error) {
	patch, err := readPatch[TenantInput](ctx)
	if err != nil {
		return nil, err
	}
	t, err := a.Manage.UpdateTenant(ctx, callerOf(ctx), in.ID, patchTenant(patch))
	return shownAs(viewTenant, t, err)
}

// TenantInput is what people set on a tenant.
type TenantInput struct {
	Name   string  `json:"name" minLength:"1" maxLength:"200"`
	Plan   string  `json:"plan,omitempty" enum:"free,team,unlimited" default:"unlimited"`
	Audit  *Audit  `json:"audit,omitempty" doc:"Of the tenant's audit log. What is left out keeps its value; null returns to the defaults"`
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

// Audit is what is set on a tenant's audit log.
type Audit struct {
	Public    bool      `json:"public" required:"false" default:"true" doc:"Whether who knows the log's id can read its heads and hashes without a key. Witnesses get its heads in any case"`
	Witnesses *int      `json:"witnesses" required:"false" nullable:"true" minimum:"0" maximum:"20" doc:"How many witnesses must have signed a head; null: as many as the instance wants; 0: none is asked"`
	Retention *duration `json:"retention" required:"false" nullable:"true" doc:"How long the texts of the log's leaves are kept, and the log of the tenant after the tenant was deleted: 24h or more; null is 61320h, seven years. Hashes and heads are kept for ever"`
}

func viewAudit(s kapsel.AuditSettings) Audit {
	return Audit{!s.Private, s.Witnesses, new(duration(s.Kept()))}
}

// patchTenant returns the edit of a tenant's settings that a merge patch says. Limits that the patch sets
// are the tenant's own from then on, all of them: those it does not name keep the value in force.
func patchTenant(patch map[string]any) func(*manage.TenantSettings) error {
	return func(s *manage.TenantSettings) error {
		limits := viewLimits(&kapsel.Tenant{Plan: s.Plan, Limits: s.Limits})
		now := TenantInput{Name: s.Name, Plan: s.Plan, Limits: &limits, Audit: new(viewAudit(s.Audit))}
		next := TenantInput{Plan: kapsel.DefaultPlan, Audit: &Audit{Public: true}}
		// A new plan brings its limits along, unless the tenant has its own.
		if plan, there := patch["plan"]; there && !s.Limits.Own {
			name, _ := plan.(string)
			limits = viewLimits(&kapsel.Tenant{Plan: cmp.Or(name, kapsel.DefaultPlan)})
		}
		if err := patched(now, patch, &next); err != nil {
			return err
		}
		s.Name, s.Plan = next.Name, next.Plan
		if set, there := patch["audit"]; there && set == nil {
			s.Audit = kapsel.AuditSettings{}
		} else if there {
			kept := s.Audit.Retention
			s.Audit = kapsel.AuditSettings{Private: !next.Audit.Public, Witnesses: next.Audit.Witnesses, Retention: (*time.Duration)(next.Audit.Retention)}
			if fields, ok := set.(map[string]any); ok {
				if _, named := fields["retention"]; !named { // what is shown may be the default
					s.Audit.Retention = kept
				}
			}
		}
		if set, there := patch["limits"]; there && set == nil {
			s.Limits = kapsel.Limits{}
		} else if there {
			l := next.Limits
			s.Limits = kapsel.Limits{Own: true, IngestPerSecond: l.IngestPerSecond, IngestBurst: l.IngestBurst, Endpoints: l.Endpoints, EventsPerMonth: l.EventsPerMonth, ClosedCatalogue: l.ClosedCatalogue}
			if l.Retention != nil {
				s.Limits.Retention = (*time.Duration)(l.Retention)
			}
		}
		return nil
	}
}

// Tenant is a tenant as the API shows it.
type Tenant struct {
	ID        kapsel.TenantID `json:"id"`
	Name      string          `json:"name"`
	Plan      string          `json:"plan"`
	Limits    Limits          `json:"limits"`
	Audit     Audit           `json:"audit" doc:"Of the tenant's audit log"`
	CreatedAt timestamp       `json:"created_at"`
}

func viewTenant(t *kapsel.Tenant) Tenant {
	return Tenant{t.ID, t.Name, t.Plan, viewLimits(t), viewAudit(t.Audit), timestamp(t.CreatedAt)}
}

func viewLimits(t *kapsel.Tenant) Limits {
	l, retention := t.Effective(), duration(t.Retention())
	return Limits{l.IngestPerSecond, l.IngestBurst, l.Endpoints, l.EventsPerMonth, &retention, l.ClosedCatalogue}
}
