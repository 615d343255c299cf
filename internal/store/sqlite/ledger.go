package sqlite

import (
	"context"
	"errors"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// totalsColumns are columns of totals, as stmt.totals binds and stmt.colTotals reads them.
const totalsColumns = `accepted, replayed, delivered, failed, dead_letter, canceled`

// totals binds totals.
func (s *stmt) totals(t *kapsel.FactTotals) *stmt {
	return s.int(t.Accepted).int(t.Replayed).int(t.Delivered).int(t.Failed).int(t.DeadLetter).int(t.Canceled)
}

// colTotals returns the totals in the next columns.
func (s *stmt) colTotals() kapsel.FactTotals {
	return kapsel.FactTotals{
		Accepted: s.colInt(), Replayed: s.colInt(), Delivered: s.colInt(), Failed: s.colInt(), DeadLetter: s.colInt(), Canceled: s.colInt(),
	}
}

// tell writes what the transaction under way tells the ledger: an entry of the outbox, and the totals.
func (c *conn) tell() error {
	told := c.tally.Told
	if err := c.stmt(`INSERT INTO ledger_outbox (id, facts) VALUES (?, ?)`).id(told.NewID()).blob(told.Facts).exec(); err != nil {
		return err
	}
	for k, t := range told.Totals {
		err := c.stmt(`INSERT INTO ledger_totals (tenant_id, endpoint_id, ` + totalsColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, endpoint_id) DO UPDATE SET accepted = accepted + excluded.accepted, replayed = replayed + excluded.replayed,
				delivered = delivered + excluded.delivered, failed = failed + excluded.failed,
				dead_letter = dead_letter + excluded.dead_letter, canceled = canceled + excluded.canceled`).
			id(k.TenantID).id(k.EndpointID).totals(t).exec()
		if err != nil {
			return err
		}
	}
	return nil
}

// ledgerSchema is the oldest schema that has the ledger.
const ledgerSchema = 18

// KeepBooks implements store.Ledger. Once facts were told, no binary that knows no ledger may use the
// database.
func (s *Store) KeepBooks(ctx context.Context, on bool) error {
	return s.writer.cold(ctx, func(c *conn) error {
		was, err := c.walk()
		if err != nil {
			return err
		}
		now := was.Kept(on)
		if now == was {
			return nil
		}
		if err := c.exec(`UPDATE schema_info SET readable_by = max(readable_by, ?)`, ledgerSchema); err != nil {
			return err
		}
		return c.setWalk(now)
	})
}

// walk reads how far the ledger's walk is.
func (c *conn) walk() (w store.Walk, err error) {
	_, err = c.query(`SELECT value FROM meta WHERE name = ?`, store.WalkName).one(func(q *stmt) { w = store.Walk(q.colBlob()) })
	return w, err
}

func (c *conn) setWalk(w store.Walk) error {
	return c.stmt(`INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)`).text(store.WalkName).blob([]byte(w)).exec()
}

// Walk implements store.Ledger.
func (s *Store) Walk(ctx context.Context, limit int) (told int, more bool, err error) {
	for looked, n := 0, 0; looked < limit; looked += n {
		if n, more, err = s.walkSome(ctx, min(100, limit-looked), &told); err != nil || !more {
			break
		}
	}
	return told, more, err
}

// walkSome is a unit of Walk.
func (s *Store) walkSome(ctx context.Context, limit int, told *int) (looked int, more bool, err error) {
	facts := 0
	err = s.writer.cold(ctx, func(c *conn) error {
		w, err := c.walk()
		if w == store.WalkDue { // the file has no other process that might tell nothing
			w = store.WalkFrom(kapsel.DeliveryID{})
		}
		after, walking := w.After()
		if err != nil || !walking || c.tally.Told == nil {
			return err
		}
		type walked struct {
			kapsel.Delivery
			bits int
		}
		var all []walked
		q := c.stmt(`SELECT ` + deliveryColumns + `, told FROM deliveries WHERE id > ? ORDER BY id LIMIT ?`).blob(after[:]).int(int64(limit))
		for q.next() {
			all = append(all, walked{scanDelivery(q), int(q.colInt())})
		}
		if err := q.end(); err != nil {
			return err
		}
		for i := range all {
			untold, bits := store.Untold(&all[i].Delivery, all[i].bits)
			if len(untold) == 0 {
				continue
			}
			if err := c.stmt(`UPDATE deliveries SET told = ? WHERE id = ?`).int(int64(bits)).id(all[i].ID).exec(); err != nil {
				return err
			}
			for _, f := range untold {
				c.tally.Told.Add(f)
			}
			facts += len(untold)
		}
		looked, more = len(all), len(all) == limit
		if !more {
			return c.setWalk(store.WalkDone)
		}
		return c.setWalk(store.WalkFrom(all[len(all)-1].ID))
	})
	if err == nil {
		*told += facts
	}
	return looked, more && err == nil, err
}

// Walked implements store.Ledger.
func (s *Store) Walked(ctx context.Context) (done bool, err error) {
	err = s.read(ctx, func(c *conn) error {
		w, err := c.walk()
		done = w == store.WalkDone
		return err
	})
	return done, err
}

// OthersTell implements store.Ledger. The file has one process.
func (s *Store) OthersTell(context.Context) (bool, error) { return false, nil }

// FactEntries implements store.Ledger.
func (s *Store) FactEntries(ctx context.Context, limit, atMost int) (entries []store.FactEntry, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		entries, err = factEntries(c, limit, atMost)
		return err
	})
	return entries, err
}

func factEntries(c *conn, limit, atMost int) (entries []store.FactEntry, err error) {
	q, n := c.query(`SELECT id, facts FROM ledger_outbox ORDER BY id LIMIT ?`, limit), 0
	for n < atMost && q.next() {
		e := store.FactEntry{ID: q.colID()}
		if e.Facts, err = store.ReadFacts(q.view()); err != nil {
			return nil, errors.Join(err, q.end())
		}
		entries, n = append(entries, e), n+len(e.Facts)
	}
	return entries, q.end()
}

// Booked implements store.Ledger.
func (s *Store) Booked(ctx context.Context, entries []kapsel.EntryID, conflicts []store.BookConflict) error {
	return s.writer.cold(ctx, func(c *conn) error {
		for _, id := range entries {
			if err := c.stmt(`DELETE FROM ledger_outbox WHERE id = ?`).id(id).exec(); err != nil {
				return err
			}
		}
		for i := range conflicts {
			f := conflicts[i].Fact
			there, err := c.stmt(`SELECT event_id, endpoint_id, tenant_id FROM deliveries WHERE id = ?`).id(f.DeliveryID).one(func(q *stmt) {
				f.EventID, f.EndpointID, f.TenantID = q.colID(), q.colID(), q.colID()
			})
			if err == nil && !there {
				there, err = c.told(store.Owner{TenantID: f.TenantID, EndpointID: f.EndpointID})
			}
			if err == nil && there {
				err = c.stmt(`INSERT INTO ledger_conflicts (kind, delivery_id, event_id, endpoint_id, tenant_id, at, answer, found_at)
					VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (delivery_id, kind) DO NOTHING`).
					int(int64(f.Kind)).id(f.DeliveryID).id(f.EventID).id(f.EndpointID).id(f.TenantID).at(f.At).
					text(conflicts[i].Answer).at(conflicts[i].At).exec()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// told reports whether anything was told of an owner.
func (c *conn) told(o store.Owner) (bool, error) {
	if o.EndpointID.IsZero() {
		return c.query(`SELECT 1 FROM ledger_totals WHERE tenant_id = ? LIMIT 1`, o.TenantID).one(func(*stmt) {})
	}
	return c.query(`SELECT 1 FROM ledger_totals WHERE tenant_id = ? AND endpoint_id = ?`, o.TenantID, o.EndpointID).one(func(*stmt) {})
}

// BookConflicts implements store.Ledger.
func (s *Store) BookConflicts(ctx context.Context, tenant kapsel.TenantID, after int64, limit int) (all []store.BookConflict, err error) {
	const columns = `SELECT n, kind, delivery_id, event_id, endpoint_id, tenant_id, at, answer, found_at FROM ledger_conflicts `
	err = s.read(ctx, func(c *conn) error {
		var q *stmt
		if tenant.IsZero() {
			q = c.query(columns+`WHERE n > ? ORDER BY n LIMIT ?`, after, limit)
		} else {
			q = c.query(columns+`WHERE tenant_id = ? AND n > ? ORDER BY n LIMIT ?`, tenant, after, limit)
		}
		for q.next() {
			all = append(all, store.BookConflict{
				Number: q.colInt(),
				Fact: kapsel.Fact{
					Kind: kapsel.FactKind(q.colInt()), DeliveryID: q.colID(), EventID: q.colID(), EndpointID: q.colID(), TenantID: q.colID(), At: q.colTime(),
				},
				Answer: q.colText(), At: q.colTime(),
			})
		}
		return q.end()
	})
	return all, err
}

// ReportBooks implements store.Ledger.
func (s *Store) ReportBooks(ctx context.Context, reports []store.BookReport) error {
	return s.writer.cold(ctx, func(c *conn) error {
		for i := range reports {
			r := &reports[i]
			there, err := c.told(r.Owner)
			if err == nil && there {
				err = c.stmt(`INSERT OR REPLACE INTO ledger_books (tenant_id, endpoint_id, books, cut, reported_at) VALUES (?, ?, ?, ?, ?)`).
					id(r.TenantID).blob(r.EndpointID[:]).blob(store.AppendTotals(nil, &r.Books)).blob(store.AppendTotals(nil, &r.Cut)).at(r.At).exec()
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Accounts implements store.Ledger.
func (s *Store) Accounts(ctx context.Context, tenant kapsel.TenantID, after store.Owner, limit int) (page []store.OwnerAccount, err error) {
	err = s.read(ctx, func(c *conn) error {
		const columns = `SELECT tenant_id, endpoint_id, ` + totalsColumns + ` FROM ledger_totals `
		var q *stmt
		if tenant.IsZero() {
			q = c.stmt(columns + `WHERE (tenant_id, endpoint_id) > (?, ?) ORDER BY tenant_id, endpoint_id LIMIT ?`).blob(after.TenantID[:])
		} else {
			q = c.stmt(columns + `WHERE tenant_id = ? AND endpoint_id > ? ORDER BY endpoint_id LIMIT ?`).id(tenant)
		}
		q.blob(after.EndpointID[:]).int(int64(limit))
		for q.next() {
			page = append(page, store.OwnerAccount{Owner: store.Owner{TenantID: q.colID(), EndpointID: q.colID()}, Told: q.colTotals()})
		}
		if err := q.end(); err != nil {
			return err
		}
		page, err = store.WithTenants(page, after, limit, func(id kapsel.TenantID) (kapsel.FactTotals, error) { return toldOf(c, id) })
		if err != nil {
			return err
		}
		return addReports(c, page)
	})
	return page, err
}

// AccountOf implements store.Ledger.
func (s *Store) AccountOf(ctx context.Context, owner store.Owner) (store.OwnerAccount, error) {
	page := []store.OwnerAccount{{Owner: owner}}
	err := s.read(ctx, func(c *conn) error {
		found, err := c.query(`SELECT `+totalsColumns+` FROM ledger_totals WHERE tenant_id = ? AND endpoint_id = ?`, owner.TenantID, owner.EndpointID).
			one(func(q *stmt) { page[0].Told = q.colTotals() })
		if err == nil && !found {
			err = store.NotFound("account")
		}
		if err != nil {
			return err
		}
		return addReports(c, page)
	})
	return page[0], err
}

// toldOf returns what was told of all endpoints of a tenant.
func toldOf(c *conn, id kapsel.TenantID) (t kapsel.FactTotals, err error) {
	_, err = c.query(`SELECT sum(accepted), sum(replayed), sum(delivered), sum(failed), sum(dead_letter), sum(canceled)
		FROM ledger_totals WHERE tenant_id = ?`, id).one(func(q *stmt) { t = q.colTotals() })
	return t, err
}

// addReports sets what the outbox and the books have of a page's owners.
func addReports(c *conn, page []store.OwnerAccount) error {
	for i := range page {
		p := &page[i]
		_, err := c.stmt(`SELECT books, cut, reported_at FROM ledger_books WHERE tenant_id = ? AND endpoint_id = ?`).
			id(p.TenantID).blob(p.EndpointID[:]).one(func(q *stmt) {
			p.Report = &store.BookReport{Owner: p.Owner, Books: store.ReadTotals(q.colBlob()), Cut: store.ReadTotals(q.colBlob()), At: q.colTime()}
		})
		if err != nil {
			return err
		}
	}
	entries, err := factEntries(c, store.MaxUnbooked+1, 1<<62)
	if err == nil && len(entries) <= store.MaxUnbooked {
		store.AddUnbooked(page, entries)
	}
	return err
}
