package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/api"
)

type sourcesCmd struct {
	List   ask[sourcesList]   `cmd:"" help:"List sources, newest first."`
	Get    ask[sourcesGet]    `cmd:"" help:"Show a source: its ingest URL and its settings."`
	Create ask[sourcesCreate] `cmd:"" help:"Create a source: an ingest URL to which endpoints subscribe."`
	Update ask[sourcesUpdate] `cmd:"" help:"Change a source, or disable it."`
	Delete ask[sourcesDelete] `cmd:"" help:"Delete a source to which no endpoint subscribes."`
}

// sources describes the sources of the API.
var sources = objects[client.Source]{
	path:    "/v1/sources",
	id:      func(v client.Source) string { return v.ID },
	card:    sourceCard,
	created: func(v client.Source) time.Time { return v.CreatedAt },
	columns: []column[client.Source]{
		{"ID", func(v client.Source) string { return v.ID }},
		{"NAME", func(v client.Source) string { return v.Name }},
		{"STATE", func(v client.Source) string { return v.State }},
		{"VERIFICATION", func(v client.Source) string { return v.Verification.Provider }},
		{"INGEST URL", func(v client.Source) string { return v.IngestURL }},
	},
}

// sourceID is the argument of commands that are about one source.
type sourceID struct {
	Source string `arg:"" name:"source" complete:"source" help:"The source's id, src_…, or its name."`
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose source has the name."`
}

// find implements reference.
func (c sourceID) find(ctx context.Context, s *session) (target, error) {
	return byID(s.sourceNamed(ctx, c.Source, c.Tenant))
}

type sourcesList struct {
	ofTenant
	listing
}

// Help has examples.
func (sourcesList) Help() string {
	return `Examples:
  kapsel sources list
  kapsel sources list --tenant acme --json`
}

func (c sourcesList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return sources.list(s, c.listing, raws(s, s.ListSources(ctx, client.ListSourcesFilter{TenantID: tenant})))
}

type sourcesGet struct{ sourceID }

// Help has an example.
func (sourcesGet) Help() string {
	return `Below what every source has it shows the settings that are not the defaults, by the API's names.

Examples:
  kapsel sources get stripe
  kapsel sources get src_01m84yz4zqfgjtcypmsesbpznb --json`
}

func (c sourcesGet) do(ctx context.Context, s *session) error { return sources.get(ctx, s, c) }

// sourceCard prints a source for people: its identity, and then its settings that are not the
// defaults. raw is the source as the API answered it.
func sourceCard(w io.Writer, v client.Source, raw []byte) {
	facts := []fact{
		{"id", v.ID}, {"name", v.Name}, {"tenant", v.TenantID}, {"state", v.State}, {"ingest URL", v.IngestURL}, {"verification", verified(v.Verification)},
		{"type", typeText(v.Type)}, {"created", at(v.CreatedAt)}, {"updated", at(v.UpdatedAt)},
	}
	for _, warning := range v.Warnings {
		facts = append(facts, fact{"warning", warning})
	}
	card(w, facts...)
	changedCard(w, raw, api.SourceDefaults(v.Verification.Provider))
}

// typeText returns a source's type rule in the form of --type, "" if there is no rule.
func typeText(r *client.TypeRule) string {
	switch {
	case r == nil:
		return ""
	case r.Value != nil:
		return r.From + ":" + *r.Value
	}
	return r.From
}

// sourceFlags holds the settings of a source that have a flag of their own. File can have any setting.
type sourceFlags struct {
	Type *string `placeholder:"FROM" help:"Where the type of an event is, by which endpoints choose: header:NAME, path:$.type (in a JSON body), or const:TYPE, the same for all. none: they have no type."`
	intakeFlags
	File string `placeholder:"FILE" help:"A JSON object with any of the API's fields; - is standard input. Flags come on top."`
}

// sourceFlagOf holds the flags of a source's fields, without those in intakeFlagOf.
var sourceFlagOf = map[string]string{"name": "--name", "type": "--type", "state": "--state"}

// settings returns the settings that the file and the flags ask for.
func (f sourceFlags) settings(name string, secretFiles ...string) (requestBody, error) {
	s, err := f.intakeFlags.settings(f.File, sourceFlagOf, secretFiles...)
	if err != nil {
		return s, err
	}
	set(s, "--name", "name", nonEmpty(name))
	if f.Type == nil {
		return s, nil
	}
	rule := map[string]string{"from": *f.Type}
	switch value, same := strings.CutPrefix(*f.Type, kapsel.TypeConst+":"); {
	case *f.Type == "none":
		set(s, "--type", "type", new(any))
		return s, nil
	case *f.Type == kapsel.TypeConst || same && value == "":
		return s, settingError("--type: const needs the type of all events, such as const:invoice.paid")
	case same:
		rule = map[string]string{"from": kapsel.TypeConst, "value": value}
	}
	set(s, "--type", "type", &rule)
	return s, nil
}

type sourcesCreate struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"The tenant that it belongs to, by id or name; needed with the admin key where there are several."`
	Name   string `help:"What people call it; needed, here or in --file."`
	sourceFlags
}

// Help has examples.
func (sourcesCreate) Help() string {
	return `A source has an ingest URL and no destination of its own. Each endpoint that subscribes to it gets
what comes in there.

Examples:
  kapsel sources create --name stripe --provider stripe --secret-file stripe.secret --type 'path:$.type'
  kapsel endpoints create --name billing --url https://billing.example/hooks --subscribe 'stripe:invoice.*'
  kapsel sources create --name devices --idempotency strategy=source_id --idempotency 'path=$.id'
  kapsel sources create --tenant acme --file source.json
  SOURCE=$(kapsel sources create --name devices -q)`
}

func (c sourcesCreate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name)
	if err != nil {
		return err
	}
	created := sources
	created.card = func(w io.Writer, v client.Source, raw []byte) {
		sourceCard(w, v, raw)
		ref, of := v.Name, ""
		if !plainName(ref) {
			ref = v.ID
		}
		if c.Tenant != "" {
			of = " --tenant " + v.TenantID
		}
		fmt.Fprintf(w, "\nLet senders post to the ingest URL, and subscribe endpoints to what comes in there:\n  kapsel endpoints create%s --name NAME --url URL --subscribe %s\n", of, ref)
	}
	return created.create(ctx, s, c.Tenant, in)
}

type sourcesUpdate struct {
	sourceID
	Name          string  `help:"What people call it."`
	State         *string `complete:"active,disabled" placeholder:"STATE" help:"disabled: the ingest URL answers 404 and stores nothing; active ends that."`
	AddSecretFile string  `placeholder:"FILE" help:"A file with secrets of the provider, one a line, that count beside those that are there; - is standard input."`
	sourceFlags
}

// Help has examples.
func (sourcesUpdate) Help() string {
	return `What is not named stays as it is. In --file null sets a field to its default.

Examples:
  kapsel sources update stripe --type 'path:$.type'
  kapsel sources update stripe --add-secret-file stripe.new
  kapsel sources update devices --state disabled
  echo '{"response":null}' | kapsel sources update src_01m84yz4zqfgjtcypmsesbpznb --file -`
}

func (c sourcesUpdate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name, c.AddSecretFile)
	if err != nil {
		return err
	}
	set(in, "--state", "state", c.State)
	s.named = in.by
	source, err := c.find(ctx, s)
	if err != nil {
		return err
	}
	if c.AddSecretFile != "" {
		former, err := s.GetSource(ctx, source.ref)
		if err != nil {
			return err
		}
		if err := c.addSecrets(c.AddSecretFile, former.Verification.Secrets, in); err != nil {
			return err
		}
	}
	return sources.update(ctx, s, source, in)
}

type sourcesDelete struct{ sourceID }

// Help has an example.
func (sourcesDelete) Help() string {
	return `Its ingest URL answers 404 from then on. Its events stay readable until their retention ends. A
source to which endpoints subscribe is not deleted; kapsel sources update --state disabled closes
its ingest URL.

Example:
  kapsel sources delete stripe`
}

func (c sourcesDelete) do(ctx context.Context, s *session) error {
	source, err := c.find(ctx, s)
	if err != nil {
		return err
	}
	return s.whoSubscribes(ctx, source.ref, sources.remove(ctx, s, source))
}

// whoSubscribes adds to the error of deleting a source or an endpoint the endpoints that subscribe to it, if
// the deletion was refused because of their subscriptions. It returns any other error as it is.
func (s *session) whoSubscribes(ctx context.Context, id string, err error) error {
	if kapselCode(err) != string(kapsel.Conflict) {
		return err
	}
	_, origin, _ := strings.Cut(id, "_") // a subscription to a kept ingest URL may name the endpoint's ID or the source's
	var names choices
	for e, listed := range s.ListEndpoints(ctx, client.ListEndpointsFilter{}) {
		if listed != nil || len(names) > maxChoices {
			break
		}
		if slices.ContainsFunc(e.Subscriptions, func(sub client.Subscription) bool { return strings.HasSuffix(sub.Source, "_"+origin) }) {
			names = append(names, e.Name)
		}
	}
	if names == nil {
		return err
	}
	text := "%w; these do: %s. kapsel endpoints update NAME --subscribe names what an endpoint keeps, or none"
	if strings.HasPrefix(id, "ep_") {
		text += "; kapsel endpoints delete --keep-ingest leaves the URL and the subscriptions to it"
	}
	return fmt.Errorf(text, err, names)
}
