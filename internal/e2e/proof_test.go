package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/receipt"
)

// TestProof checks, with the program alone, that a delivery can be proven to somebody who has the key of
// the log and no server, and that the log only grew when the process was killed.
func TestProof(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		body := `{ "invoice": 1042 }`
		w.kapsel("endpoints", "create", "--name", "customer", "--url", w.sink.URL(0), "--subscribe", "publish", "-q")
		prove := func() (attempt, proof string) {
			w.kapsel("publish", "--type", "invoice.paid", "--data", body, "--wait", patience.String())
			delivery := strings.TrimSpace(w.kapsel("deliveries", "list", "--limit", "1", "-q"))
			attempt = strings.TrimSpace(w.kapsel("attempts", "list", delivery, "-q"))
			eventually(t, "the proof of an attempt", patience, func() bool {
				out, err := w.command("proof", attempt).Output()
				proof = string(out)
				return err == nil
			})
			return attempt, proof
		}
		attempt, proof := prove()
		p, err := receipt.ParsePackage([]byte(proof))
		if err != nil {
			t.Fatal(err)
		}
		log := strings.TrimPrefix(strings.SplitN(p.Checkpoint, "\n", 2)[0], "kapsel/")
		var keys struct {
			Data []struct {
				PublicKey string `json:"public_key"`
				Vkey      string
			}
		}
		w.get("/attestation/"+log+"/keys", &keys)
		if len(keys.Data) != 1 {
			t.Fatalf("the log has the keys %v", keys)
		}

		dir := t.TempDir()
		file := func(name, text string) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		good, payload := file("proof.json", proof), file("payload", body)
		verify := func(args ...string) (out string, ok bool) {
			cmd := w.command(append([]string{"verify"}, args...)...)
			cmd.Env = nil // it needs no server
			b, err := cmd.CombinedOutput()
			return string(b), err == nil
		}
		for _, key := range []string{keys.Data[0].PublicKey, keys.Data[0].Vkey} {
			out, ok := verify(good, "--key", key, "--payload", payload, "--request", payload, "--url", w.sink.URL(0))
			if !ok || !strings.Contains(out, attempt) || !strings.Contains(out, "The URL that was given is the one of the record.") {
				t.Errorf("with %s: %s", key, out)
			}
		}
		if out, ok := verify(good, "--key", keys.Data[0].Vkey, "--payload", file("other", body+" ")); ok {
			t.Errorf("another payload fits: %s", out)
		}
		if out, ok := verify(file("changed", strings.Replace(proof, `\"status_code\":200`, `\"status_code\":201`, 1)), "--key", keys.Data[0].Vkey); ok {
			t.Errorf("a changed package is proven: %s", out)
		}
		text := w.kapsel("proof", attempt, "--text")
		if out, ok := verify(file("proof.tlog-proof", text), "--key", keys.Data[0].Vkey); !ok {
			t.Errorf("as text: %s", out)
		}

		if err := w.nodes[0].Kill(); err != nil {
			t.Fatal(err)
		}
		if err := w.nodes[0].Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		_, proof = prove()
		later, err := receipt.ParsePackage([]byte(proof))
		if err != nil {
			t.Fatal(err)
		}
		key, err := receipt.ParseKey(keys.Data[0].Vkey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := later.Verify(key); err != nil {
			t.Error(err)
		}
		was, is := p.InclusionProof, later.InclusionProof
		var grown receipt.ConsistencyProof
		w.get(fmt.Sprintf("/attestation/%s/consistency?from=%d&to=%d", log, was.TreeSize, is.TreeSize), &grown)
		if err := grown.Check(was.RootHash, is.RootHash); err != nil {
			t.Errorf("from %d to %d leaves: %v", was.TreeSize, is.TreeSize, err)
		}
	})
}
