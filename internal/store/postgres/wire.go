package postgres

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/kapsel-hq/kapsel"
)

// The hot statements take one array for each column, and unnest the arrays to rows. This file
// writes the arrays straight in PostgreSQL's binary form (array_send in its source), and reads
// rows from their binary form: the general way costs more than the rest of a commit's work in this
// process.

// table is a set of rows, kept as one array for each column, to be a statement's parameters. It is
// used again and again. Only one goroutine may use a table.
type table struct {
	columns []column
	values  [][]byte
	at      int // the next column of the row being written
}

type column struct {
	oid   uint32
	buf   []byte
	n     int
	nulls int
}

// arrayHeader is the length of a one-dimensional array's head: dimensions, whether it has
// nulls, the elements' type, their number, and the first one's index.
const arrayHeader = 20

// newTable returns a table with columns of the given types, in the order of the statement's
// unnest.
func newTable(oids ...uint32) *table {
	t := &table{columns: make([]column, len(oids))}
	for i, oid := range oids {
		t.columns[i] = column{oid: oid, buf: make([]byte, arrayHeader)}
	}
	return t
}

// keptBuffer is the largest column that is kept for the next batch.
const keptBuffer = 8 << 20

// reset removes all rows.
func (t *table) reset() {
	for i := range t.columns {
		c := &t.columns[i]
		if cap(c.buf) > keptBuffer {
			c.buf = make([]byte, arrayHeader)
		}
		c.buf, c.n, c.nulls = c.buf[:arrayHeader], 0, 0
	}
	t.at = 0
}

// rows returns the number of rows.
func (t *table) rows() int { return t.columns[0].n }

// params returns the columns as parameters, followed by those in more. They are valid until the
// table changes. A column of nulls alone becomes an empty array: unnest fills it up with nulls to
// the length of the others, and at least one column of every table has no nulls. params panics if
// a row lacks columns.
func (t *table) params(more ...[]byte) [][]byte {
	if t.at != 0 {
		panic("postgres: a row lacks columns")
	}
	t.values = t.values[:0]
	for i := range t.columns {
		c := &t.columns[i]
		b := c.buf
		binary.BigEndian.PutUint32(b[4:], 0)
		if c.nulls > 0 {
			binary.BigEndian.PutUint32(b[4:], 1)
		}
		binary.BigEndian.PutUint32(b[8:], c.oid)
		if c.n == c.nulls { // an empty array has no dimensions
			binary.BigEndian.PutUint32(b, 0)
			t.values = append(t.values, b[:12])
			continue
		}
		binary.BigEndian.PutUint32(b, 1)
		binary.BigEndian.PutUint32(b[12:], uint32(c.n))
		binary.BigEndian.PutUint32(b[16:], 1)
		t.values = append(t.values, b)
	}
	return append(t.values, more...)
}

// next returns the column in which the row being written goes on.
func (t *table) next() *column {
	c := &t.columns[t.at]
	c.n++
	t.at++
	if t.at == len(t.columns) {
		t.at = 0
	}
	return c
}

func (t *table) null() {
	c := t.next()
	c.nulls++
	c.buf = append(c.buf, 0xff, 0xff, 0xff, 0xff)
}

// id writes a uuid; the zero id is null.
func (t *table) id(id [16]byte) {
	if id == ([16]byte{}) {
		t.null()
		return
	}
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 16)
	c.buf = append(c.buf, id[:]...)
}

func (t *table) int2(v int) {
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 2, byte(v>>8), byte(v))
}

func (t *table) int4(v int) {
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 4)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(v))
}

func (t *table) int8(v int64) {
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 8)
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(v))
}

// time writes a timestamptz; the zero time is null.
func (t *table) time(v time.Time) {
	if v.IsZero() {
		t.null()
		return
	}
	t.int8(micros(v))
}

func (t *table) bytes(b []byte) {
	c := t.next()
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(b)))
	c.buf = append(c.buf, b...)
}

// optional writes a bytea; nil is null.
func (t *table) optional(b []byte) {
	if b == nil {
		t.null()
		return
	}
	t.bytes(b)
}

// text writes a text or a bytea.
func (t *table) text(s string) {
	c := t.next()
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(s)))
	c.buf = append(c.buf, s...)
}

// textOrNull writes a text; "" is null.
func (t *table) textOrNull(s string) {
	if s == "" {
		t.null()
		return
	}
	t.text(s)
}

// trueOrNull writes a boolean; false is null.
func (t *table) trueOrNull(v bool) {
	if !v {
		t.null()
		return
	}
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 1, 1)
}

// header writes a header as bytea.
func (t *table) header(h kapsel.Header) {
	c := t.next()
	c.buf = append(c.buf, 0, 0, 0, 0)
	start := len(c.buf)
	c.buf, _ = h.AppendBinary(c.buf) // never fails
	binary.BigEndian.PutUint32(c.buf[start-4:], uint32(len(c.buf)-start))
}

// epoch is 2000-01-01, from which PostgreSQL counts microseconds.
const epoch = 946684800 * 1_000_000

// micros returns a time as PostgreSQL keeps it. It cuts what is finer than a microsecond.
func micros(t time.Time) int64 { return t.UnixMicro() - epoch }

// timeParam returns a time as a parameter of its own.
func timeParam(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(micros(t)))
}

// int2Param and int8Param return integers as parameters of their own.
func int2Param(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }
func int8Param(v int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// param returns a parameter in the text of a statement.
func param(number int, sqlType string) string { return fmt.Sprintf("$%d::%s", number, sqlType) }

// row reads the values of a result's row, in binary form, one after the other. It keeps in err the
// error of the first value that cannot be read; all later values are zero.
type row struct {
	values [][]byte
	at     int
	err    error
}

func (r *row) next(size int) []byte {
	if r.err != nil {
		return nil
	}
	if r.at == len(r.values) {
		r.err = fmt.Errorf("read row: it has only %d columns", r.at)
		return nil
	}
	v := r.values[r.at]
	r.at++
	if v == nil {
		return nil
	}
	if size >= 0 && len(v) != size {
		r.err = fmt.Errorf("read row: column %d has %d bytes, not %d", r.at, len(v), size)
		return nil
	}
	return v
}

// id returns a uuid; the zero id for null.
func (r *row) id() (id [16]byte) {
	copy(id[:], r.next(16))
	return id
}

func (r *row) int2() int {
	if v := r.next(2); v != nil {
		return int(int16(binary.BigEndian.Uint16(v)))
	}
	return 0
}

func (r *row) int4() int {
	if v := r.next(4); v != nil {
		return int(int32(binary.BigEndian.Uint32(v)))
	}
	return 0
}

func (r *row) int8() int64 {
	if v := r.next(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

func (r *row) duration() time.Duration { return time.Duration(r.int8()) }

// time returns a timestamptz; the zero time for null.
func (r *row) time() time.Time {
	if v := r.next(8); v != nil {
		return time.UnixMicro(int64(binary.BigEndian.Uint64(v)) + epoch).UTC()
	}
	return time.Time{}
}

// bytes returns a copy of a bytea; nil for null.
func (r *row) bytes() []byte {
	v := r.next(-1)
	if v == nil {
		return nil
	}
	return append([]byte{}, v...)
}

// bool returns a boolean; false for null.
func (r *row) bool() bool {
	v := r.next(1)
	return v != nil && v[0] == 1
}

// text returns a text or a bytea as a string; "" for null.
func (r *row) text() string { return string(r.next(-1)) }

// header returns what table.header wrote; nil for a header without lines.
func (r *row) header() (h kapsel.Header) {
	v := r.next(-1)
	if len(v) == 0 {
		return nil
	}
	if err := h.UnmarshalBinary(v); err != nil {
		r.err = err
	}
	return h
}

// Types of columns.
const (
	int2Type  = pgtype.Int2OID
	int4Type  = pgtype.Int4OID
	int8Type  = pgtype.Int8OID
	uuidType  = pgtype.UUIDOID
	timeType  = pgtype.TimestamptzOID
	bytesType = pgtype.ByteaOID
	textType  = pgtype.TextOID
	boolType  = pgtype.BoolOID
)
