package sqlite

import (
	"slices"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// TestTransfer_KnowsEveryColumn: what a migration adds is copied, or named in notCopied.
func TestTransfer_KnowsEveryColumn(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir()+"/kapsel.db", Options{Migrate: true, Ledger: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	known := map[string][]string{}
	for _, table := range transfer.Tables {
		known[table.Name], _ = layouts[table.Name].own(&table)
	}
	err = s.read(t.Context(), func(c *conn) error {
		q := c.query(`SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' ORDER BY 1, 2`)
		for q.next() {
			table, column := q.colText(), q.colText()
			if notCopied[table] != "" || notCopied[table+"."+column] != "" {
				continue
			}
			i := slices.Index(known[table], column)
			if i < 0 {
				t.Errorf("copy does not know column %s of table %s: add it to transfer.Tables, or to notCopied with why", column, table)
				continue
			}
			known[table] = slices.Delete(known[table], i, i+1)
		}
		return q.end()
	})
	if err != nil {
		t.Fatal(err)
	}
	for table, columns := range known {
		if len(columns) > 0 {
			t.Errorf("table %s has no columns %v", table, columns)
		}
	}
}
