package e2e

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/witness"
	"github.com/kapsel-hq/kapsel/receipt"
)

// history is a log that grows in the test, with one history of several.
type history struct {
	t      *testing.T
	key    ed25519.PrivateKey
	name   string
	hashes []tlog.Hash
	size   int64
}

const historyOrigin = "kapsel/000102030405060708090a0b0c0d0e0f"

// grow appends leaves. The first common ones are the same in all histories.
func (h *history) grow(to, common int64) {
	for i := h.size; i < to; i++ {
		leaf := fmt.Sprint("leaf ", i)
		if i >= common {
			leaf += h.name
		}
		more, err := tlog.StoredHashes(i, []byte(leaf), tlog.HashReaderFunc(h.read))
		if err != nil {
			h.t.Fatal(err)
		}
		h.hashes = append(h.hashes, more...)
	}
	h.size = to
}

func (h *history) read(at []int64) (out []tlog.Hash, err error) {
	for _, i := range at {
		out = append(out, h.hashes[i])
	}
	return out, nil
}

// request returns what posts the head of a size to a witness that remembers old leaves.
func (h *history) request(old, size int64) witness.Request {
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(h.read))
	if err != nil {
		h.t.Fatal(err)
	}
	r := witness.Request{Old: old, Checkpoint: receipt.Sign(receipt.Checkpoint{Origin: historyOrigin, Size: size, Root: receipt.Hash(root)}, h.key)}
	if old > 0 && old < size {
		proof, err := tlog.ProveTree(size, old, tlog.HashReaderFunc(h.read))
		if err != nil {
			h.t.Fatal(err)
		}
		for _, p := range proof {
			r.Proof = append(r.Proof, receipt.Hash(p))
		}
	}
	return r
}

// TestWitness_Killed checks that a witness never signs two heads that contradict each other, however often it
// is killed, when a log shows one history to some and another to others.
func TestWitness_Killed(t *testing.T) {
	const common, longest = 5, 300
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	logKey := receipt.Key{Name: historyOrigin, Public: key.Public().(ed25519.PublicKey)}
	addr, err := harness.FreeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := harness.StartServer(t.Context(), dir, "witness", program(t), addr[0], "witness", "--name", "witness.example/w1", "--dir", "state", "--listen", addr[0], "--log", logKey.String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	out, err := os.ReadFile(p.Output)
	if err != nil {
		t.Fatal(err)
	}
	vkey, _, _ := strings.Cut(string(out[strings.Index(string(out), "witness.example/w1+"):]), "\n")
	witnessKey, err := receipt.ParseKey(strings.Trim(vkey, `"}`))
	if err != nil {
		t.Fatalf("the witness printed %s: %v", out, err)
	}
	client := &witness.Client{Do: client.Do, URL: p.URL, Key: witnessKey}
	var mu sync.Mutex
	signed := map[string]map[int64]bool{} // by history
	stop := make(chan struct{})
	var posters sync.WaitGroup
	for _, name := range []string{" here", " there"} {
		h := &history{t: t, key: key, name: name}
		h.grow(longest, common)
		signed[name] = map[int64]bool{}
		posters.Go(func() {
			old := int64(0)
			for size := int64(common + 1); size <= longest; {
				select {
				case <-stop:
					return
				default:
				}
				_, err := client.Add(t.Context(), h.request(min(old, size), size), logKey)
				var a *witness.Answered
				switch {
				case err == nil:
					mu.Lock()
					signed[name][size] = true
					mu.Unlock()
					old, size = size, size+1
				case errors.As(err, &a) && a.Status == 409 && a.Size != old: // as a log does that has forgotten, or forked
					old, size = a.Size, max(size, a.Size)
				case errors.As(err, &a):
					return // this history is refused
				default: // the witness is away
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	for range count(4, 40) {
		time.Sleep(time.Duration(rand.Int64N(int64(150 * time.Millisecond))))
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a head after the last kill", patience, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(signed[" here"])+len(signed[" there"]) > 0
	})
	close(stop)
	posters.Wait()
	// The histories have only the first leaves in common, and no head of those was posted.
	if a, b := len(signed[" here"]), len(signed[" there"]); a > 0 && b > 0 {
		t.Errorf("the witness has signed %d heads of one history and %d of the other", a, b)
	}
}
