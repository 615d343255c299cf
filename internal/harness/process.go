package harness

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a gateway that runs as a child process, with its own addresses and data, on which it
// can be started again. The methods are safe for concurrent use, except that Start may be called
// only after the child has ended, and by one goroutine.
type Process struct {
	URL      string // http://127.0.0.1:PORT
	Metrics  string // URL of Kapsel's metrics listener
	AdminKey string // Kapsel's admin key
	Dir      string // its working directory
	Output   string // file with the child's standard output and error

	bin  string
	args []string
	env  []string

	mu   sync.Mutex // guards what follows
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	err  error         // result of cmd; set before done is closed
}

// StartKapsel runs `bin serve` with its data in dir, which must exist, and waits until it is
// ready. The child listens on free loopback ports, has a generated admin key and no drain delay,
// and uses the default of every other setting. It inherits no settings of this process; those in
// env ("NAME=value") take precedence over all. When ctx ends, the child gets SIGTERM.
func StartKapsel(ctx context.Context, dir, bin string, env ...string) (*Process, error) {
	free, err := FreeAddrs(2)
	if err != nil {
		return nil, err
	}
	p := newProcess(dir, "kapsel", bin, "serve")
	p.Set("KAPSEL_LISTEN=" + free[0])
	p.Set("KAPSEL_METRICS_LISTEN=" + free[1])
	p.Set("KAPSEL_ADMIN_KEY=" + randomKey())
	p.Set("KAPSEL_ENCRYPTION_KEY=" + randomKey())
	p.Set("KAPSEL_DRAIN_DELAY=0s")
	p.Set("DATABASE_URL=sqlite:" + filepath.Join(dir, "kapsel.db"))
	for _, e := range env {
		p.Set(e)
	}
	p.URL = "http://" + p.Env("KAPSEL_LISTEN")
	p.Metrics = "http://" + p.Env("KAPSEL_METRICS_LISTEN")
	p.AdminKey = p.Env("KAPSEL_ADMIN_KEY")
	return p, p.Start(ctx)
}

// StartServer runs a program that answers on addr, with its output in the file name.log in dir, and waits
// until it is ready: until /health/ready answers 200. The program inherits no settings of this process.
// When ctx ends, it gets SIGTERM.
func StartServer(ctx context.Context, dir, name, bin, addr string, args ...string) (*Process, error) {
	p := newProcess(dir, name, bin, args...)
	p.URL = "http://" + addr
	return p, p.Start(ctx)
}

func newProcess(dir, name, bin string, args ...string) *Process {
	p := &Process{Dir: dir, Output: filepath.Join(dir, name+".log"), bin: bin, args: args}
	for _, e := range os.Environ() {
		if !isSetting(e) {
			p.env = append(p.env, e)
		}
	}
	return p
}

// isSetting reports whether an environment entry would change how Kapsel runs. Above all, a test or a
// benchmark must not load the database that a shell happens to name.
func isSetting(entry string) bool {
	name, _, _ := strings.Cut(entry, "=")
	switch name {
	case "DATABASE_URL", "WORKER_POOL_SIZE", "CHANNEL_CAPACITY":
		return true
	}
	for _, prefix := range []string{"KAPSEL_", "LOG_", "OTEL_", "TIGERBEETLE_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Set adds an environment entry, for the next start; the last one of a name counts.
func (p *Process) Set(entry string) { p.env = append(p.env, entry) }

// Env returns the value of a variable in the child's environment.
func (p *Process) Env(name string) string {
	for i := len(p.env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(p.env[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// randomKey returns 32 random bytes in base64, for an admin key or an encryption key.
func randomKey() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.StdEncoding.EncodeToString(b)
}

// FreeAddrs returns n free loopback ports below the range of outgoing connections, so that they
// are still free when a killed child starts again.
func FreeAddrs(n int) ([]string, error) {
	var addrs []string
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(20_000+mathrand.IntN(12_000)))
		if err != nil {
			continue // taken
		}
		defer l.Close() // only at the end, so that the ports differ
		if addrs = append(addrs, l.Addr().String()); len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, errors.New("found no free port on 127.0.0.1")
}

// Start starts the child, again after Kill or Term, and waits until it is ready.
func (p *Process) Start(ctx context.Context) error {
	out, err := os.OpenFile(p.Output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("keep the output of %s: %w", p.name(), err)
	}
	defer out.Close() // the child has its own descriptor
	cmd := exec.CommandContext(ctx, p.bin, p.args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.Dir, p.env, out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name(), err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.err = cmd, done, nil
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	if err := p.WaitReady(ctx); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

func (p *Process) name() string { return filepath.Base(p.bin) + " " + p.args[0] }

// WaitReady waits, at most 60 s, until /health/ready answers 200. It fails at once if the child
// ends.
func (p *Process) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		if p.ready(ctx) {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended before it was ready (%w); its output is in %s: %s", p.name(), p.Ended(), p.Output, p.why())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its output is in %s", p.name(), ctx.Err(), p.Output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Process) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/health/ready", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// why returns the part of the output that explains why the child ended: a panic if there is one,
// else the last lines.
func (p *Process) why() string {
	const enough = 1000
	b, err := os.ReadFile(p.Output)
	if err != nil {
		return "its output cannot be read: " + err.Error()
	}
	for _, start := range []string{"\npanic: ", "\nfatal error: "} {
		if i := bytes.LastIndex(append([]byte("\n"), b...), []byte(start)); i >= 0 {
			return string(b[i:min(len(b), i+enough)])
		}
	}
	if b = bytes.TrimSpace(b[max(0, len(b)-enough):]); len(b) == 0 {
		return "it wrote nothing"
	}
	return string(b)
}

// Done returns a channel that is closed when the child has ended. Each Start makes a new one.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Ended returns how the child ended, as an error that is never nil.
func (p *Process) Ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

func (p *Process) signal(s os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Signal(s)
}

// Kill ends the child with SIGKILL and waits until it is gone. It returns nil if the child has
// ended already.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name(), err)
	}
	<-p.Done()
	return nil
}

// Term asks the child to stop (SIGTERM) and waits until it is gone. It returns an error if the
// exit code was not 0, or if the child took more than 30 s and was killed.
func (p *Process) Term() error {
	if err := p.signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name(), err)
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("%s did not stop within 30 s", p.name()), p.Kill())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s stopped badly: %w; its output is in %s", p.name(), p.err, p.Output)
	}
	return nil
}

// Freeze stops the child with SIGSTOP until Thaw.
func (p *Process) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw continues a frozen child (SIGCONT).
func (p *Process) Thaw() error { return p.signal(syscall.SIGCONT) }

// PID returns the child's process ID.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// PeakRSS returns the largest resident memory of the running child so far, in bytes.
func (p *Process) PeakRSS() (int64, error) { return PeakRSS(p.PID()) }

// PeakRSS returns the largest resident memory of a running process so far, in bytes. It fails on
// systems without /proc.
func PeakRSS(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read the memory of process %d: no VmHWM", pid)
}

// client calls children, never through a proxy.
var client = &http.Client{Transport: &http.Transport{}}

// APIError is an answer of the management API other than 2xx.
type APIError struct {
	Status int
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func (e *APIError) Error() string {
	return fmt.Sprintf("answered %d %s: %s", e.Status, e.Code, e.Detail)
}

// API calls the management API with the admin key. It sends in as JSON and decodes the answer into
// out, unless these are nil. An answer other than 2xx is an *APIError.
func (p *Process) API(ctx context.Context, method, path string, in, out any) error {
	fail := func(err error) error { return fmt.Errorf("%s %s: %w", method, path, err) }
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fail(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.URL+path, body)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.AdminKey)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fail(err)
	}
	if resp.StatusCode > 299 {
		e := &APIError{Status: resp.StatusCode}
		_ = json.Unmarshal(answer, e) // without a problem document the status must suffice
		return fail(e)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fail(fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

// Endpoint holds the fields of a created endpoint that tests need.
type Endpoint struct {
	ID            string `json:"id"`
	IngestURL     string `json:"ingest_url"`
	SigningSecret string `json:"signing_secret"`
}

// CreateTenant creates a tenant and returns its ID.
func (p *Process) CreateTenant(ctx context.Context, name string) (string, error) {
	var made struct {
		ID string `json:"id"`
	}
	err := p.API(ctx, http.MethodPost, "/v1/tenants", map[string]string{"name": name}, &made)
	return made.ID, err
}

// CreateEndpoint creates an endpoint of a tenant. The fields are those of POST /v1/endpoints;
// "name" and "url" are required.
func (p *Process) CreateEndpoint(ctx context.Context, tenant string, fields map[string]any) (Endpoint, error) {
	var made Endpoint
	err := p.API(ctx, http.MethodPost, "/v1/endpoints?tenant_id="+url.QueryEscape(tenant), fields, &made)
	return made, err
}
