package sqlite

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// codeOf returns SQLite's primary result code of an error, 0 for an error that is not SQLite's.
func codeOf(err error) int32 {
	var ours *dbError
	var driver *sqlite.Error // of the migrations
	switch {
	case errors.As(err, &ours):
		return ours.code & 0xff
	case errors.As(err, &driver):
		return int32(driver.Code()) & 0xff
	}
	return 0
}

// lasting reports whether an error of SQLite will come again however often the same call is tried:
// somebody must change something first.
func lasting(err error) bool {
	switch codeOf(err) {
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISUSE,
		sqlite3.SQLITE_AUTH, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB:
		return true
	}
	return rowsFault(err)
}

// whatToDo returns what a person must look at when an error lasts.
func whatToDo(code int32) string {
	switch code {
	case sqlite3.SQLITE_ERROR:
		return "the database's schema is not the one that Kapsel made: something is missing or was changed"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB:
		return "the database file is damaged"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return "the database file may not be written"
	}
	return "the database refuses what Kapsel asks of it"
}

// opening returns the error that Open returns: DatabaseUnavailable if waiting may help, else err.
func opening(err error) error {
	if code := codeOf(err); code != 0 && !lasting(err) || store.MayPass(err) {
		return store.Unavailable(err)
	}
	return err
}

// trouble turns errors of SQLite into the errors that methods return, and logs errors that last.
type trouble struct{ alarm *store.Alarm }

// of returns the error that a method returns. A refused row is Kapsel's own fault and is returned as it is, and so
// is a kapsel.Error; every other error is trouble of the store. If the error lasts, of logs it too.
func (t trouble) of(err error) error {
	if rowsFault(err) {
		return err
	}
	if err == nil || kapsel.CodeOf(err) != "" || !lasting(err) {
		return store.Unavailable(err)
	}
	err = store.Lasting(fmt.Sprintf("%s (SQLite's code %d)", whatToDo(codeOf(err)), codeOf(err)), err)
	t.alarm.Raise(err)
	return err
}
