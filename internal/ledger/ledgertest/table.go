package ledgertest

import (
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/ledger"
)

// CheckAnswers checks that books answer as package ledger relies on. It uses ids that were never used
// before, so the books may be those of a server that holds other things.
func CheckAnswers(t *testing.T, books ledger.Books) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	tenant, endpoint, event := kapsel.NewTenantID(now), kapsel.NewEndpointID(now), kapsel.NewEventID(now, 7)
	fact := func(kind kapsel.FactKind, id kapsel.DeliveryID) kapsel.Fact {
		return kapsel.Fact{Kind: kind, DeliveryID: id, EventID: event, EndpointID: endpoint, TenantID: tenant, At: now}
	}
	book := func(what string, want ledger.TransferAnswer, transfers ...ledger.Transfer) {
		t.Helper()
		answers, err := books.CreateTransfers(t.Context(), transfers)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if len(answers) != len(transfers) {
			t.Fatalf("%s: %d answers to %d transfers", what, len(answers), len(transfers))
		}
		for _, got := range answers {
			if got != want {
				t.Errorf("%s: answer is %s, want %s", what, got, want)
			}
		}
	}
	transfer := func(kind kapsel.FactKind, id kapsel.DeliveryID) ledger.Transfer {
		f := fact(kind, id)
		return ledger.TransferOf(&f)
	}
	a, b, early := kapsel.NewDeliveryID(now, 7), kapsel.NewDeliveryID(now, 7), kapsel.NewDeliveryID(now, 7)

	book("a transfer before its accounts", ledger.TransferDebitNotFound, transfer(kapsel.FactAccepted, early))
	accounts := append(ledger.TenantAccounts(tenant), ledger.EndpointAccounts(endpoint)...)
	for _, want := range []ledger.AccountAnswer{ledger.AccountCreated, ledger.AccountExists} {
		answers, err := books.CreateAccounts(t.Context(), accounts)
		if err != nil || len(answers) != len(accounts) {
			t.Fatalf("%d answers to %d accounts, error %v", len(answers), len(accounts), err)
		}
		for _, got := range answers {
			if got != want {
				t.Errorf("an account: answer is %s, want %s", got, want)
			}
		}
	}
	other := accounts[0]
	other.Owner = ledger.ID(endpoint)
	if answers, err := books.CreateAccounts(t.Context(), []ledger.Account{other}); err != nil || answers[0] != ledger.AccountDifferentUserData128 {
		t.Errorf("an account of another owner: answers are %v, error %v", answers, err)
	}

	book("a transfer that failed before its accounts were made", ledger.TransferIDAlreadyFailed, transfer(kapsel.FactAccepted, early))
	book("an outcome before its accept", ledger.TransferCreated, transfer(kapsel.FactDelivered, a))
	book("an accept", ledger.TransferCreated, transfer(kapsel.FactAccepted, a))
	book("both again", ledger.TransferExists, transfer(kapsel.FactAccepted, a), transfer(kapsel.FactDelivered, a))
	book("another outcome", ledger.TransferDifferentCredit, transfer(kapsel.FactCanceled, a))
	book("a replay of a delivery that was accepted", ledger.TransferDifferentDebit, transfer(kapsel.FactReplayed, a))
	late := transfer(kapsel.FactDelivered, a)
	late.At++
	book("the outcome at another time", ledger.TransferDifferentUserData64, late)
	elsewhere := transfer(kapsel.FactDelivered, a)
	elsewhere.Event = ledger.ID(kapsel.NewEventID(now, 7))
	book("the outcome of another event", ledger.TransferDifferentUserData128, elsewhere)
	newer := transfer(kapsel.FactDelivered, a)
	newer.Version++
	book("the outcome by another mapping", ledger.TransferDifferentUserData32, newer)
	same := transfer(kapsel.FactAccepted, kapsel.NewDeliveryID(now, 7))
	same.Debit = same.Credit
	book("a transfer from an account to itself", ledger.TransferAccountsMustDiffer, same)
	book("a replay", ledger.TransferCreated, transfer(kapsel.FactReplayed, b))

	ids := []ledger.ID{
		ledger.AccountID(tenant, ledger.TenantAccepted), ledger.AccountID(tenant, ledger.TenantReplayed),
		ledger.AccountID(endpoint, ledger.EndpointInFlight), ledger.AccountID(endpoint, ledger.EndpointDelivered),
		ledger.AccountID(endpoint, ledger.EndpointCanceled), ledger.AccountID(kapsel.NewEndpointID(now), ledger.EndpointInFlight),
	}
	balances, err := books.Balances(t.Context(), ids)
	want := []ledger.Balance{{ID: ids[0], Debits: 1, Credits: 0}, {ID: ids[1], Debits: 1, Credits: 0}, {ID: ids[2], Debits: 1, Credits: 2}, {ID: ids[3], Debits: 0, Credits: 1}, {ID: ids[4], Debits: 0, Credits: 0}}
	if err != nil || !sameBalances(balances, want) {
		t.Errorf("balances are %v, want %v; error %v", balances, want, err)
	}
	booked, err := books.Transfers(t.Context(), []ledger.ID{transfer(kapsel.FactCanceled, b).ID, transfer(kapsel.FactDelivered, a).ID})
	if err != nil || len(booked) != 1 || booked[0].Transfer != transfer(kapsel.FactDelivered, a) {
		t.Errorf("booked is %v, error %v", booked, err)
	}
	all, err := books.TransfersOf(t.Context(), ids[2], 0, 2)
	if err != nil || len(all) != 2 || all[0].Transfer != transfer(kapsel.FactReplayed, b) || all[1].Transfer != transfer(kapsel.FactAccepted, a) {
		t.Fatalf("the newest transfers of the account are %v, error %v", all, err)
	}
	rest, err := books.TransfersOf(t.Context(), ids[2], all[1].Timestamp, 2)
	if err != nil || len(rest) != 1 || rest[0].Transfer != transfer(kapsel.FactDelivered, a) {
		t.Errorf("the transfers before are %v, error %v", rest, err)
	}

	many := make([]ledger.Transfer, ledger.MaxBatch+1)
	for i := range many {
		many[i] = transfer(kapsel.FactAccepted, kapsel.NewDeliveryID(now, 7))
	}
	if _, err := books.CreateTransfers(t.Context(), many); err == nil {
		t.Errorf("a call may have %d transfers", len(many))
	}
	book("the most transfers of a call", ledger.TransferCreated, many[:ledger.MaxBatch]...)
}

func sameBalances(got, want []ledger.Balance) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if got[i] != want[i] {
			return false
		}
	}
	return true
}
