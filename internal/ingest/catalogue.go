package ingest

import (
	"context"
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
	faults, err := h.checkers.of(t).Check(ev.Body, reserve)
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
	*schema.Checker
	revision int64
}

// of returns the checker of an event type. It compiles the type's schemas if the cache has none of the
// type's present revision.
func (c *checkers) of(t *kapsel.EventType) *schema.Checker {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.byType[t.ID]
	if known.Checker == nil || known.revision < t.Revision {
		checker, wrong := schema.New(&t.EventTypeConfig)
		if wrong != nil { // a type of whose schemas one no longer compiles is not checked: its events may fit that one
			checker, _ = schema.New(&kapsel.EventTypeConfig{})
		}
		known.Checker = checker
		known.revision = t.Revision
		if c.byType == nil {
			c.byType = map[kapsel.EventTypeID]compiled{}
		}
		c.byType[t.ID] = known
	}
	return known.Checker
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
