package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// smallMemory is a container's memory limit with which the default settings must work.
const smallMemory = 256 << 20

// TestMemory_Small: with 256 MiB of memory and default settings the process survives clients, 40 with
// the full counts, that post bodies of 10 MB at the same time, and delivers what they posted.
func TestMemory_Small(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { surviveLargeBodies(t) })
	t.Run("postgres", func(t *testing.T) {
		surviveLargeBodies(t, "DATABASE_URL="+schematest.Postgres(t), "KAPSEL_ENCRYPTION_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	})
}

func surviveLargeBodies(t *testing.T, env ...string) {
	const size = 10_000_000
	clients := count(28, 40)
	var received atomic.Int64
	destination := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); err == nil && n == size {
			received.Add(1)
		}
	}))
	t.Cleanup(destination.Close)

	cmd := exec.Command(program(t), "serve")
	if group := limitedGroup(t, smallMemory); group != "" {
		cmd = exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$1" serve`, group, program(t))
	} else {
		// The process sets these itself in such a group. The page caches follow only the group's limit; here
		// their memory is taken from the heap's.
		figures, all := budget.Divide(smallMemory, 0), budget.Divide(0, 0)
		env = append(env, fmt.Sprint("KAPSEL_BODY_MEMORY=", figures.Bodies), fmt.Sprint("GOMEMLIMIT=", figures.Heap+figures.Caches-all.Caches))
	}
	c := startChild(t, cmd, append([]string{"KAPSEL_EGRESS_ALLOW=127.0.0.0/8"}, env...)...)
	c.ready()
	ep := c.endpoint(destination.URL, nil)
	body := make([]byte, size)
	rand.Read(body)
	patient := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	var posting sync.WaitGroup
	for i := range clients {
		posting.Go(func() {
			accepted := func() bool {
				req, err := http.NewRequest(http.MethodPost, c.URL+"/ingest/"+ep.ID, bytes.NewReader(body))
				if err != nil {
					panic(err)
				}
				req.Header.Set("X-Idempotency-Key", strconv.Itoa(i))
				resp, err := patient.Do(req)
				if err != nil {
					return false // refused before the body was sent, or the process is gone
				}
				resp.Body.Close()
				if resp.StatusCode != 200 && resp.StatusCode != 503 {
					t.Errorf("a body of %d bytes was answered %d", size, resp.StatusCode)
				}
				return resp.StatusCode == 200
			}
			for deadline := time.Now().Add(patience); !accepted(); {
				if time.Now().After(deadline) {
					t.Errorf("body %d was not accepted", i)
					return
				}
				select {
				case <-c.ended:
					return
				case <-time.After(500 * time.Millisecond):
				}
			}
		})
	}
	posting.Wait()
	c.until("all bodies are delivered", func() bool { return received.Load() >= int64(clients) })
	if peak, err := harness.PeakRSS(cmd.Process.Pid); err != nil || peak > smallMemory {
		t.Errorf("%d MiB of memory were in use, more than %d (%v)", peak>>20, smallMemory>>20, err)
	} else {
		t.Logf("%d MiB of memory were in use", peak>>20)
	}
	c.term()
}

// limitedGroup makes a cgroup whose processes together may use limit bytes of memory. It
// returns its directory, "" where this process may not make one.
func limitedGroup(t *testing.T, limit int64) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		of := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		root, file := "/sys/fs/cgroup", "memory.max"
		switch {
		case len(of) != 3:
			continue
		case of[1] == "memory":
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case of[1] != "":
			continue
		}
		dir, err := os.MkdirTemp(filepath.Join(root, of[2]), "kapsel-test-*")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		limited, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
		if err != nil {
			continue // the controller is not delegated
		}
		_, err = limited.WriteString(strconv.FormatInt(limit, 10))
		limited.Close()
		if err == nil {
			return dir
		}
	}
	return ""
}
