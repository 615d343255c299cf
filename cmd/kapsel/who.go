package main

import (
	"context"
	"encoding/json"
	"maps"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/api"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// changesCmd is `kapsel changes`.
type changesCmd struct {
	ofTenant
	Object string `placeholder:"ID" help:"Only those of this object, such as ep_…"`
	Kind   string `placeholder:"KIND" help:"Only those of objects of this kind: tenant, key, endpoint, source, app, event_type, event, delivery, replay, portal_link, portal_logo, session or instance."`
	Verb   string `placeholder:"VERB" help:"Only those by which this was done, such as update or pause."`
	Key    string `placeholder:"KEY" help:"Only those made with this key, key_…"`
	listing
}

// Help has examples.
func (changesCmd) Help() string {
	return `Each change by the API, a command, the dashboard or the portal is kept for a year. With
--json it shows the fields as they were before and after.

Examples:
  kapsel changes --since 24h
  kapsel changes --object ep_01m84z3e8wgaaxt5kys2q7z4mc --json`
}

func (c changesCmd) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	filter := client.ListChangesFilter{TenantID: tenant, ObjectID: c.Object, Kind: c.Kind, Verb: c.Verb, KeyID: c.Key}
	return list(s, raws(s, s.ListChanges(ctx, filter)), c.listing, true, func(c client.Change) time.Time { return c.At },
		column[client.Change]{"ID", func(c client.Change) string { return c.ID }},
		column[client.Change]{"WHEN", func(c client.Change) string { return ago(c.At) }},
		column[client.Change]{"BY", func(c client.Change) string { return changedBy(c.By) }},
		column[client.Change]{"FROM", func(c client.Change) string { return or(c.By.Client) }},
		column[client.Change]{"DID", func(c client.Change) string { return c.Verb + " " + c.Kind }},
		column[client.Change]{"NAME", func(c client.Change) string { return or(c.Name) }},
		column[client.Change]{"OBJECT", func(c client.Change) string { return or(c.ObjectID) }},
		column[client.Change]{"FIELDS", func(c client.Change) string { return changedFields(c) }})
}

// changedBy returns who made a change, in a few words.
func changedBy(by client.ChangedBy) string {
	words := []string{by.Kind}
	for _, more := range []*string{by.Name, by.Prefix} {
		if more != nil {
			words = append(words, *more)
		}
	}
	return strings.Join(words, " ")
}

// changedFields names the fields that a change has changed; none of an object that was made or deleted.
func changedFields(c client.Change) string {
	var before, after map[string]json.RawMessage
	if json.Unmarshal(c.Before, &before) != nil || json.Unmarshal(c.After, &after) != nil || before == nil || after == nil {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Keys(after)), ", ")
}

// operator returns the author of what a command changes in the database itself.
func operator(verb string, now time.Time) store.Author {
	actor := kapsel.Actor{Kind: kapsel.ActorCLI, Operator: true}
	if u, err := user.Current(); err == nil {
		actor.Name = u.Username
	}
	return store.Author{Actor: actor, Verb: verb, At: now, Show: api.Show}
}
