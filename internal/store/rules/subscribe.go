package rules

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Origins reads the origins to which a tenant's endpoints subscribe, and marks endpoints as
// shared, within the transaction that changes an endpoint.
type Origins interface {
	// Endpoint, Source and App return NotFound if the ID does not exist or is deleted.
	Endpoint(id kapsel.EndpointID) (kapsel.Endpoint, error)
	Source(id kapsel.SourceID) (kapsel.Source, error)
	App(id kapsel.AppID) (kapsel.App, error)
	// Subscribers returns how many endpoints, deleted ones aside, subscribe to an origin: endpoints
	// of the app that is the origin, else endpoints without an app.
	Subscribers(origin kapsel.OriginID) (int, error)
	// Mentions returns at least as many as Subscribers, and seldom more, in much less time.
	Mentions(origin kapsel.OriginID) (int, error)
	// Share stores e's Shared.
	Share(e *kapsel.Endpoint) error
	// Current returns a Conflict while a node of a release without sources is alive; see OlderNodes.
	Current() error
}

// OlderNodes returns a Conflict if any nodes of an older release are alive, which would not carry
// out the change.
func OlderNodes(nodes int) error {
	if nodes == 0 {
		return nil
	}
	if nodes == 1 {
		return kapsel.Errorf(kapsel.Conflict, "1 node of an older release, which would not carry this out, is alive; stop or replace it first")
	}
	return kapsel.Errorf(kapsel.Conflict, "%d nodes of an older release, which would not carry this out, are alive; stop or replace them first", nodes)
}

// Subscribe checks the app of a new endpoint and the subscriptions that a change of an endpoint adds, and marks the endpoints
// among their origins as shared. from is the endpoint before the change; nil for a new one. If any
// subscription is not allowed, Subscribe marks nothing and returns an InvalidRequest with status
// 422 that names all wrong ones. An origin of another tenant gets the same answer as one that does
// not exist.
func Subscribe(o Origins, e, from *kapsel.Endpoint) error {
	var wrong []kapsel.FieldError
	var unshared []kapsel.Endpoint
	known := map[string]bool{}
	switch {
	case from != nil:
		for i := range from.Subscriptions {
			known[from.Subscriptions[i].Source] = true
		}
	case !e.AppID.IsZero():
		_, err := o.App(e.AppID)
		if kapsel.CodeOf(err) == kapsel.NotFound {
			wrong = append(wrong, kapsel.NoApp("app").Fields...)
		} else if err != nil {
			return err
		}
	}
	for i := range e.Subscriptions {
		if known[e.Subscriptions[i].Source] {
			continue
		}
		known[e.Subscriptions[i].Source] = true
		source, problem, err := subscribable(o, e, &e.Subscriptions[i])
		switch {
		case err != nil:
			return err
		case problem != "":
			wrong = append(wrong, kapsel.FieldError{Field: kapsel.SubscriptionField(i), Detail: problem})
		case source != nil && !source.Shared:
			unshared = append(unshared, *source)
		}
	}
	if wrong != nil {
		return &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity,
			Detail: "the endpoint cannot subscribe to all of these", Fields: wrong,
		}
	}
	for i := range unshared {
		unshared[i].Shared = true
		if err := o.Share(&unshared[i]); err != nil {
			return err
		}
	}
	return nil
}

// subscribable reads the origin of a subscription of e. problem says, for the user, why e cannot
// subscribe to it; "" if it can. from is the endpoint whose ingest the origin is; nil for a source
// and for published events.
func subscribable(o Origins, e *kapsel.Endpoint, s *kapsel.Subscription) (from *kapsel.Endpoint, problem string, err error) {
	origin := s.Origin(e.Publisher())
	if origin == kapsel.OriginID(e.ID) {
		return nil, "is the endpoint itself, which gets the events of its own ingest anyway", nil
	}
	if err := o.Current(); err != nil {
		return nil, "", err
	}
	if id, wrong := kapsel.ParseEndpointID(s.Source); wrong == nil {
		source, err := o.Endpoint(id)
		ingests := source.Ingests()
		if err == nil {
			from = &source
		}
		if kapsel.CodeOf(err) == kapsel.NotFound {
			var kept kapsel.Source
			kept, err = o.Source(kapsel.SourceID(id))
			ingests = kept.Kept
		}
		if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && !ingests {
			return nil, "is no endpoint with an ingest of the tenant", nil
		}
		if err != nil {
			return nil, "", err
		}
	} else if s.Source != kapsel.Publish {
		_, err := o.Source(kapsel.SourceID(origin))
		if kapsel.CodeOf(err) == kapsel.NotFound {
			return nil, "is no source of the tenant", nil
		}
		if err != nil {
			return nil, "", err
		}
	}
	most := kapsel.MaxDestinations
	if from != nil {
		most-- // it gets the events of its own ingest
	}
	n, err := o.Mentions(origin)
	if err == nil && n >= most {
		n, err = o.Subscribers(origin)
	}
	if err != nil {
		return nil, "", err
	}
	if n >= most {
		return nil, fmt.Sprintf("%d endpoints get its events, which is the most that may", kapsel.MaxDestinations), nil
	}
	return from, "", nil
}

// SubscriptionText returns a text that the stored configuration of every endpoint contains that
// subscribes to an origin. Few other configurations contain it. published is the Publisher of these
// endpoints.
func SubscriptionText(published, origin kapsel.OriginID) string {
	if origin == published {
		return `"` + kapsel.Publish + `"`
	}
	// The IDs of a source and an endpoint with the same UUID differ in the prefix only.
	_, id, _ := strings.Cut(kapsel.SourceID(origin).String(), "_")
	return id
}

// SourceUnused returns a Conflict if endpoints subscribe to the events of a source, which then
// cannot be deleted.
func SourceUnused(o Origins, id kapsel.SourceID) error { return unused(o, kapsel.OriginID(id), "") }

// EndpointUnused returns a Conflict if other endpoints subscribe to the events of an endpoint's
// ingest, so that the endpoint cannot be deleted together with its ingest.
func EndpointUnused(o Origins, id kapsel.EndpointID) error {
	return unused(o, kapsel.OriginID(id), ", or delete the endpoint with keep_ingest=true, which makes its ingest a source")
}

func unused(o Origins, origin kapsel.OriginID, otherwise string) error {
	n, err := o.Subscribers(origin)
	if err == nil && n > 0 {
		err = kapsel.Errorf(kapsel.Conflict, "endpoints subscribe to what comes in at its ingest URL (%d); end their subscriptions first%s", n, otherwise)
	}
	return err
}

// KeptIngest returns the source that goes on with the ingest of an endpoint that is deleted at now.
// It has the endpoint's UUID, so both are the same origin: events have the same part, their keys
// and guards the same scope, and subscriptions name either. Its secrets are still sealed for the
// endpoint. If the endpoint has no ingest, KeptIngest returns an InvalidRequest with status 422.
func KeptIngest(e *kapsel.Endpoint, now time.Time) (kapsel.Source, error) {
	if !e.Ingests() {
		return kapsel.Source{}, &kapsel.Error{
			Code: kapsel.InvalidRequest, Status: http.StatusUnprocessableEntity, Detail: "the endpoint has no ingest that could be kept",
			Fields: []kapsel.FieldError{{Field: "keep_ingest", Detail: "is for an endpoint with an ingest; this one was made with subscriptions"}},
		}
	}
	return kapsel.Source{
		ID: kapsel.SourceID(e.ID), TenantID: e.TenantID, State: kapsel.SourceActive, CreatedAt: now, UpdatedAt: now,
		SourceConfig: kapsel.SourceConfig{Name: e.Name, Intake: e.Intake, Kept: true},
	}, nil
}
