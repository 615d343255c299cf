// Package ledger keeps double-entry books of deliveries.
//
// Each delivery is two plain transfers of amount 1: one when it is made, from its tenant to what is
// in flight at its endpoint, and one when it ends, from there to the account of its outcome. Nothing
// is pending, limited or linked. So transfers may be booked in any order and any number of times, and
// the books come out the same: the id of a transfer is made of the delivery's, and a second transfer
// with an id changes nothing. That a delivery has at most one outcome is kept by the id, too.
//
// That all that was made is in flight or has ended is true of any double-entry books. What proves
// that Kapsel lost nothing is the comparison of the books with the store; see package booker.
package ledger

import (
	"encoding/hex"

	"github.com/kapsel-hq/kapsel"
)

// Number is the ledger of all accounts and transfers, as TigerBeetle counts ledgers.
const Number = 1

// Version is the version of the mapping in this file. Each account and transfer carries it.
const Version = 1

// ID is the id of an account or a transfer: an unsigned number of 128 bits, big-endian. It is an ID of
// Kapsel with the version nibble, which is always 7, replaced. So accounts of one endpoint differ in
// this nibble only.
type ID [16]byte

// String returns the ID as 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// nibble returns an ID of Kapsel with another version nibble.
func nibble(id [16]byte, n byte) ID {
	id[6] = n<<4 | id[6]&0x0f
	return ID(id)
}

// Code says what an account is for.
type Code uint16

// The codes. The first and the last are of a tenant, the others of an endpoint.
const (
	TenantAccepted     Code = 101
	EndpointInFlight   Code = 102
	EndpointDelivered  Code = 103
	EndpointFailed     Code = 104
	EndpointDeadLetter Code = 105
	EndpointCanceled   Code = 106
	TenantReplayed     Code = 108
)

// EndpointCodes are the codes of an endpoint's accounts, TenantCodes those of a tenant's.
var (
	EndpointCodes = [...]Code{EndpointInFlight, EndpointDelivered, EndpointFailed, EndpointDeadLetter, EndpointCanceled}
	TenantCodes   = [...]Code{TenantAccepted, TenantReplayed}
)

// Account is an account to be made.
type Account struct {
	ID    ID
	Code  Code
	Owner ID // the ID of the tenant or the endpoint, unchanged
}

// AccountID returns the id of the account that a tenant or an endpoint has under a code.
func AccountID(owner [16]byte, code Code) ID { return nibble(owner, byte(code-100)) }

// TenantAccounts returns the accounts of a tenant.
func TenantAccounts(id kapsel.TenantID) (all []Account) { return accounts(id, TenantCodes[:]) }

// EndpointAccounts returns the accounts of an endpoint.
func EndpointAccounts(id kapsel.EndpointID) (all []Account) { return accounts(id, EndpointCodes[:]) }

func accounts(owner [16]byte, codes []Code) (all []Account) {
	for _, c := range codes {
		all = append(all, Account{AccountID(owner, c), c, ID(owner)})
	}
	return all
}

// Transfer moves 1 from an account to another: it raises the debits of one and the credits of the
// other.
type Transfer struct {
	ID            ID
	Debit, Credit ID
	Event         ID     // the ID of the delivery's event, unchanged (user_data_128)
	At            uint64 // the time of the fact, in microseconds since 1970 (user_data_64)
	Version       uint32 // of the mapping (user_data_32)
	Code          uint16 // the kapsel.FactKind
}

// TransferOf returns the transfer that books a fact.
func TransferOf(f *kapsel.Fact) Transfer {
	t := Transfer{Event: ID(f.EventID), At: uint64(f.At.UnixMicro()), Version: Version, Code: uint16(f.Kind)}
	inFlight := AccountID(f.EndpointID, EndpointInFlight)
	switch f.Kind {
	case kapsel.FactAccepted:
		t.ID, t.Debit, t.Credit = nibble(f.DeliveryID, 7), AccountID(f.TenantID, TenantAccepted), inFlight
	case kapsel.FactReplayed:
		t.ID, t.Debit, t.Credit = nibble(f.DeliveryID, 7), AccountID(f.TenantID, TenantReplayed), inFlight
	default:
		t.ID, t.Debit, t.Credit = nibble(f.DeliveryID, 8), inFlight, AccountID(f.EndpointID, Code(f.Kind)+90)
	}
	return t
}

// DeliveryOf returns the delivery whose transfer has an id.
func DeliveryOf(id ID) kapsel.DeliveryID { return kapsel.DeliveryID(nibble(id, 7)) }
