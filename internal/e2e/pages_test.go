package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestPages runs the commands of the pages that a newcomer reads, as they stand: in an empty
// directory, with a fresh home, by bash, one page after the other from top to bottom. What a page
// shows as output must be what comes out.
//
// Fenced blocks say by the second word of their language what they are:
//
//	sh             run it; every command must succeed
//	sh background  start it, as in another terminal, and go on when it serves
//	sh paste       run the line that the latest background command has printed, which this is
//	sh norun       do not; there must be a reason in notRun
//	text, json     what the block before has printed. … stands for anything within a line; a
//	               line of only … for any number of lines
//
// The comment <!-- stop --> ends what runs in the background, which must end well, and
// <!-- new terminal --> forgets the shell's variables and its directory.
//
// Only what would leave the machine or compile this program again is another: git clone, go run,
// go install and make build find the program that the tests have built, docker runs it as
// compose.yaml says, and the ports 8080 and 3000 are free ones.
func TestPages(t *testing.T) {
	for _, page := range []struct {
		file      string
		installed bool // the page takes it for granted that the command is there …
		serving   bool // … that kapsel serve --dev runs …
		postgres  bool // … that there is a PostgreSQL
	}{
		{file: "README.md"},
		{file: "docs/quickstart.md", postgres: true},
		{file: "docs/tutorial.md"},
		{file: "docs/cli.md", installed: true, serving: true},
		{file: "docs/operating.md", installed: true, postgres: true},
	} {
		t.Run(page.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../..", page.file))
			if err != nil {
				t.Fatal(err)
			}
			p := newPage(t, page.postgres)
			if page.installed {
				p.sh("go install ./cmd/kapsel", "the start")
				p.profile = `export PATH="$PATH:$HOME/go/bin"`
				p.newShell()
			}
			if page.serving {
				p.background("kapsel serve --dev")
			}
			ran := 0
			for _, b := range blocksOf(string(text)) {
				where := fmt.Sprintf("%s:%d", page.file, b.line)
				switch b.kind {
				case "sh":
					p.out = p.sh(b.text, where)
				case "sh background":
					p.background(b.text)
				case "sh paste":
					p.out = p.sh(p.paste(b.text, where), where)
				case "sh norun":
					if notRun[page.file+": "+strings.TrimSpace(b.text)] == "" {
						t.Errorf("%s: it is not run, and notRun has no reason", where)
					}
					continue
				case "text", "json":
					p.shows(b.text, where)
				case "stop":
					p.stop(where)
				case "new terminal":
					p.newShell()
				case "":
					t.Errorf("%s: the block does not say what it is", where)
				default:
					continue
				}
				ran++
			}
			if ran == 0 {
				t.Error("the page has nothing to run")
			}
			p.stop("the end")
		})
	}
}

// notRun holds why blocks are not run, by their page and text.
var notRun = map[string]string{
	"README.md: make test": "it is what runs this",
	"docs/operating.md: kapsel copy --from sqlite:kapsel-data/kapsel.db --to postgres://kapsel@db.internal/kapsel": "TestCopy runs it with databases that are there",
}

// block is a fenced block of a page, or a directive.
type block struct {
	kind, text string
	line       int // of its first line of text
}

// blocksOf returns a page's blocks with a language, and its directives.
func blocksOf(page string) (all []block) {
	var b *block
	for i, line := range strings.Split(page, "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		directive, isDirective := strings.CutPrefix(strings.TrimSpace(line), "<!-- ")
		switch {
		case b == nil && isFence:
			b = &block{kind: fence, line: i + 2}
		case b != nil && isFence:
			all, b = append(all, *b), nil
		case b != nil:
			b.text += line + "\n"
		case isDirective:
			all = append(all, block{kind: strings.TrimSuffix(directive, " -->"), line: i + 1})
		}
	}
	return all
}

// follower runs the blocks of a page.
type follower struct {
	t     *testing.T
	dir   string
	env   []string
	ports *strings.Replacer
	url   string
	// The address of the pages' own service.
	service string
	profile string // what a new shell runs first
	shell   *shell
	out     string // of the latest block

	running []*running
}

func newPage(t *testing.T, postgres bool) *follower {
	t.Helper()
	base := t.TempDir()
	p := &follower{t: t, dir: filepath.Join(base, "empty")}
	listen, service := freeAddr(t), freeAddr(t)
	_, port, _ := net.SplitHostPort(listen)
	_, servicePort, _ := net.SplitHostPort(service)
	p.url, p.service = "http://"+listen, service
	pg, pgPort := "", "5432"
	if postgres {
		pg, pgPort = pagePostgres(t)
	}
	p.ports = strings.NewReplacer(
		"127.0.0.1:8080", listen, "localhost:8080", listen, "127.0.0.1:3000", service, "localhost:3000", service, "--to 3000", "--to "+servicePort,
		"host.docker.internal:3000", service, "172.16.0.0/12:3000", "127.0.0.0/8:"+servicePort, `("", 3000)`, `("127.0.0.1", `+servicePort+`)`,
		"localhost:5432", "127.0.0.1:"+pgPort,
	)
	bin, home := filepath.Join(base, "bin"), filepath.Join(base, "home")
	for _, dir := range []string{bin, home, p.dir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := fmt.Sprintf("BUILT='%s'\nREPO='%s'\nPORT='%s'\nPGURL='%s'\n", program(t), repo(t), port, pg)
	for name, text := range standIns {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/usr/bin/env bash\nset -euo pipefail\n"+env+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.env = []string{
		"HOME=" + home, "PATH=" + bin + ":" + filepath.Dir(pgtest.Program(t, "psql")) + ":" + os.Getenv("PATH"), "LANG=C.UTF-8", "TZ=UTC",
		"KAPSEL_LISTEN=" + listen, "KAPSEL_METRICS_LISTEN=", "KAPSEL_URL=" + p.url, "KAPSEL_DRAIN_DELAY=0s",
		"PGHOST=127.0.0.1", "PGPORT=" + pgPort, "PGUSER=postgres",
	}
	p.newShell()
	t.Cleanup(func() {
		p.shell.end()
		for _, r := range p.running {
			r.kill()
		}
	})
	return p
}

// pagePostgres returns the URL of a cluster's database, as its superuser, and the cluster's port.
func pagePostgres(t *testing.T) (url, port string) {
	t.Helper()
	s := pgtest.Start(t)
	if out, err := exec.Command(pgtest.Program(t, "psql"), "-q", "-d", s.URL("postgres"), "-c", "DROP ROLE kapsel").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return s.URL("postgres"), port
}

// repo returns the directory of the module.
func repo(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// standIns holds bash functions that replace programs; see TestPages.
var standIns = map[string]string{
	"git": `[[ $* == "clone https://github.com/kapsel-hq/kapsel" ]] || { echo "git $*: not here" >&2; exit 1; }
mkdir kapsel
cd kapsel
mkdir -p cmd/kapsel
cp "$REPO/Makefile" "$REPO/compose.yaml" .
`,
	"go": `case "$*" in
"run ./cmd/kapsel "*) [[ -d cmd/kapsel ]]; shift 2; exec "$BUILT" "$@" ;;
"install ./cmd/kapsel") mkdir -p "$HOME/go/bin"; cp "$BUILT" "$HOME/go/bin/kapsel" ;;
"env GOPATH") echo "$HOME/go" ;;
*) echo "go $*: not here" >&2; exit 1 ;;
esac
`,
	"make": `[[ $* == build && -f Makefile ]] || { echo "make $*: not here" >&2; exit 1; }
mkdir -p bin
cp "$BUILT" bin/kapsel
`,
	// The environment of the service kapsel in compose.yaml, as bash reads it: the two agree on
	// ${NAME:?text} and ${NAME:-value}.
	"docker": `[[ -f compose.yaml ]]
set -a
. ./.env
unset KAPSEL_LISTEN KAPSEL_METRICS_LISTEN KAPSEL_URL KAPSEL_DRAIN_DELAY
eval "$(sed -n '/^  kapsel:/,/^  postgres:/{/^    environment:/,/^    [a-z]/{s/^      \([A-Z_]*\): \(".*"\)$/\1=\2/p}}' compose.yaml)"
DATABASE_URL="${DATABASE_URL/@postgres:5432\//@127.0.0.1:$PGPORT/}"
KAPSEL_LISTEN="127.0.0.1:$PORT" KAPSEL_METRICS_LISTEN="" KAPSEL_PUBLIC_URL="http://127.0.0.1:$PORT" KAPSEL_URL="http://127.0.0.1:$PORT"
set +a
case "$*" in
"compose up -d --wait --build")
	psql -q -d "$PGURL" -c "CREATE ROLE kapsel LOGIN PASSWORD '$POSTGRES_PASSWORD'" -c "CREATE DATABASE kapsel OWNER kapsel"
	"$BUILT" serve >docker.log 2>&1 &
	for _ in $(seq 600); do "$BUILT" health >/dev/null 2>&1 && exit 0; sleep 0.1; done
	cat docker.log >&2
	exit 1 ;;
"compose exec -T kapsel /kapsel "*) shift 5; exec "$BUILT" "$@" ;;
*) echo "docker $*: not here" >&2; exit 1 ;;
esac
`,
}

// sh runs a block in the page's shell and returns what it prints.
func (p *follower) sh(text, where string) string {
	p.t.Helper()
	out, err := p.shell.run(p.ports.Replace(text))
	if err != nil {
		p.t.Fatalf("%s: %v\n%s\n%s", where, err, text, out)
	}
	return out
}

// shows compares what was printed with what the page shows.
func (p *follower) shows(text, where string) {
	p.t.Helper()
	if !matches(p.ports.Replace(text), p.out) {
		p.t.Errorf("%s: the page shows\n%s\nbut what comes out is\n%s", where, text, p.out)
	}
}

// matches reports whether an output is what a page shows.
func matches(shown, out string) bool {
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for line := range strings.Lines(strings.TrimSpace(shown) + "\n") {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " \n"), "…")
		for i := range parts {
			// Columns are as wide as what is in them.
			parts[i] = regexp.MustCompile(`  +`).ReplaceAllString(regexp.QuoteMeta(parts[i]), ` +`)
		}
		pattern.WriteString(strings.Join(parts, `.*?`) + ` *\n`)
	}
	pattern.WriteString(`$`)
	return regexp.MustCompile(pattern.String()).MatchString(strings.TrimSpace(out) + "\n")
}

// paste finds in what the latest background command has printed the line that a page shows.
func (p *follower) paste(text, where string) string {
	p.t.Helper()
	if len(p.running) == 0 {
		p.t.Fatalf("%s: nothing runs in the background", where)
	}
	for line := range strings.Lines(p.running[len(p.running)-1].said()) {
		if matches(p.ports.Replace(text), strings.TrimSpace(line)) {
			return strings.TrimSpace(line)
		}
	}
	p.t.Fatalf("%s: the line was not printed:\n%s\n%s", where, text, p.running[len(p.running)-1].said())
	return ""
}

// running is a background command.
type running struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	out bytes.Buffer // guarded by mu
}

func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()
}

// kill ends the command and what it has started.
func (r *running) kill() {
	syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-r.done
}

// background starts a command in the directory of the page's shell, with the shell's variables. If the command
// starts Kapsel, background waits until Kapsel answers.
func (p *follower) background(text string) {
	p.t.Helper()
	cwd := strings.TrimSpace(p.sh("pwd", "the shell"))
	exported := p.sh("export -p", "the shell")
	r := &running{done: make(chan struct{})}
	r.cmd = exec.CommandContext(p.t.Context(), "bash", "-c", exported+"\n"+p.ports.Replace(text))
	r.cmd.Dir, r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = cwd, p.env, r, r
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { r.cmd.Wait(); close(r.done) }()
	p.running = append(p.running, r)
	ready := func() bool {
		if strings.Contains(text, `("", 3000)`) { // a service
			conn, err := net.Dial("tcp", p.service)
			if err == nil {
				conn.Close()
			}
			return err == nil
		}
		if !strings.Contains(text, "kapsel serve") {
			return r.said() != ""
		}
		resp, err := http.Get(p.url + "/health/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK && (!strings.Contains(text, "--dev") || strings.Contains(r.said(), "and see it arrive"))
	}
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-r.done:
			p.t.Fatalf("%s ended:\n%s", text, r.said())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s does not serve:\n%s", text, r.said())
		}
	}
}

// stop ends the background commands: Kapsel's as Ctrl-C does, others by SIGTERM, because a shell may have
// started the tests with SIGINT ignored.
func (p *follower) stop(where string) {
	p.t.Helper()
	for _, r := range p.running {
		isServer := strings.Contains(strings.Join(r.cmd.Args, " "), "kapsel serve") || strings.Contains(strings.Join(r.cmd.Args, " "), "kapsel listen")
		signal := syscall.SIGTERM
		if isServer {
			signal = syscall.SIGINT
		}
		syscall.Kill(-r.cmd.Process.Pid, signal)
		select {
		case <-r.done:
		case <-time.After(patience):
			p.t.Fatalf("%s: it does not stop:\n%s", where, r.said())
		}
		if code := r.cmd.ProcessState.ExitCode(); isServer && code != 0 {
			p.t.Errorf("%s: it stopped with %d:\n%s", where, code, r.said())
		}
	}
	p.running = nil
}

// shell is a bash that runs one block after the other.
type shell struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *os.File
	n   int
}

// newShell begins a shell in the page's empty directory.
func (p *follower) newShell() {
	p.t.Helper()
	if p.shell != nil {
		p.shell.end()
	}
	cmd := exec.CommandContext(context.WithoutCancel(p.t.Context()), "bash", "--norc", "--noprofile")
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	w.Close()
	p.shell = &shell{cmd: cmd, in: in, out: out}
	p.sh(p.profile, "the profile")
}

// run runs a block and returns what it prints on both outputs. It returns an error if a command fails; the shell
// goes on.
func (s *shell) run(text string) (string, error) {
	s.n++
	mark := fmt.Sprintf("=== end of block %d: ", s.n)
	file := fmt.Sprintf("trap 'failed=1' ERR; failed=0\n%s\ntrap - ERR; echo; echo '%s'$failed\n", text, mark)
	if _, err := io.WriteString(s.in, file); err != nil {
		return "", err
	}
	if err := s.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var out bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := s.out.Read(buf)
		out.Write(buf[:n])
		if before, after, ok := strings.Cut(out.String(), "\n"+mark); ok && strings.Contains(after, "\n") {
			if strings.TrimSpace(after) != "0" {
				return before, errors.New("a command failed")
			}
			return before, nil
		}
		if err != nil {
			return out.String(), err
		}
	}
}

func (s *shell) end() {
	s.in.Close()
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	s.cmd.Wait()
	s.out.Close()
}
