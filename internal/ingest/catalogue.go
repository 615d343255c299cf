package ingest

import (
	"context"
	"log/slog"
	"sync"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/schema"
)

// catalogue checks a published event against its type in the tenant's catalogue. It returns an error if
// the event must be refused, and warnings if the event does not fit its type but may be published. It
// calls reserve for the memory of the check, and returns reserve's error.
func (h *Handler) catalogue(ev *kapsel.Event, closed bool, reserve func(n int) error) (warnings []kapsel.FieldError, err error) {
	t := h.Settings.EventType(ev.TenantID, ev.Type)
	switch {
	case closed && t == nil:
		return nil, refusedType(kapsel.UnknownEventType, "is not in the tenant's catalogue, which is closed; use one of its types, or add this one with POST /v1/event-types")
	case closed && t.Archived:
		return nil, refusedType(kapsel.UnknownEventType, "is archived in the tenant's catalogue, which is closed; use another type, or set archived to false with PATCH /v1/event-types/"+t.Name)
	case t == nil:
		return nil, nil
	case t.Deprecated:
		warnings = append(warnings, kapsel.FieldError{Field: "type", Detail: "is deprecated"})
	}
	if t.Validate == kapsel.ValidateOff || len(t.Schemas) == 0 {
		return warnings, nil
	}
	checker := h.checkers.of(t, h.Log)
	if checker == nil {
		return append(warnings, kapsel.FieldError{Field: "type", Detail: "has a schema that cannot be used any more, so the body was not checked; send the schema anew with PATCH /v1/event-types/" + t.Name}), nil
	}
	faults, err := checker.Check(ev.Body, reserve)
	if err != nil {
		return nil, err
	}
	if faults != nil && t.Validate == kapsel.ValidateRefuse {
		return nil, &kapsel.Error{Code: kapsel.SchemaMismatch, Detail: "the body does not fit the schema of its type; errors lists what is wrong, by JSON pointers", Fields: faults}
	}
	return append(warnings, faults...), nil
}

// refusedType returns the error for an event of a type that may not be published.
func refusedType(code kapsel.Code, detail string) error {
	return &kapsel.Error{Code: code, Detail: "the type " + detail, Fields: []kapsel.FieldError{{Field: "type", Detail: detail}}}
}

// refusedOr returns the outcome of a publication that the catalogue refuses with refusal. If an event with the
// same key was published before, the outcome is a duplicate instead: a repeated request gets the same
// answer whatever its body and the catalogue have become.
func (h *Handler) refusedOr(ctx context.Context, ev *kapsel.Event, refusal error) kapsel.Published {
	if ev.IdempotencyKey == nil {
		return kapsel.Published{Err: refusal}
	}
	original, ok, err := h.Store.Remembered(ctx, ev)
	switch {
	case err != nil:
		return kapsel.Published{Err: err}
	case ok:
		return duplicate(original)
	}
	return kapsel.Published{Err: refusal}
}

// checkers caches the compiled schemas of event types.
type checkers struct {
	mu     sync.Mutex
	byType map[kapsel.EventTypeID]compiled // guarded by mu
}

type compiled struct {
	checker  func() *schema.Checker // compiles once
	revision int64
}

// of returns the checker of an event type. It compiles the type's schemas if the cache has none of the
// type's present revision. It returns nil if one of them does not compile, which this version of Kapsel refuses and
// an older one took: the type's events may fit that one.
func (c *checkers) of(t *kapsel.EventType, log *slog.Logger) *schema.Checker {
	c.mu.Lock()
	known := c.byType[t.ID]
	if known.checker == nil || known.revision < t.Revision {
		known.revision = t.Revision
		known.checker = sync.OnceValue(func() *schema.Checker {
			checker, wrong := schema.New(&t.EventTypeConfig)
			if wrong == nil {
				return checker
			}
			log.Warn("a stored schema of an event type cannot be used any more, so its events are not checked; send the schema anew",
				"tenant_id", t.TenantID.String(), "event_type", t.Name, "field", wrong[0].Field, "error", wrong[0].Detail)
			return nil
		})
		if c.byType == nil {
			c.byType = map[kapsel.EventTypeID]compiled{}
		}
		c.byType[t.ID] = known
	}
	c.mu.Unlock()
	return known.checker()
}

// drop removes the checkers of deleted event types.
func (c *checkers) drop(changed []kapsel.EventType) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range changed {
		if !changed[i].DeletedAt.IsZero() {
			delete(c.byType, changed[i].ID)
		}
	}
}
