package booker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/ledger"
)

const (
	// ownersAtOnce is how many tenants and endpoints are compared at once.
	ownersAtOnce = 100
	// mostNamed is how many deliveries of an endpoint are compared one by one: so many are held in memory.
	mostNamed = 2_000_000
	// mostDifferences is how many differences of one endpoint are named in one comparison.
	mostDifferences = 1000
	// booksFirst is how many pages of entries are booked for a page of owners, if too much waits.
	booksFirst = 20
)

// ErrBehind says that too much waits to be booked for a comparison.
var ErrBehind = errors.New("too much waits to be booked")

// account is a tenant or an endpoint with what its books say and what they should.
type account struct {
	tenant          kapsel.TenantID
	endpoint        kapsel.EndpointID // zero: the tenant's own
	books, expected kapsel.FactTotals
}

// Compare compares the books with the store, reports what both say, and names the deliveries behind each
// difference. Nothing need stand still: what the books should say is what the store counts without what
// waits to be booked, both of one moment, between two equal readings of the books.
func (b *Booker) Compare(ctx context.Context) error {
	if err := b.open(ctx); err != nil {
		return err
	}
	for cursor := ""; ; {
		page, next, err := b.comparePage(ctx, cursor)
		for range booksFirst { // what came while the pages before were compared
			if !errors.Is(err, ErrBehind) {
				break
			}
			if _, err := b.Book(ctx, 0); err != nil {
				return err
			}
			page, next, err = b.comparePage(ctx, cursor)
		}
		if err != nil {
			return err
		}
		reported := make([]client.ReportedAccount, len(page))
		var differences []client.FoundConflict
		for i, a := range page {
			reported[i] = client.ReportedAccount{TenantID: a.tenant.String(), Books: reportable(a.books), Expected: reportable(a.expected)}
			if a.endpoint.IsZero() {
				continue
			}
			reported[i].EndpointID = client.Some(a.endpoint.String())
			if a.books == a.expected {
				continue
			}
			b.Log.Error("the books of an endpoint differ from the store", "endpoint", a.endpoint.String(), "books", a.books, "expected", a.expected)
			named, err := b.name(ctx, &a)
			if err != nil {
				return err
			}
			differences = append(differences, named...)
		}
		for len(differences) > mostConflicts {
			if err := b.API.ReportBooks(ctx, b.Name, client.BooksReport{Accounts: []client.ReportedAccount{}, Differences: differences[:mostConflicts]}); err != nil {
				return err
			}
			differences = differences[mostConflicts:]
		}
		if err := b.API.ReportBooks(ctx, b.Name, client.BooksReport{Accounts: reported, Differences: differences}); err != nil {
			return err
		}
		if cursor = next; cursor == "" {
			return nil
		}
	}
}

// comparePage reads what books and store say of a page of owners.
func (b *Booker) comparePage(ctx context.Context, cursor string) (page []account, next string, err error) {
	const tries = 10
	for range tries {
		owners, _, err := b.read(ctx, cursor)
		if err != nil {
			return nil, "", err
		}
		before, err := b.balances(ctx, owners)
		if err != nil {
			return nil, "", err
		}
		cut, next, err := b.read(ctx, cursor)
		if err != nil {
			return nil, "", err
		}
		after, err := b.balances(ctx, owners)
		if err != nil {
			return nil, "", err
		}
		if same(owners, cut) && equal(before, after) {
			for i := range cut {
				a := &cut[i]
				if a.endpoint.IsZero() {
					a.books = ledger.TenantTotals(a.tenant, before)
				} else {
					a.books = ledger.EndpointTotals(a.endpoint, before)
				}
			}
			return cut, next, nil
		}
	}
	return nil, "", fmt.Errorf("the books changed in each of %d readings; does another program book?", tries)
}

// read returns a page of owners with what their books should say.
func (b *Booker) read(ctx context.Context, cursor string) (page []account, next string, err error) {
	var answer struct {
		Data       []client.LedgerAccount
		NextCursor *string `json:"next_cursor"`
	}
	query := url.Values{"limit": {strconv.Itoa(ownersAtOnce)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	if err := b.API.Do(ctx, http.MethodGet, "/v1/ledger/reports?"+query.Encode(), nil, &answer); err != nil {
		return nil, "", err
	}
	for _, d := range answer.Data {
		if d.Unbooked == nil {
			return nil, "", ErrBehind
		}
		var a account
		err := a.tenant.UnmarshalText([]byte(d.TenantID))
		should := totals(&d.Store).Minus(totals(d.Unbooked))
		a.expected = kapsel.FactTotals{Accepted: should.Accepted, Replayed: should.Replayed}
		if d.EndpointID != nil {
			err = errors.Join(err, a.endpoint.UnmarshalText([]byte(*d.EndpointID)))
			a.expected = should
			a.expected.Accepted, a.expected.Replayed = should.Accepted+should.Replayed, 0
		}
		if err != nil {
			return nil, "", err
		}
		page = append(page, a)
	}
	if answer.NextCursor != nil {
		next = *answer.NextCursor
	}
	return page, next, nil
}

func totals(t *client.LedgerTotals) kapsel.FactTotals {
	value := func(n *int64) int64 {
		if n == nil {
			return 0
		}
		return *n
	}
	return kapsel.FactTotals{
		Accepted: value(t.Accepted), Replayed: value(t.Replayed), Delivered: value(t.Delivered),
		Failed: value(t.Failed), DeadLetter: value(t.DeadLetter), Canceled: value(t.Canceled),
	}
}

func reportable(t kapsel.FactTotals) client.ReportedTotals {
	return client.ReportedTotals{
		Accepted: &t.Accepted, Replayed: &t.Replayed, Delivered: &t.Delivered, Failed: &t.Failed, DeadLetter: &t.DeadLetter, Canceled: &t.Canceled,
	}
}

// balances reads the accounts of owners.
func (b *Booker) balances(ctx context.Context, owners []account) (map[ledger.ID]ledger.Balance, error) {
	var ids []ledger.ID
	for _, o := range owners {
		all := ledger.EndpointAccounts(o.endpoint)
		if o.endpoint.IsZero() {
			all = ledger.TenantAccounts(o.tenant)
		}
		for _, a := range all {
			ids = append(ids, a.ID)
		}
	}
	balances := map[ledger.ID]ledger.Balance{}
	if len(ids) == 0 {
		return balances, nil
	}
	read, err := b.books.Balances(ctx, ids) // at most 500
	for _, r := range read {
		balances[r.ID] = r
	}
	return balances, err
}

// same reports whether two pages have the same owners.
func same(a, b []account) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].tenant != b[i].tenant || a[i].endpoint != b[i].endpoint {
			return false
		}
	}
	return true
}

func equal(a, b map[ledger.ID]ledger.Balance) bool {
	if len(a) != len(b) {
		return false
	}
	for id, balance := range a {
		if b[id] != balance {
			return false
		}
	}
	return true
}

// fact names one of the two facts of a delivery.
type fact struct {
	id   kapsel.DeliveryID
	made bool
}

// name walks the deliveries of an endpoint and finds the facts that the books lack or have otherwise,
// and then the newest transfers of the books that no delivery explains: as many as the books have too
// many.
func (b *Booker) name(ctx context.Context, a *account) (named []client.FoundConflict, err error) {
	// What is booked from now on is of deliveries that the walk may miss, and explains no difference found before.
	newest, err := b.books.TransfersOf(ctx, ledger.AccountID(a.endpoint, ledger.EndpointInFlight), 0, 1)
	if err != nil {
		return nil, err
	}
	seen, cut := map[fact]bool{}, false
	var missing []kapsel.Fact
	err = b.walk(ctx, a.endpoint, func(facts []kapsel.Fact) (bool, error) {
		for _, f := range facts {
			seen[fact{f.DeliveryID, f.Kind.Made()}] = true
		}
		lacking, otherwise, err := b.look(ctx, facts)
		missing, named = append(missing, lacking...), append(named, otherwise...)
		cut = len(seen) >= mostNamed || len(named)+len(missing) >= mostDifferences
		return !cut, err
	})
	if err != nil {
		return nil, err
	}
	// What was told since is booked, and then no longer missing.
	for range 1000 {
		n, err := b.Book(ctx, 0)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
	}
	for _, some := range chunks(missing, ledger.MaxBatch) {
		lacking, _, err := b.look(ctx, some)
		if err != nil {
			return nil, err
		}
		for _, f := range lacking {
			named = append(named, found(f, "not_booked"))
		}
	}
	if cut || len(newest) == 0 {
		return named, nil // a transfer of a delivery that was not looked at would be taken for one too many
	}
	more := a.books.Minus(a.expected)
	surplus := map[kapsel.FactKind]int64{
		kapsel.FactAccepted: more.Accepted, kapsel.FactDelivered: more.Delivered, kapsel.FactFailed: more.Failed,
		kapsel.FactDeadLetter: more.DeadLetter, kapsel.FactCanceled: more.Canceled,
	}
	left := int64(0)
	for _, n := range surplus {
		left += max(0, n)
	}
	for before := newest[0].Timestamp + 1; left > 0 && len(named) < mostDifferences; {
		booked, err := b.books.TransfersOf(ctx, ledger.AccountID(a.endpoint, ledger.EndpointInFlight), before, ledger.MaxBatch)
		if err != nil {
			return nil, err
		}
		for _, t := range booked {
			before = t.Timestamp
			f := factOf(a, &t.Transfer)
			kind := f.Kind
			if kind == kapsel.FactReplayed {
				kind = kapsel.FactAccepted // the accounts of an endpoint have one sum of both
			}
			if surplus[kind] > 0 && !seen[fact{f.DeliveryID, f.Kind.Made()}] {
				if there, err := b.inStore(ctx, &f); err != nil {
					return nil, err
				} else if there {
					continue
				}
				named = append(named, found(f, "not_in_store"))
				surplus[kind]--
				left--
			}
		}
		if len(booked) < ledger.MaxBatch {
			break
		}
	}
	return named, nil
}

// inStore reports whether the store has a fact, which it may not have had when the walk came by.
func (b *Booker) inStore(ctx context.Context, f *kapsel.Fact) (bool, error) {
	var answer struct{ Data []client.LedgerEntry }
	query := url.Values{"booker": {b.Name}, "delivery_id": {f.DeliveryID.String()}}
	if err := b.API.Do(ctx, http.MethodGet, "/v1/ledger/entries?"+query.Encode(), nil, &answer); err != nil {
		return false, err
	}
	for _, e := range answer.Data {
		for _, has := range e.Facts {
			if f.Kind.Made() || has.Kind == f.Kind.String() {
				return true, nil
			}
		}
	}
	return false, nil
}

// factOf returns the fact that a transfer of an endpoint books.
func factOf(a *account, t *ledger.Transfer) kapsel.Fact {
	return kapsel.Fact{
		Kind: kapsel.FactKind(t.Code), DeliveryID: ledger.DeliveryOf(t.ID), EventID: kapsel.EventID(t.Event),
		EndpointID: a.endpoint, TenantID: a.tenant, At: time.UnixMicro(int64(t.At)).UTC(),
	}
}

// walk calls f with the facts of an endpoint's deliveries, as many at once as one look-up may have,
// until f says that it is enough.
func (b *Booker) walk(ctx context.Context, endpoint kapsel.EndpointID, f func([]kapsel.Fact) (more bool, err error)) error {
	const page = 200 // deliveries, with two facts each at most
	var facts []kapsel.Fact
	for cursor := ""; ; {
		var answer struct {
			Data       []client.LedgerEntry
			NextCursor *string `json:"next_cursor"`
		}
		query := url.Values{"booker": {b.Name}, "endpoint_id": {endpoint.String()}, "limit": {strconv.Itoa(page)}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		if err := b.API.Do(ctx, http.MethodGet, "/v1/ledger/entries?"+query.Encode(), nil, &answer); err != nil {
			return err
		}
		for _, e := range answer.Data {
			read, err := factsOf(e.Facts)
			if err != nil {
				return err
			}
			facts = append(facts, read...)
		}
		last := answer.NextCursor == nil
		if last || len(facts)+2*page > ledger.MaxBatch {
			more, err := f(facts)
			if err != nil || !more || last {
				return err
			}
			facts = facts[:0]
		}
		cursor = *answer.NextCursor
	}
}

// look looks facts up in the books, and returns those that are not there and those that are there
// otherwise.
func (b *Booker) look(ctx context.Context, facts []kapsel.Fact) (lacking []kapsel.Fact, otherwise []client.FoundConflict, err error) {
	ids := make([]ledger.ID, len(facts))
	for i := range facts {
		ids[i] = ledger.TransferOf(&facts[i]).ID
	}
	booked, err := b.books.Transfers(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	by := make(map[ledger.ID]ledger.Transfer, len(booked))
	for _, t := range booked {
		by[t.ID] = t.Transfer
	}
	for i, f := range facts {
		t, there := by[ids[i]]
		switch want := ledger.TransferOf(&f); {
		case !there:
			lacking = append(lacking, f)
		case t != want:
			otherwise = append(otherwise, found(f, ledger.Differs(want, t).String()))
		}
	}
	return lacking, otherwise, nil
}
