package rules

import (
	"fmt"
	"net/http"

	"github.com/kapsel-hq/kapsel"
)

// Sources reads and marks a tenant's endpoints in the transaction of a change of one of them.
type Sources interface {
	// Source reads an endpoint that is not deleted; NotFound.
	Source(id kapsel.EndpointID) (kapsel.Endpoint, error)
	// Subscribers counts the endpoints that are not deleted and subscribe to an endpoint.
	Subscribers(id kapsel.EndpointID) (int, error)
	// Share sets an endpoint's Shared.
	Share(e *kapsel.Endpoint) error
}

// Subscribe checks what an endpoint begins to subscribe to, and marks those endpoints as shared
// after it has read all of them. from is the endpoint before the change, nil for a new one. A
// source of another tenant is refused as a missing one is.
func Subscribe(s Sources, e, from *kapsel.Endpoint) error {
	var wrong []kapsel.FieldError
	var unshared []kapsel.Endpoint
	for i, sub := range e.Subscriptions {
		if from != nil && from.Subscribes(sub.Source) {
			continue
		}
		src, problem, err := source(s, e.ID, sub.Source)
		switch {
		case err != nil:
			return err
		case problem != "":
			wrong = append(wrong, kapsel.FieldError{Field: kapsel.SubscriptionField(i), Detail: problem})
		case !src.Shared:
			unshared = append(unshared, src)
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
		if err := s.Share(&unshared[i]); err != nil {
			return err
		}
	}
	return nil
}

// source reads what an endpoint wants to subscribe to; problem is why it cannot.
func source(s Sources, endpoint, id kapsel.EndpointID) (src kapsel.Endpoint, problem string, err error) {
	if id == endpoint {
		return src, "is the endpoint itself, which gets the events of its own ingest anyway", nil
	}
	src, err = s.Source(id)
	if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && !src.Ingests() {
		return src, "there is no endpoint with an ingest of this id", nil
	}
	if err != nil {
		return src, "", err
	}
	switch n, err := s.Subscribers(id); {
	case err != nil:
		return src, "", err
	case n >= kapsel.MaxDestinations-1:
		return src, fmt.Sprintf("%d endpoints get its events, itself included, which is the most that may", n+1), nil
	}
	return src, "", nil
}

// Unsubscribed refuses to delete an endpoint to whose ingest others subscribe.
func Unsubscribed(s Sources, e *kapsel.Endpoint) error {
	n, err := s.Subscribers(e.ID)
	if err == nil && n > 0 {
		err = kapsel.Errorf(kapsel.Conflict, "%d endpoints subscribe to the events of its ingest; end their subscriptions first", n)
	}
	return err
}
