package pgtest_test

import (
	"context"
	"testing"

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

func exec(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
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
	exec(t, a, "UPDATE t SET v = 'changed'")
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
	exec(t, url, "CREATE TABLE t AS SELECT 'kept' AS v")

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
