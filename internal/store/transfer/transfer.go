// Package transfer copies all that one store holds to another of a different kind, while no
// server uses either.
//
// Rows go from store to store as neutral values (Tables), in batches; each store converts
// between those and its own columns. A batch and the place that the copy has reached are
// written in one transaction of the target, so that a copy that was killed goes on where it
// was, and nothing is written twice or left out.
package transfer

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Store is what a store does to be copied from and to. No server may use it meanwhile.
type Store interface {
	// Survey looks at the store as a whole.
	Survey(ctx context.Context) (Survey, error)
	// Export calls yield with each row of a table behind a key, in the store's own order, and
	// the row's key. A nil key is before all rows. Rows are the caller's to keep.
	Export(ctx context.Context, t *Table, after Key, yield func(Row, Key) error) error
	// Import stores new rows of a table and replaces the progress, in one transaction. It fails
	// where the progress is not was; nil: there is none.
	Import(ctx context.Context, t *Table, rows []Row, was, now []byte) error
	// Finish sets the counters to at least what the source's are, and replaces the progress.
	Finish(ctx context.Context, c Counters, was, now []byte) error
}

// MetaName is the name of the value of the instance that holds the progress of a copy to it.
const MetaName = "copy"

// Survey is a store as a whole.
type Survey struct {
	Mark     string // changes when a server uses the store
	Servers  int    // that use it now
	Holds    string // a table that has rows, "" for an empty store
	Progress []byte // of a copy to it, nil when there was none
	Counters Counters
}

// Counters are the numbers that a store gives out, each once.
type Counters struct {
	Revision  int64 // of the directory
	StreamEnd int64 // no event has a position above it, and none that a client knows is
}

// Key is where a row is in a store's order of a table: values of kinds ID, Int, Text and Bytes.
type Key []any

// encode writes a key as JSON can hold it, each value with its kind before it.
func (k Key) encode() (all []string) {
	for _, v := range k {
		switch v := v.(type) {
		case [16]byte:
			all = append(all, "u"+hex.EncodeToString(v[:]))
		case int64:
			all = append(all, "i"+strconv.FormatInt(v, 10))
		case string:
			all = append(all, "t"+hex.EncodeToString([]byte(v)))
		case []byte:
			all = append(all, "b"+hex.EncodeToString(v))
		}
	}
	return all
}

// decodeKey reads what Key.encode wrote.
func decodeKey(all []string) (k Key, err error) {
	for _, text := range all {
		if text == "" {
			return nil, errors.New("a value of a key is empty")
		}
		kind, text := text[0], text[1:]
		if kind == 'i' {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, err
			}
			k = append(k, n)
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			return nil, err
		}
		switch {
		case kind == 'u' && len(b) == 16:
			k = append(k, [16]byte(b))
		case kind == 't':
			k = append(k, string(b))
		case kind == 'b':
			k = append(k, b)
		default:
			return nil, fmt.Errorf("a value of a key is of kind %q", kind)
		}
	}
	return k, nil
}

// progress is how far a copy has come.
type progress struct {
	Source string           `json:"source"` // its mark
	Table  int              `json:"table"`  // of Tables, which is copied now
	After  []string         `json:"after"`  // the key of its last row that was copied
	Rows   map[string]int64 `json:"rows"`   // copied of each table
	Done   bool             `json:"done"`
}

// Unfinished reports whether a progress is that of a copy that has not come to its end.
func Unfinished(value []byte) bool {
	var p progress
	return json.Unmarshal(value, &p) != nil || !p.Done
}

// Refusal is why a copy cannot be made before its user changes something.
type Refusal struct{ text string }

func (r *Refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// A batch is at most about maxBytes long, but for the last row in it, and has at most maxRows.
const maxBytes = 8 << 20

var maxRows = 5000 // a variable for tests

// Result is what a copy has come to.
type Result struct {
	Rows    map[string]int64 // of each table, also those of earlier runs
	Resumed bool             // an earlier run had begun
	Already bool             // an earlier run had come to the end
}

// Copy copies from one store to another. An earlier run from the same source is gone on with.
// report, which may be nil, is told after each batch how many rows of a table are copied. An
// error that is a Refusal says what its user has to do.
func Copy(ctx context.Context, from, to Store, report func(table string, rows int64)) (res Result, err error) {
	source, err := from.Survey(ctx)
	if err != nil {
		return res, fmt.Errorf("look at the source: %w", err)
	}
	target, err := to.Survey(ctx)
	if err != nil {
		return res, fmt.Errorf("look at the target: %w", err)
	}
	c := copier{from: from, to: to, report: report, was: target.Progress}
	if err := c.begin(source, target); err != nil {
		return res, err
	}
	res = Result{Rows: c.at.Rows, Resumed: c.was != nil, Already: c.at.Done}
	if c.at.Done {
		return res, nil
	}
	for ; c.at.Table < len(Tables); c.at.Table, c.at.After = c.at.Table+1, nil {
		if err := c.table(ctx, &Tables[c.at.Table]); err != nil {
			return res, fmt.Errorf("copy %s: %w", Tables[c.at.Table].Name, err)
		}
	}
	// What a server has written meanwhile may be missing.
	end, err := from.Survey(ctx)
	if err != nil {
		return res, fmt.Errorf("look at the source: %w", err)
	}
	if end.Mark != source.Mark || end.Servers > 0 {
		return res, refuse("a server has used the source while it was copied; stop it, make the target empty and copy again")
	}
	c.at.Done = true
	was, now, err := c.next()
	if err == nil {
		err = to.Finish(ctx, end.Counters, was, now)
	}
	if err != nil {
		return res, fmt.Errorf("finish the copy: %w", err)
	}
	return res, nil
}

// copier is a copy under way.
type copier struct {
	from, to Store
	report   func(table string, rows int64)
	at       progress
	was      []byte // the progress as the target has it
}

// begin decides whether a copy may be made, and from where it goes on.
func (c *copier) begin(source, target Survey) error {
	switch {
	case source.Servers > 0:
		return refuse("the source is in use by %d servers; stop them first. One that was killed counts until its lease is over, a minute at most", source.Servers)
	case target.Servers > 0:
		return refuse("the target is in use by %d servers; it must be a new, empty database", target.Servers)
	case Unfinished(source.Progress) && source.Progress != nil:
		return refuse("the source is itself the target of a copy that has not come to its end; run that one again first")
	case target.Progress == nil && target.Holds != "":
		return refuse("the target holds something else already (its table %s has rows); name a new, empty database", target.Holds)
	case target.Progress == nil:
		c.at = progress{Source: source.Mark, Rows: map[string]int64{}}
		return nil
	}
	if err := json.Unmarshal(target.Progress, &c.at); err != nil || c.at.Rows == nil {
		return refuse("the target has a value %q that no copy wrote; name a new, empty database", MetaName)
	}
	switch {
	case c.at.Source == source.Mark:
		return nil
	case c.at.Done:
		return refuse("the target holds something else already, a copy of another database or of this one at another time; name a new, empty database")
	}
	return refuse("the target holds a part of a copy of another database, or of this one before a server has used it since; name a new, empty database")
}

// next returns the progress as the target has it, and as it will be.
func (c *copier) next() (was, now []byte, err error) {
	now, err = json.Marshal(c.at)
	was, c.was = c.was, now
	return was, now, err
}

// table copies what is left of a table.
func (c *copier) table(ctx context.Context, t *Table) error {
	after, err := decodeKey(c.at.After)
	if err != nil {
		return err
	}
	var rows []Row
	var last Key
	size := 0
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		c.at.After = last.encode()
		c.at.Rows[t.Name] += int64(len(rows))
		was, now, err := c.next()
		if err == nil {
			err = c.to.Import(ctx, t, rows, was, now)
		}
		clear(rows) // the rows that come need the memory
		rows, size = rows[:0], 0
		if err == nil && c.report != nil {
			c.report(t.Name, c.at.Rows[t.Name])
		}
		return err
	}
	err = c.from.Export(ctx, t, after, func(r Row, k Key) error {
		rows, last = append(rows, r), k
		if size += r.size(); size < maxBytes && len(rows) < maxRows {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}
