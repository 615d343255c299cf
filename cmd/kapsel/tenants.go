package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type tenantsCmd struct {
	List   ask[tenantsList]   `cmd:"" help:"List tenants, newest first."`
	Get    ask[tenantsGet]    `cmd:"" help:"Show a tenant and its limits."`
	Create ask[tenantsCreate] `cmd:"" help:"Create a tenant."`
	Update ask[tenantsUpdate] `cmd:"" help:"Change a tenant's name, plan or limits."`
	Delete ask[tenantsDelete] `cmd:"" help:"Delete a tenant that has no endpoints."`
}

// tenants describes the tenants of the API.
var tenants = objects[client.Tenant]{
	path:    "/v1/tenants",
	id:      func(t client.Tenant) string { return t.ID },
	card:    tenantCard,
	created: func(t client.Tenant) time.Time { return t.CreatedAt },
	columns: []column[client.Tenant]{
		{"ID", func(t client.Tenant) string { return t.ID }},
		{"NAME", func(t client.Tenant) string { return t.Name }},
		{"PLAN", func(t client.Tenant) string { return t.Plan }},
		{"CREATED", func(t client.Tenant) string { return ago(t.CreatedAt) }},
	},
}

// tenantID is the argument of commands that are about one tenant.
type tenantID struct {
	Tenant string `arg:"" name:"tenant" complete:"tenant" help:"The tenant's id, ten_…, or its name."`
}

// find implements reference.
func (c tenantID) find(ctx context.Context, s *session) (target, error) {
	return byID(s.tenantNamed(ctx, c.Tenant))
}

type tenantsList struct{ listing }

// Help has examples.
func (tenantsList) Help() string {
	return `Needs the admin key.

Examples:
  kapsel tenants list
  kapsel tenants list --json --limit 0`
}

func (c tenantsList) do(ctx context.Context, s *session) error {
	return tenants.list(s, c.listing, raws(s, s.ListTenants(ctx)))
}

type tenantsGet struct{ tenantID }

// Help has an example.
func (tenantsGet) Help() string {
	return `Example:
  kapsel tenants get acme`
}

func (c tenantsGet) do(ctx context.Context, s *session) error { return tenants.get(ctx, s, c) }

// tenantCard prints a tenant for people.
func tenantCard(w io.Writer, t client.Tenant, _ []byte) {
	l, catalogue := t.Limits, ""
	if l.ClosedCatalogue != nil && *l.ClosedCatalogue {
		catalogue = "closed: only its event types are published"
	}
	card(w, fact{"id", t.ID}, fact{"name", t.Name}, fact{"plan", t.Plan}, fact{"created", at(t.CreatedAt)},
		fact{"ingest per second", limit(l.IngestPerSecond)}, fact{"ingest burst", limit(l.IngestBurst)},
		fact{"endpoints", limit(l.Endpoints)}, fact{"events per month", limit(l.EventsPerMonth)}, fact{"retention", limit(l.Retention)}, fact{"catalogue", catalogue})
}

// limit returns a limit as people read it.
func limit[T any](l client.Optional[T]) string {
	if l.Value == nil {
		return "unlimited"
	}
	return fmt.Sprint(*l.Value)
}

// limitFlags holds the flags of a tenant's own limits.
type limitFlags struct {
	IngestPerSecond string `placeholder:"N" help:"Accept at most N requests a second; none: unlimited."`
	IngestBurst     string `placeholder:"N" help:"Accept N requests at once; none: unlimited."`
	Endpoints       string `placeholder:"N" help:"Have at most N endpoints; none: unlimited."`
	EventsPerMonth  string `placeholder:"N" help:"Accept at most N events a month; none: unlimited."`
	Retention       string `placeholder:"DURATION" help:"Keep finished events this long, such as 30d."`
	ClosedCatalogue *bool  `help:"Publish only event types that are in the catalogue; --closed-catalogue=false ends it."`
}

// limits returns the limits that the flags set, nil if they set none.
func (f limitFlags) limits() (*client.Limits, error) {
	var l client.Limits
	var err error
	integer := func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
	parseLimit(&l.IngestPerSecond, "ingest-per-second", f.IngestPerSecond, "a number", func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }, &err)
	parseLimit(&l.IngestBurst, "ingest-burst", f.IngestBurst, "a whole number", integer, &err)
	parseLimit(&l.Endpoints, "endpoints", f.Endpoints, "a whole number", integer, &err)
	parseLimit(&l.EventsPerMonth, "events-per-month", f.EventsPerMonth, "a whole number", integer, &err)
	parseLimit(&l.Retention, "retention", f.Retention, "a duration such as 12h or 30d", func(s string) (client.Duration, error) {
		d, err := parseDuration(s)
		return client.Duration(d), err
	}, &err)
	l.ClosedCatalogue = f.ClosedCatalogue
	if err != nil || f == (limitFlags{}) {
		return nil, err
	}
	return &l, nil
}

// parseLimit sets *to to the value in text, to null if text is none, and leaves it if text is "". If text is
// not valid, it sets *failed.
func parseLimit[T any](to *client.Optional[T], flag, text, kind string, parse func(string) (T, error), failed *error) {
	switch text {
	case "":
		return
	case "none":
		*to = client.Null[T]()
		return
	}
	v, err := parse(text)
	if err != nil {
		*failed = settingError("--%s: %q is neither none nor %s", flag, text, kind)
	}
	*to = client.Some(v)
}

type tenantsCreate struct {
	Name string `required:"" help:"What people call it."`
	Plan string `complete:"free,team,unlimited" placeholder:"PLAN" help:"free, team or unlimited (the default)."`
	limitFlags
}

// Help has examples.
func (tenantsCreate) Help() string {
	return `Needs the admin key.

Examples:
  kapsel tenants create --name acme
  kapsel tenants create --name acme --plan free --events-per-month 5000 --retention 30d
  TENANT=$(kapsel tenants create --name acme -q)`
}

func (c tenantsCreate) do(ctx context.Context, s *session) error {
	limits, err := c.limits()
	if err != nil {
		return err
	}
	in := client.TenantInput{Name: c.Name, Limits: limits}
	if c.Plan != "" {
		in.Plan = &c.Plan
	}
	return tenants.ask(ctx, s, http.MethodPost, tenants.path, in)
}

type tenantsUpdate struct {
	tenantID
	Name       string `help:"What people call it."`
	Plan       string `complete:"free,team,unlimited" placeholder:"PLAN" help:"free, team or unlimited."`
	PlanLimits bool   `help:"Give up the tenant's own limits for those of its plan."`
	limitFlags
}

// Help has examples.
func (tenantsUpdate) Help() string {
	return `Needs the admin key. What is not named stays as it is.

Examples:
  kapsel tenants update acme --plan team
  kapsel tenants update acme --endpoints 20 --events-per-month none
  kapsel tenants update acme --plan-limits`
}

func (c tenantsUpdate) do(ctx context.Context, s *session) error {
	limits, err := c.limits()
	if err != nil {
		return err
	}
	var patch client.TenantPatch
	if c.Name != "" {
		patch.Name = client.Some(c.Name)
	}
	if c.Plan != "" {
		patch.Plan = client.Some(c.Plan)
	}
	switch {
	case c.PlanLimits && limits != nil:
		return settingError("--plan-limits: goes with no limit beside it")
	case c.PlanLimits:
		patch.Limits = client.Null[client.Limits]()
	case limits != nil:
		patch.Limits = client.Some(*limits)
	}
	tenant, err := c.find(ctx, s)
	if err != nil {
		return err
	}
	return tenants.ask(ctx, s, http.MethodPatch, tenants.one(tenant), patch)
}

type tenantsDelete struct{ tenantID }

// Help has an example.
func (tenantsDelete) Help() string {
	return `Needs the admin key. A tenant that has endpoints is not deleted.

Example:
  kapsel tenants delete acme`
}

func (c tenantsDelete) do(ctx context.Context, s *session) error {
	return tenants.remove(ctx, s, c)
}
