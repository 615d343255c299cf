package harness

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

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
	for deadline := time.Now().Add(time.Minute); !bytes.Contains(procStatus(t, p), []byte("State:\tT")); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the kernel has not stopped a frozen process")
		}
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
	_, err := StartKapsel(t.Context(), t.TempDir(), testBin(t), "CHILD_FAULT=KAPSEL_EGRESS_ALLOW: wrong")
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
