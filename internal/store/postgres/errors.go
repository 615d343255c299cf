package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// The errors with which Open refuses a database. Trying again does not help: the operator
// has to change something.
var (
	// ErrUnsafe: the server does not keep what it has committed.
	ErrUnsafe = errors.New("the PostgreSQL server would lose acknowledged events")
	// ErrSchema: the schema is too old, and may not be changed, or too new for this binary.
	ErrSchema = errors.New("the database schema does not fit this version of Kapsel")
)

var errClosed = errors.New("the store is closed")

// sqlState is the SQLSTATE of an error of the server, "" of any other error.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// ownFault reports whether the values of a row were refused: data exception, constraint
// violation, a limit of the program. Another row may well be stored.
func ownFault(err error) bool {
	s := sqlState(err)
	return strings.HasPrefix(s, "22") || strings.HasPrefix(s, "23") || strings.HasPrefix(s, "54")
}

// contended reports whether the transaction was rolled back for the sake of another:
// serialization failure or deadlock. It can be run again at once.
func contended(err error) bool {
	s := sqlState(err)
	return s == "40001" || s == "40P01"
}

// lost reports whether the connection is gone, so that a transaction may have been
// committed all the same. That is so too when the server says that it goes down: a commit
// that waits for a standby is already written then.
func lost(err error) bool {
	s := sqlState(err)
	return s == "" || strings.HasPrefix(s, "08") || strings.HasPrefix(s, "57P")
}

// stale reports whether the connection's server cannot be written to any more: after a
// fail-over, a connection stays with what has become a standby.
func stale(err error) bool { return sqlState(err) == "25006" }

// failed makes the error that a method returns. A row that is refused is a fault of ours, not
// trouble of the store; everything else but a kapsel.Error is.
func failed(err error) error {
	if err == nil || kapsel.CodeOf(err) != "" || ownFault(err) {
		return err
	}
	return store.Unavailable(err)
}

// attempts of a transaction that others get in the way of.
const contentionAttempts = 3

// retry runs a transaction again while it is contended, at most three times in all.
func retry(ctx context.Context, run func() error) error {
	for n := 1; ; n++ {
		err := run()
		if !contended(err) || n == contentionAttempts || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Duration(n) * 5 * time.Millisecond)
	}
}
