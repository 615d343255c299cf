package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/receipt"
)

// TestWitness_Once follows a log that forks, from the command line.
func TestWitness_Once(t *testing.T) {
	const origin = "kapsel/000102030405060708090a0b0c0d0e0f"
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	vkey := receipt.Key{Name: origin, Public: key.Public().(ed25519.PublicKey)}.String()
	root := receipt.LeafHash([]byte("a leaf"))
	kapsel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, receipt.Sign(receipt.Checkpoint{Origin: origin, Size: 1, Root: root}, key))
	}))
	defer kapsel.Close()
	dir := t.TempDir()
	t.Setenv("KAPSEL_WITNESS_NAME", "witness.example/w1")
	t.Setenv("KAPSEL_WITNESS_DIR", filepath.Join(dir, "state"))
	once := func(args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		code = run(append([]string{"witness", "--log-level", "error"}, args...), streams{&stdout, &stderr})
		return code, stdout.String(), stderr.String()
	}
	list := filepath.Join(dir, "logs")
	if err := os.WriteFile(list, []byte("# logs\n\n"+vkey+"  "+kapsel.URL+"/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--log", vkey + " " + kapsel.URL, "--once"}, {"--logs", list, "--once"}} {
		if code, out, errs := once(args...); code != 0 || out != "" {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
	root = receipt.LeafHash([]byte("another leaf"))
	code, out, errs := once("--logs", list, "--once")
	if code != 1 || !strings.Contains(out, "ALARM: the log "+origin+" has signed two different heads of 1 leaves") || !strings.Contains(errs, "alarms: 1") {
		t.Errorf("a fork: exit %d, %q, %q", code, out, errs)
	}

	elsewhere := filepath.Join(dir, "elsewhere")
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "--log, or KAPSEL_WITNESS_LOGS (--logs): a witness must know at least one log"},
		{"--log nonsense", "--log: a key is the base64 of 32 bytes"},
		{"--log " + vkey + " --listen nowhere", `KAPSEL_WITNESS_LISTEN (--listen): "nowhere" is not host:port`},
		{"--log " + vkey + " --every 1ms", "--every: 1ms is not between"},
		{"--logs " + filepath.Join(dir, "missing"), "KAPSEL_WITNESS_LOGS (--logs):"},
		{"--log " + vkey + " --name a+b", "KAPSEL_WITNESS_NAME (--name):"},
		{"--log " + vkey + " --once --dir " + elsewhere + " --key-file " + filepath.Join(dir, "state", "witness.key"), "--new-state"},
		{"--log " + vkey + " --once --name other.example", "the state belongs to the witness"},
	} {
		if code, out, errs := once(strings.Fields(c.args)...); code != 2 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %q, %q, want %q", c.args, code, out, errs, c.want)
		}
	}
	for _, text := range []string{vkey + " ftp://kapsel.example", vkey + " " + kapsel.URL + " more", strings.SplitN(vkey, "+", 3)[2] + " " + kapsel.URL, vkey + "," + base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))} {
		if code, out, errs := once("--log", text, "--once"); code != 2 || !strings.Contains(errs, "--log: ") {
			t.Errorf("%s: exit %d, %q, %q", text, code, out, errs)
		}
	}
	if code, out, errs := once("--log", vkey, "--once", "--dir", elsewhere, "--key-file", filepath.Join(dir, "state", "witness.key"), "--new-state"); code != 0 {
		t.Errorf("with --new-state: exit %d, %q, %q", code, out, errs)
	}
}
