package ledger

import (
	"context"
	"fmt"

	"github.com/kapsel-hq/kapsel"
)

// MaxBatch is how many accounts, transfers or ids one call of Books may have, and how many it returns
// at most.
const MaxBatch = 8189

// Books are where transfers are booked: TigerBeetle, or in tests a fake of it. A call returns an
// answer for each of its accounts or transfers, in their order. If a call fails, it is not known what
// of it was booked; it may be repeated. Methods may be called by one goroutine at a time.
type Books interface {
	CreateAccounts(ctx context.Context, all []Account) ([]AccountAnswer, error)
	CreateTransfers(ctx context.Context, all []Transfer) ([]TransferAnswer, error)
	// Balances returns the accounts that exist, in the order of ids.
	Balances(ctx context.Context, ids []ID) ([]Balance, error)
	// Transfers returns those of some transfers that are booked, in the order of ids.
	Transfers(ctx context.Context, ids []ID) ([]Booked, error)
	// TransfersOf returns up to limit transfers from or to an account that were booked before a
	// timestamp of an earlier answer (0: all were), the newest first.
	TransfersOf(ctx context.Context, account ID, before uint64, limit int) ([]Booked, error)
	// Close ends the connection. Calls under way fail.
	Close()
}

// Balance is what an account has.
type Balance struct {
	ID              ID
	Debits, Credits int64
}

// Booked is a transfer as the books have it. Timestamp is the books' own, and unique.
type Booked struct {
	Transfer
	Timestamp uint64
}

// AccountAnswer and TransferAnswer are TigerBeetle's CreateAccountStatus and CreateTransferStatus.
type (
	AccountAnswer  uint32
	TransferAnswer uint32
)

// Created and Exists are the answers that are success.
const (
	AccountCreated  AccountAnswer  = 0xffffffff
	AccountExists   AccountAnswer  = 21
	TransferCreated TransferAnswer = 0xffffffff
	TransferExists  TransferAnswer = 46
)

// OK reports whether the account is there.
func (a AccountAnswer) OK() bool { return a == AccountCreated || a == AccountExists }

// OK reports whether the transfer is booked.
func (a TransferAnswer) OK() bool { return a == TransferCreated || a == TransferExists }

// Answers that the fake gives, too.
const (
	AccountDifferentUserData128 AccountAnswer = 16
	AccountDifferentUserData32  AccountAnswer = 18
	AccountDifferentCode        AccountAnswer = 20

	TransferDebitNotFound          TransferAnswer = 21
	TransferCreditNotFound         TransferAnswer = 22
	TransferDifferentDebit         TransferAnswer = 37
	TransferDifferentCredit        TransferAnswer = 38
	TransferDifferentUserData128   TransferAnswer = 41
	TransferDifferentUserData64    TransferAnswer = 42
	TransferDifferentUserData32    TransferAnswer = 43
	TransferDifferentCode          TransferAnswer = 45
	TransferAccountsMustDiffer     TransferAnswer = 12
	TransferIDAlreadyFailed        TransferAnswer = 68
	TransferIDMustNotBeZero        TransferAnswer = 5
	TransferIDMustNotBeTheGreatest TransferAnswer = 6
)

// transferAnswers are the names that TigerBeetle's documentation has for the answers that a transfer
// of this package can get.
var transferAnswers = map[TransferAnswer]string{
	TransferCreated: "created", TransferExists: "exists",
	TransferDebitNotFound: "debit_account_not_found", TransferCreditNotFound: "credit_account_not_found",
	TransferDifferentDebit: "exists_with_different_debit_account_id", TransferDifferentCredit: "exists_with_different_credit_account_id",
	TransferDifferentUserData128: "exists_with_different_user_data_128", TransferDifferentUserData64: "exists_with_different_user_data_64",
	TransferDifferentUserData32: "exists_with_different_user_data_32", TransferDifferentCode: "exists_with_different_code",
	TransferAccountsMustDiffer: "accounts_must_be_different", TransferIDAlreadyFailed: "id_already_failed",
	TransferIDMustNotBeZero: "id_must_not_be_zero", TransferIDMustNotBeTheGreatest: "id_must_not_be_int_max",
	36: "exists_with_different_flags", 39: "exists_with_different_amount", 40: "exists_with_different_pending_id",
	44: "exists_with_different_timeout", 67: "exists_with_different_ledger",
	65: "debit_account_already_closed", 66: "credit_account_already_closed",
	54: "exceeds_credits", 55: "exceeds_debits",
}

// String returns TigerBeetle's name for the answer.
func (a TransferAnswer) String() string {
	if name, ok := transferAnswers[a]; ok {
		return name
	}
	return fmt.Sprintf("create_transfer_status_%d", uint32(a))
}

// String returns a name for the answer.
func (a AccountAnswer) String() string {
	switch a {
	case AccountCreated:
		return "created"
	case AccountExists:
		return "exists"
	case AccountDifferentUserData128, AccountDifferentUserData32, AccountDifferentCode, 15, 17, 19:
		return "exists_with_different_fields"
	}
	return fmt.Sprintf("create_account_status_%d", uint32(a))
}

// Differs returns what the books answer to a transfer that they have otherwise: TransferExists if they
// have it as it is.
func Differs(t, booked Transfer) TransferAnswer {
	switch {
	case t.Debit != booked.Debit:
		return TransferDifferentDebit
	case t.Credit != booked.Credit:
		return TransferDifferentCredit
	case t.Event != booked.Event:
		return TransferDifferentUserData128
	case t.At != booked.At:
		return TransferDifferentUserData64
	case t.Version != booked.Version:
		return TransferDifferentUserData32
	case t.Code != booked.Code:
		return TransferDifferentCode
	}
	return TransferExists
}

// EndpointTotals returns what the accounts of an endpoint say. Of what was made they know the sum only,
// which is returned as Accepted. Accounts that are missing have had no transfer.
func EndpointTotals(id kapsel.EndpointID, balances map[ID]Balance) kapsel.FactTotals {
	credits := func(c Code) int64 { return balances[AccountID(id, c)].Credits }
	return kapsel.FactTotals{
		Accepted: credits(EndpointInFlight), Delivered: credits(EndpointDelivered), Failed: credits(EndpointFailed),
		DeadLetter: credits(EndpointDeadLetter), Canceled: credits(EndpointCanceled),
	}
}

// TenantTotals returns what the accounts of a tenant say: what was accepted and what was replayed.
func TenantTotals(id kapsel.TenantID, balances map[ID]Balance) kapsel.FactTotals {
	debits := func(c Code) int64 { return balances[AccountID(id, c)].Debits }
	return kapsel.FactTotals{Accepted: debits(TenantAccepted), Replayed: debits(TenantReplayed)}
}
