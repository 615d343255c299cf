package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/postgres"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// database opens a database, again after its Close.
type database func(t *testing.T) opened

type opened interface {
	store.Store
	transfer(t *testing.T) transfer.Store
}

type sqliteStore struct{ *sqlite.Store }

func (s sqliteStore) transfer(t *testing.T) transfer.Store {
	tr, err := s.Transfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

type postgresStore struct{ *postgres.Store }

func (s postgresStore) transfer(t *testing.T) transfer.Store {
	tr, err := s.Transfer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func newSQLite(t *testing.T) database {
	path := schematest.SQLite(t)
	return func(t *testing.T) opened {
		s, err := sqlite.Open(t.Context(), path, sqlite.Options{Ledger: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return sqliteStore{s}
	}
}

func newPostgres(t *testing.T) database {
	url := schematest.Postgres(t)
	return func(t *testing.T) opened {
		s, err := postgres.Open(t.Context(), url, postgres.Options{Ledger: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return postgresStore{s}
	}
}

// bothWays runs a test from either kind of store to the other.
func bothWays(t *testing.T, f func(t *testing.T, from, to func(*testing.T) database)) {
	t.Run("SQLite to PostgreSQL", func(t *testing.T) { f(t, newSQLite, newPostgres) })
	t.Run("PostgreSQL to SQLite", func(t *testing.T) { f(t, newPostgres, newSQLite) })
}

// dump is all rows of a store, as text; stores have orders and positions of their own.
func dump(t *testing.T, s transfer.Store) (all []string) {
	for i := range transfer.Tables {
		table := &transfer.Tables[i]
		var rows []string
		err := s.Export(t.Context(), table, nil, func(r transfer.Row, _ transfer.Key) error {
			if table.Name == "events" {
				r = r[1:]
			}
			rows = append(rows, fmt.Sprintf("%s %v", table.Name, r))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			t.Errorf("no row of %s is copied", table.Name)
		}
		slices.Sort(rows)
		all = append(all, rows...)
	}
	return all
}

// same compares two dumps.
func same(t *testing.T, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("row %d of %d and %d differs:\n%s\n%s", i, len(want), len(got), at(want, i), at(got, i))
		}
	}
}

func at(rows []string, i int) string {
	if i < len(rows) {
		return rows[i]
	}
	return "none"
}

// TestCopy: a copy answers as its source, row for row and through the store's contract.
func TestCopy(t *testing.T) {
	bothWays(t, func(t *testing.T, newFrom, newTo func(*testing.T) database) {
		from, to := newFrom(t), newTo(t)
		s := from(t)
		storetest.RunTransfer(t, s, func() store.Store {
			transfer.SetBatch(t, 7)
			s.Close()
			source, target := from(t), to(t)
			if _, err := transfer.Copy(t.Context(), source.transfer(t), target.transfer(t), nil); err != nil {
				t.Fatal(err)
			}
			want := dump(t, source.transfer(t))
			source.Close()
			target.Close()
			target = to(t)
			same(t, want, dump(t, target.transfer(t)))

			// There and back again is where it began.
			target.Close()
			target, back := to(t), newFrom(t)(t)
			if _, err := transfer.Copy(t.Context(), target.transfer(t), back.transfer(t), nil); err != nil {
				t.Fatal(err)
			}
			same(t, want, dump(t, back.transfer(t)))
			return target
		})
	})
}

// dying is a target whose process dies at its nth import, before it or after it.
type dying struct {
	transfer.Store
	left   int
	before bool
}

var errKilled = errors.New("killed")

func (d *dying) Import(ctx context.Context, t *transfer.Table, rows []transfer.Row, was, now []byte) error {
	d.left--
	if d.left > 0 || !d.before {
		if err := d.Store.Import(ctx, t, rows, was, now); err != nil {
			return err
		}
	}
	if d.left == 0 {
		return errKilled
	}
	return nil
}

// filled is a database with one of everything.
func filled(t *testing.T, db database) {
	s := db(t)
	storetest.Fill(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCopy_Killed: a copy that is killed again and again goes on where it was, and what comes
// out is the same. Until then the target is known to be a part.
func TestCopy_Killed(t *testing.T) {
	bothWays(t, func(t *testing.T, newFrom, newTo func(*testing.T) database) {
		from, to := newFrom(t), newTo(t)
		filled(t, from)
		transfer.SetBatch(t, 15)
		runs := 0
		for ; ; runs++ {
			source, target := from(t), to(t)
			d := &dying{target.transfer(t), 1 + runs%4, runs%2 == 0}
			if runs%4 == 0 {
				d.left = 2 // a run goes on by one at least
			}
			res, err := transfer.Copy(t.Context(), source.transfer(t), d, nil)
			if err == nil {
				if !res.Resumed || res.Already || res.Rows["events"] == 0 {
					t.Errorf("the last run says %+v", res)
				}
				same(t, dump(t, source.transfer(t)), dump(t, target.transfer(t)))
				again, err := transfer.Copy(t.Context(), source.transfer(t), target.transfer(t), nil)
				if err != nil || !again.Already {
					t.Errorf("once more: %+v, %v", again, err)
				}
				break
			}
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			v, err := target.Meta(t.Context(), transfer.MetaName)
			if kapsel.CodeOf(err) != kapsel.NotFound && (err != nil || !transfer.Unfinished(v)) {
				t.Fatalf("the target's progress is %q, %v", v, err)
			}
			source.Close()
			target.Close()
		}
		if runs < 5 {
			t.Errorf("it was killed %d times", runs)
		}
	})
}

// TestCopy_Refused: nothing is written to a target that holds something else, or while a
// server uses either.
func TestCopy_Refused(t *testing.T) {
	bothWays(t, func(t *testing.T, newFrom, newTo func(*testing.T) database) {
		fromDB, toDB := newFrom(t), newTo(t)
		filled(t, fromDB)
		from, to := fromDB(t), toDB(t)
		refused := func(what, word string, to opened) {
			t.Helper()
			before, err := to.transfer(t).Survey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = transfer.Copy(t.Context(), from.transfer(t), to.transfer(t), nil)
			var refusal *transfer.Refusal
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), word) {
				t.Fatalf("%s: the error is %v", what, err)
			}
			if after, err := to.transfer(t).Survey(t.Context()); err != nil || string(after.Progress) != string(before.Progress) || after.Holds != before.Holds {
				t.Errorf("%s: the target was %+v and is %+v, %v", what, before, after, err)
			}
		}
		other := newTo(t)(t)
		if _, err := other.SetMeta(t.Context(), "check", []byte("another")); err != nil {
			t.Fatal(err)
		}
		refused("a value of another instance", "holds something else", other)
		other = newTo(t)(t)
		now := time.Now().UTC()
		if err := other.CreateTenant(t.Context(), kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "other", CreatedAt: now, UpdatedAt: now}); err != nil {
			t.Fatal(err)
		}
		refused("a tenant", "holds something else", other)

		// SQLite's servers are kept out by the lock on its file.
		for _, s := range []opened{from, to} {
			if _, ok := s.(postgresStore); !ok {
				continue
			}
			node := kapsel.NewNodeID(now)
			if err := s.Join(t.Context(), node, now, time.Hour); err != nil {
				t.Fatal(err)
			}
			refused("a server", "in use by 1 server", to)
			if err := s.Leave(t.Context(), node); err != nil {
				t.Fatal(err)
			}
		}

		d := &dying{to.transfer(t), 3, true}
		if _, err := transfer.Copy(t.Context(), from.transfer(t), d, nil); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		node := kapsel.NewNodeID(now)
		if err := from.Join(t.Context(), node, now, time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, err := from.Lead(t.Context(), "duty", node, now, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := from.Leave(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		refused("a source that was used meanwhile", "a part of a copy", to)
		from = to
		refused("a part as the source", "has not come to its end", newFrom(t)(t))
	})
}
