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
