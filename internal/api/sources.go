package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (a *api) sources() {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"Sources"}}
	}
	create := op("create-source", http.MethodPost, "/v1/sources", "Create a source: an ingest URL to which endpoints subscribe")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, takes[SourceInput](fails(create, failure{404, kapsel.NotFound}, failure{409, kapsel.Conflict})), a.createSource)
	add(a, access.Read, op("list-sources", http.MethodGet, "/v1/sources", "List sources"), a.listSources)
	add(a, access.Read, op("get-source", http.MethodGet, "/v1/sources/{id}", "Get a source"), a.getSource)
	add(a, access.Write, takes[SourcePatch](op("update-source", http.MethodPatch, "/v1/sources/{id}", "Change a source, or disable it")), a.updateSource)
	remove := op("delete-source", http.MethodDelete, "/v1/sources/{id}", "Delete a source. Refused while endpoints subscribe to it")
	add(a, access.Write, fails(remove, failure{409, kapsel.Conflict}), a.deleteSource)
}

// SourcePath is a route below one source.
type SourcePath struct {
	ID kapsel.SourceID `path:"id"`
}

func (a *api) createSource(ctx context.Context, in *TenantQuery) (*out[Source], error) {
	body := sourceInputOf(kapsel.DefaultSource())
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	t, err := a.owner(ctx, *in)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	s := kapsel.Source{ID: fresh(ctx, kapsel.NewSourceID(now)), TenantID: t.ID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now}
	if err := a.configureSource(&s, &t, &body, nil, now); err != nil {
		return nil, err
	}
	if err := a.Store.CreateSource(ctx, s); err != nil {
		return nil, err
	}
	a.Changed()
	return answer(a.viewSource(&s)), nil
}

// SourcesList is the list of sources.
type SourcesList struct {
	TenantQuery
	PageQuery
}

func (a *api) listSources(ctx context.Context, in *SourcesList) (*out[list[Source]], error) {
	return paginate(ctx, in.PageQuery,
		func(p store.Page[kapsel.SourceID]) ([]kapsel.Source, error) {
			return a.Store.ListSources(ctx, in.of(callerOf(ctx)), p)
		},
		func(s kapsel.Source) kapsel.SourceID { return s.ID },
		func(s kapsel.Source) (Source, error) { return a.viewSource(&s), nil })
}

func (a *api) getSource(ctx context.Context, in *SourcePath) (*out[Source], error) {
	s, err := a.Store.Source(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	view := a.viewSource(&s)
	view.Verification.HandshakeSecret, err = a.brought(ctx, s.TenantID, s.ID.String(), s.Verification)
	if err != nil {
		return nil, err
	}
	return answer(view), nil
}

func (a *api) updateSource(ctx context.Context, in *SourcePath) (*out[Source], error) {
	patch, err := readPatch[SourcePatch](ctx)
	if err != nil {
		return nil, err
	}
	tenant := callerOf(ctx).Tenant
	// Once on a copy, so that most mistakes are found outside of the store's transaction.
	s, err := a.Store.Source(ctx, tenant, in.ID)
	if err != nil {
		return nil, err
	}
	t, err := a.Store.Tenant(ctx, s.TenantID)
	if err != nil {
		return nil, err
	}
	now := a.Clock()
	if err := a.changeSource(&s, &t, patch, now); err != nil {
		return nil, err
	}
	s, err = a.Store.UpdateSource(ctx, tenant, in.ID, func(s *kapsel.Source) error { return a.changeSource(s, &t, patch, now) })
	if err != nil {
		return nil, err
	}
	a.Changed()
	return answer(a.viewSource(&s)), nil
}

func (a *api) deleteSource(ctx context.Context, in *SourcePath) (*struct{}, error) {
	if err := a.Store.DeleteSource(ctx, callerOf(ctx).Tenant, in.ID, a.Clock()); err != nil {
		return nil, err
	}
	a.Changed()
	return nil, nil
}

// changeSource applies a merge patch to a source.
func (a *api) changeSource(s *kapsel.Source, t *kapsel.Tenant, patch map[string]any, now time.Time) error {
	current := SourcePatch{sourceInputOf(s.SourceConfig), s.State}
	forgetProvider(&s.Intake, &current.IntakeInput, patch)
	if from, there := said(patch, "type", "from"); there && current.Type != nil && from != current.Type.From {
		current.Type.Value = "" // belongs to what was there
	}
	next := SourcePatch{sourceInputOf(kapsel.DefaultSource()), kapsel.SourceActive}
	if err := patched(current, patch, &next); err != nil {
		return err
	}
	s.State, s.UpdatedAt = next.State, now
	return a.configureSource(s, t, &next.SourceInput, patch, now)
}

// configureSource gives a source the configuration of an input; see api.intake.
func (a *api) configureSource(s *kapsel.Source, t *kapsel.Tenant, in *SourceInput, patch map[string]any, now time.Time) error {
	intake, wrong, err := a.intake(&s.Intake, t, s.ID.String(), &in.IntakeInput, patch, now)
	if err != nil {
		return err
	}
	s.SourceConfig = kapsel.SourceConfig{Name: in.Name, Intake: intake, Kept: s.Kept}
	if in.Type != nil {
		s.Type = kapsel.TypeRule(*in.Type)
		if s.Type.From == "" {
			wrong = append(wrong, kapsel.FieldError{Field: "type.from", Detail: "is needed: header:NAME, path:$.… or const"})
			s.Type = kapsel.TypeRule{}
		}
	}
	if header, ok := s.Type.Header(); ok {
		wrong = append(wrong, storedSecret(s.Verification, "type.from", header)...)
	}
	if wrong = append(wrong, s.Validate()...); wrong != nil {
		return refused(wrong)
	}
	return nil
}

// SourceInput is what people set on a source.
type SourceInput struct {
	Name string    `json:"name" minLength:"1" maxLength:"200"`
	Type *TypeRule `json:"type" required:"false" doc:"Where the type of its events is, by which subscriptions choose; null: they have none"`
	IntakeInput
}

// SourcePatch is what PATCH takes.
type SourcePatch struct {
	SourceInput
	State kapsel.SourceState `json:"state" required:"false" enum:"active,disabled" doc:"disabled: the ingest URL answers E1003, as if it were not there, and stores nothing"`
}

// TypeRule is where the type of an event is.
type TypeRule struct {
	From  string `json:"from" doc:"header:NAME, path:$.… (into a JSON body), or const"`
	Value string `json:"value,omitempty" required:"false" doc:"For const: the type of all events"`
}

// TransformSchema says that type, challenge and response may be null.
func (SourceInput) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(mayBeNull(mayBeNull(s, "type"), "challenge"), "response")
}

// sourceInputOf is a configuration as its owner would set it, without the secrets.
func sourceInputOf(c kapsel.SourceConfig) SourceInput {
	in := SourceInput{Name: c.Name, IntakeInput: intakeOf(c.Intake)}
	if c.Type != (kapsel.TypeRule{}) {
		in.Type = (*TypeRule)(&c.Type)
	}
	return in
}

// Source is a source as the API shows it.
type Source struct {
	ID           kapsel.SourceID    `json:"id"`
	TenantID     kapsel.TenantID    `json:"tenant_id"`
	Name         string             `json:"name"`
	State        kapsel.SourceState `json:"state" enum:"active,disabled"`
	IngestURL    string             `json:"ingest_url" doc:"Where the provider posts to"`
	Type         *TypeRule          `json:"type" required:"false" doc:"Where the type of its events is; null: they have none"`
	Verification Verification       `json:"verification"`
	Challenge    *Challenge         `json:"challenge" required:"false" doc:"null: none but the provider's own"`
	Probe        bool               `json:"probe"`
	Response     *Response          `json:"response" required:"false" doc:"null: what the provider wants, or the event's id"`
	Idempotency  Idempotency        `json:"idempotency"`
	Warnings     []string           `json:"warnings"`
	CreatedAt    timestamp          `json:"created_at"`
	UpdatedAt    timestamp          `json:"updated_at"`
}

// TransformSchema is as SourceInput's.
func (Source) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(mayBeNull(mayBeNull(s, "type"), "challenge"), "response")
}

func (a *api) viewSource(s *kapsel.Source) Source { return sourceAt(s, a.PublicURL, a.Clock()) }

// SourceDefaults returns what the API shows of a source on which nothing was set but the provider
// of its verification.
func SourceDefaults(provider string) Source {
	s := kapsel.Source{State: kapsel.SourceActive, SourceConfig: kapsel.DefaultSource()}
	s.Verification.Provider = provider
	return sourceAt(&s, "", time.Time{})
}

// sourceAt returns a source as it is shown at a time, by a service with a public URL.
func sourceAt(s *kapsel.Source, publicURL string, now time.Time) Source {
	in := sourceInputOf(s.SourceConfig)
	return Source{
		ID: s.ID, TenantID: s.TenantID, Name: s.Name, State: s.State, IngestURL: publicURL + ingest.Path + s.ID.String(), Type: in.Type,
		Verification: viewVerification(s.Verification, now), Challenge: in.Challenge, Probe: in.Probe, Response: in.Response,
		Idempotency: in.Idempotency, Warnings: intakeWarnings(&s.Intake), CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt),
	}
}
