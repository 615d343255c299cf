package sqlite

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

const circuitColumns = `endpoint_id, destination, state, changed_at, retry_at, probe, hold_until, version, revision`

func scanCircuit(s *stmt) kapsel.Circuit {
	return kapsel.Circuit{
		EndpointID: s.colID(), Destination: int(s.colInt()), State: kapsel.CircuitState(s.colText()), ChangedAt: s.colTime(), RetryAt: s.colTime(),
		Probe: s.colID(), HoldUntil: s.colTime(), Version: s.colInt(), Revision: s.colInt(),
	}
}

// SaveCircuit implements store.Queue.
func (s *Store) SaveCircuit(_ context.Context, circuit kapsel.Circuit) (saved kapsel.Circuit, err error) {
	err = s.writer.hotly(func(c *conn) (err error) {
		var version int64
		_, err = c.query(`SELECT version FROM circuits WHERE endpoint_id = ?`, circuit.EndpointID).
			one(func(s *stmt) { version = s.colInt() })
		if err != nil {
			return err
		}
		if version != circuit.Version {
			return rules.CircuitChanged()
		}
		if s.by != nil {
			if err := s.noteCircuit(c, circuit); err != nil {
				return err
			}
		}
		revision, err := nextRevision(c)
		if err != nil {
			return err
		}
		saved = rules.NextCircuit(circuit, revision)
		return c.exec(`INSERT OR REPLACE INTO circuits (`+circuitColumns+`, successes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
			saved.EndpointID, saved.Destination, string(saved.State), saved.ChangedAt, saved.RetryAt,
			saved.Probe, saved.HoldUntil, saved.Version, saved.Revision)
	})
	if err != nil {
		return kapsel.Circuit{}, err
	}
	return saved, nil
}

// noteCircuit writes the row of the author's change of an endpoint's circuit, before the change.
func (s *Store) noteCircuit(c *conn, next kapsel.Circuit) error {
	e, err := liveEndpoint(c, kapsel.TenantID{}, next.EndpointID)
	if err != nil {
		return err
	}
	was := kapsel.Circuit{EndpointID: e.ID}
	_, err = c.query(`SELECT `+circuitColumns+` FROM circuits WHERE endpoint_id = ?`, e.ID).one(func(s *stmt) { was = scanCircuit(s) })
	if err != nil {
		return err
	}
	return s.note(c, s.by.SeeCircuit(&e, was), s.by.SeeCircuit(&e, next))
}

// Circuit implements store.Queue.
func (s *Store) Circuit(ctx context.Context, id kapsel.EndpointID) (kapsel.Circuit, error) {
	circuit := kapsel.Circuit{EndpointID: id}
	err := s.read(ctx, func(c *conn) error {
		_, err := c.query(`SELECT `+circuitColumns+` FROM circuits WHERE endpoint_id = ?`, id).
			one(func(s *stmt) { circuit = scanCircuit(s) })
		return err
	})
	return circuit, err
}

// freeProbes takes probes back from nodes that are no longer in the table of nodes, under the next
// revision.
func freeProbes(c *conn) error {
	const lost = ` FROM circuits WHERE probe IS NOT NULL AND probe NOT IN (SELECT id FROM nodes)`
	some, err := c.query(`SELECT 1` + lost + ` LIMIT 1`).one(func(*stmt) {})
	if err != nil || !some {
		return err
	}
	revision, err := nextRevision(c)
	if err != nil {
		return err
	}
	return c.exec(`UPDATE circuits SET probe = NULL, version = version + 1, revision = ?
		WHERE probe IS NOT NULL AND probe NOT IN (SELECT id FROM nodes)`, revision)
}

// DisableGone implements store.Queue.
func (s *Store) DisableGone(_ context.Context, id kapsel.EndpointID, destination int, now time.Time) error {
	return s.writer.hotly(func(c *conn) error {
		e, err := liveEndpoint(c, kapsel.TenantID{}, id)
		if err != nil {
			return err
		}
		from := e
		if !rules.Gone(&e, destination, now) {
			return nil
		}
		return saveEndpoint(c, &e, &from)
	})
}

var _ store.Queue = (*Store)(nil)
