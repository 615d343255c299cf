package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// TestClaim_FB15_Damaged checks that an event which the server cannot read holds up nothing else.
func TestClaim_FB15_Damaged(t *testing.T) {
	url := database(t)
	conn, err := pgx.Connect(t.Context(), pgtest.Superuser(url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec := func(sql string, args ...any) {
		t.Helper()
		if tag, err := conn.Exec(t.Context(), sql, args...); err != nil || tag.RowsAffected() == 0 {
			t.Fatalf("%s: %d rows, %v", sql, tag.RowsAffected(), err)
		}
	}
	storetest.RunDamaged(t, open(t, url), map[string]func(kapsel.Event){
		"a value was changed": func(e kapsel.Event) { exec("UPDATE events SET extra = '[]' WHERE id = $1", [16]byte(e.ID)) },
		"the row is gone":     func(e kapsel.Event) { exec("DELETE FROM events WHERE id = $1", [16]byte(e.ID)) },
		"its body is damaged": func(e kapsel.Event) {
			// The server keeps a long value in pieces in a table of its own, from which nobody may delete but as here.
			var pieces string
			err := conn.QueryRow(t.Context(), "SELECT c.reltoastrelid::regclass::text FROM events e JOIN pg_class c ON c.oid = e.tableoid WHERE e.id = $1", [16]byte(e.ID)).Scan(&pieces)
			if err != nil {
				t.Fatal(err)
			}
			kind := fmt.Sprintf("UPDATE pg_class SET relkind = $1 WHERE oid = '%s'::regclass", pieces)
			if _, err := conn.Exec(t.Context(), "SET allow_system_table_mods = on"); err != nil {
				t.Fatal(err)
			}
			exec(kind, 'r')
			exec(fmt.Sprintf("DELETE FROM %s WHERE position($1::bytea in chunk_data) > 0", pieces), e.Body[100:132])
			exec(kind, 't')
			// The server reads deleted pieces of a value until they are vacuumed, which waits for older transactions.
			for range 1000 {
				if _, err := conn.Exec(t.Context(), "VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) "+pieces); err != nil {
					t.Fatal(err)
				}
				var body []byte
				if err := conn.QueryRow(t.Context(), "SELECT body FROM events WHERE id = $1", [16]byte(e.ID)).Scan(&body); err != nil {
					t.Logf("the server says: %v", err)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatal("the body can still be read")
		},
	})
}
