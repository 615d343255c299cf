package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// devServer is `kapsel serve --dev` in an empty directory with nothing set, and what it prints.
type devServer struct {
	t   *testing.T
	ctx context.Context
	cmd *exec.Cmd
	dir string
	url string

	mu    sync.Mutex
	lines []string // of its standard output
	ended chan struct{}
}

func startDev(t *testing.T) *devServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	d := &devServer{t: t, ctx: ctx, dir: t.TempDir(), url: "http://" + ln.Addr().String(), ended: make(chan struct{})}
	d.cmd = exec.CommandContext(ctx, program(t), "serve", "--dev", "--listen", ln.Addr().String(), "--metrics-listen", "")
	d.cmd.Dir = d.dir
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir}
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.ended)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			d.mu.Lock()
			d.lines = append(d.lines, scan.Text())
			d.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.ended
		d.cmd.Wait()
		if t.Failed() {
			t.Logf("kapsel serve --dev printed:\n%s", strings.Join(d.lines, "\n"))
		}
	})
	return d
}

// printed waits until it has printed so many lines that match, and returns them.
func (d *devServer) printed(n int, pattern string) (found []string) {
	d.t.Helper()
	line := regexp.MustCompile(pattern)
	for {
		found = nil
		d.mu.Lock()
		for _, l := range d.lines {
			if line.MatchString(l) {
				found = append(found, l)
			}
		}
		d.mu.Unlock()
		switch {
		case len(found) >= n:
			return found
		case d.ctx.Err() != nil:
			d.t.Fatalf("it printed %d lines %s, want %d", len(found), pattern, n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kapsel runs a command in the server's directory, where the command finds the key by itself.
func (d *devServer) kapsel(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.ctx, program(d.t), args...)
	cmd.Dir = d.dir
	cmd.Env = []string{"HOME=" + d.dir, "KAPSEL_URL=" + d.url}
	return cmd
}

// run runs a command and returns what it prints.
func (d *devServer) run(args ...string) string {
	d.t.Helper()
	cmd := d.kapsel(args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("kapsel %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// TestDev_FirstImpression starts the program as the README says, in an empty directory with
// nothing set, and pastes the line that it prints.
func TestDev_FirstImpression(t *testing.T) {
	d := startDev(t)
	paste := strings.TrimSpace(d.printed(1, `^  curl `)[0])
	m := regexp.MustCompile(`^curl -sS -d '(\{"hello":"kapsel"\})' '(http://[^']+/ingest/ep_[0-9a-z]{26}\?wait=5s)'$`).FindStringSubmatch(paste)
	if m == nil {
		t.Fatalf("the line to paste is %q", paste)
	}
	answer, err := exec.CommandContext(d.ctx, "sh", "-c", paste).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Event_id, Status string }
	if err := json.Unmarshal(answer, &got); err != nil || got.Status != "delivered" {
		t.Errorf("the pasted line answered %s", answer)
	}
	// A short line for what came in and one for what went out, as soon as each is done.
	d.printed(1, `^\d\d:\d\d:\d\d\.\d{3}  in   demo +18 B  200 +\d+ ms$`)
	d.printed(1, `^\d\d:\d\d:\d\d\.\d{3}  out  demo +18 B  200 +\d+ ms$`)
	ingest, _, _ := strings.Cut(m[2], "?")
	status, code, _ := post(t, ingest+"x", nil, strings.NewReader("x"))
	if status != 404 || code != "E1003" {
		t.Errorf("an unknown endpoint answers %d %s", status, code)
	}
	d.printed(1, `  in   ep_[0-9a-z]{26}x +1 B  404 +\d+ ms  E1003 no such endpoint`)
	source := strings.TrimSpace(d.run("sources", "create", "--name", "shop", "-q"))
	if status, code, _ := post(t, d.url+"/ingest/"+source, nil, strings.NewReader("x")); status != 200 {
		t.Errorf("a source answers %d %s", status, code)
	}
	d.printed(1, `  in   shop +1 B  200 +\d+ ms$`)
	d.run("endpoints", "create", "--name", "nobody", "--url", "http://127.0.0.1:9/", "--max-attempts", "2", "--retry-base", "10ms")
	d.run("endpoints", "test", "nobody")
	d.printed(1, `  out  nobody +\d+ B    - +\d+ ms  the connection was refused \(E2001\), attempt 1 of 2, the next (in \d+ms|at once)$`)
	d.printed(1, `  out  nobody +\d+ B    - +\d+ ms  the connection was refused \(E2001\), attempt 2 of 2, dead_letter$`)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-d.ended
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("stopped badly: %v", err)
	}
}

// TestDev_TriggerEveryProvider checks that an endpoint made for a provider accepts its sample and
// delivers it. It leaves out only the providers for which nobody else can sign.
func TestDev_TriggerEveryProvider(t *testing.T) {
	d := startDev(t)
	d.printed(1, `^and see it arrive`)
	var providers []string
	for line := range strings.Lines(d.run("trigger", "--json")) {
		var of struct {
			Provider string
			Events   []string
		}
		if err := json.Unmarshal([]byte(line), &of); err != nil || len(of.Events) == 0 {
			t.Fatalf("%s: %v", line, err)
		}
		providers = append(providers, of.Provider)
	}
	all := strings.Count(d.run("providers", "-q"), "\n")
	if len(providers) != all-2 { // aws-sns, google-oidc
		t.Errorf("%d providers have samples, of %d", len(providers), all)
	}
	for _, name := range providers {
		if event := strings.TrimSpace(d.run("trigger", name, "-q")); !strings.HasPrefix(event, "evt_") {
			t.Errorf("%s: %q", name, event)
		}
	}
	for _, name := range providers {
		d.printed(1, fmt.Sprintf(`  in   trigger-%s +\d.* 20\d +\d+ ms$`, name))
		d.printed(1, fmt.Sprintf(`  out  trigger-%s +\d.* 200 +\d+ ms$`, name))
	}
	if out, err := d.kapsel("trigger", "aws-sns").CombinedOutput(); err == nil || !strings.Contains(string(out), "only the provider itself can sign") {
		t.Errorf("aws-sns: %v, %s", err, out)
	}

	// An endpoint of one's own, with its secret: right, wrong, and of another provider.
	for name, secret := range map[string]string{"right": "s3cret", "wrong": "other"} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.run("endpoints", "create", "--name", "orders", "--url", d.url+"/dev/inbox", "--provider", "github", "--secret-file", "right")
	d.run("trigger", "github", "issues", "--endpoint", "orders", "--secret-file", "right", "--wait", "1m")
	for _, tt := range []struct{ args, said string }{
		{"trigger github --endpoint orders --secret-file wrong", "orders answered 401: E1001 "},
		{"trigger github --endpoint orders", "--secret-file: is needed"},
		{"trigger stripe --endpoint orders --secret-file right", "orders verifies github"},
		{"trigger github nonsense", "there is no sample of github nonsense; there are push, "},
		{"trigger nonsense", `there is no provider "nonsense"`},
	} {
		out, err := d.kapsel(strings.Fields(tt.args)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.said) {
			t.Errorf("kapsel %s: %v, %s", tt.args, err, out)
		}
	}
}

// TestDev_ListenMakesItsEndpoint checks that kapsel listen needs only a port, that it makes its
// endpoint once, and that it signs with the secret that it prints.
func TestDev_ListenMakesItsEndpoint(t *testing.T) {
	d := startDev(t)
	d.printed(1, `^and see it arrive`)
	there := newLocal(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(there.URL, "http://"), ":")
	secret := ""
	for run := range 2 {
		cmd := d.kapsel("listen", "--to", port)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		errs, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := ""
		for scan := bufio.NewScanner(errs); !strings.Contains(said, "whsec_") && scan.Scan(); {
			said += scan.Text() + "\n"
		}
		m := regexp.MustCompile(`^listening to listen \(ep_.*; posting to http://localhost:` + port + `/\n +senders post to +(http://\S+)\n +signed with +(whsec_\S+) `).FindStringSubmatch(said)
		if m == nil || run > 0 && m[2] != secret {
			t.Fatalf("it said %s", said)
		}
		secret = m[2]
		begun(t, filepath.Join(d.dir, ".cache"))
		status, _, event := post(t, m[1], nil, strings.NewReader(fmt.Sprint("run ", run)))
		if status != 200 {
			t.Fatalf("answered %d", status)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, event+"  ") || !strings.Contains(line, "  202 Accepted  ") {
			t.Errorf("it printed %s, %v", line, err)
		}
		there.signed(t, event, secret)
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if got := d.run("endpoints", "list", "--tenant", "dev"); strings.Count(got, " listen ") != 1 {
		t.Errorf("the endpoints are\n%s", got)
	}
	if got := d.run("endpoints", "get", "listen"); !strings.Contains(got, d.url+"/dev/inbox") {
		t.Errorf("the endpoint is\n%s", got)
	}
}
