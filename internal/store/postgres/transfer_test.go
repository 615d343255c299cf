package postgres

import (
	"slices"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/transfer"
)

// TestTransfer_KnowsEveryColumn: what a migration adds is copied, or named in notCopied.
func TestTransfer_KnowsEveryColumn(t *testing.T) {
	s, err := Open(t.Context(), pgtest.New(t), Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	known := map[string][]string{}
	for _, table := range transfer.Tables {
		known[table.Name], _ = layouts[table.Name].own(&table)
	}
	rows, err := s.engine.Query(t.Context(), `
		SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
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
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for table, columns := range known {
		if len(columns) > 0 {
			t.Errorf("table %s has no columns %v", table, columns)
		}
	}
}
