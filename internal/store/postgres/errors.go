package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// These are the errors with which Open refuses a database, and which say, in a method's error, why
// a connection is refused. Trying again does not help: the operator must change something.
var (
	// ErrURL: the database URL cannot be read, or asks for what Kapsel cannot work with.
	ErrURL = errors.New("the database URL cannot be used")
	// ErrUnsafe: the server does not keep what it has committed.
	ErrUnsafe = errors.New("the PostgreSQL server would lose acknowledged events")
	// ErrSession: a session does not have a setting that Kapsel asked for.
	ErrSession = errors.New("the database does not give Kapsel the session that it asks for")
	// ErrPooling: a pooler gives a connection one session after another.
	ErrPooling = errors.New("the database connection keeps no session")
	// ErrSchema: the schema is too old, and may not be changed, or too new for this binary.
	ErrSchema = errors.New("the database schema does not fit this version of Kapsel")
)

var errClosed = errors.New("the store is closed")

// sqlState returns the SQLSTATE of an error of the server, "" for any other error.
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// ownFault reports whether the server refused the values of a row: data exception, constraint
// violation, a limit of the program. The server may well store another row.
func ownFault(err error) bool {
	s := sqlState(err)
	return strings.HasPrefix(s, "22") || strings.HasPrefix(s, "23") || strings.HasPrefix(s, "54")
}

// contended reports whether the server rolled the transaction back for the sake of another:
// serialization failure or deadlock. The transaction can be run again at once.
func contended(err error) bool {
	s := sqlState(err)
	return s == "40001" || s == "40P01"
}

// lost reports whether the connection is gone, so that the transaction may have been committed all
// the same. It is true also if the server says that it goes down: a commit that waits for a
// standby is already written then.
func lost(err error) bool {
	s := sqlState(err)
	return s == "" || strings.HasPrefix(s, "08") || strings.HasPrefix(s, "57P")
}

// stale reports whether the connection's server no longer takes writes: after a fail-over, a
// connection stays with the server that has become a standby.
func stale(err error) bool { return sqlState(err) == "25006" }

// refused is one of the errors above together with what exactly is wrong. Its text is for users:
// it names settings, and no path, address or secret.
type refused struct {
	kind error
	text string
}

func (e *refused) Error() string { return e.kind.Error() + ": " + e.text }
func (e *refused) Unwrap() error { return e.kind }

func refuse(kind error, format string, args ...any) error {
	return &refused{kind, fmt.Sprintf(format, args...)}
}

// lasting reports whether an error will come again however often the same call is tried: somebody
// must change something first. It returns false for an error that is not known to last.
func lasting(err error) bool {
	if err == nil {
		return false
	}
	var ours *refused
	if errors.As(err, &ours) || untrusted(err) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return refusesTLS(err) // any other error here is the network's or the system's
	}
	switch class := pg.Code[:min(2, len(pg.Code))]; class {
	case "25": // a standby, until it is promoted
		return false
	case "08": // of a pooler, which has no code for most of what it says
		for _, text := range []string{"unsupported startup parameter", "does not exist", "no such "} {
			if strings.Contains(pg.Message, text) {
				return true
			}
		}
		return false
	case "0A": // the table changed since the statement was prepared
		return !strings.Contains(pg.Message, "cached plan")
	case "40", "53", "55", "57", "58": // contention, resources, state, an operator, the system
		return false
	case "XX":
		return pg.Code != "XX000" // damage
	}
	return true
}

// untrusted reports whether either side refused TLS because it does not trust the other.
func untrusted(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
		host        x509.HostnameError
		authority   x509.UnknownAuthorityError
		invalid     x509.CertificateInvalidError
	)
	return errors.As(err, &certificate) || errors.As(err, &alert) || errors.As(err, &host) || errors.As(err, &authority) || errors.As(err, &invalid)
}

// refusesTLS reports whether none of the addresses that were tried speaks TLS.
func refusesTLS(err error) bool {
	each := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		each = joined.Unwrap()
	}
	return !slices.ContainsFunc(each, func(err error) bool { // the library's error has no type
		return !strings.Contains(err.Error(), "server refused TLS connection")
	})
}

// whatToDo returns what a person must look at when an error lasts, without what only the log may
// hold.
func whatToDo(err error) string {
	var ours *refused
	if errors.As(err, &ours) {
		return ours.Error()
	}
	switch state := sqlState(err); {
	case state == "":
		return "the database's certificate or Kapsel's is refused, or one of them does not speak TLS"
	case state == "42501":
		return "the database role lacks a right that Kapsel needs"
	case strings.HasPrefix(state, "28"):
		return "the database refuses Kapsel's user or password"
	case state == "3D000":
		return "the database does not exist"
	case slices.Contains(schemaStates, state):
		return "the database's schema is not the one that Kapsel made: something is missing or was changed"
	case strings.HasPrefix(state, "XX"):
		return "the database says that its data is damaged"
	}
	return "the database refuses what Kapsel asks of it"
}

// schemaStates are the SQLSTATEs of a statement that does not find its tables as it knows them:
// undefined table, column or function, another type, no such constraint, no such schema.
var schemaStates = []string{"42P01", "42703", "42883", "42804", "42P10", "3F000"}

// opening returns the error that Open returns: DatabaseUnavailable if waiting may help, else an
// error that says what a person must do.
func opening(err error) error {
	var ours *refused
	switch {
	case !lasting(err):
		return store.Unavailable(err)
	case errors.As(err, &ours) || kapsel.CodeOf(err) != "":
		return err
	}
	return fmt.Errorf("%s: %w", whatToDo(err), err)
}

// failed returns the error that a method returns. A refused row is Kapsel's own fault and is
// returned as it is, and so is a kapsel.Error; every other error is trouble of the store. If the
// error lasts, failed logs it too.
func (c *connector) failed(err error) error {
	if err == nil || kapsel.CodeOf(err) != "" || ownFault(err) {
		return err
	}
	if !lasting(err) {
		return store.Unavailable(err)
	}
	what := whatToDo(err)
	if state := sqlState(err); state != "" {
		what += " (SQLSTATE " + state + ")"
	}
	err = store.Lasting(what, err)
	c.alarm.Raise(err)
	return err
}

// contentionAttempts is how often a transaction is tried that other transactions get in the way
// of.
const contentionAttempts = 3

// retry calls run, and calls it again while its transaction is contended, at most
// contentionAttempts times in all.
func retry(ctx context.Context, run func() error) error {
	for n := 1; ; n++ {
		err := run()
		if !contended(err) || n == contentionAttempts || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Duration(n) * 5 * time.Millisecond)
	}
}
