package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// template is what databases are copies of.
type template struct {
	name  string
	shape string   // what shapeOf returns of it
	reset string   // statements that bring the rows and sequences of a database back to the template's
	size  int64    // in bytes
	free  []string // names of databases that tests have left and that are as the template is
}

// From is the function of the same name, on this server.
func (s *Server) From(t testing.TB, name string, build func(ctx context.Context, url string) error) string {
	t.Helper()
	s.templates.Lock()
	defer s.templates.Unlock() // PostgreSQL copies a template for one at a time
	of, ok := s.templates.byName[name]
	if !ok {
		of = &template{name: fmt.Sprintf("template_%d", len(s.templates.byName))}
		if err := s.exec(t.Context(), "CREATE DATABASE "+of.name+" OWNER "+owner); err != nil {
			t.Fatalf("create template database: %v", err)
		}
		if err := build(t.Context(), s.ownerURL(of.name)); err != nil {
			t.Fatalf("build template %s: %v", name, err)
		}
		if err := s.learn(t.Context(), of); err != nil {
			t.Fatalf("read template %s: %v", name, err)
		}
		s.templates.byName[name] = of
	}
	var database string
	if last := len(of.free) - 1; last >= 0 {
		database, of.free = of.free[last], of.free[:last]
	} else {
		database = s.create(t, of.name)
	}
	t.Cleanup(func() { s.giveBack(t, of, database) })
	return s.ownerURL(database)
}

// giveBack empties a database for another test. It drops one that cannot be as its template is, and one of a
// test that has failed.
//
// Databases that were made and dropped for each test, with hundreds of files each, took nearly half of the CPU time
// of package postgres's tests.
func (s *Server) giveBack(t testing.TB, of *template, database string) {
	// A server that the test has stopped takes its databases along.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if t.Failed() || s.empty(ctx, of, database) != nil {
		s.drop(ctx, database)
		return
	}
	s.templates.Lock()
	defer s.templates.Unlock()
	of.free = append(of.free, database)
}

// tables selects the tables of a database's schema.
const tables = `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname`

// learn fills in what a template holds.
func (s *Server) learn(ctx context.Context, of *template) error {
	conn, err := pgx.Connect(ctx, s.URL(of.name))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, _ := conn.Query(ctx, tables) // CollectRows returns its error
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var reset strings.Builder
	reset.WriteString("SET session_replication_role = replica;\n") // no triggers, which foreign keys are, too
	for _, name := range names {
		name = pgx.Identifier{name}.Sanitize()
		fmt.Fprintf(&reset, "DELETE FROM %s;\n", name)
		var filled *string
		err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT format('INSERT INTO %[1]s OVERRIDING SYSTEM VALUE SELECT * FROM json_populate_recordset(NULL::%[1]s, %%L);', json_agg(t)) FROM %[1]s t HAVING count(*) > 0`, name)).Scan(&filled)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		reset.WriteString(*filled + "\n")
	}
	rows, _ = conn.Query(ctx, `SELECT format('SELECT setval(%L, %s, %L);', quote_ident(sequencename), coalesce(last_value, start_value), last_value IS NOT NULL) FROM pg_sequences WHERE schemaname = 'public'`)
	sequences, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	reset.WriteString(strings.Join(sequences, "\n"))
	of.reset = reset.String()
	of.shape, of.size, err = shapeOf(ctx, conn)
	return err
}

// shapeOf returns a text that differs between databases whose schemas differ, and the database's size in bytes.
func shapeOf(ctx context.Context, conn *pgx.Conn) (shape string, size int64, err error) {
	err = conn.QueryRow(ctx, `
		WITH mine AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace),
		parts(part) AS (
			SELECT (oid, relname, relkind, relowner, relacl, relrowsecurity, relforcerowsecurity, reloptions)::text FROM mine
			UNION ALL SELECT (attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped, attacl, attoptions)::text FROM pg_attribute WHERE attrelid IN (SELECT oid FROM mine)
			UNION ALL SELECT ('default', oid, pg_get_expr(adbin, adrelid))::text FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM mine)
			UNION ALL SELECT ('constraint', oid, conname, convalidated)::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace
			UNION ALL SELECT ('index', indexrelid, indisvalid, indisready)::text FROM pg_index WHERE indrelid IN (SELECT oid FROM mine)
			UNION ALL SELECT ('trigger', oid, tgenabled)::text FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM mine)
			UNION ALL SELECT ('policy', oid, polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))::text FROM pg_policy
			UNION ALL SELECT ('function', oid, proowner, proacl, prosrc)::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT ('schema', nspname, nspowner, nspacl)::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
			UNION ALL SELECT ('extension', extname)::text FROM pg_extension
			UNION ALL SELECT ('database', datdba, datacl, datconnlimit, datallowconn, datistemplate)::text FROM pg_database WHERE datname = current_database()
			UNION ALL SELECT ('setting', setrole, setconfig)::text FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
		SELECT md5(string_agg(part, E'\n' ORDER BY part)), pg_database_size(current_database()) FROM parts`).Scan(&shape, &size)
	return shape, size, err
}

// grown is by how many bytes a database that serves another test may be larger than its template.
const grown = 8 << 20

// empty makes a database that tests have used as its template is, or returns an error.
func (s *Server) empty(ctx context.Context, of *template, database string) error {
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// Whoever the test has left, such as a program that it has killed, goes first.
	for others := 1; others > 0; time.Sleep(time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&others); err != nil {
			return err
		}
	}
	shape, size, err := shapeOf(ctx, conn)
	if err != nil {
		return err
	}
	if shape != of.shape || size > of.size+grown {
		return errors.New("the test has changed the schema, or stored much")
	}
	_, err = conn.Exec(ctx, of.reset)
	return err
}
