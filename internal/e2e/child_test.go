package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// child is `kapsel serve` started as by a service manager or a shell: with outputs, signals, namespaces or
// limits that a test chooses. Its Process serves only to call the API.
type child struct {
	*harness.Process
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	err   error         // how it ended
}

// startChild runs cmd, which must become `kapsel serve`, on a new SQLite database with settings in its
// environment, and kills it when the test ends.
func startChild(t *testing.T, cmd *exec.Cmd, env ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: cmd, ended: make(chan struct{})}
	listen, metrics := freeAddr(t), freeAddr(t)
	c.Process = &harness.Process{URL: "http://" + listen, Metrics: "http://" + metrics, AdminKey: strings.Repeat("admin-key-", 4)}
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"DATABASE_URL=sqlite:" + filepath.Join(cmd.Dir, "kapsel.db"),
		"KAPSEL_LISTEN=" + listen,
		"KAPSEL_METRICS_LISTEN=" + metrics,
		"KAPSEL_ADMIN_KEY=" + c.AdminKey,
		"KAPSEL_DRAIN_DELAY=0s",
	}, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-c.ended
	})
	return c
}

// ready waits until the child is ready.
func (c *child) ready() {
	c.t.Helper()
	c.until("it is ready", func() bool {
		resp, err := client.Get(c.URL + "/health/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// until waits until a condition holds, and ends the test if the child ends before.
func (c *child) until(what string, so func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); {
		select {
		case <-c.ended:
			c.t.Fatalf("the process ended before %s: %v", what, c.err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("two minutes passed before %s", what)
		}
	}
}

// signal sends a signal to the running child.
func (c *child) signal(sig os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

// term asks the child to stop, and ends the test unless the exit code is 0.
func (c *child) term() {
	c.t.Helper()
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		c.t.Errorf("after SIGTERM the process ended with exit code %d: %v", code, c.err)
	}
}

// exit waits until the child has ended and returns its exit code, -1 if a signal ended it.
func (c *child) exit() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		c.t.Fatal("the process did not end within a minute")
	}
	var failed *exec.ExitError
	if c.err != nil && !errors.As(c.err, &failed) {
		c.t.Fatal(c.err)
	}
	return c.cmd.ProcessState.ExitCode()
}

// endpoint makes an endpoint of a new tenant with a URL and more fields.
func (c *child) endpoint(url string, fields map[string]any) harness.Endpoint {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	tenant, err := c.CreateTenant(ctx, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[string]any{"name": "test", "url": url}
	for name, value := range fields {
		all[name] = value
	}
	ep, err := c.CreateEndpoint(ctx, tenant, all)
	if err != nil {
		c.t.Fatal(err)
	}
	return ep
}
