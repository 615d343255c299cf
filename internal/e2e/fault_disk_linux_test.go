package e2e

import (
	"errors"
	"os"
	"os/exec"
	account "os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// mayMount is a variable in the environment of a test that has started itself again in order to be allowed to
// mount.
const mayMount = "KAPSEL_E2E_MOUNT"

// TestStore_FB5_DiskFull checks that ingest answers 503 while the disk under the database is
// full, what is stored can be read, and everything goes on when there is space again.
func TestStore_FB5_DiskFull(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv(mayMount) == "" {
		again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
		again.Env = append(os.Environ(), mayMount+"=yes")
		again.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
			Pdeathsig:   syscall.SIGKILL,
		}
		out, err := again.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Run("sqlite", func(t *testing.T) {
		disk := smallDisk(t, "256m")
		w := newWorld(t, "", "DATABASE_URL=sqlite:"+filepath.Join(disk, "kapsel.db"))
		fillUnderLoad(t, w, disk)
	})
	t.Run("postgres", func(t *testing.T) {
		disk := smallDisk(t, "64m")
		server := pgtest.Start(t)
		// Only the tables are on it: without space for its log PostgreSQL ends itself, which
		// is F-B1.
		space := filepath.Join(disk, "space")
		if err := os.Mkdir(space, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			u, err := account.Lookup("postgres")
			if err != nil {
				t.Fatal(err)
			}
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			if err := os.Chown(space, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		admin, err := pgx.Connect(t.Context(), server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{"CREATE TABLESPACE small LOCATION '" + space + "'", "CREATE DATABASE small TABLESPACE small"} {
			if _, err := admin.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := admin.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		fillUnderLoad(t, newWorld(t, server.URL("small")), disk)
		soundStatements(t, server)
	})
}

// smallDisk mounts a file system of a size until the test ends.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kapsel-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+size); err != nil {
		t.Fatalf("mount a file system of %s (this needs CAP_SYS_ADMIN or user namespaces): %v", size, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// fill fills a disk.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func fillUnderLoad(t *testing.T, w *world, disk string) {
	node := w.nodes[0]
	w.sink.Record(true)
	w.sink.Script(flaky)
	ep, probes := w.endpoint("target", gentle), w.unstored()
	s := w.send(16, ep, 20*time.Millisecond)
	s.load()
	filler := filepath.Join(disk, "filler")
	var back time.Duration
	for range count(2, 10) {
		full := false
		for deadline := time.Now().Add(patience); !full; {
			fill(t, filler) // also what a checkpoint gave back
			status, _ := probe(w, probes)
			if full = status == 503; !full && status != 200 {
				t.Fatalf("on a full disk ingest answered %d", status)
			}
			if time.Now().After(deadline) {
				t.Fatal("the disk is full, and ingest still accepts")
			}
		}
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			fill(t, filler)
			if status, took := probe(w, probes); status != 503 && status != 200 || took > within(slowAnswer) {
				t.Errorf("on a full disk ingest answered %d after %v", status, took)
			}
			if n := health(node, "live"); n != 200 {
				t.Errorf("/health/live answers %d", n)
			}
		}
		var read page[delivery]
		w.get("/v1/deliveries?limit=10", &read)
		if len(read.Data) != 10 {
			t.Errorf("on a full disk %d deliveries can be read", len(read.Data))
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		back = max(back, s.progress(15*time.Second))
		s.load()
	}
	s.end()
	w.quiet()
	duplicates := s.judge(ep)
	t.Logf("%d acknowledged, %d duplicates; the first 200 came %v after there was space", s.acked(), duplicates, back.Round(time.Millisecond))
	if duplicates != 0 {
		t.Errorf("%d deliveries were sent twice", duplicates)
	}
}
