package manage

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	// reportKept is how long a report of the books is shown; after it they count as unavailable.
	reportKept = 5 * time.Minute
	// bookerLease is how long a booker that is silent keeps others from booking.
	bookerLease = 30 * time.Second
	// entriesAtOnce and factsAtOnce bound a page of entries: so many facts are one call to TigerBeetle.
	entriesAtOnce = 200
	factsAtOnce   = 8189
	// entriesEvery is how often a request that waits for entries looks for some.
	entriesEvery = 250 * time.Millisecond
)

// LedgerAccount is what was told of an owner's deliveries, and what the books said when they were last
// compared with it. Report is nil if that was not within the last five minutes.
type LedgerAccount struct{ store.OwnerAccount }

// Booker is who books: the name that it gives itself, "" for the key that it uses.
type Booker string

// LedgerAccounts returns a page of accounts, each tenant before its endpoints: those of the caller's tenant, or
// for the admin of the tenant that it names (zero: all), and for who books of all.
func (m *Manager) LedgerAccounts(ctx context.Context, c access.Caller, named kapsel.TenantID, after store.Owner, limit int) ([]LedgerAccount, error) {
	if err := m.readsLedger(c); err != nil {
		return nil, err
	}
	page, err := m.Store.Accounts(ctx, c.TenantOr(named), after, limit)
	return m.fresh(page), err
}

// LedgerAccount returns the account of an endpoint of the caller's tenant, or for the admin of any. An
// endpoint of which nothing was told has an empty account.
func (m *Manager) LedgerAccount(ctx context.Context, c access.Caller, id kapsel.EndpointID) (LedgerAccount, error) {
	if err := m.ledgerFor(c, access.Read); err != nil {
		return LedgerAccount{}, err
	}
	e, err := m.Store.Endpoint(ctx, c.TenantOr(kapsel.TenantID{}), id)
	if err != nil {
		return LedgerAccount{}, err
	}
	a, err := m.Store.AccountOf(ctx, store.Owner{TenantID: e.TenantID, EndpointID: e.ID})
	if missing(err) {
		a, err = store.OwnerAccount{Owner: store.Owner{TenantID: e.TenantID, EndpointID: e.ID}, Unbooked: new(kapsel.FactTotals)}, nil
	}
	if err != nil {
		return LedgerAccount{}, err
	}
	return m.fresh([]store.OwnerAccount{a})[0], nil
}

// fresh takes away reports that are too old.
func (m *Manager) fresh(page []store.OwnerAccount) []LedgerAccount {
	all := make([]LedgerAccount, len(page))
	for i, a := range page {
		if a.Report != nil && m.Clock().Sub(a.Report.At) > reportKept {
			a.Report = nil
		}
		all[i] = LedgerAccount{a}
	}
	return all
}

// LedgerComplete reports whether all facts of all deliveries were told. It takes a while after the
// ledger was turned on, on all nodes.
func (m *Manager) LedgerComplete(ctx context.Context, c access.Caller) (bool, error) {
	if err := m.readsLedger(c); err != nil {
		return false, err
	}
	return m.Store.Walked(ctx)
}

// LedgerConflicts returns a page of conflicts, those found first at its beginning.
func (m *Manager) LedgerConflicts(ctx context.Context, c access.Caller, named kapsel.TenantID, after int64, limit int) ([]store.BookConflict, error) {
	if err := m.ledgerFor(c, access.Read); err != nil {
		return nil, err
	}
	return m.Store.BookConflicts(ctx, c.TenantOr(named), after, limit)
}

// LedgerEntries returns the oldest entries that are not booked. If there are none, it waits for some, for
// at most so long.
func (m *Manager) LedgerEntries(ctx context.Context, c access.Caller, booker Booker, limit int, wait time.Duration) ([]store.FactEntry, error) {
	if err := m.books(ctx, c, booker); err != nil {
		return nil, err
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		entries, err := m.Store.FactEntries(ctx, min(limit, entriesAtOnce), factsAtOnce)
		if err != nil || len(entries) > 0 || wait <= 0 {
			return entries, err
		}
		select {
		case <-end.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(entriesEvery):
		}
	}
}

// LedgerFacts returns the facts of a page of an endpoint's deliveries, newest first, whether they were
// booked or not, and the delivery that the next page is before; zero: it is the last.
func (m *Manager) LedgerFacts(ctx context.Context, c access.Caller, booker Booker, endpoint kapsel.EndpointID, p store.Page[kapsel.DeliveryID]) (facts []kapsel.Fact, next kapsel.DeliveryID, err error) {
	if err := m.books(ctx, c, booker); err != nil {
		return nil, next, err
	}
	deliveries, err := m.Store.ListDeliveries(ctx, kapsel.TenantID{}, store.DeliveryFilter{EndpointID: endpoint}, p)
	if err != nil {
		return nil, next, err
	}
	for i := range deliveries {
		untold, _ := store.Untold(&deliveries[i], 0)
		facts = append(facts, untold...)
	}
	if len(deliveries) == p.Limit {
		next = deliveries[len(deliveries)-1].ID
	}
	return facts, next, nil
}

// LedgerFactsOf returns the facts of a delivery, whether they were booked or not; none if there is no such
// delivery.
func (m *Manager) LedgerFactsOf(ctx context.Context, c access.Caller, booker Booker, id kapsel.DeliveryID) ([]kapsel.Fact, error) {
	if err := m.books(ctx, c, booker); err != nil {
		return nil, err
	}
	d, err := m.Store.Delivery(ctx, kapsel.TenantID{}, id)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	facts, _ := store.Untold(&d, 0)
	return facts, nil
}

// Acknowledge takes entries that were booked out of the outbox, and keeps what could not be booked.
func (m *Manager) Acknowledge(ctx context.Context, c access.Caller, booker Booker, entries []kapsel.EntryID, conflicts []store.BookConflict) error {
	if err := m.books(ctx, c, booker); err != nil {
		return err
	}
	return m.Store.Booked(ctx, entries, m.found(conflicts))
}

// ReportBooks keeps what the books said when they were compared with the store, and how facts differ.
func (m *Manager) ReportBooks(ctx context.Context, c access.Caller, booker Booker, reports []store.BookReport, differences []store.BookConflict) error {
	if err := m.books(ctx, c, booker); err != nil {
		return err
	}
	now := m.Clock()
	for i := range reports {
		reports[i].At = now
	}
	if len(differences) > 0 {
		if err := m.Store.Booked(ctx, nil, m.found(differences)); err != nil {
			return err
		}
	}
	return m.Store.ReportBooks(ctx, reports)
}

// found sets when conflicts were found: now.
func (m *Manager) found(conflicts []store.BookConflict) []store.BookConflict {
	now := m.Clock()
	for i := range conflicts {
		conflicts[i].At = now
	}
	return conflicts
}

// readsLedger is ledgerFor for what who books reads, too.
func (m *Manager) readsLedger(c access.Caller) error {
	if c.May(access.Book) {
		return m.ledgerFor(c, access.Book)
	}
	return m.ledgerFor(c, access.Read)
}

// ledgerFor returns NotFound if the ledger is off, and an error if the caller lacks a right.
func (m *Manager) ledgerFor(c access.Caller, need access.Right) error {
	if err := c.Check(need); err != nil {
		return err
	}
	if !m.Ledger {
		return kapsel.Errorf(kapsel.NotFound, "the ledger is off; with KAPSEL_LEDGER=on Kapsel keeps it")
	}
	return nil
}

// books makes the caller the one who books, until it was silent for bookerLease. Conflict: another books.
func (m *Manager) books(ctx context.Context, c access.Caller, booker Booker) error {
	if err := m.ledgerFor(c, access.Book); err != nil {
		return err
	}
	name := sha256.Sum256([]byte(booker))
	leads, err := m.Store.Lead(ctx, "booker", kapsel.NodeID(name[:16]), m.Clock(), bookerLease)
	if err == nil && !leads {
		err = kapsel.Errorf(kapsel.Conflict, "another kapsel-ledger books; this one may once that one was silent for %v", bookerLease)
	}
	return err
}
