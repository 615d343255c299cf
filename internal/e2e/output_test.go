package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// unreadPipe returns the writing end of a pipe that nobody reads. If full is true, the pipe is full already.
func unreadPipe(t *testing.T, full bool) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	if full {
		conn, err := w.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Write(func(fd uintptr) bool { // which is not blocking yet
			for err == nil {
				_, err = syscall.Write(int(fd), make([]byte, 4096))
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// TestOutput_NobodyReads checks that a process goes on if nobody reads the pipes of its standard
// output and error, and counts the log lines that it lost.
func TestOutput_NobodyReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		full bool // already at the start
	}{{"pipes fill", false}, {"pipes are full", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var delivered atomic.Int64
			takes := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { delivered.Add(1) }))
			t.Cleanup(takes.Close)
			// A refusal that is tried again leaves the circuit closed.
			refuses := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(refuses.Close)
			cmd := exec.Command(program(t), "serve")
			cmd.Stdout, cmd.Stderr = unreadPipe(t, tt.full), unreadPipe(t, tt.full)
			c := startChild(t, cmd, "LOG_LEVEL=debug", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8")
			c.ready()

			failing := c.endpoint(refuses.URL, map[string]any{
				"retry_on": []int{404},
				"retry":    map[string]any{"strategy": "fixed", "base": "100ms", "max_attempts": 100},
			})
			for i := range 50 {
				if status, code, _ := post(t, c.URL+"/ingest/"+failing.ID, nil, strings.NewReader(fmt.Sprint(i))); status != 200 {
					t.Fatalf("event %d: %d %s", i, status, code)
				}
			}
			c.until("lines are lost", func() bool { return metric(t, c.Process, "kapsel_log_lines_lost_total", "") > 0 })

			working := c.endpoint(takes.URL, nil)
			for i := range 10 {
				if status, code, _ := post(t, c.URL+"/ingest/"+working.ID, nil, strings.NewReader(fmt.Sprint(i))); status != 200 {
					t.Errorf("event %d, once lines are lost: %d %s", i, status, code)
				}
			}
			c.until("10 events are delivered", func() bool { return delivered.Load() >= 10 })
			c.term()
		})
	}
}

// TestOutput_LastWords checks that the last words of a process, and a key that is shown once, delay
// neither its end nor its start if nobody reads them.
func TestOutput_LastWords(t *testing.T) {
	t.Run("wrong setting", func(t *testing.T) {
		cmd := exec.Command(program(t), "serve", "--node-lease=1s")
		cmd.Stderr = unreadPipe(t, true)
		if code := startChild(t, cmd).exit(); code != 2 {
			t.Errorf("exit code %d, want 2", code)
		}
	})
	t.Run("wrong command", func(t *testing.T) {
		cmd := exec.Command(program(t), "serf")
		cmd.Stderr = unreadPipe(t, true)
		if code := startChild(t, cmd).exit(); code != 2 {
			t.Errorf("exit code %d, want 2", code)
		}
	})
	for name, args := range map[string][]string{
		"flag given twice":  {"events", "list", "--tenant=a", "--tenant=b"},
		"mistyped variable": {"version"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program(t), args...)
			cmd.Stderr = unreadPipe(t, true)
			if code := startChild(t, cmd, "KAPSEL_LISTN=127.0.0.1:0").exit(); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
		})
	}
	t.Run("done command", func(t *testing.T) {
		c := startChild(t, exec.Command(program(t), "serve"))
		c.ready()
		for _, args := range [][]string{{"health"}, {"backup", "copy.db"}} {
			cmd := exec.Command(program(t), args...)
			cmd.Dir, cmd.Env, cmd.Stdout = c.cmd.Dir, c.cmd.Env, unreadPipe(t, true)
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %v", args, err)
			}
		}
		c.term()
		migrate := exec.Command(program(t), "migrate")
		migrate.Dir, migrate.Env, migrate.Stdout = c.cmd.Dir, c.cmd.Env, unreadPipe(t, true)
		if err := migrate.Run(); err != nil {
			t.Errorf("migrate: %v", err)
		}
	})
	t.Run("failed command", func(t *testing.T) {
		cmd := exec.Command(program(t), "health")
		cmd.Stderr = unreadPipe(t, true)
		if code := startChild(t, cmd).exit(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
	})
	t.Run("new admin key", func(t *testing.T) {
		cmd := exec.Command(program(t), "serve")
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = unreadPipe(t, true), &log
		c := startChild(t, cmd, "KAPSEL_ADMIN_KEY=")
		c.ready()
		key, err := os.ReadFile(filepath.Join(cmd.Dir, "admin.key"))
		if err != nil {
			t.Fatal(err)
		}
		c.AdminKey = strings.TrimSpace(string(key))
		c.endpoint("https://example.com", nil)
		c.term()
		if !strings.Contains(log.String(), "admin key could not be printed") || strings.Contains(log.String(), c.AdminKey) {
			t.Errorf("the log does not say that the key was not shown, or shows it:\n%s", log.String())
		}
	})
	t.Run("--dev", func(t *testing.T) {
		cmd := exec.Command(program(t), "serve", "--dev")
		cmd.Stdout, cmd.Stderr = unreadPipe(t, true), unreadPipe(t, true)
		c := startChild(t, cmd)
		c.ready()
		c.term()
	})
	t.Run("SIGQUIT", func(t *testing.T) {
		cmd := exec.Command(program(t), "serve")
		cmd.Stderr = unreadPipe(t, true)
		c := startChild(t, cmd)
		c.ready()
		c.signal(syscall.SIGQUIT)
		if code := c.exit(); code != 2 {
			t.Errorf("exit code %d, want 2", code)
		}
	})
}

// TestOutput_ReadAtTheEnd checks that a reader gets everything that was logged before a normal
// stop.
func TestOutput_ReadAtTheEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(program(t), "serve")
	cmd.Stderr = w
	c := startChild(t, cmd)
	w.Close()
	c.ready()
	all := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(r)
		all <- b
	}()
	c.term()
	if got := <-all; !bytes.Contains(got, []byte(`"msg":"serving"`)) || !bytes.HasSuffix(got, []byte(`"msg":"stopped"}`+"\n")) {
		t.Errorf("the log is %s", got)
	}
}

// TestOutput_CollectorHangs checks that a collector of traces that accepts connections and never
// answers holds up nothing, not even the stop.
func TestOutput_CollectorHangs(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	var delivered atomic.Int64
	takes := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { delivered.Add(1) }))
	t.Cleanup(takes.Close)
	c := startChild(t, exec.Command(program(t), "serve"), "KAPSEL_EGRESS_ALLOW=127.0.0.0/8",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+hangs.Addr().String(), "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_MAX_QUEUE_SIZE=2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1")
	c.ready()
	ep := c.endpoint(takes.URL, nil)
	for i := range 20 {
		header := map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		if status, code, _ := post(t, c.URL+"/ingest/"+ep.ID, header, strings.NewReader(fmt.Sprint(i))); status != 200 {
			t.Fatalf("event %d: %d %s", i, status, code)
		}
	}
	c.until("20 events are delivered", func() bool { return delivered.Load() >= 20 })
	c.term()
}

// TestOutput_DestinationsBytes checks that even the most detailed log has none of the bytes that a
// destination sends after its answer.
func TestOutput_DestinationsBytes(t *testing.T) {
	const foreign = "hunter2"
	destination, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer destination.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- func() error {
			conn, err := destination.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			r, err := http.ReadRequest(in)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return err
			}
			io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			time.Sleep(100 * time.Millisecond) // the connection waits for another request by then
			io.WriteString(conn, `{"access_token":"`+foreign+`"}`)
			in.ReadByte() // returns when the connection is closed
			return nil
		}()
	}()
	var log bytes.Buffer
	cmd := exec.Command(program(t), "serve")
	cmd.Stderr = &log
	c := startChild(t, cmd, "LOG_LEVEL=debug", "KAPSEL_EGRESS_ALLOW=127.0.0.0/8")
	c.ready()
	ep := c.endpoint("http://"+destination.Addr().String(), nil)
	if status, code, _ := post(t, c.URL+"/ingest/"+ep.ID, nil, strings.NewReader("1")); status != 200 {
		t.Fatalf("ingest: %d %s", status, code)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the connection is still open")
	}
	c.term()
	if strings.Contains(log.String(), foreign) {
		t.Errorf("the log has the destination's bytes:\n%s", log.String())
	}
}
