package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSignals_SIGHUP checks that SIGHUP does not end the process, however it was started, and cuts
// no exchange, so that a destination that answers late sees its event once.
func TestSignals_SIGHUP(t *testing.T) {
	serve := func(t *testing.T) *exec.Cmd { return exec.Command(program(t), "serve") }
	for _, tt := range []struct {
		name    string
		command func(t *testing.T) (cmd *exec.Cmd, hangUp func())
		ignored bool
	}{
		{"as a service", func(t *testing.T) (*exec.Cmd, func()) { return serve(t), nil }, false},
		{"by nohup", func(t *testing.T) (*exec.Cmd, func()) {
			return exec.Command("nohup", program(t), "serve"), nil
		}, true},
		{"as process 1", func(t *testing.T) (*exec.Cmd, func()) {
			cmd := serve(t)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
			if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
			}
			return cmd, nil
		}, false},
		{"on a terminal that closes", func(t *testing.T) (*exec.Cmd, func()) {
			terminal, device := openTerminal(t)
			cmd := serve(t)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = device, device, device
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			return cmd, func() {
				device.Close()
				terminal.Close()
			}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			released := make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			destination := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				requests.Add(1)
				<-released
			}))
			t.Cleanup(destination.Close)
			t.Cleanup(release)

			cmd, hangUp := tt.command(t)
			c := startChild(t, cmd, "KAPSEL_EGRESS_ALLOW=127.0.0.0/8")
			c.ready()
			ep := c.endpoint(destination.URL, nil)
			if status, code, _ := post(t, c.URL+"/ingest/"+ep.ID, nil, strings.NewReader("1")); status != 200 {
				t.Fatalf("ingest: %d %s", status, code)
			}
			c.until("the exchange has begun", func() bool { return requests.Load() > 0 })
			if hangUp != nil {
				hangUp()
			}
			c.signal(syscall.SIGHUP)
			if got := ignores(t, cmd.Process.Pid, syscall.SIGHUP); got != tt.ignored {
				t.Errorf("SIGHUP is ignored: %t, want %t", got, tt.ignored)
			}
			release()
			c.until("the event is delivered", func() bool { return delivered(t, c.Process) == 1 })
			c.ready()
			c.signal(syscall.SIGTERM)
			_ = cmd.Process.Signal(syscall.SIGHUP) // which may be gone already
			if code := c.exit(); code != 0 {
				t.Errorf("SIGHUP during the stop: exit code %d", code)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("the destination got %d requests, want 1", n)
			}
		})
	}
}

// openTerminal makes a terminal: what a person looks at, and the device that a process has.
func openTerminal(t *testing.T) (terminal, device *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	device, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		device.Close()
		terminal.Close()
	})
	return terminal, device
}

// ignores reports whether a process ignores a signal.
func ignores(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if mask, ok := strings.CutPrefix(lines.Text(), "SigIgn:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return bits>>(sig-1)&1 == 1
		}
	}
	t.Fatal("the state of signals is not known")
	return false
}

// TestSignals_SIGHUPAtStart: SIGHUP does not end a process that still waits for its database.
func TestSignals_SIGHUPAtStart(t *testing.T) {
	first := startChild(t, exec.Command(program(t), "serve"))
	first.ready()
	second := startChild(t, exec.Command(program(t), "serve"), "DATABASE_URL=sqlite:"+filepath.Join(first.cmd.Dir, "kapsel.db"))
	second.until("it listens", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(second.URL, "http://"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	second.signal(syscall.SIGHUP)
	first.term()
	second.ready()
	second.term()
}

// TestSignals_SIGHUPReadsCertificate checks that SIGHUP reads the TLS pair again, and that a broken
// pair is logged as an ERROR and leaves the former one in use.
func TestSignals_SIGHUPReadsCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	certify(t, cert, key, pool)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program(t), "serve")
	cmd.Stderr = log
	c := startChild(t, cmd, "KAPSEL_TLS_CERT="+cert, "KAPSEL_TLS_KEY="+key)
	logged := func(text string) func() bool {
		return func() bool {
			all, err := os.ReadFile(log.Name())
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Contains(all, []byte(text))
		}
	}
	serial := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.URL, "http://"), &tls.Config{RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	c.until("it serves", logged(`"msg":"serving"`))
	before := serial()
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.signal(syscall.SIGHUP)
	c.until("the broken pair is an error", logged(`"level":"ERROR","msg":"the certificate's files cannot be used`))
	if got := serial(); got != before {
		t.Errorf("certificate %s is served, want the former %s", got, before)
	}
	certify(t, cert, key, pool)
	c.signal(syscall.SIGHUP)
	c.until("the new pair is read", logged(`"msg":"the certificate was read again"`))
	if got := serial(); got == before {
		t.Error("the former certificate is served")
	}
	c.term()
}
