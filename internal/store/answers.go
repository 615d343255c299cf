package store

import (
	"context"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Answers remembers what POSTs with an Idempotency-Key were answered.
type Answers interface {
	// Reserve stores r, unless its owner used the key before and that row has not expired at
	// now. It returns the row that is there then, which has r's Seed when it is r. Of calls
	// with one key at the same time, one stores and the others get its row.
	Reserve(ctx context.Context, r Reservation, now time.Time) (Reservation, error)
	// Resume lets the request of a row run again whose answer is not known: it sets the row's status to 0
	// and its CreatedAt to now, unless the row has another seed, status or CreatedAt than r by then. It
	// reports whether it did: of calls with one r at the same time, one does.
	Resume(ctx context.Context, r Reservation, now time.Time) (bool, error)
	// Settle stores the answer of the row with r's owner, key and seed; without one it does
	// nothing.
	Settle(ctx context.Context, r Reservation) error
	// Forget deletes the row with r's owner, key and seed, if there is one.
	Forget(ctx context.Context, r Reservation) error
}

// Reservation is the use of an Idempotency-Key, and what it was answered.
type Reservation struct {
	Owner     kapsel.TenantID // who used it; zero: the admin
	Key       string          // printable ASCII
	Request   [32]byte        // SHA-256 of what was asked for
	Seed      [16]byte        // a UUIDv7: the id of what the request makes
	CreatedAt time.Time       // when the request began, the last time that it ran
	ExpiresAt time.Time
	Status    int    // of the answer; 0: none yet. From 500 on it is not known what was done
	Made      string // the id of what was made, "" when nothing was
	Body      []byte // of the answer
	Sealed    bool   // Body has a secret and is a kapsel.Secret, in JSON
}

// SecretKept is how long an answer with a secret can be repeated.
const SecretKept = 10 * time.Minute
