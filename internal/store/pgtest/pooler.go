package pgtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pooler is a PgBouncer in front of a server. Its verbs fail the test when they do not succeed.
type Pooler struct {
	server *Server
	home   string // holds its settings and log
	port   int
	stdin  io.Closer     // the pooler ends when this closes, or with the test's process
	gone   chan struct{} // closed when it has ended
}

// Pooler starts a PgBouncer for one test. Settings are lines of the section [pgbouncer] of
// pgbouncer.ini, such as "pool_mode = session". It lets in the owner of the tests' databases and the
// superuser without a password. A missing PgBouncer fails the test.
func (s *Server) Pooler(t testing.TB, settings ...string) *Pooler {
	t.Helper()
	home, err := os.MkdirTemp(s.home, "pooler-")
	if err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	port, err := freePort()
	if err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	p := &Pooler{server: s, home: home, port: port}
	p.Set(t, settings...)
	p.Start(t)
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			log, _ := os.ReadFile(p.logFile())
			t.Logf("end of PgBouncer's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return p
}

// URL is the form of a URL of the server's that goes through the pooler.
func (p *Pooler) URL(url string) string {
	return strings.Replace(url, "@"+p.server.Addr()+"/", "@"+p.addr()+"/", 1)
}

func (p *Pooler) addr() string    { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }
func (p *Pooler) file() string    { return filepath.Join(p.home, "pgbouncer.ini") }
func (p *Pooler) logFile() string { return filepath.Join(p.home, "log") }

// Set writes the pooler's settings, which hold from its next start, or from Reload.
func (p *Pooler) Set(t testing.TB, settings ...string) {
	t.Helper()
	lines := append([]string{
		"[databases]",
		"* = host=127.0.0.1 port=" + strconv.Itoa(p.server.port),
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(p.port),
		"unix_socket_dir =",
		"auth_type = trust",
		"auth_file = " + filepath.Join(p.home, "users"),
		"admin_users = postgres",
		"server_login_retry = 1",
	}, settings...)
	users := fmt.Sprintf("%q \"\"\n\"postgres\" \"\"\n", owner)
	for name, text := range map[string]string{p.file(): strings.Join(lines, "\n") + "\n", filepath.Join(p.home, "users"): users} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatalf("write PgBouncer's settings: %v", err)
		}
	}
	if owner := p.server.owner; owner != nil {
		if err := os.Chown(p.home, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatalf("write PgBouncer's settings: %v", err)
		}
	}
}

// poolerGuard runs a program and ends it when the standard input ends.
const poolerGuard = `"$@" & pid=$!; cat >/dev/null; kill -TERM $pid; wait $pid`

// Start starts a pooler that was stopped, and returns when it answers.
func (p *Pooler) Start(t testing.TB) {
	t.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		if bin = "/usr/sbin/pgbouncer"; !exists(bin) {
			t.Fatalf("start PgBouncer: %v; install it (apt-get install pgbouncer)", err)
		}
	}
	log, err := os.OpenFile(p.logFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	defer log.Close()
	cmd := p.server.command("pgbouncer")
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", poolerGuard, "sh", bin, p.file()}
	cmd.Stdout, cmd.Stderr = log, log
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	p.gone = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(p.gone)
	}()
	p.admin(t, "SHOW VERSION")
}

// Stop ends the pooler and all connections through it.
func (p *Pooler) Stop(t testing.TB) {
	t.Helper()
	p.stdin.Close()
	select {
	case <-p.gone:
	case <-time.After(time.Minute):
		t.Fatal("PgBouncer does not stop")
	}
}

// Reload lets a running pooler take the settings of Set.
func (p *Pooler) Reload(t testing.TB) {
	t.Helper()
	p.admin(t, "RELOAD")
}

// admin runs a command on the pooler's console, as soon as that answers.
func (p *Pooler) admin(t testing.TB, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig("postgres://postgres@" + p.addr() + "/pgbouncer?sslmode=disable&default_query_exec_mode=simple_protocol")
	if err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			_, err = conn.Exec(ctx, command)
			_ = conn.Close(ctx)
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("PgBouncer does not answer %s: %v", command, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
