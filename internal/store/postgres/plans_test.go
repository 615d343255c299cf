package postgres

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// The statements of the hot path must reach the tables by their keys, also on a young table
// of which the planner knows nothing: a plan that reads a table whole is quick in the first
// minute and fatal later.
func TestPlansOfTheHotPath(t *testing.T) {
	config, err := pgxpool.ParseConfig(pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	configure(config.ConnConfig)
	maps.Copy(config.ConnConfig.RuntimeParams, hotSession)
	if s, err := Open(t.Context(), config.ConnString(), Options{Migrate: true}); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())

	n := 0
	for _, statements := range []map[string]string{acceptStatements, completeStatements, claimStatements, renewStatements} {
		for _, name := range slices.Sorted(maps.Keys(statements)) {
			sql := statements[name]
			if name == "begin" || name == "commit" {
				continue
			}
			n++
			prepared := fmt.Sprintf("s%d", n)
			if _, err := conn.Exec(t.Context(), "PREPARE "+prepared+" AS "+sql); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			params := strings.Count(sql, "::") // each parameter has its type, once
			args := strings.TrimSuffix(strings.Repeat("NULL,", params), ",")
			rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE "+prepared+"("+args+")", pgx.QueryExecModeSimpleProtocol)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			plan := strings.Join(lines, "\n")
			for _, bad := range []string{"Seq Scan", "Hash", "Merge", "Bitmap", "Materialize", "JIT", "Index Cond: (part = u.part)\n"} {
				if strings.Contains(plan, bad) {
					t.Errorf("%s: the plan has a %s:\n%s", name, bad, plan)
				}
			}
			if testing.Verbose() {
				t.Logf("%s:\n%s", name, plan)
			}
		}
	}
}
