// Package booker books what Kapsel tells in books that are kept elsewhere, and compares both. It knows
// Kapsel by its API only, and has no state: what is not acknowledged comes again, and books take a
// repeated transfer for the one that they have.
package booker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/ledger"
)

// Config is what a Booker works with.
type Config struct {
	API  *client.Client // of Kapsel, with the admin key
	Name string         // by which Kapsel tells bookers apart; each process has its own
	// Open connects to the books. The Booker closes what Open returns, and opens anew after a failure.
	Open func(ctx context.Context) (ledger.Books, error)
	// Every is how often the books are compared with the store.
	Every time.Duration
	// Wait is how long a request waits for something to book; at most 20 s.
	Wait time.Duration
	Log  *slog.Logger
}

// Booker books. Only one goroutine may use it.
type Booker struct {
	Config
	books    ledger.Books
	accounts map[ledger.ID]bool // that are known to be in books
}

// New returns a booker.
func New(cfg Config) *Booker { return &Booker{Config: cfg} }

// Pauses after failures. TigerBeetle has room for 64 clients, so no loop may make them quickly.
const (
	firstPause = time.Second
	mostPause  = time.Minute
)

// Run books and compares until ctx ends. After a failure it closes the books, pauses, and goes on with
// new ones.
func (b *Booker) Run(ctx context.Context) {
	defer b.Close()
	pause, compared := firstPause, time.Time{}
	for ctx.Err() == nil {
		err := b.turn(ctx, &compared)
		if err == nil {
			pause = firstPause
			continue
		}
		if ctx.Err() != nil {
			return
		}
		b.Close()
		b.Log.Warn("booking failed; what is not booked waits in Kapsel", "error", err, "again_in", pause.String())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// turn books a page and, if it is time, compares: under load, too, when something to book always waits.
func (b *Booker) turn(ctx context.Context, compared *time.Time) error {
	wait := b.Wait
	if left := b.Every - time.Since(*compared); left < wait {
		wait = max(0, left)
	}
	if _, err := b.Book(ctx, wait); err != nil || time.Since(*compared) < b.Every {
		return err
	}
	switch err := b.Compare(ctx); {
	case errors.Is(err, ErrBehind):
		return nil // it is booked first
	case err != nil:
		return fmt.Errorf("compare the books with the store: %w", err)
	}
	*compared = time.Now()
	return nil
}

// Close closes the books, if they are open.
func (b *Booker) Close() {
	if b.books != nil {
		b.books.Close()
		b.books, b.accounts = nil, nil
	}
}

// open opens the books, if they are not open.
func (b *Booker) open(ctx context.Context) error {
	if b.books != nil {
		return nil
	}
	books, err := b.Open(ctx)
	if err != nil {
		return fmt.Errorf("open the books: %w", err)
	}
	b.books, b.accounts = books, map[ledger.ID]bool{}
	return nil
}

// entriesAtOnce is how many entries are asked for at once.
const entriesAtOnce = 200

// Book books the oldest entries, and returns how many facts they had. If there are none it waits for
// some, for at most so long. After an error some may be booked: they come again.
func (b *Booker) Book(ctx context.Context, wait time.Duration) (booked int, err error) {
	if err := b.open(ctx); err != nil {
		return 0, err
	}
	var page struct{ Data []client.LedgerEntry }
	query := url.Values{"booker": {b.Name}, "limit": {strconv.Itoa(entriesAtOnce)}, "wait": {strconv.Itoa(int(wait / time.Second))}}
	if err := b.API.Do(ctx, http.MethodGet, "/v1/ledger/entries?"+query.Encode(), nil, &page); err != nil {
		return 0, fmt.Errorf("read what is to be booked: %w", err)
	}
	var ids []string
	var facts []kapsel.Fact
	for _, e := range page.Data {
		if e.ID == nil {
			return 0, errors.New("read what is to be booked: an entry has no id")
		}
		ids = append(ids, *e.ID)
		read, err := factsOf(e.Facts)
		if err != nil {
			return 0, err
		}
		facts = append(facts, read...)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	conflicts, err := b.book(ctx, facts)
	if err != nil {
		return 0, err
	}
	for _, c := range conflicts {
		b.Log.Error("the books do not take a fact", "delivery", c.DeliveryID, "fact", c.Kind, "answer", c.Answer)
	}
	for len(conflicts) > mostConflicts {
		if err := b.API.AcknowledgeLedgerEntries(ctx, b.Name, client.Acknowledgement{Ids: []string{}, Conflicts: conflicts[:mostConflicts]}); err != nil {
			return 0, fmt.Errorf("report conflicts: %w", err)
		}
		conflicts = conflicts[mostConflicts:]
	}
	if err := b.API.AcknowledgeLedgerEntries(ctx, b.Name, client.Acknowledgement{Ids: ids, Conflicts: conflicts}); err != nil {
		return 0, fmt.Errorf("acknowledge what is booked: %w", err)
	}
	return len(facts), nil
}

// mostConflicts is how many conflicts one request may have: with as many ids as are booked at once they are
// well below the 64 KiB of a body.
const mostConflicts = 100

// book books facts, their accounts first, and returns those that the books do not take.
func (b *Booker) book(ctx context.Context, facts []kapsel.Fact) (conflicts []client.FoundConflict, err error) {
	var accounts []ledger.Account
	wanted := map[ledger.ID]bool{}
	for i := range facts {
		for _, a := range append(ledger.TenantAccounts(facts[i].TenantID), ledger.EndpointAccounts(facts[i].EndpointID)...) {
			if !b.accounts[a.ID] && !wanted[a.ID] {
				accounts, wanted[a.ID] = append(accounts, a), true
			}
		}
	}
	for _, some := range chunks(accounts, ledger.MaxBatch) {
		answers, err := b.books.CreateAccounts(ctx, some)
		if err == nil && len(answers) != len(some) {
			err = fmt.Errorf("%d answers to %d accounts", len(answers), len(some))
		}
		if err != nil {
			return nil, fmt.Errorf("make accounts: %w", err)
		}
		for i, a := range answers {
			if !a.OK() {
				// A transfer to an account that is not there would fail for ever, so none is tried.
				return nil, fmt.Errorf("make account %s with code %d: the books answer %s; is the ledger of this cluster used by something else?", some[i].ID, some[i].Code, a)
			}
			b.accounts[some[i].ID] = true
		}
	}
	for _, some := range chunks(facts, ledger.MaxBatch) {
		transfers := make([]ledger.Transfer, len(some))
		for i := range some {
			transfers[i] = ledger.TransferOf(&some[i])
		}
		answers, err := b.books.CreateTransfers(ctx, transfers)
		if err == nil && len(answers) != len(some) {
			err = fmt.Errorf("%d answers to %d transfers", len(answers), len(some))
		}
		if err != nil {
			return nil, fmt.Errorf("book: %w", err)
		}
		for i, a := range answers {
			if !a.OK() {
				conflicts = append(conflicts, found(some[i], a.String()))
			}
		}
	}
	return conflicts, nil
}

// chunks cuts a list into lists of at most n.
func chunks[T any](all []T, n int) (cut [][]T) {
	for len(all) > n {
		cut, all = append(cut, all[:n]), all[n:]
	}
	if len(all) > 0 {
		cut = append(cut, all)
	}
	return cut
}

// found returns a conflict as the API takes it.
func found(f kapsel.Fact, answer string) client.FoundConflict {
	return client.FoundConflict{
		Kind: f.Kind.String(), DeliveryID: f.DeliveryID.String(), EventID: f.EventID.String(), EndpointID: f.EndpointID.String(), TenantID: f.TenantID.String(),
		At: f.At, Answer: answer,
	}
}

// factsOf reads facts as the API shows them.
func factsOf(all []client.LedgerFact) ([]kapsel.Fact, error) {
	facts := make([]kapsel.Fact, len(all))
	for i, f := range all {
		to := &facts[i]
		to.At = f.At
		err := errors.Join(to.Kind.UnmarshalText([]byte(f.Kind)), to.DeliveryID.UnmarshalText([]byte(f.DeliveryID)), to.EventID.UnmarshalText([]byte(f.EventID)),
			to.EndpointID.UnmarshalText([]byte(f.EndpointID)), to.TenantID.UnmarshalText([]byte(f.TenantID)))
		if err != nil {
			return nil, fmt.Errorf("read a fact: %w", err)
		}
	}
	return facts, nil
}
