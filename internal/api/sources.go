package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (a *api) sources() {
	op := tagged("Sources")
	create := op("create-source", http.MethodPost, "/v1/sources", "Create a source: an ingest URL to which endpoints subscribe")
	create.DefaultStatus = http.StatusCreated
	add(a, access.Write, takes[SourceInput](fails(create, failure{404, kapsel.NotFound}, failure{409, kapsel.Conflict})), a.createSource)
	add(a, access.Read, op("list-sources", http.MethodGet, "/v1/sources", "List sources"), listed(a.Manage.ListSources, func(s manage.Source) kapsel.SourceID { return s.ID }, viewSource))
	add(a, access.Read, op("get-source", http.MethodGet, "/v1/sources/{id}", "Get a source"), got(a.Manage.Source, (*SourcePath).ref, viewSource))
	add(a, access.Write, takes[SourcePatch](op("update-source", http.MethodPatch, "/v1/sources/{id}", "Change a source, or disable it")), a.updateSource)
	remove := op("delete-source", http.MethodDelete, "/v1/sources/{id}", "Delete a source. Refused while endpoints subscribe to it")
	add(a, access.Write, fails(remove, failure{409, kapsel.Conflict}), removed(a.Manage.DeleteSource, (*SourcePath).ref))
}

// SourcePath is a route below one source.
type SourcePath struct {
	ID kapsel.SourceID `path:"id"`
}

func (in *SourcePath) ref() kapsel.SourceID { return in.ID }

func (a *api) createSource(ctx context.Context, in *TenantQuery) (*out[Source], error) {
	body := sourceInputOf(manage.DefaultSource())
	if err := read(ctx, &body); err != nil {
		return nil, err
	}
	s, err := a.Manage.CreateSource(ctx, callerOf(ctx), in.TenantID, reserved[kapsel.SourceID](ctx), body.settings(nil))
	return shownAs(viewSource, s, err)
}

func (a *api) updateSource(ctx context.Context, in *SourcePath) (*out[Source], error) {
	patch, err := readPatch[SourcePatch](ctx)
	if err != nil {
		return nil, err
	}
	s, err := a.Manage.UpdateSource(ctx, callerOf(ctx), in.ID, func(s *manage.SourceSettings) error {
		current := SourcePatch{sourceInputOf(*s), s.State}
		current.forgetProvider(patch)
		if from, there := said(patch, "type", "from"); there && current.Type != nil && from != current.Type.From {
			current.Type.Value = "" // belongs to what was there
		}
		next := SourcePatch{sourceInputOf(manage.DefaultSource()), kapsel.SourceActive}
		if err := patched(current, patch, &next); err != nil {
			return err
		}
		*s = next.settings(patch)
		s.State = next.State
		return nil
	})
	return shownAs(viewSource, s, err)
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

// sourceInputOf returns a source's settings as its owner would write them, without the secrets.
func sourceInputOf(s manage.SourceSettings) SourceInput {
	return SourceInput{Name: s.Name, Type: (*TypeRule)(s.Type), IntakeInput: intakeOf(s.Intake)}
}

// settings returns what the input says; patch is the one that led to it, nil without one.
func (in *SourceInput) settings(patch map[string]any) manage.SourceSettings {
	return manage.SourceSettings{Name: in.Name, Type: (*kapsel.TypeRule)(in.Type), Intake: in.config(), Secrets: in.secrets(patch)}
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
	ExpectEvery  *duration          `json:"expect_every" nullable:"true" doc:"How long nothing may come in before a notice says so; null: any time"`
	Warnings     []string           `json:"warnings"`
	CreatedAt    timestamp          `json:"created_at"`
	UpdatedAt    timestamp          `json:"updated_at"`
}

// TransformSchema is as SourceInput's.
func (Source) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(mayBeNull(mayBeNull(s, "type"), "challenge"), "response")
}

// SourceDefaults returns what the API shows of a source on which nothing was set but the provider
// of its verification.
func SourceDefaults(provider string) Source {
	s := kapsel.Source{State: kapsel.SourceActive, SourceConfig: kapsel.DefaultSource()}
	s.Verification.Provider = provider
	view := manage.SourceAt(&s, "", time.Time{})
	return viewSource(&view)
}

func viewSource(s *manage.Source) Source {
	in := intakeOf(s.Intake)
	view := Source{
		ID: s.ID, TenantID: s.TenantID, Name: s.Name, State: s.State, IngestURL: s.IngestURL, Type: (*TypeRule)(orNull(s.Type)),
		Verification: viewVerification(s.Verification, s.At), Challenge: in.Challenge, Probe: in.Probe, Response: in.Response,
		Idempotency: in.Idempotency, ExpectEvery: in.ExpectEvery, Warnings: s.Warnings, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt),
	}
	view.Verification.HandshakeSecret = s.HandshakeSecret
	return view
}
