package rules

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/kapsel-hq/kapsel"
)

// Origins reads and marks what a tenant's endpoints subscribe to, in the transaction of a change
// of one of them.
type Origins interface {
	// Endpoint and Source read what is not deleted; NotFound.
	Endpoint(id kapsel.EndpointID) (kapsel.Endpoint, error)
	Source(id kapsel.SourceID) (kapsel.Source, error)
	// Subscribers counts the endpoints that are not deleted and subscribe to an origin.
	Subscribers(origin kapsel.OriginID) (int, error)
	// Share sets an endpoint's Shared.
	Share(e *kapsel.Endpoint) error
	// Current is a Conflict while a node of a release that knows no sources is alive; see
	// OlderNodes.
	Current() error
}

// OlderNodes refuses what nodes of an older release would not do, while any are alive.
func OlderNodes(nodes int) error {
	if nodes == 0 {
		return nil
	}
	return kapsel.Errorf(kapsel.Conflict, "%d nodes of an older release, which does not know sources and published events, are alive; stop or replace them first", nodes)
}

// Subscribe checks what an endpoint begins to subscribe to, and marks the endpoints among it as
// shared after it has read all of it. from is the endpoint before the change, nil for a new one.
// What is another tenant's is refused as what is missing.
func Subscribe(o Origins, e, from *kapsel.Endpoint) error {
	var wrong []kapsel.FieldError
	var unshared []kapsel.Endpoint
	known := map[string]bool{}
	if from != nil {
		for i := range from.Subscriptions {
			known[from.Subscriptions[i].Source] = true
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

// subscribable reads what an endpoint wants to subscribe to; problem is why it cannot. from is
// the endpoint whose ingest it is, nil for a source and published events.
func subscribable(o Origins, e *kapsel.Endpoint, s *kapsel.Subscription) (from *kapsel.Endpoint, problem string, err error) {
	origin := s.Origin(e.TenantID)
	if origin == kapsel.OriginID(e.ID) {
		return nil, "is the endpoint itself, which gets the events of its own ingest anyway", nil
	}
	if id, wrong := kapsel.ParseEndpointID(s.Source); wrong == nil {
		source, err := o.Endpoint(id)
		if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && !source.Ingests() {
			return nil, "there is no endpoint with an ingest of this id", nil
		}
		if err != nil {
			return nil, "", err
		}
		from = &source
	} else {
		if err := o.Current(); err != nil {
			return nil, "", err
		}
		if s.Source != kapsel.Publish {
			_, err := o.Source(kapsel.SourceID(origin))
			if kapsel.CodeOf(err) == kapsel.NotFound {
				return nil, "there is no source of this id", nil
			}
			if err != nil {
				return nil, "", err
			}
		}
	}
	n, err := o.Subscribers(origin)
	if err != nil {
		return nil, "", err
	}
	if from != nil {
		n++
	}
	if n >= kapsel.MaxDestinations {
		return nil, fmt.Sprintf("%d endpoints get its events, which is the most that may", n), nil
	}
	return from, "", nil
}

// SubscriptionText returns a text that the configuration of each endpoint of a tenant has that
// subscribes to an origin, and of few others.
func SubscriptionText(tenant kapsel.TenantID, origin kapsel.OriginID) string {
	if origin == kapsel.OriginID(tenant) {
		return `"` + kapsel.Publish + `"`
	}
	// A source and an endpoint with one UUID have ids that end alike.
	_, id, _ := strings.Cut(kapsel.SourceID(origin).String(), "_")
	return id
}

// Unsubscribed refuses to delete an origin to whose events others subscribe.
func Unsubscribed(o Origins, origin kapsel.OriginID) error {
	n, err := o.Subscribers(origin)
	if err == nil && n > 0 {
		err = kapsel.Errorf(kapsel.Conflict, "%d endpoints subscribe to the events of its ingest; end their subscriptions first", n)
	}
	return err
}
