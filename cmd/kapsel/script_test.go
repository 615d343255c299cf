package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
)

// TestScripts runs the scripts in testdata: the program, in an empty directory, with free
// ports in place of those that the scripts name. A line is a command:
//
//	exec PROGRAM ARG…      run kapsel, or post with curl; it must succeed
//	! exec PROGRAM ARG…    it must fail
//	exec PROGRAM ARG… &    run it until the script ends; go on when it serves
//	exit CODE              what the last exec must have exited with
//	stdout REGEXP          what it must have printed; after ! what it must not
//	stderr REGEXP          the same for its errors
//	capture NAME           set a variable to what it printed
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scripts", err)
	}
	bin := filepath.Join(t.TempDir(), "kapsel")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newScript(t, bin)
			n := 0
			for line := range strings.Lines(string(text)) {
				n++
				if err := s.run(line); err != nil {
					t.Fatalf("%s:%d: %s: %v\nstdout:\n%s\nstderr:\n%s", file, n, strings.TrimSpace(line), err, s.stdout, s.stderr)
				}
			}
		})
	}
}

// script is the state of a script that runs.
type script struct {
	t              *testing.T
	bin            string
	dir            string
	ports          *strings.Replacer // of the ports that scripts name
	vars           map[string]string
	listen         string
	stdout, stderr string
	exit           int
}

func newScript(t *testing.T, bin string) *script {
	s := &script{t: t, bin: bin, dir: t.TempDir(), vars: map[string]string{}, listen: freePort(t)}
	s.ports = strings.NewReplacer("127.0.0.1:8080", s.listen, "127.0.0.1:3000", freePort(t))
	if err := os.WriteFile(filepath.Join(s.dir, "hmac.secret"), []byte("the key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"new.secret": "the new key\n", "response.json": `{"response":null}`, "bad.json": `{"name":"x","url":"https://shop.example","retry":{"base":5},"nope":1}`} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "patch.json"), []byte(`{"rate_limit":null,"retry":{"max_attempts":3}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// freePort returns an address that nothing listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (s *script) run(line string) error {
	words, err := split(line)
	if err != nil || len(words) == 0 {
		return err
	}
	not := words[0] == "!"
	if not {
		words = words[1:]
	}
	arg := ""
	if len(words) > 1 {
		arg = words[1]
	}
	switch words[0] {
	case "exec":
		args := make([]string, len(words)-1)
		for i, w := range words[1:] {
			args[i] = s.ports.Replace(os.Expand(w, func(name string) string { return s.vars[name] }))
		}
		if args[len(args)-1] == "&" {
			return s.serve(args[1 : len(args)-1])
		}
		err := s.exec(args)
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			return err
		}
		if not != (err != nil) {
			return fmt.Errorf("exited with %d", s.exit)
		}
	case "exit":
		if strconv.Itoa(s.exit) != arg {
			return fmt.Errorf("exited with %d", s.exit)
		}
	case "stdout", "stderr":
		text := s.stdout
		if words[0] == "stderr" {
			text = s.stderr
		}
		// The expression may name the ports too.
		pattern, err := regexp.Compile(s.ports.Replace(arg))
		if err != nil {
			return err
		}
		if pattern.MatchString(text) == not {
			return errors.New("is not so")
		}
	case "capture":
		s.vars[arg] = strings.TrimSpace(s.stdout)
	default:
		return errors.New("no such command")
	}
	return nil
}

// program is kapsel with the script's variables as its environment.
func (s *script) program(args []string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"HOME=" + s.dir, "KAPSEL_LISTEN=" + s.listen, "KAPSEL_METRICS_LISTEN=", "KAPSEL_URL=http://" + s.listen}
	for name, value := range s.vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

func (s *script) exec(args []string) error {
	s.stdout, s.stderr, s.exit = "", "", 0
	if args[0] == "curl" {
		return s.curl(args[1:])
	}
	var out, errs bytes.Buffer
	cmd := s.program(args[1:])
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	s.stdout, s.stderr, s.exit = out.String(), errs.String(), cmd.ProcessState.ExitCode()
	if key, err := os.ReadFile(filepath.Join(s.dir, "kapsel-dev", "admin.key")); err == nil && strings.Contains(s.stdout+s.stderr, string(bytes.TrimSpace(key))) {
		return errors.New("the admin key is printed")
	}
	return err
}

// curl does what the tutorial needs of curl: -sS -d DATA URL.
func (s *script) curl(args []string) error {
	if len(args) != 4 || args[0] != "-sS" || args[1] != "-d" {
		return fmt.Errorf("curl %q is not known here", args)
	}
	resp, err := http.Post(args[3], "application/x-www-form-urlencoded", strings.NewReader(args[2]))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.stdout = string(body)
	return err
}

// serve starts the service and waits until it says that it is ready. It is stopped, and must
// stop well, when the test ends.
func (s *script) serve(args []string) error {
	cmd := s.program(args)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return err
	}
	s.t.Cleanup(func() { // after the test's context has ended, which stops it
		io.Copy(io.Discard, out)
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			s.t.Errorf("the service stopped with %v", cmd.ProcessState)
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "and see it arrive:") {
			return nil
		}
	}
	return errors.New("the service did not start")
}

// split returns a line's words. Quotes hold words together, and a comment ends the line.
func split(line string) (words []string, err error) {
	word, quote, in := "", rune(0), false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == '#' && !in && len(words) == 0:
			return nil, nil
		case r == ' ':
			if in {
				words = append(words, word)
			}
			word, in = "", false
		default:
			word, in = word+string(r), true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		words = append(words, word)
	}
	return words, nil
}

// TestExamplesParse holds the examples of each command's help to the command line that there
// is. Those of the pages are run, by TestPages.
func TestExamplesParse(t *testing.T) {
	// A parser of its own for each line: kong remembers of earlier ones which flags were set.
	newParser := func() *kong.Kong {
		parser, err := kong.New(&cli{}, kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard), kong.Vars{"version": ""}, durations)
		if err != nil {
			t.Fatal(err)
		}
		return parser
	}
	parser := newParser()
	var examples []string
	for _, leaf := range parser.Model.Leaves(true) {
		if leaf.Parent == parser.Model.Node && leaf.Name != "completion" {
			continue // not a command of the API
		}
		n := 0
		for line := range strings.Lines(leaf.Detail) {
			if strings.HasPrefix(line, "  ") {
				examples = append(examples, strings.TrimSpace(line))
				n++
			}
		}
		if n == 0 {
			t.Errorf("the help of %s has no example", leaf.FullPath())
		}
	}
	command := regexp.MustCompile(`kapsel ([^|>#)]*)`)
	for _, example := range examples {
		m := command.FindStringSubmatch(example)
		if m == nil {
			t.Errorf("the example %q runs no command of ours", example)
			continue
		}
		words, err := split(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newParser().Parse(words); err != nil {
			t.Errorf("the example %q: %v", example, err)
		}
	}
}
