package ingest

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// origin is what a webhook comes in at: an endpoint with an ingest, or a source.
type origin struct {
	*kapsel.Intake
	id       kapsel.OriginID
	tenant   kapsel.TenantID
	endpoint *kapsel.Endpoint // nil: it is a source
	source   *kapsel.Source   // nil: it is an endpoint
}

func originOf(ep *kapsel.Endpoint) origin {
	return origin{Intake: &ep.Intake, id: kapsel.OriginID(ep.ID), tenant: ep.TenantID, endpoint: ep}
}

// origin finds the endpoint or the source that the path names. A source that is disabled takes
// nothing in.
func (h *Handler) origin(ctx context.Context, r *http.Request) (origin, error) {
	text := strings.TrimPrefix(r.URL.Path, Path)
	if strings.HasPrefix(text, "src_") {
		id, err := kapsel.ParseSourceID(text)
		if err != nil {
			return origin{}, noEndpoint()
		}
		return h.knownSource(ctx, id, false)
	}
	id, err := kapsel.ParseEndpointID(text)
	if err != nil {
		return origin{}, noEndpoint()
	}
	// A source may go on with the ingest of an endpoint that was deleted.
	known, kept := h.Settings.Knows(id), kapsel.SourceID(id)
	if !known && h.Settings.KnowsSource(kept) {
		return h.source(ctx, kept, true)
	}
	leave, err := h.strangers.enter(known)
	if err != nil {
		return origin{}, err
	}
	defer leave()
	ep, err := h.Settings.Endpoint(ctx, id)
	switch {
	case kapsel.CodeOf(err) == kapsel.NotFound && known:
		return h.knownSource(ctx, kept, true)
	case kapsel.CodeOf(err) == kapsel.NotFound:
		return h.source(ctx, kept, true) // has entered
	case err != nil:
		return origin{}, err
	case !ep.Ingests():
		return origin{}, noEndpoint()
	}
	return originOf(ep), nil
}

// knownSource is source for a caller that has not entered among the strangers.
func (h *Handler) knownSource(ctx context.Context, id kapsel.SourceID, kept bool) (origin, error) {
	leave, err := h.strangers.enter(h.Settings.KnowsSource(id))
	if err != nil {
		return origin{}, err
	}
	defer leave()
	return h.source(ctx, id, kept)
}

// source finds a source that takes something in. kept says that it must go on with the ingest of an
// endpoint.
func (h *Handler) source(ctx context.Context, id kapsel.SourceID, kept bool) (origin, error) {
	src, err := h.Settings.Source(ctx, id)
	if kapsel.CodeOf(err) == kapsel.NotFound || err == nil && (src.State != kapsel.SourceActive || kept && !src.Kept) {
		return origin{}, noEndpoint()
	}
	if err != nil {
		return origin{}, err
	}
	return origin{Intake: &src.Intake, id: kapsel.OriginID(id), tenant: src.TenantID, source: src}, nil
}

func noEndpoint() error {
	return kapsel.Errorf(kapsel.InvalidEndpoint, "no such endpoint; check the ingest URL")
}

// text returns the origin's id in the form that people see. The origin's secrets are sealed for it.
func (o origin) text() string {
	if o.source != nil {
		return o.source.ID.String()
	}
	return o.endpoint.ID.String()
}

// attr returns the origin's id for the log and for traces.
func (o origin) attr() slog.Attr {
	if o.source != nil {
		return slog.Any("source_id", o.source.ID)
	}
	return slog.Any("endpoint_id", o.endpoint.ID)
}

// revision returns the revision of the origin's settings.
func (o origin) revision() int64 {
	if o.source != nil {
		return o.source.Revision
	}
	return o.endpoint.Revision
}

// keeps reports whether the value of a header that carries credentials is stored. An endpoint
// stores those that it has sent along; a source sends nothing, so it stores none.
func (o origin) keeps(name string) bool {
	if o.endpoint == nil {
		return false
	}
	for _, k := range o.endpoint.Headers.Keep {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// event returns an event that came in at the origin at now, without anything from the request.
func (o origin) event(now time.Time) kapsel.Event {
	e := kapsel.Event{ID: kapsel.NewEventID(now, kapsel.PartOf(o.id)), TenantID: o.tenant, ReceivedAt: now}
	if o.source != nil {
		e.SourceID = o.source.ID
	} else {
		e.EndpointID = o.endpoint.ID
	}
	return e
}

// typePath returns the path by which a source finds the type of an event in the body; "" if it does
// not look there.
func (o origin) typePath() string {
	if o.source == nil {
		return ""
	}
	path, _ := o.source.Type.Path()
	return path
}

// eventType returns the type of an event by a source's rule, "" without one. path is where the body
// has it, if the rule says so. eventType calls reserve for the memory of a body's copy before it
// makes the copy, and returns its error.
func (o origin) eventType(path kapsel.Path, header http.Header, body []byte, reserve func(n int) error) (string, error) {
	if o.source == nil {
		return "", nil
	}
	rule := o.source.Type
	if name, ok := rule.Header(); ok {
		return kapsel.TypeText(header.Get(name)), nil
	}
	if _, ok := rule.Path(); ok {
		found, err := find(path, header, body, reserve)
		return kapsel.TypeText(found), err
	}
	return rule.Value, nil
}

// update changes the intake of the origin by a function of its current row.
func (h *Handler) update(ctx context.Context, o origin, now time.Time, change func(*kapsel.Intake) error) (err error) {
	if o.source != nil {
		_, err = h.Sources.UpdateSource(ctx, o.tenant, o.source.ID, func(s *kapsel.Source) error {
			s.UpdatedAt = now
			return change(&s.Intake)
		})
		return err
	}
	_, err = h.Endpoints.UpdateEndpoint(ctx, o.tenant, o.endpoint.ID, func(e *kapsel.Endpoint) error {
		e.UpdatedAt = now
		return change(&e.Intake)
	})
	return err
}
