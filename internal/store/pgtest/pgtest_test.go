package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

func query(t *testing.T, url, sql string) (got string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDatabasesAreSeparate(t *testing.T) {
	build := func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE t AS SELECT 'built' AS v")
		return err
	}
	a, b := pgtest.From(t, "t", build), pgtest.From(t, "t", build)
	pgtest.Exec(t, a, "UPDATE t SET v = 'changed'")
	if got := query(t, b, "SELECT v FROM t"); got != "built" {
		t.Errorf("the second copy holds %q", got)
	}
	if got := query(t, pgtest.New(t), "SELECT count(*)::text FROM pg_tables WHERE tablename = 't'"); got != "0" {
		t.Error("a new database is not empty")
	}
	if got := query(t, a, "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s", got)
	}
}

// TestFrom_ServesAgain checks that a database that one test has filled serves the next as the template is, and
// one that was changed otherwise, or grew, does not.
func TestFrom_ServesAgain(t *testing.T) {
	build := func(ctx context.Context, url string) error {
		pgtest.Exec(t, url, "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v bytea)", `INSERT INTO a (v) VALUES ('\x00ff')`,
			"CREATE TABLE b (a int REFERENCES a, t text)")
		return nil
	}
	const holds = "SELECT coalesce((SELECT string_agg(format('%s=%s', id, v), ' ') FROM a), '') || '/' || (SELECT count(*) FROM b) || '/' || nextval('a_id_seq')"
	for _, use := range []struct {
		name string
		does []string
		kept bool
	}{
		{"fills it", []string{"INSERT INTO a (v) VALUES ('x'), (NULL)", "INSERT INTO b SELECT id, 'y' FROM a", "UPDATE a SET v = 'z' WHERE id = 1"}, true},
		{"deletes", []string{"DELETE FROM a"}, true},
		{"adds a column", []string{"ALTER TABLE b ADD COLUMN more int"}, false},
		{"drops an index", []string{"ALTER TABLE b DROP CONSTRAINT b_a_fkey", "ALTER TABLE a DROP CONSTRAINT a_pkey"}, false},
		{"has a setting", []string{"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1', current_database()); END $$"}, false},
		{"grows", []string{"INSERT INTO b SELECT 1, repeat(md5(n::text), 50) FROM generate_series(1, 20000) n", "DELETE FROM b"}, false},
		{"leaves it alone", nil, true},
	} {
		var url string
		t.Run(use.name, func(t *testing.T) {
			url = pgtest.From(t, "serves again", build)
			if got, want := query(t, url, holds), `1=\x00ff/0/2`; got != want {
				t.Errorf("it holds %s, want %s", got, want)
			}
			pgtest.Exec(t, url, use.does...)
		})
		next := ""
		t.Run("the next", func(t *testing.T) { next = pgtest.From(t, "serves again", build) })
		if kept := next == url; kept != use.kept {
			t.Errorf("after a test that %s the database serves another: %v", use.name, kept)
		}
	}
}

func TestVerbs(t *testing.T) {
	s := pgtest.Start(t)
	url := s.New(t)
	pgtest.Exec(t, url, "CREATE TABLE t AS SELECT 'kept' AS v")

	s.Kill9(t)
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Fatal("a killed server answers")
	}
	s.Restart(t)
	if got := query(t, url, "SELECT v FROM t"); got != "kept" {
		t.Errorf("after kill -9: %q", got)
	}

	s.Freeze(t)
	s.Thaw(t)
	query(t, url, "SELECT v FROM t")

	s.Stop(t)
	s.Restart(t)
	s.StopImmediate(t)
	s.Restart(t)
	if got := query(t, url, "SELECT v FROM t"); got != "kept" {
		t.Errorf("after two stops: %q", got)
	}
}

// A test process that is killed leaves neither a server nor files.
func TestServerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") != "" {
		fmt.Println(query(t, pgtest.Superuser(pgtest.New(t)), "SHOW data_directory"))
		select {} // until we are killed
	}
	child := osexec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsProcess$")
	child.Env = append(os.Environ(), "PGTEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	data := strings.TrimSpace(line)
	if _, err := os.Stat(data); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	for { // the watcher stops the server first
		if _, err := os.Stat(filepath.Dir(data)); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
