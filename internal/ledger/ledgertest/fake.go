// Package ledgertest holds a fake of TigerBeetle for tests, and the table of answers that the fake and
// a real server must give alike.
package ledgertest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/kapsel-hq/kapsel/internal/ledger"
)

// Fake is a ledger.Books in memory, which answers as TigerBeetle 0.17 does. All methods may be called
// by many goroutines at once.
type Fake struct {
	mu        sync.Mutex
	accounts  map[ledger.ID]*account
	transfers map[ledger.ID]*ledger.Booked
	failed    map[ledger.ID]bool // transfers that failed for a passing reason, and so fail for ever
	clock     uint64
	refuse    func() (before, after bool) // see Lose
}

type account struct {
	ledger.Account
	debits, credits int64
	log             []*ledger.Booked
}

var _ ledger.Books = (*Fake)(nil)

// NewFake returns empty books.
func NewFake() *Fake {
	return &Fake{accounts: map[ledger.ID]*account{}, transfers: map[ledger.ID]*ledger.Booked{}, failed: map[ledger.ID]bool{},
		refuse: func() (bool, bool) { return false, false }}
}

// ErrLost is the error of a call whose answer was lost.
var ErrLost = errors.New("the connection was lost")

// Lose makes calls fail as f says: before they do anything, or after.
func (f *Fake) Lose(fails func() (before, after bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = fails
}

// call runs a call of at most ledger.MaxBatch things under the lock.
func (f *Fake) call(ctx context.Context, n int, run func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n > ledger.MaxBatch {
		return errors.New("too much data")
	}
	before, after := f.refuse()
	if before {
		return ErrLost
	}
	run()
	if after {
		return ErrLost
	}
	return nil
}

// CreateAccounts implements ledger.Books.
func (f *Fake) CreateAccounts(ctx context.Context, all []ledger.Account) (answers []ledger.AccountAnswer, err error) {
	err = f.call(ctx, len(all), func() {
		for _, a := range all {
			answers = append(answers, f.createAccount(a))
		}
	})
	return answers, err
}

func (f *Fake) createAccount(a ledger.Account) ledger.AccountAnswer {
	switch old := f.accounts[a.ID]; {
	case old == nil:
		f.accounts[a.ID] = &account{Account: a}
		return ledger.AccountCreated
	case old.Owner != a.Owner:
		return ledger.AccountDifferentUserData128
	case old.Code != a.Code:
		return ledger.AccountDifferentCode
	}
	return ledger.AccountExists
}

// CreateTransfers implements ledger.Books.
func (f *Fake) CreateTransfers(ctx context.Context, all []ledger.Transfer) (answers []ledger.TransferAnswer, err error) {
	err = f.call(ctx, len(all), func() {
		for _, t := range all {
			answers = append(answers, f.createTransfer(t))
		}
	})
	return answers, err
}

func (f *Fake) createTransfer(t ledger.Transfer) ledger.TransferAnswer {
	switch {
	case t.ID == (ledger.ID{}):
		return ledger.TransferIDMustNotBeZero
	case t.Debit == t.Credit:
		return ledger.TransferAccountsMustDiffer
	}
	if old := f.transfers[t.ID]; old != nil {
		return ledger.Differs(t, old.Transfer)
	}
	debit, credit := f.accounts[t.Debit], f.accounts[t.Credit]
	switch {
	case f.failed[t.ID]:
		return ledger.TransferIDAlreadyFailed
	case debit == nil:
		f.failed[t.ID] = true
		return ledger.TransferDebitNotFound
	case credit == nil:
		f.failed[t.ID] = true
		return ledger.TransferCreditNotFound
	}
	f.clock++
	b := &ledger.Booked{Transfer: t, Timestamp: f.clock}
	f.transfers[t.ID] = b
	debit.debits++
	credit.credits++
	debit.log, credit.log = append(debit.log, b), append(credit.log, b)
	return ledger.TransferCreated
}

// Balances implements ledger.Books.
func (f *Fake) Balances(ctx context.Context, ids []ledger.ID) (all []ledger.Balance, err error) {
	err = f.call(ctx, len(ids), func() {
		for _, id := range ids {
			if a := f.accounts[id]; a != nil {
				all = append(all, ledger.Balance{ID: id, Debits: a.debits, Credits: a.credits})
			}
		}
	})
	return all, err
}

// Transfers implements ledger.Books.
func (f *Fake) Transfers(ctx context.Context, ids []ledger.ID) (all []ledger.Booked, err error) {
	err = f.call(ctx, len(ids), func() {
		for _, id := range ids {
			if t := f.transfers[id]; t != nil {
				all = append(all, *t)
			}
		}
	})
	return all, err
}

// TransfersOf implements ledger.Books.
func (f *Fake) TransfersOf(ctx context.Context, id ledger.ID, before uint64, limit int) (all []ledger.Booked, err error) {
	err = f.call(ctx, limit, func() {
		a := f.accounts[id]
		if a == nil {
			return
		}
		n := len(a.log)
		if before > 0 {
			n, _ = slices.BinarySearchFunc(a.log, before, func(b *ledger.Booked, at uint64) int { return cmp.Compare(b.Timestamp, at) })
		}
		for n--; n >= 0 && len(all) < limit; n-- {
			all = append(all, *a.log[n])
		}
	})
	return all, err
}

// Close implements ledger.Books. The books stay.
func (f *Fake) Close() {}

// All returns every account's balance and every transfer, without their timestamps: what must be the
// same however the transfers were booked.
func (f *Fake) All() (map[ledger.ID]ledger.Balance, map[ledger.ID]ledger.Transfer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	balances, transfers := map[ledger.ID]ledger.Balance{}, map[ledger.ID]ledger.Transfer{}
	for id, a := range f.accounts {
		balances[id] = ledger.Balance{ID: id, Debits: a.debits, Credits: a.credits}
	}
	for id, t := range f.transfers {
		transfers[id] = t.Transfer
	}
	return balances, transfers
}
