package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// TestServe_FB14_Witnessed checks that kapsel serve has its heads signed by kapsel witness, that a witness that is
// away delays no head and catches up when it is back, and that no head is signed of a database that was restored
// from before what the witness has signed: the node says why, and goes on to accept and to deliver.
func TestServe_FB14_Witnessed(t *testing.T) {
	w := newWorld(t, "")
	node := w.nodes[0]
	ep := w.endpoint("target", nil)
	sent := 0
	send := func() {
		t.Helper()
		resp, err := http.Post(node.URL+"/ingest/"+ep.ID, "application/json", strings.NewReader(fmt.Sprintf(`{"n":%d}`, time.Now().UnixNano())))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("ingest answers %s", resp.Status)
		}
		sent++
	}
	type head struct {
		Size int64  `json:"tree_size"`
		Key  string `json:"public_key"`
	}
	type state struct {
		Head      *head `json:"head"`
		Witnessed *head `json:"witnessed_head"`
	}
	read := func() (s state) {
		w.get("/v1/attestation?tenant_id="+w.tenant, &s)
		return s
	}
	published := func() {
		t.Helper()
		eventually(t, "a head over all attempts", within(time.Minute), func() bool {
			s := read()
			return s.Head != nil && s.Head.Size == int64(sent)
		})
	}
	witnessed := func() {
		t.Helper()
		eventually(t, "a witnessed head over all attempts", within(time.Minute), func() bool {
			s := read()
			return s.Witnessed != nil && s.Witnessed.Size == int64(sent)
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	send()
	published()
	addr, err := harness.FreeAddrs(1)
	must(err)
	witness, err := harness.StartServer(w.ctx, t.TempDir(), "witness", w.bin, addr[0],
		"witness", "--name", "witness.example/w1", "--dir", "state", "--listen", addr[0], "--log", read().Head.Key)
	must(err)
	t.Cleanup(func() { witness.Kill() })
	out, err := os.ReadFile(witness.Output)
	must(err)
	key := regexp.MustCompile(`witness\.example/w1\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+`).FindString(string(out))
	node.Set("KAPSEL_AUDIT_WITNESSES=" + key + " " + witness.URL)
	node.Set("KAPSEL_AUDIT_WITNESSES_WANTED=1")
	must(node.Term())
	must(node.Start(w.ctx))
	witnessed()

	must(witness.Kill())
	send()
	published()
	if s := read(); s.Witnessed == nil || s.Witnessed.Size != 1 {
		t.Errorf("while the witness is away, the witnessed head is %+v", s.Witnessed)
	}
	must(witness.Start(w.ctx))
	witnessed()

	// The database of this moment comes back after the witness has signed more. The file of heads is lost.
	must(node.Term())
	files, err := filepath.Glob(filepath.Join(node.Dir, "kapsel.db*"))
	must(err)
	backup := map[string][]byte{}
	for _, f := range files {
		backup[f], err = os.ReadFile(f)
		must(err)
	}
	old := sent
	must(node.Start(w.ctx))
	send()
	published()
	witnessed()
	must(witness.Kill()) // so that the node is ready after its start
	must(node.Term())
	heads, err := filepath.Glob(filepath.Join(node.Dir, "audit-*.heads"))
	must(err)
	now, err := filepath.Glob(filepath.Join(node.Dir, "kapsel.db*"))
	must(err)
	for _, f := range append(heads, now...) {
		must(os.Remove(f))
	}
	for f, b := range backup {
		must(os.WriteFile(f, b, 0o600))
	}
	if len(heads) != 1 || len(backup) == 0 {
		t.Fatalf("heads %v, backup of %v", heads, files)
	}
	must(node.Start(w.ctx))
	must(witness.Start(w.ctx))
	var why string
	eventually(t, "the node refuses to sign", within(time.Minute), func() bool {
		resp, err := http.Get(node.URL + "/health/ready")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		why = string(b)
		return err == nil && resp.StatusCode == http.StatusServiceUnavailable
	})
	for _, part := range []string{"witness.example/w1", "--accept-rollback", "KAPSEL_AUDIT_WITNESSES"} {
		if !strings.Contains(why, part) {
			t.Errorf("the node is not ready because of %s, which does not say %q", why, part)
		}
	}
	sent = old
	send()
	w.quiet()                   // it is accepted and delivered
	time.Sleep(5 * time.Second) // in which a head would be published
	if s := read(); s.Head == nil || s.Head.Size != int64(old) {
		t.Errorf("after the refusal the head is %+v, want that over %d leaves", s.Head, old)
	}
	resp, err := http.Get(witness.URL + "/health/logs")
	must(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the witness has evidence against the log, although it was shown no head that contradicts another: %s", resp.Status)
	}
}
