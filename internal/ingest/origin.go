package ingest

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/jsonpath"
)

// origin is the endpoint or the source to whose ingest URL a webhook is posted.
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

// origin returns the endpoint or the source that the path names. It returns InvalidEndpoint if there is
// none, the source is disabled or the endpoint has no ingest URL; QueueFull as strangers.enter does; and
// the store's error if the store cannot be read.
func (h *Handler) origin(ctx context.Context, r *http.Request) (origin, error) {
	text := strings.TrimPrefix(r.URL.Path, kapsel.IngestPath)
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
	// A source may have kept the ingest URL of a deleted endpoint.
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

// knownSource is source for a caller that has not called strangers.enter.
func (h *Handler) knownSource(ctx context.Context, id kapsel.SourceID, kept bool) (origin, error) {
	leave, err := h.strangers.enter(h.Settings.KnowsSource(id))
	if err != nil {
		return origin{}, err
	}
	defer leave()
	return h.source(ctx, id, kept)
}

// source returns a source that is not disabled. kept says that the URL names an endpoint whose ingest URL
// the source must have kept.
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

// text returns the origin's ID in its text form, to which the origin's secrets are sealed.
func (o origin) text() string {
	if o.source != nil {
		return o.source.ID.String()
	}
	return o.endpoint.ID.String()
}

// attr returns the origin's ID as an attribute for the log and for traces.
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

// keeps reports whether the value of a header that carries credentials is stored. Only those headers are
// stored that an endpoint forwards to its destination; a source forwards nothing.
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
	e := kapsel.Event{ID: kapsel.NewEventID(now, kapsel.PartOf(o.id)), TenantID: o.tenant, ReceivedAt: now, Salt: kapsel.NewSalt()}
	if o.source != nil {
		e.SourceID = o.source.ID
	} else {
		e.EndpointID = o.endpoint.ID
	}
	return e
}

// typePath returns the path to an event's type in the body, "" if the origin's type rule does not use the
// body.
func (o origin) typePath() string {
	if o.source == nil {
		return ""
	}
	path, _ := o.source.Type.Path()
	return path
}

// eventType returns the type of an event by the origin's type rule, "" if there is no rule. path is the
// parsed typePath. eventType calls reserve before it copies the body, and returns reserve's error.
func (o origin) eventType(path jsonpath.Path, header http.Header, body []byte, reserve func(n int) error) (string, error) {
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

// update applies change to the intake settings of the origin's current row, and stores the row.
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
