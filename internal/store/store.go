// Package store defines the contract between Kapsel and its database, which is the only source of
// truth for what was received and what is due. Packages sqlite and postgres implement the contract;
// package storetest checks both.
//
// Rules for every method:
//   - When a method returns nil, what it wrote is durable (synced). The writes of one call are
//     atomic: after a crash either all of them are there or none.
//   - All methods may be called by many goroutines at once.
//   - Times and tenants are parameters. No SQL calls a clock.
//   - Errors that callers act on are kapsel.Errors, such as NotFound and Conflict. A method returns
//     DatabaseUnavailable if the store itself fails, also if it is not known whether the method
//     wrote. Repeating a call with the same IDs does no harm.
//   - Callers may reuse the memory that they passed to a method once the method returns.
package store

import (
	"context"
	"time"
)

// Store is the whole contract. Each of its parts is what one kind of caller needs.
type Store interface {
	Inbox
	Queue
	Directory
	Archive
	Stream
	Expansions
	Replays
	Replans
	Counters
	Answers
	Sessions
	Journal
	Changes
	Ledger
	PortalLinks
	PortalLogos
	Housekeeping

	// Time returns the store's time, which all nodes share. On SQLite that is the process's clock.
	Time(ctx context.Context) (time.Time, error)
	// Ping returns nil only if Accept could store an event now.
	Ping(ctx context.Context) error
	// Close waits for writes in progress and releases the database.
	Close() error
}

// UsualBody is the size, in bytes, of the largest body for which the usual time limits are enough.
const UsualBody = 10 << 20

// BodyTime returns the time that writing or reading a body of n bytes may take beyond the usual
// limit: 1 s for each MiB, or part of one, above UsualBody.
func BodyTime(n int64) time.Duration {
	return time.Duration(max(0, n-UsualBody+1<<20-1)>>20) * time.Second
}

// CommitObserver is told of every group commit of the hot path, also of one that failed: how
// many calls it held and how long it took, the sync included. The writer calls it; it must not
// block.
type CommitObserver func(calls int, took time.Duration)
