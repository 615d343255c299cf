package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRelay_DeliversWhatItSynced(t *testing.T) {
	sink := newTestSink(t, OK)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeRelay(ctx, l, sink.URL(0), path) }()

	const events, size = 2000, 512
	r, err := Load(t.Context(), LoadConfig{
		URLs: []string{"http://" + l.Addr().String() + "/ingest/1"}, Events: events, Connections: 16, Size: size, Sink: sink,
	})
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	got := []int{r.Acked, r.Delivered, r.Lost, r.Duplicates, r.Errors}
	if d := cmp.Diff([]int{events, events, 0, 0, 0}, got); d != "" {
		t.Error(d)
	}
	journal, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]bool{}
	for len(journal) > 0 {
		n := binary.LittleEndian.Uint32(journal)
		if n != size {
			t.Fatalf("a record of %d bytes, want %d", n, size)
		}
		m, ok := findMarker(journal[4 : 4+n])
		if !ok {
			t.Fatal("a record without marker")
		}
		seen[m.seq] = true
		journal = journal[4+n:]
	}
	if len(seen) != events {
		t.Errorf("the file has %d events, want %d", len(seen), events)
	}
}

func testBin(t *testing.T) string {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestProcess_Life(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://somebody/else")
	t.Setenv("KAPSEL_LISTEN", "127.0.0.1:1")
	p, err := StartKapsel(t.Context(), t.TempDir(), testBin(t), "KAPSEL_BODY_MEMORY=1MiB", "KAPSEL_MAX_BODY=256KiB")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if p.Env("DATABASE_URL") != "sqlite:"+p.Dir+"/kapsel.db" || p.Env("KAPSEL_BODY_MEMORY") != "1MiB" {
		t.Errorf("settings %q", p.env)
	}
	if rss, err := p.PeakRSS(); err != nil || rss < 1<<20 {
		t.Errorf("peak RSS %d, %v", rss, err)
	}
	tenant, err := p.CreateTenant(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.CreateEndpoint(t.Context(), tenant, map[string]any{"name": "e", "url": "http://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Endpoint{"ep_0", p.URL + "/ingest/ep_0", "whsec_1"}); e != want {
		t.Errorf("endpoint %+v, want %+v", e, want)
	}
	p.AdminKey = "wrong"
	var refused *APIError
	if _, err := p.CreateTenant(t.Context(), "t"); !errors.As(err, &refused) || *refused != (APIError{401, "E1007", "no such key"}) {
		t.Errorf("with a wrong key: %v", err)
	}

	first := p.PID()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get(p.URL + "/health/ready"); err == nil {
		t.Error("a killed process answers")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("kill again: %v", err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.PID() == first {
		t.Error("the same process")
	}
	if err := p.Freeze(); err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains(procStatus(t, p), []byte("State:\tT")) {
		time.Sleep(time.Millisecond) // the kernel stops it soon
	}
	if err := p.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.WaitReady(t.Context()), p.Term()); err != nil {
		t.Error(err)
	}
}

func procStatus(t *testing.T, p *Process) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "status"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProcess_SaysWhyItDidNotStart(t *testing.T) {
	_, err := StartKapsel(t.Context(), t.TempDir(), testBin(t), "STANDIN_FAULT=refuse to start")
	if err == nil || !strings.Contains(err.Error(), "KAPSEL_EGRESS_ALLOW: wrong") {
		t.Errorf("error %v, want what it wrote", err)
	}
}

func TestProcess_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := StartKapsel(ctx, t.TempDir(), testBin(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-p.Done()
}
