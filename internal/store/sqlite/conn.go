package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	_ "modernc.org/sqlite" // patches the library at start; migrations go through its driver
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// conn is a connection to the database through SQLite's own interface. A commit spends its time in
// a dozen short statements for each event; for these, database/sql and its driver would cost more
// than SQLite does: a box for each value, an allocation in C for each blob, a result for each
// statement. Only one goroutine may use a conn at a time.
type conn struct {
	tls     *libc.TLS
	db      uintptr
	stmts   map[string]*stmt // prepared once, kept until close
	arena   arena
	scratch []byte      // for values that are encoded before they are bound
	tally   store.Tally // of the transaction under way
	entries entries     // of the transaction under way
	runs    int         // runs of statements that have begun and not ended
}

// open opens the database file at path. It fails if there is no file.
func open(path string) (*conn, error) {
	c := &conn{tls: libc.NewTLS(), stmts: map[string]*stmt{}, tally: store.NewTally()}
	name, err := libc.CString(path)
	if err != nil {
		return nil, err
	}
	defer libc.Xfree(c.tls, name)
	out := libc.Xcalloc(c.tls, 1, types.Size_t(unsafe.Sizeof(uintptr(0))))
	defer libc.Xfree(c.tls, out)
	// SQLite needs no mutex: only one goroutine uses a conn.
	rc := sqlite3.Xsqlite3_open_v2(c.tls, name, out,
		sqlite3.SQLITE_OPEN_READWRITE|sqlite3.SQLITE_OPEN_NOMUTEX|sqlite3.SQLITE_OPEN_EXRESCODE, 0)
	c.db = *(*uintptr)(memory(out))
	if rc != sqlite3.SQLITE_OK {
		err := c.error(rc)
		c.close()
		return nil, err
	}
	c.waitFor(5 * time.Second)
	c.arena.init(c.tls)
	return c, nil
}

// waitFor sets how long a statement waits for other connections' locks.
func (c *conn) waitFor(d time.Duration) {
	sqlite3.Xsqlite3_busy_timeout(c.tls, c.db, int32(d.Milliseconds()))
}

// close releases the connection. SQLite rolls back a transaction under way.
func (c *conn) close() {
	for _, s := range c.stmts {
		sqlite3.Xsqlite3_finalize(c.tls, s.p)
	}
	c.arena.close()
	sqlite3.Xsqlite3_close_v2(c.tls, c.db)
	c.tls.Close()
}

// memory returns p, an address outside of Go's heap at which SQLite keeps something, as a pointer.
func memory(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// dbError is an error of SQLite. code is its extended result code.
type dbError struct {
	code int32
	msg  string
}

func (e *dbError) Error() string { return fmt.Sprintf("sqlite: %s (%d)", e.msg, e.code) }

// error returns the error of a result code.
func (c *conn) error(rc int32) error {
	msg := libc.GoString(sqlite3.Xsqlite3_errstr(c.tls, rc))
	if c.db != 0 && sqlite3.Xsqlite3_extended_errcode(c.tls, c.db) == rc {
		msg = libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db))
	}
	return &dbError{rc, msg}
}

// rowsFault reports whether the values that were written caused an error, so that the same
// statement with other values may succeed.
func rowsFault(err error) bool {
	var e *dbError
	if !errors.As(err, &e) {
		return false
	}
	switch e.code & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE:
		return true
	}
	return false
}

// isBusy reports whether a statement failed because another connection held a lock.
func isBusy(err error) bool {
	var e *dbError
	return errors.As(err, &e) && e.code&0xff == sqlite3.SQLITE_BUSY
}

// changes returns how many rows the last INSERT, UPDATE or DELETE changed.
func (c *conn) changes() int { return int(sqlite3.Xsqlite3_changes(c.tls, c.db)) }

// written returns how many pages the connection has written to the WAL since it was opened. The
// number wraps around.
func (c *conn) written() int32 {
	p := c.tls.Alloc(8)
	defer c.tls.Free(8)
	sqlite3.Xsqlite3_db_status(c.tls, c.db, sqlite3.SQLITE_DBSTATUS_CACHE_WRITE, p, p+4, 0)
	return *(*int32)(memory(p))
}

// checkpoint copies pages of the WAL into the database file. It returns how many pages the WAL has
// and how many of them are copied: all, if no other connection read or wrote meanwhile.
func (c *conn) checkpoint(mode int32) (pages, copied int, err error) {
	p := c.tls.Alloc(8)
	defer c.tls.Free(8)
	rc := sqlite3.Xsqlite3_wal_checkpoint_v2(c.tls, c.db, 0, mode, p, p+4)
	if rc != sqlite3.SQLITE_OK {
		return 0, 0, c.error(rc)
	}
	return int(*(*int32)(memory(p))), int(*(*int32)(memory(p + 4))), nil
}

// exec runs a statement to its end and drops its rows.
func (c *conn) exec(sql string, args ...any) error {
	return c.query(sql, args...).exec()
}

// rowsAtOnce is how many rows one statement inserts: a statement costs as much as a row or two.
const rowsAtOnce = 16

// inserting is the texts of an INSERT of one row and of rowsAtOnce.
type inserting struct{ one, many string }

// insertOf returns the texts of an INSERT. head is the statement up to the rows, row the parameters of a row.
func insertOf(head, row string) inserting {
	return inserting{one: head + row, many: head + strings.Repeat(row+", ", rowsAtOnce-1) + row}
}

// insert inserts n rows, several by one statement. bind binds the parameters of a row.
func (c *conn) insert(n int, into inserting, bind func(s *stmt, i int)) error {
	for i := 0; i < n; {
		sql, rows := into.one, 1
		if n-i >= rowsAtOnce {
			sql, rows = into.many, rowsAtOnce
		}
		s := c.stmt(sql)
		for range rows {
			bind(s, i)
			i++
		}
		if err := s.exec(); err != nil {
			return err
		}
	}
	return nil
}

// query begins a run of a statement and binds args. Callers must read its rows with next, and end
// it.
func (c *conn) query(sql string, args ...any) *stmt {
	return c.stmt(sql).bind(args...)
}

// script runs statements that have no parameters, and drops the rows that they return.
func (c *conn) script(sql string) error {
	text, err := libc.CString(sql)
	if err != nil {
		return err
	}
	defer libc.Xfree(c.tls, text)
	if rc := sqlite3.Xsqlite3_exec(c.tls, c.db, text, 0, 0, 0); rc != sqlite3.SQLITE_OK {
		return c.error(rc)
	}
	return nil
}

// stmt is a prepared statement and, between its start and its end, one run of it:
//
//	s := c.stmt(sql).id(x[:]).int(7)
//	for s.next() {
//		a, b := s.colInt(), s.colText()
//	}
//	err := s.end()
//
// Parameters are bound and columns read in their order. The first error sticks. Every run
// must be ended.
type stmt struct {
	c     *conn
	p     uintptr
	param int32
	col   int32
	err   error
}

// stmt begins a run of the statement sql, which it prepares once for each connection. Callers must
// end a run before they begin another one of the same text. If sql cannot be prepared, the error
// comes from the run's end.
func (c *conn) stmt(sql string) *stmt {
	c.runs++
	if s, ok := c.stmts[sql]; ok {
		return s
	}
	s := &stmt{c: c}
	text, err := libc.CString(sql)
	if err != nil {
		return &stmt{c: c, err: err}
	}
	defer libc.Xfree(c.tls, text)
	out := c.tls.Alloc(8)
	defer c.tls.Free(8)
	rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, text, -1, sqlite3.SQLITE_PREPARE_PERSISTENT, out, 0)
	if rc != sqlite3.SQLITE_OK {
		return &stmt{c: c, err: fmt.Errorf("prepare %q: %w", sql, c.error(rc))}
	}
	s.p = *(*uintptr)(memory(out))
	c.stmts[sql] = s
	return s
}

// bound keeps the error of binding a parameter, if rc is one and the run has no error yet.
func (s *stmt) bound(rc int32) *stmt {
	if rc != sqlite3.SQLITE_OK && s.err == nil {
		s.err = s.c.error(rc)
	}
	return s
}

// int binds an integer.
func (s *stmt) int(v int64) *stmt {
	s.param++
	return s.bound(sqlite3.Xsqlite3_bind_int64(s.c.tls, s.p, s.param, v))
}

// null binds NULL.
func (s *stmt) null() *stmt {
	s.param++
	return s.bound(sqlite3.Xsqlite3_bind_null(s.c.tls, s.p, s.param))
}

// bool binds 0 or 1.
func (s *stmt) bool(v bool) *stmt {
	if v {
		return s.int(1)
	}
	return s.int(0)
}

// time binds microseconds since the epoch, NULL for the zero time.
func (s *stmt) time(t time.Time) *stmt {
	if t.IsZero() {
		return s.null()
	}
	return s.int(t.UnixMicro())
}

// id binds an id, NULL for the zero id.
func (s *stmt) id(id [16]byte) *stmt {
	if id == [16]byte{} {
		return s.null()
	}
	return s.blob(id[:])
}

// blob binds bytes as a BLOB. For nil, too, it binds an empty BLOB and not NULL.
func (s *stmt) blob(b []byte) *stmt {
	s.param++
	return s.bound(sqlite3.Xsqlite3_bind_blob(s.c.tls, s.p, s.param, s.c.arena.copy(b), int32(len(b)), 0))
}

// text binds a string as TEXT. Callers must bind with bytes, as a BLOB, what need not be valid
// UTF-8.
func (s *stmt) text(v string) *stmt {
	s.param++
	b := unsafe.Slice(unsafe.StringData(v), len(v))
	return s.bound(sqlite3.Xsqlite3_bind_text(s.c.tls, s.p, s.param, s.c.arena.copy(b), int32(len(v)), 0))
}

// textOrNull binds a string as TEXT, NULL for the empty string.
func (s *stmt) textOrNull(v string) *stmt {
	if v == "" {
		return s.null()
	}
	return s.text(v)
}

// bytes binds a string as a BLOB.
func (s *stmt) bytes(v string) *stmt {
	return s.blob(unsafe.Slice(unsafe.StringData(v), len(v)))
}

// bind binds values of the types that the store uses, for statements outside the hot path. It
// panics for any other type.
func (s *stmt) bind(args ...any) *stmt {
	for _, a := range args {
		switch v := a.(type) {
		case nil:
			s.null()
		case int:
			s.int(int64(v))
		case int64:
			s.int(v)
		case bool:
			s.bool(v)
		case time.Duration:
			s.int(int64(v))
		case time.Time:
			s.time(v)
		case string:
			s.text(v)
		case []byte:
			if v == nil {
				s.null()
			} else {
				s.blob(v)
			}
		case [32]byte:
			s.blob(v[:])
		case [16]byte:
			s.id(v)
		case kapsel.TenantID:
			s.id(v)
		case kapsel.KeyID:
			s.id(v)
		case kapsel.EndpointID:
			s.id(v)
		case kapsel.AppID:
			s.id(v)
		case kapsel.EventTypeID:
			s.id(v)
		case kapsel.SourceID:
			s.id(v)
		case kapsel.EventID:
			s.id(v)
		case kapsel.DeliveryID:
			s.id(v)
		case kapsel.AttemptID:
			s.id(v)
		case kapsel.NodeID:
			s.id(v)
		case kapsel.ReplayID:
			s.id(v)
		case kapsel.ChangeID:
			s.id(v)
		case kapsel.PortalLinkID:
			s.id(v)
		default:
			panic(fmt.Sprintf("bind %T", a))
		}
	}
	return s
}

// next goes to the next row. It returns false if there is none, or if the run has failed; end then
// returns the error.
func (s *stmt) next() bool {
	if s.err != nil {
		return false
	}
	s.col = 0
	switch rc := sqlite3.Xsqlite3_step(s.c.tls, s.p); rc {
	case sqlite3.SQLITE_ROW:
		return true
	case sqlite3.SQLITE_DONE:
	default:
		s.err = s.c.error(rc)
	}
	return false
}

// end ends the run and returns the run's first error. The statement is then ready for the next
// run.
func (s *stmt) end() error {
	err := s.err
	if s.p != 0 {
		sqlite3.Xsqlite3_reset(s.c.tls, s.p) // returns the error of step again
	}
	if s.c.runs--; s.c.runs == 0 {
		s.c.arena.reset()
	}
	s.param, s.col, s.err = 0, 0, nil
	return err
}

// exec runs the statement to its end and drops its rows.
func (s *stmt) exec() error {
	for s.next() {
	}
	return s.end()
}

// one goes to the first row, calls scan if there is one, and ends the run. It reports whether
// there was a row.
func (s *stmt) one(scan func(*stmt)) (bool, error) {
	found := s.next()
	if found {
		scan(s)
	}
	return found, s.end()
}

// colNull reports whether the next column is NULL. It does not go past the column.
func (s *stmt) colNull() bool {
	return sqlite3.Xsqlite3_column_type(s.c.tls, s.p, s.col) == sqlite3.SQLITE_NULL
}

func (s *stmt) colInt() int64 {
	v := sqlite3.Xsqlite3_column_int64(s.c.tls, s.p, s.col)
	s.col++
	return v
}

func (s *stmt) colBool() bool { return s.colInt() != 0 }

// colTime returns the time in the next column, the zero time for NULL.
func (s *stmt) colTime() time.Time {
	if s.colNull() {
		s.col++
		return time.Time{}
	}
	return time.UnixMicro(s.colInt()).UTC()
}

// view returns the bytes of the next column, which are valid until the next step. It returns nil
// for NULL and for an empty BLOB.
func (s *stmt) view() []byte {
	p := sqlite3.Xsqlite3_column_blob(s.c.tls, s.p, s.col)
	n := sqlite3.Xsqlite3_column_bytes(s.c.tls, s.p, s.col)
	s.col++
	if p == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(memory(p)), n)
}

// colBlob returns a copy of the bytes of the next column: nil for NULL, and not nil for an empty
// BLOB.
func (s *stmt) colBlob() []byte {
	null := s.colNull()
	b := s.view()
	if null {
		return nil
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (s *stmt) colText() string { return string(s.view()) }

// colID returns the id in the next column, the zero id for NULL.
func (s *stmt) colID() (id [16]byte) {
	copy(id[:], s.view())
	return id
}

// arena holds the bytes that are bound to statements, at addresses that SQLite can read, for as
// long as a run lasts. Most bytes are in one block that is used again; bytes that do not fit there
// have blocks of their own.
type arena struct {
	tls   *libc.TLS
	block uintptr
	used  int
	large []uintptr
}

const arenaSize = 64 << 10

func (a *arena) init(tls *libc.TLS) {
	a.tls = tls
	a.block = libc.Xmalloc(tls, arenaSize)
}

// copy copies b and returns the address of the copy, which is valid until reset. The address is
// never 0, which SQLite would bind as NULL. copy panics if there is no memory.
func (a *arena) copy(b []byte) uintptr {
	p := a.block + uintptr(a.used)
	switch {
	case len(b) == 0:
		return a.block
	case a.used+len(b) <= arenaSize:
		a.used += len(b)
	default:
		p = libc.Xmalloc(a.tls, types.Size_t(len(b)))
		if p == 0 {
			panic("out of memory")
		}
		a.large = append(a.large, p)
	}
	copy(unsafe.Slice((*byte)(memory(p)), len(b)), b)
	return p
}

func (a *arena) reset() {
	a.used = 0
	for _, p := range a.large {
		libc.Xfree(a.tls, p)
	}
	a.large = a.large[:0]
}

func (a *arena) close() {
	if a.block != 0 {
		a.reset()
		libc.Xfree(a.tls, a.block)
	}
}
