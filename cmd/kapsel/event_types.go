package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type eventTypesCmd struct {
	List   ask[eventTypesList]   `cmd:"" help:"List event types, newest first."`
	Get    ask[eventTypesGet]    `cmd:"" help:"Show an event type and its schemas."`
	Create ask[eventTypesCreate] `cmd:"" help:"Create an event type: an entry of the catalogue of what you publish."`
	Update ask[eventTypesUpdate] `cmd:"" help:"Change an event type."`
	Delete ask[eventTypesDelete] `cmd:"" help:"Delete an event type; what is published is not checked against it any more."`
}

// eventTypes describes the event types of the API.
var eventTypes = objects[client.EventType]{
	path:    "/v1/event-types",
	id:      func(v client.EventType) string { return v.Name },
	card:    eventTypeCard,
	created: func(v client.EventType) time.Time { return v.CreatedAt },
	columns: []column[client.EventType]{
		{"NAME", func(v client.EventType) string { return v.Name }},
		{"GROUP", func(v client.EventType) string { return v.Group }},
		{"VALIDATE", func(v client.EventType) string { return v.Validate }},
		{"SCHEMAS", versionsOf},
		{"STATE", eventTypeState},
		{"DESCRIPTION", func(v client.EventType) string { return v.Description }},
	},
}

// eventTypeName is the argument of commands that are about one event type.
type eventTypeName struct {
	Type   string `arg:"" name:"type" complete:"event-type" help:"The event type's name, such as invoice.paid."`
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"The tenant whose event type it is, by id or name; needed with the admin key where there are several."`
}

// find implements reference.
func (c eventTypeName) find(ctx context.Context, s *session) (target, error) {
	tenant, err := s.newOwner(ctx, c.Tenant)
	return target{tenant: tenant, ref: c.Type}, err
}

type eventTypesList struct {
	ofTenant
	listing
}

// Help has examples.
func (eventTypesList) Help() string {
	return `Examples:
  kapsel event-types list
  kapsel event-types list --tenant acme --json`
}

func (c eventTypesList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return eventTypes.list(s, c.listing, raws(s, s.ListEventTypes(ctx, client.ListEventTypesFilter{TenantID: tenant})))
}

// versionsOf returns the versions of an event type's schemas, "-" if there are none.
func versionsOf(v client.EventType) string {
	if len(v.Schemas) == 0 {
		return "-"
	}
	return strings.Join(slices.Sorted(maps.Keys(v.Schemas)), ", ")
}

// eventTypeState returns archived, deprecated or active.
func eventTypeState(v client.EventType) string {
	switch {
	case v.Archived:
		return "archived"
	case v.Deprecated:
		return "deprecated"
	}
	return "active"
}

type eventTypesGet struct{ eventTypeName }

// Help has an example.
func (eventTypesGet) Help() string {
	return `Example:
  kapsel event-types get invoice.paid`
}

func (c eventTypesGet) do(ctx context.Context, s *session) error { return eventTypes.get(ctx, s, c) }

// eventTypeCard prints an event type for people.
func eventTypeCard(w io.Writer, v client.EventType, _ []byte) {
	facts := []fact{
		{"name", v.Name}, {"tenant", v.TenantID}, {"description", v.Description}, {"group", v.Group}, {"state", eventTypeState(v)}, {"validate", v.Validate},
		{"created", at(v.CreatedAt)}, {"updated", at(v.UpdatedAt)},
	}
	for _, version := range slices.Sorted(maps.Keys(v.Schemas)) {
		facts = append(facts, fact{"schema " + version, string(v.Schemas[version])})
	}
	card(w, facts...)
}

// eventTypeFlags holds the settings of an event type that have a flag of their own. File can have any setting.
type eventTypeFlags struct {
	Description *string `help:"For people."`
	Group       *string `placeholder:"NAME" help:"Under which the catalogue shows it."`
	Schema      pairs   `placeholder:"VERSION=FILE" help:"A file with a JSON Schema of the body, such as 1=invoice.json; an empty file name takes a version away; may be repeated."`
	Validate    *string `complete:"off,warn,refuse" placeholder:"off|warn|refuse" help:"What becomes of an event that fits none of the schemas: it is published (off), published with a warning (warn), or refused."`
	Archived    *bool   `help:"A closed catalogue refuses it; --archived=false takes it back."`
	Deprecated  *bool   `help:"Who publishes it is warned; --deprecated=false ends it."`
	File        string  `placeholder:"FILE" help:"A JSON object with any of the API's fields; - is standard input. Flags come on top."`
}

// eventTypeFlagOf holds the flags of an event type's fields.
var eventTypeFlagOf = map[string]string{
	"name": "--name", "description": "--description", "group": "--group", "schemas": "--schema", "validate": "--validate", "archived": "--archived", "deprecated": "--deprecated",
}

// settings returns the settings that the file and the flags ask for.
func (f eventTypeFlags) settings(name string) (requestBody, error) {
	s, err := settingsOf(f.File, eventTypeFlagOf)
	if err != nil {
		return s, err
	}
	set(s, "--name", "name", nonEmpty(name))
	set(s, "--description", "description", f.Description)
	set(s, "--group", "group", f.Group)
	set(s, "--validate", "validate", f.Validate)
	set(s, "--archived", "archived", f.Archived)
	set(s, "--deprecated", "deprecated", f.Deprecated)
	if f.Schema == nil {
		return s, nil
	}
	schemas, _ := s.body["schemas"].(map[string]any)
	if schemas == nil {
		schemas = map[string]any{}
	}
	for version, file := range f.Schema {
		if schemas[version] = nil; file == "" {
			continue
		}
		text, err := readAll("--schema", file)
		if err != nil {
			return s, err
		}
		if !json.Valid(text) {
			return s, settingError("--schema: %s is not JSON", file)
		}
		schemas[version] = json.RawMessage(text)
	}
	set(s, "--schema", "schemas", &schemas)
	return s, nil
}

type eventTypesCreate struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"The tenant that it belongs to, by id or name; needed with the admin key where there are several."`
	Name   string `placeholder:"TYPE" help:"The type, such as invoice.paid; needed, here or in --file."`
	eventTypeFlags
}

// Help has examples.
func (eventTypesCreate) Help() string {
	return `The catalogue says which types you publish and what their bodies look like. What is not in it is
published all the same, unless kapsel tenants update --closed-catalogue closes it.

Examples:
  kapsel event-types create --name invoice.paid --description 'An invoice is paid' --group invoices
  kapsel event-types create --name invoice.paid --schema 1=invoice.schema.json --validate refuse`
}

func (c eventTypesCreate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name)
	if err != nil {
		return err
	}
	return eventTypes.create(ctx, s, c.Tenant, in)
}

type eventTypesUpdate struct {
	eventTypeName
	eventTypeFlags
}

// Help has examples.
func (eventTypesUpdate) Help() string {
	return `What is not named stays as it is. In --file null sets a field to its default.

Examples:
  kapsel event-types update invoice.paid --schema 2=invoice.v2.json
  kapsel event-types update invoice.paid --schema 1= --validate warn
  kapsel event-types update invoice.created --deprecated`
}

func (c eventTypesUpdate) do(ctx context.Context, s *session) error {
	in, err := c.settings("")
	if err != nil {
		return err
	}
	return eventTypes.update(ctx, s, c, in)
}

type eventTypesDelete struct{ eventTypeName }

// Help has an example.
func (eventTypesDelete) Help() string {
	return `Subscriptions that name the type stay.

Example:
  kapsel event-types delete invoice.created`
}

func (c eventTypesDelete) do(ctx context.Context, s *session) error {
	return eventTypes.remove(ctx, s, c)
}
