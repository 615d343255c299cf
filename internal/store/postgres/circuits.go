package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// circuitColumns are the columns of a circuit c, as scanCircuit reads them.
const circuitColumns = "c.endpoint_id, c.destination, c.state, c.changed_at, c.retry_at, c.probe, c.hold_until, c.version, c.revision"

func scanCircuit(r *row) kapsel.Circuit {
	return kapsel.Circuit{
		EndpointID: r.id(), Destination: r.int4(), State: kapsel.CircuitState(r.text()), ChangedAt: r.time(), RetryAt: r.time(),
		Probe: r.id(), HoldUntil: r.time(), Version: r.int8(), Revision: r.int8(),
	}
}

// SaveCircuit writes a circuit if nobody has changed it meanwhile; see store.Queue.
func (s *Store) SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error) {
	var saved kapsel.Circuit
	err := s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		if s.by != nil {
			if err := s.noteCircuit(ctx, tx, c); err != nil {
				return err
			}
		}
		revision, err := nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		saved = rules.NextCircuit(c, revision)
		statement := `
			UPDATE circuits SET state = $3, changed_at = $4, retry_at = $5, destination = $6, probe = $7, hold_until = $8,
				version = $9, revision = $10
			WHERE part = $1 AND endpoint_id = $2 AND version = $9 - 1`
		if c.Version == 0 {
			statement = `
				INSERT INTO circuits (part, endpoint_id, state, changed_at, retry_at, destination, probe, hold_until, version, revision)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`
		}
		tag, err := tx.Exec(ctx, statement, int16(kapsel.PartOf(c.EndpointID)), id(c.EndpointID), string(saved.State), at(c.ChangedAt),
			at(c.RetryAt), c.Destination, id(c.Probe), at(c.HoldUntil), saved.Version, saved.Revision)
		if err == nil && tag.RowsAffected() == 0 {
			err = rules.CircuitChanged()
		}
		return err
	})
	if err != nil {
		return kapsel.Circuit{}, err
	}
	return saved, nil
}

// noteCircuit writes the row of the author's change of an endpoint's circuit, before the change. If the
// circuit is not at the version that next was made of, the change fails, and its transaction with it.
func (s *Store) noteCircuit(ctx context.Context, tx pgx.Tx, next kapsel.Circuit) error {
	e, err := endpoint(ctx, tx, kapsel.TenantID{}, next.EndpointID, "")
	if err != nil {
		return err
	}
	was, _, err := first(ctx, tx, scanCircuit, circuitOf, int16(kapsel.PartOf(e.ID)), id(e.ID))
	if err != nil {
		return err
	}
	return s.note(ctx, tx, s.by.SeeCircuit(&e, was), s.by.SeeCircuit(&e, next))
}

// circuitOf is the query of one circuit.
const circuitOf = "SELECT " + circuitColumns + " FROM circuits c WHERE c.part = $1 AND c.endpoint_id = $2"

// Circuit reads an endpoint's circuit; see store.Queue.
func (s *Store) Circuit(ctx context.Context, endpoint kapsel.EndpointID) (kapsel.Circuit, error) {
	found, err := list(ctx, s, engine, scanCircuit, circuitOf, int16(kapsel.PartOf(endpoint)), id(endpoint))
	if err != nil || len(found) == 0 {
		return kapsel.Circuit{EndpointID: endpoint}, err
	}
	return found[0], nil
}

// freeProbes takes probes back from dead nodes, so that their circuits can probe again.
func freeProbes(ctx context.Context, tx pgx.Tx) error {
	const lost = "probe IS NOT NULL AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = probe AND NOT n.dead)"
	var some bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM circuits WHERE "+lost+")").Scan(&some); err != nil || !some {
		return err
	}
	revision, err := nextRevision(ctx, tx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE circuits SET probe = NULL, version = version + 1, revision = $1 WHERE "+lost, revision)
	return err
}

// DisableGone disables an endpoint whose destination said 410; see store.Queue.
func (s *Store) DisableGone(ctx context.Context, endpoint kapsel.EndpointID, destination int, now time.Time) error {
	unchanged := errors.New("the endpoint is disabled already, or has another destination")
	_, err := s.UpdateEndpoint(ctx, kapsel.TenantID{}, endpoint, func(e *kapsel.Endpoint) error {
		if !rules.Gone(e, destination, now) {
			return unchanged
		}
		return nil
	})
	if errors.Is(err, unchanged) {
		return nil
	}
	return err
}
