package pgtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a PostgreSQL cluster on a loopback port and a Unix socket of its own, with a
// superuser, postgres, a plain role, kapsel, which owns the tests' databases, and no
// passwords. Its verbs fail the test when they do not succeed.
type Server struct {
	bin       string // PostgreSQL's programs
	home      string // holds data, log and socket
	port      int
	owner     *syscall.Credential // who runs it; nil: ourselves
	templates struct {
		sync.Mutex
		byName map[string]*template
	}

	mu   sync.Mutex
	cmd  *exec.Cmd     // the postmaster; nil while none runs
	gone chan struct{} // closed when cmd has ended
}

// Start runs a cluster for one test, which may stop it in any way. Settings are lines of
// postgresql.conf, such as "fsync = off".
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings)
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		s.Kill9(t)
		if t.Failed() {
			t.Logf("end of PostgreSQL's log:\n%s", s.logTail())
		}
	})
	return s
}

// parameters are those of every connection string. A connection may take long to be made on a
// machine that is busy with other tests.
const parameters = "sslmode=disable&connect_timeout=10"

// URL is the superuser's connection string of a database, over loopback.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?%s", s.Addr(), database, parameters)
}

// Program is the path of one of PostgreSQL's programs, such as pg_dump.
func Program(t testing.TB, name string) string {
	t.Helper()
	server, err := filepath.EvalSymlinks(filepath.Join(shared(t).bin, "initdb"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(filepath.Dir(server), name)
}

// Superuser is the superuser's form of a URL that New or From has returned.
func Superuser(url string) string { return strings.Replace(url, "//"+owner+"@", "//postgres@", 1) }

// owner is the role that owns the tests' databases, as an operator would make it.
const owner = "kapsel"

// ownerURL is the owner's connection string of a database.
func (s *Server) ownerURL(database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?%s", owner, s.Addr(), database, parameters)
}

// Addr is the server's host and port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Log is what the server has logged, each line with its SQLSTATE.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		t.Fatalf("read PostgreSQL's log: %v", err)
	}
	return string(b)
}

// Kill9 kills the postmaster and its children with SIGKILL and returns when all are gone.
// On a server that does not run it does nothing.
func (s *Server) Kill9(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	// The postmaster is stopped first, or it would start new children meanwhile.
	pids := s.freeze(t)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.ended(t)
	for _, pid := range pids {
		s.wait(t, func() bool { return !alive(pid) })
	}
	// Names a process id that may soon be another's.
	_ = os.Remove(filepath.Join(s.data(), "postmaster.pid"))
}

// Stop ends the server as an operator does: sessions are ended, a checkpoint is written.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGINT)
}

// StopImmediate ends the server without a checkpoint; the next start recovers from the WAL.
func (s *Server) StopImmediate(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGQUIT)
}

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("stop PostgreSQL: %v", err)
	}
	s.ended(t)
}

// Restart starts a server that was stopped or killed, and returns when it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		t.Fatal("restart PostgreSQL: it runs")
	}
	if err := s.run(); err != nil {
		t.Fatalf("restart PostgreSQL: %v", err)
	}
}

// Freeze stops the postmaster and its children where they are (SIGSTOP): connections stay
// open and nothing answers.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.freeze(t)
}

func (s *Server) freeze(t testing.TB) []int {
	t.Helper()
	if s.cmd == nil {
		t.Fatal("freeze PostgreSQL: it does not run")
	}
	pid := s.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	pids := []int{pid}
	for _, child := range children(t, pid) {
		_ = syscall.Kill(child, syscall.SIGSTOP)
		pids = append(pids, child)
	}
	return pids
}

// Thaw lets a frozen server go on.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.cmd.Process.Pid
	for _, child := range children(t, pid) {
		_ = syscall.Kill(child, syscall.SIGCONT)
	}
	_ = syscall.Kill(pid, syscall.SIGCONT)
}

// CPUTime is what the server's processes have used so far, those that ended included.
func (s *Server) CPUTime(t testing.TB) time.Duration {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.cmd.Process.Pid
	var ticks int64
	for _, pid := range append(children(t, pid), pid) {
		fields := stat(pid)
		if len(fields) < 15 {
			continue // ended meanwhile
		}
		for _, f := range fields[11:15] { // utime, stime, and those of ended children
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

func (s *Server) data() string    { return filepath.Join(s.home, "data") }
func (s *Server) logFile() string { return filepath.Join(s.home, "log") }

func start(settings []string) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp("", "kapsel-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, home: home}
	s.templates.byName = map[string]*template{}
	if err := s.init(settings); err != nil {
		_ = os.RemoveAll(home)
		return nil, err
	}
	if err := s.watch(); err != nil {
		_ = os.RemoveAll(home)
		return nil, err
	}
	// Another process may take the port between our look and the server's.
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = s.run(); err == nil {
			return s, s.exec(context.Background(), "CREATE ROLE "+owner+" LOGIN CREATEDB")
		}
	}
	return nil, err
}

// find returns the directory of the newest PostgreSQL's programs.
func find() (string, error) {
	dirs := []string{}
	if p, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(b, a)) })
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no PostgreSQL server found: install it (apt-get install postgresql, dnf install postgresql-server, brew install postgresql@17) or put the directory of initdb and postgres into PATH")
}

// files holds the path of a cluster's files as initdb has left them. The first server of the process has them in its
// home, and the files of all servers are copies: initdb takes several times as long.
var files struct {
	sync.Mutex
	initial string
}

// init makes the cluster's files. They need no fsync yet: nothing was promised.
func (s *Server) init(settings []string) error {
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return fmt.Errorf("PostgreSQL does not run as root: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.home, uid, gid); err != nil {
			return err
		}
	}
	files.Lock()
	defer files.Unlock()
	if !exists(files.initial) {
		made := filepath.Join(s.home, "initial")
		initdb := s.command("initdb", "--no-sync", "--no-instructions", "--auth=trust", "--username=postgres",
			"--encoding=UTF8", "--locale=C", "--pgdata="+made)
		if out, err := initdb.CombinedOutput(); err != nil {
			return fmt.Errorf("initdb: %w: %s", err, out)
		}
		files.initial = made
	}
	cp := s.command("cp", "-R", "-p", files.initial, s.data())
	cp.Path = "/bin/cp"
	if out, err := cp.CombinedOutput(); err != nil {
		return fmt.Errorf("copy what initdb has made: %w: %s", err, out)
	}
	conf, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer conf.Close()
	lines := append([]string{
		"listen_addresses = '127.0.0.1'",
		"unix_socket_directories = '" + s.home + "'",
		"max_connections = 300",
		"shared_buffers = 128MB",
		"fsync = on",
		"dynamic_shared_memory_type = mmap", // in the data directory: none of it is left of a server that was killed
		"log_line_prefix = '%m %p %e '",
	}, settings...)
	_, err = conf.WriteString(strings.Join(lines, "\n") + "\n")
	return err
}

// command is one of PostgreSQL's programs, run as the cluster's owner, away from our
// terminal's signals.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.home
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.owner}
	return cmd
}

// watcher stops the server and removes its files once its standard input ends, which is
// when the process that holds the other end does. A frozen postmaster must go on to stop.
const watcher = `cat >/dev/null
if read -r pid <"$1/data/postmaster.pid"; then
	kill -CONT "$pid"
	"$0" stop -D "$1/data" -m immediate -w -t 20
fi
rm -rf "$1"`

// watch starts the watcher. The pipe's end is left to the process: it closes with it.
func (s *Server) watch() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	sh := s.command("pg_ctl")
	sh.Path, sh.Args = "/bin/sh", []string{"sh", "-c", watcher, filepath.Join(s.bin, "pg_ctl"), s.home}
	sh.Stdin = r
	if err := sh.Start(); err != nil {
		w.Close()
		return fmt.Errorf("start the watcher: %w", err)
	}
	watchers.Lock()
	watchers.pipes = append(watchers.pipes, w)
	watchers.Unlock()
	go func() { _ = sh.Wait() }()
	return nil
}

// watchers keeps the pipes' ends from the garbage collector, which would close them.
var watchers struct {
	sync.Mutex
	pipes []io.Closer
}

// run starts the postmaster and waits until it answers.
func (s *Server) run() error {
	log, err := os.OpenFile(s.logFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", "-D", s.data(), "-p", strconv.Itoa(s.port))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			_ = conn.Close(ctx)
			s.cmd, s.gone = cmd, gone
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("the server ended: %s", s.logTail())
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ended waits for the postmaster's end. The caller holds mu.
func (s *Server) ended(t testing.TB) {
	t.Helper()
	select {
	case <-s.gone:
		s.cmd = nil
	case <-time.After(time.Minute):
		t.Fatal("PostgreSQL does not stop")
	}
}

func (s *Server) wait(t testing.TB, done func() bool) {
	t.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("PostgreSQL's processes do not end")
}

func (s *Server) logTail() string {
	b, _ := os.ReadFile(s.logFile())
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// children are the ids of a process's children.
func children(t testing.TB, parent int) []int {
	t.Helper()
	if entries, err := os.ReadDir("/proc"); err == nil && len(entries) > 0 {
		var pids []int
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			if f := stat(pid); len(f) > 1 && f[1] == strconv.Itoa(parent) {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(parent)).Output() // its status 1: none
	var pids []int
	for _, f := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat is /proc/PID/stat from the state on: the name before it may hold spaces.
func stat(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(b, ')'); i >= 0 {
		return strings.Fields(string(b[i+1:]))
	}
	return nil
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	if f := stat(pid); len(f) > 0 {
		return f[0] != "Z" && f[0] != "X"
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}

// RequirePassword lets the owner of the tests' databases in with its password only.
func (s *Server) RequirePassword(t testing.TB) {
	t.Helper()
	rules := "host all " + owner + " 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		t.Fatalf("change PostgreSQL's pg_hba.conf: %v", err)
	}
	if err := s.exec(t.Context(), "SELECT pg_reload_conf()"); err != nil {
		t.Fatalf("reload PostgreSQL's pg_hba.conf: %v", err)
	}
}
