package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
)

type appsCmd struct {
	List   ask[appsList]   `cmd:"" help:"List apps, newest first."`
	Get    ask[appsGet]    `cmd:"" help:"Show an app."`
	Create ask[appsCreate] `cmd:"" help:"Create an app: a customer, whose endpoints get what is published to it."`
	Update ask[appsUpdate] `cmd:"" help:"Change an app."`
	Delete ask[appsDelete] `cmd:"" help:"Delete an app that has no endpoints."`
}

// apps describes the apps of the API.
var apps = objects[client.App]{
	path:    "/v1/apps",
	id:      func(v client.App) string { return v.ID },
	card:    appCard,
	created: func(v client.App) time.Time { return v.CreatedAt },
	columns: []column[client.App]{
		{"ID", func(v client.App) string { return v.ID }},
		{"UID", func(v client.App) string { return or(v.UID) }},
		{"NAME", func(v client.App) string { return v.Name }},
		{"CREATED", func(v client.App) string { return ago(v.CreatedAt) }},
	},
}

// appID is the argument of commands that are about one app.
type appID struct {
	App    string `arg:"" name:"app" complete:"app" help:"The app's id, app_…, its uid or its name."`
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose app has the uid or the name."`
}

// find implements reference.
func (c appID) find(ctx context.Context, s *session) (target, error) {
	return byID(s.appNamed(ctx, c.App, c.Tenant))
}

// appNamed returns the ID of the app that ref names by ID, uid or name, of one tenant or, if tenant is "",
// of all. It returns "" for "". It fails if no app or several apps have the name.
func (s *session) appNamed(ctx context.Context, ref, tenant string) (string, error) {
	if _, err := kapsel.ParseAppID(ref); err == nil || ref == "" {
		return ref, nil
	}
	tenant, err := s.tenantNamed(ctx, tenant)
	if err != nil {
		return "", err
	}
	if tenant != "" || !s.isAdmin() { // a uid can be looked up without listing all apps
		if v, err := s.GetApp(ctx, tenant, ref); err == nil || kapselCode(err) != string(kapsel.NotFound) {
			return v.ID, err
		}
	}
	return uidOrNamed(ref, "app", s.ListApps(ctx, client.ListAppsFilter{TenantID: tenant}),
		func(v client.App) (id, uid, name string) { return v.ID, there(v.UID), v.Name })
}

type appsList struct {
	ofTenant
	listing
}

// Help has examples.
func (appsList) Help() string {
	return `Examples:
  kapsel apps list
  kapsel apps list --tenant acme --json`
}

func (c appsList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	return apps.list(s, c.listing, raws(s, s.ListApps(ctx, client.ListAppsFilter{TenantID: tenant})))
}

type appsGet struct{ appID }

// Help has an example.
func (appsGet) Help() string {
	return `Examples:
  kapsel apps get customer-17
  kapsel endpoints list --app customer-17
  kapsel events list --app customer-17`
}

func (c appsGet) do(ctx context.Context, s *session) error { return apps.get(ctx, s, c) }

// appCard prints an app for people.
func appCard(w io.Writer, v client.App, _ []byte) {
	rate := "none"
	if l := v.RateLimit; l != nil {
		rate = fmt.Sprintf("%v a second, bursts of %d", l.PerSecond, l.Burst)
	}
	facts := []fact{
		{"id", v.ID}, {"uid", there(v.UID)}, {"name", v.Name}, {"tenant", v.TenantID}, {"rate limit", rate}, {"created", at(v.CreatedAt)}, {"updated", at(v.UpdatedAt)},
	}
	card(w, append(facts, metadataFacts(v.Metadata)...)...)
}

// metadataFacts returns the texts of an object's metadata, by their names.
func metadataFacts(metadata map[string]string) (facts []fact) {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		facts = append(facts, fact{"metadata " + name, metadata[name]})
	}
	return facts
}

// appFlags holds the settings of an app that have a flag of their own. File can have any setting.
type appFlags struct {
	UID       *string `name:"uid" placeholder:"UID" help:"Your own id of it, such as customer-17; it stands wherever the app's id does."`
	Metadata  pairs   `placeholder:"NAME=VALUE" help:"A text of your own; NAME= takes it away; may be repeated."`
	RateLimit *string `complete:"none" placeholder:"N" help:"Publish at most N events a second to it; goes with --rate-burst. none: as many as come."`
	RateBurst *int64  `placeholder:"N" help:"Publish N events to it at once."`
	File      string  `placeholder:"FILE" help:"A JSON object with any of the API's fields; - is standard input. Flags come on top."`
}

// appFlagOf holds the flags of an app's fields.
var appFlagOf = map[string]string{
	"name": "--name", "uid": "--uid", "metadata": "--metadata", "rate_limit.per_second": "--rate-limit", "rate_limit.burst": "--rate-burst",
}

// settings returns the settings that the file and the flags ask for.
func (f appFlags) settings(name string) (requestBody, error) {
	s, err := settingsOf(f.File, appFlagOf)
	if err != nil {
		return s, err
	}
	set(s, "--name", "name", nonEmpty(name))
	set(s, "--uid", "uid", f.UID)
	s.setMetadata(f.Metadata)
	return s, s.setRate(f.RateLimit, f.RateBurst)
}

type appsCreate struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"The tenant that it belongs to, by id or name; needed with the admin key where there are several."`
	Name   string `help:"What people call it; the uid, if it is not given here or in --file."`
	appFlags
}

// Help has examples.
func (appsCreate) Help() string {
	return `An app stands for a customer of yours. What you publish to it goes to its endpoints, and to no
others.

Examples:
  kapsel apps create --uid customer-17 --name 'Acme Inc.'
  kapsel endpoints create --app customer-17 --name acme --url https://acme.example/hooks --subscribe 'publish:invoice.*'
  kapsel publish --app customer-17 --type invoice.paid --data '{"invoice":1042}'
  kapsel apps create --uid customer-18 --metadata plan=gold --rate-limit 10 --rate-burst 50`
}

func (c appsCreate) do(ctx context.Context, s *session) error {
	if c.Name == "" && c.File == "" && c.UID != nil {
		c.Name = *c.UID
	}
	in, err := c.settings(c.Name)
	if err != nil {
		return err
	}
	return apps.create(ctx, s, c.Tenant, in)
}

type appsUpdate struct {
	appID
	Name string `help:"What people call it."`
	appFlags
}

// Help has examples.
func (appsUpdate) Help() string {
	return `What is not named stays as it is. In --file null sets a field to its default.

Examples:
  kapsel apps update customer-17 --name 'Acme Ltd.' --metadata plan=gold --metadata trial=
  kapsel apps update customer-17 --rate-limit none`
}

func (c appsUpdate) do(ctx context.Context, s *session) error {
	in, err := c.settings(c.Name)
	if err != nil {
		return err
	}
	return apps.update(ctx, s, c, in)
}

type appsDelete struct{ appID }

// Help has an example.
func (appsDelete) Help() string {
	return `Its uid is free again. Its events stay readable until their retention ends. An app that has
endpoints is not deleted.

Example:
  kapsel apps delete customer-17`
}

func (c appsDelete) do(ctx context.Context, s *session) error {
	app, err := c.find(ctx, s)
	if err != nil {
		return err
	}
	err = apps.remove(ctx, s, app)
	if kapselCode(err) != string(kapsel.Conflict) {
		return err
	}
	var names []string
	for e, listed := range s.ListEndpoints(ctx, client.ListEndpointsFilter{AppID: app.ref}) {
		if listed != nil || len(names) > maxChoices {
			break
		}
		names = append(names, e.Name)
	}
	return fmt.Errorf("%w: %s", err, choices(names))
}
