// Package access decides who calls Kapsel and what they may do. A Guard finds the Caller of a request;
// use cases ask the Caller. Faces (the API, and pages) pass Callers on and decide nothing.
//
// A Caller is not an API key: the admin key is one way to become a Caller, a tenant's key another, and
// use cases decide nothing by which way it was. They write it down with what the Caller changes.
package access

import (
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Right is what a caller may do at most, or what an operation needs.
type Right string

// The rights. Each includes those before it, but for Book.
const (
	Anyone  Right = "anyone" // needs no caller
	Read    Right = "read"   // see a tenant's objects
	Write   Right = "write"  // change a tenant's objects
	Operate Right = "admin"  // everything, of all tenants
	Book    Right = "ledger" // read and acknowledge what the ledger books, of all tenants; included by Operate alone, and includes none but Anyone
)

// order holds the rights from the least to the most.
var order = []Right{Anyone, Read, Write, Operate}

// Caller is who a request comes from. The zero Caller is nobody.
type Caller struct {
	Right  Right
	Tenant kapsel.TenantID // the one tenant whose objects the caller may see; zero for Operate: all
	Key    kapsel.KeyID    // the tenant's key that was sent; zero: another way
	Actor  kapsel.Actor    // who the rows of the caller's changes name
	Until  time.Time       // when the caller's access ends; zero: it does not end by itself
}

// IsAdmin reports whether the caller is the operator of the instance.
func (c Caller) IsAdmin() bool { return c.Right == Operate }

// May reports whether the caller has a right.
func (c Caller) May(need Right) bool {
	if need == Book {
		return c.Right == Book || c.Right == Operate
	}
	i := slices.Index(order, need) // -1: no right, which nobody has
	return need == Anyone || c.known() && i >= 0 && i <= slices.Index(order, c.Right)
}

// known reports whether the caller is somebody: the operator, the booker, or someone of a tenant.
func (c Caller) known() bool {
	return c.Right == Operate || c.Right == Book || slices.Contains(order, c.Right) && !c.Tenant.IsZero()
}

// Check returns nil if the caller has a right. Otherwise it returns Forbidden, or Unauthorized for the
// zero Caller.
func (c Caller) Check(need Right) error {
	switch {
	case c.May(need):
		return nil
	case !c.known():
		return ErrUnauthorized
	case c.Right == Book:
		return kapsel.Errorf(kapsel.Forbidden, "the key has scope ledger, which opens what kapsel-ledger needs and nothing else")
	case need == Book:
		return kapsel.Errorf(kapsel.Forbidden, "only the admin key, or a key of the instance with scope ledger, may do that")
	case need == Operate:
		return kapsel.Errorf(kapsel.Forbidden, "only the admin key may do that")
	case c.Actor.Subject != "":
		return kapsel.Errorf(kapsel.Forbidden, "you may only read; ask who runs this Kapsel for the right to change things")
	}
	return kapsel.Errorf(kapsel.Forbidden, "the key may only read; use one of scope write")
}

// TenantOr returns the tenant whose objects a request is about: the caller's own, whatever the request
// says. For the admin it is the tenant that the request names; zero: all.
func (c Caller) TenantOr(named kapsel.TenantID) kapsel.TenantID {
	if c.IsAdmin() {
		return named
	}
	return c.Tenant
}

// ErrUnauthorized refuses a request without a valid key. It does not say what is wrong with the key, so
// that who has none learns nothing.
var ErrUnauthorized = kapsel.Errorf(kapsel.Unauthorized, "send a valid key as Authorization: Bearer KEY")
