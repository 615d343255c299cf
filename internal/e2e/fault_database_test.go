package e2e

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// dropped is a line of pgbouncer.ini with which PgBouncer accepts these settings from a client, and ignores
// them.
const dropped = "ignore_startup_parameters = extra_float_digits,synchronous_commit,statement_timeout,lock_timeout," +
	"idle_in_transaction_session_timeout,tcp_user_timeout,default_transaction_isolation,kapsel.tenant,jit,work_mem," +
	"enable_seqscan,enable_bitmapscan,enable_hashjoin,enable_mergejoin,enable_material,plan_cache_mode"

// TestDatabase_PgBouncerDropsSettings runs behind a PgBouncer that drops what a client asks for
// when it connects, as a role whose commits do not wait for the disk, on a server that writes
// them there late, and kills PostgreSQL under load.
func TestDatabase_PgBouncerDropsSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "wal_writer_delay = 10s", "wal_writer_flush_after = 1GB")
	pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel BYPASSRLS", "ALTER ROLE kapsel SET synchronous_commit = off")
	pooler := server.Pooler(t, "pool_mode = session", "default_pool_size = 50", dropped)
	w := newWorld(t, pooler.URL(server.New(t)))
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep := w.endpoint("target", gentle)
	s := w.send(16, ep, 20*time.Millisecond)
	kills := count(3, 20)
	for range kills {
		s.load()
		time.Sleep(rand.N(500 * time.Millisecond))
		server.Kill9(t)
		server.Restart(t)
		s.progress(time.Minute)
	}
	s.end()
	w.quiet()
	t.Logf("%d kills, %d acknowledged, %d duplicates", kills, s.acked(), s.judge(ep))
	soundStatements(t, server)
}

// TestDatabase_PgBouncerOpensTheWalls checks that, behind the same PgBouncer, a role that row-level
// security binds sees the rows that it needs, so that a right key is accepted and an event is
// stored.
func TestDatabase_PgBouncerOpensTheWalls(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	pooler := server.Pooler(t, "pool_mode = session", "default_pool_size = 50", dropped)
	w := newWorld(t, pooler.URL(server.New(t)))
	var key struct {
		Secret string `json:"secret"`
	}
	node := w.nodes[0]
	if err := node.API(w.ctx, http.MethodPost, "/v1/tenants/"+w.tenant+"/keys", map[string]string{"name": "a", "scope": "read"}, &key); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, node.URL+"/v1/endpoints", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key.Secret)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a right key is answered %d", resp.StatusCode)
	}
	if status, _ := probe(w, w.unstored()); status != http.StatusOK {
		t.Errorf("an event is answered %d", status)
	}
}

// TestDatabase_PgBouncerChangesItsMode starts PgBouncer again with transaction pooling while the
// service runs: it is not ready, says why, and acknowledges nothing.
func TestDatabase_PgBouncerChangesItsMode(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	pooler := server.Pooler(t, "pool_mode = session", "default_pool_size = 50")
	w := newWorld(t, pooler.URL(server.New(t)))
	node, ep := w.nodes[0], w.unstored()
	if status, _ := probe(w, ep); status != http.StatusOK {
		t.Fatalf("an event is answered %d", status)
	}
	pooler.Set(t, "pool_mode = transaction", "default_pool_size = 50")
	pooler.Stop(t)
	pooler.Start(t)
	eventually(t, "it is not ready", patience, func() bool { return health(node, "ready") == http.StatusServiceUnavailable })
	eventually(t, "an event is answered 503", patience, func() bool { status, _ := probe(w, ep); return status == http.StatusServiceUnavailable })
	eventually(t, "the log says why", patience, func() bool {
		log, err := os.ReadFile(node.Output)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, `"level":"ERROR"`) && strings.Contains(line, "transaction pooling") {
				return true
			}
		}
		return false
	})
	if health(node, "live") != http.StatusOK {
		t.Error("it does not live")
	}
	pooler.Set(t, "pool_mode = session", "default_pool_size = 50")
	pooler.Stop(t)
	pooler.Start(t)
	eventually(t, "it is ready again", patience, func() bool { return health(node, "ready") == http.StatusOK })
	if status, _ := probe(w, ep); status != http.StatusOK {
		t.Errorf("an event is answered %d", status)
	}
}

// ends runs a command of the program with a database until the command ends, and returns the exit code and
// the output.
func ends(t *testing.T, database, command string, env ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), command)
	cmd.Dir = t.TempDir()
	const key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "DATABASE_URL=" + database, "KAPSEL_ENCRYPTION_KEY=" + key + "," + key[:4] + "AAAA" + key[8:],
	}, env...)
	if command == "serve" {
		cmd.Env = append(cmd.Env, "KAPSEL_ADMIN_KEY="+strings.Repeat("admin-key-", 4), "KAPSEL_LISTEN=127.0.0.1:0", "KAPSEL_METRICS_LISTEN=")
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end: %s", command, out)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestDatabase_RefusedByName starts each command that opens the database with what no waiting
// mends: exit code 2 and a line that names it.
func TestDatabase_RefusedByName(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "fsync = off")
	sound := pgtest.Start(t)
	migrated := sound.New(t)
	if code, out := ends(t, migrated, "migrate"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	broken := sound.New(t)
	if code, out := ends(t, broken, "migrate"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	pgtest.Exec(t, pgtest.Superuser(broken), "ALTER TABLE events RENAME COLUMN body TO corpse")
	for _, tt := range []struct{ name, database, want string }{
		{"transaction pooling", sound.Pooler(t, "pool_mode = transaction", dropped).URL(migrated), "transaction pooling"},
		{"statement pooling", sound.Pooler(t, "pool_mode = statement", dropped).URL(migrated), "statement pooling"},
		{"no fsync", server.New(t), "KAPSEL_DATABASE_DURABILITY=external"},
		{"execution mode", migrated + "&default_query_exec_mode=exec", "default_query_exec_mode"},
		{"no statement cache", migrated + "&statement_cache_capacity=0", "statement_cache_capacity"},
		{"a standby", migrated + "&target_session_attrs=read-only", "target_session_attrs"},
		{"a setting of Kapsel's", migrated + "&synchronous_commit=off", "synchronous_commit"},
		{"a setting that PostgreSQL does not know", migrated + "&keepalives=1", "keepalives"},
		{"no such database", strings.Replace(migrated, "/test_", "/nothing_", 1), "does not exist"},
		{"no such role", strings.Replace(migrated, "kapsel@", "nobody@", 1), "nobody"},
		{"no certificate", strings.Replace(migrated, "sslmode=disable", "sslmode=require", 1), "TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, command := range []string{"serve", "migrate", "rotate-key"} {
				code, out := ends(t, tt.database, command)
				if code != 2 || !strings.Contains(out, "DATABASE_URL") || !strings.Contains(out, tt.want) {
					t.Errorf("%s: exit code %d: %s", command, code, out)
				}
			}
		})
	}
	for _, table := range []string{"events", "meta"} { // one that is read at once, and one that events are written to
		if table == "meta" {
			pgtest.Exec(t, pgtest.Superuser(broken), "ALTER TABLE events RENAME COLUMN corpse TO body", "ALTER TABLE meta RENAME COLUMN value TO gone")
		}
		if code, out := ends(t, broken, "serve"); code != 2 || !strings.Contains(out, "DATABASE_URL") || !strings.Contains(out, "schema") ||
			strings.Contains(out, "does not answer") {
			t.Errorf("%s lacks a column: exit code %d: %s", table, code, out)
		}
	}
}

// TestDatabase_External checks that a server that says it does not keep its data is used if the
// operator says so, and that each start logs it.
func TestDatabase_External(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "fsync = off")
	w := newWorld(t, server.New(t), "KAPSEL_DATABASE_DURABILITY=external")
	if status, _ := probe(w, w.unstored()); status != http.StatusOK {
		t.Errorf("an event is answered %d", status)
	}
	node := w.nodes[0]
	for starts := 1; starts <= 2; starts++ {
		log, err := os.ReadFile(node.Output)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(log), "KAPSEL_DATABASE_DURABILITY=external"); n != starts {
			t.Errorf("after %d starts the log says %d times that durability is not checked", starts, n)
		}
		if starts == 1 {
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := node.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDatabase_LateAtStart starts the service before its database: it lives and is not ready
// until the database is there.
func TestDatabase_LateAtStart(t *testing.T) {
	for name, late := range map[string]func(t *testing.T) (url string, arrives func()){
		"refuses connections": func(t *testing.T) (string, func()) {
			server := pgtest.Start(t)
			url := server.New(t)
			server.Stop(t)
			return url, func() { server.Restart(t) }
		},
		"does not answer": func(t *testing.T) (string, func()) {
			server := pgtest.Start(t)
			url := server.New(t)
			server.Freeze(t)
			return url, func() { server.Thaw(t) }
		},
		"has no connection left": func(t *testing.T) (string, func()) {
			server := pgtest.Start(t)
			url := server.New(t)
			pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel CONNECTION LIMIT 0")
			return url, func() { pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel CONNECTION LIMIT -1") }
		},
		"takes no writes": func(t *testing.T) (string, func()) {
			server := pgtest.Start(t)
			url := server.New(t)
			pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel SET default_transaction_read_only = on")
			return url, func() {
				pgtest.Exec(t, server.URL("postgres"), "ALTER ROLE kapsel RESET default_transaction_read_only")
			}
		},
		"is behind a pooler that cannot reach it": func(t *testing.T) (string, func()) {
			server := pgtest.Start(t)
			pooler := server.Pooler(t, "pool_mode = session", "default_pool_size = 50")
			url := pooler.URL(server.New(t))
			server.Stop(t)
			return url, func() { server.Restart(t) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, arrives := late(t)
			listen := freeAddr(t)
			started := make(chan error, 1)
			dir, bin := t.TempDir(), program(t)
			go func() {
				p, err := harness.StartKapsel(t.Context(), dir, bin, "DATABASE_URL="+url, "KAPSEL_LISTEN="+listen)
				if err == nil {
					err = p.Term()
				}
				started <- err
			}()
			node := &harness.Process{URL: "http://" + listen}
			eventually(t, "it lives", patience, func() bool {
				select {
				case err := <-started:
					t.Fatalf("it does not wait: %v", err)
				default:
				}
				return health(node, "live") == http.StatusOK
			})
			for range 3 {
				if ready, startup := health(node, "ready"), health(node, "startup"); ready != http.StatusServiceUnavailable || startup != http.StatusServiceUnavailable {
					t.Errorf("without a database /health/ready is %d and /health/startup %d", ready, startup)
				}
			}
			resp, err := client.Post("http://"+listen+"/ingest/ep_00000000000000000000000000", "", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("without a database an event is answered %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			arrives()
			if err := <-started; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDatabase_NeverThere checks that a database that never appears does not count as a wrong setting.
func TestDatabase_NeverThere(t *testing.T) {
	for name, url := range map[string]string{
		"refused":       "postgres://kapsel@" + freeAddr(t) + "/kapsel?sslmode=disable",
		"unknown host":  "postgres://kapsel@database.invalid/kapsel?sslmode=disable",
		"no socket yet": "postgres:///kapsel?user=kapsel&host=" + t.TempDir(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out := ends(t, url, "serve")
			if code != 1 || !strings.Contains(out, "DATABASE_URL") || !strings.Contains(out, "not there after 30s") {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
}

// TestDatabase_StopWhileItWaits checks that a process that waits for its database stops when asked to.
func TestDatabase_StopWhileItWaits(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(program(t), "serve")
	cmd.Dir = t.TempDir()
	listen := freeAddr(t)
	cmd.Env = []string{
		"DATABASE_URL=postgres://kapsel@" + freeAddr(t) + "/kapsel?sslmode=disable", "KAPSEL_LISTEN=" + listen, "KAPSEL_METRICS_LISTEN=",
		"KAPSEL_ENCRYPTION_KEY=MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "KAPSEL_ADMIN_KEY=" + strings.Repeat("admin-key-", 4),
	}
	out, err := os.Create(filepath.Join(cmd.Dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	node := &harness.Process{URL: "http://" + listen}
	eventually(t, "it lives", patience, func() bool { return health(node, "live") == http.StatusOK })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			text, _ := os.ReadFile(out.Name())
			t.Errorf("it ended with %v: %s", err, text)
		}
	case <-time.After(time.Minute):
		cmd.Process.Kill()
		t.Error("it does not stop")
	}
}
