//go:build (linux || darwin) && (amd64 || arm64)

package tigerbeetle

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/ledger"
	"github.com/kapsel-hq/kapsel/internal/ledger/ledgertest"
)

// libraryFile returns where TigerBeetle's library is: KAPSEL_LEDGER_CLIENT, or where scripts/tools puts
// it; "" if it is not there.
func libraryFile(t *testing.T) string {
	path := os.Getenv("KAPSEL_LEDGER_CLIENT")
	if path == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			path = filepath.Join(cache, "kapsel", "tigerbeetle-0.17.9", "libtb_client.so")
		}
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("KAPSEL_LEDGER_CLIENT") != "" {
			t.Fatal(err)
		}
		t.Log("not run: TigerBeetle's client library is not here; scripts/tools says where it looks for it")
		return ""
	}
	return path
}

// TestEcho sends the largest requests through the library, in the mode in which it sends back what it
// got, and without a server.
func TestEcho(t *testing.T) {
	path := libraryFile(t)
	if path == "" {
		return
	}
	c, err := open(path, "3000", [16]byte{15: 7}, func(l *library) func(*[4]uint64, *[16]byte, *byte, uint32, uintptr, uintptr) int32 { return l.initEcho })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{1, 100, ledger.MaxBatch} {
		sent := make([]byte, size*n)
		rand.Read(sent)
		got, err := c.request(t.Context(), createTransfers, sent)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent, got) {
			t.Errorf("%d transfers came back otherwise", n)
		}
	}
	if _, err := c.request(t.Context(), createTransfers, make([]byte, size*(ledger.MaxBatch+2))); err == nil {
		t.Error("a request may have any size")
	}
	sent := ledger.Transfer{ID: ledger.ID{1, 15: 2}, Debit: ledger.ID{3, 15: 4}, Credit: ledger.ID{5, 15: 6}, Event: ledger.ID{7, 15: 8}, At: 9, Version: 10, Code: 11}
	back, err := transfers(c.request(t.Context(), createTransfers, appendTransfer(nil, &sent)))
	if err != nil || len(back) != 1 || back[0].Transfer != sent {
		t.Errorf("a transfer came back as %+v, error %v", back, err)
	}
}

// TestNoServer checks that a request to a cluster that is away ends, and that the client can be closed
// with the request under way.
func TestNoServer(t *testing.T) {
	path := libraryFile(t)
	if path == "" {
		return
	}
	c, err := Open(path, "127.0.0.1:1", [16]byte{15: 7})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Balances(t.Context(), []ledger.ID{{15: 1}}); err == nil {
		t.Error("nobody answered")
	}
	c.Close()
	if _, err := c.Balances(t.Context(), []ledger.ID{{15: 1}}); err == nil {
		t.Error("a closed client answered")
	}
	if _, err := Open(path, "no address", [16]byte{15: 7}); err == nil {
		t.Error("a wrong address was taken")
	}
}

// TestServer runs the table of answers against a real server, so that the fake cannot drift unseen.
func TestServer(t *testing.T) {
	addresses := os.Getenv("KAPSEL_TEST_TIGERBEETLE")
	if addresses == "" {
		t.Log("not run: KAPSEL_TEST_TIGERBEETLE names no TigerBeetle of cluster 1")
		return
	}
	path := libraryFile(t)
	if path == "" {
		t.Fatal("the client library is not here")
	}
	c, err := Open(path, addresses, [16]byte{15: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ledgertest.CheckAnswers(t, c)
}
