package witness

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/kapsel-hq/kapsel/receipt"
)

const origin = "kapsel/000102030405060708090a0b0c0d0e0f"

func seed(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(b)), ed25519.SeedSize)))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// testLog is a log of some leaves.
type testLog struct {
	t      testing.TB
	origin string
	key    ed25519.PrivateKey
	hashes []tlog.Hash
	size   int64
}

// newLog returns a log of size leaves. Those from differs on are others than in a log without.
func newLog(t testing.TB, size, differs int64) *testLog {
	l := &testLog{t: t, origin: origin, key: seed(1)}
	for i := range size {
		leaf := fmt.Sprint(i)
		if i >= differs {
			leaf += " otherwise"
		}
		more, err := tlog.StoredHashes(i, []byte(leaf), tlog.HashReaderFunc(l.read))
		if err != nil {
			t.Fatal(err)
		}
		l.hashes, l.size = append(l.hashes, more...), i+1
	}
	return l
}

func (l *testLog) read(at []int64) (out []tlog.Hash, err error) {
	for _, i := range at {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *testLog) root(size int64) receipt.Hash {
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(l.read))
	if err != nil {
		l.t.Fatal(err)
	}
	return receipt.Hash(root)
}

func (l *testLog) head(size int64) string {
	return receipt.Sign(receipt.Checkpoint{Origin: l.origin, Size: size, Root: l.root(size)}, l.key)
}

func (l *testLog) proof(from, to int64) (hashes []receipt.Hash) {
	if from == 0 || from == to {
		return nil
	}
	proof, err := tlog.ProveTree(to, from, tlog.HashReaderFunc(l.read))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, h := range proof {
		hashes = append(hashes, receipt.Hash(h))
	}
	return hashes
}

func (l *testLog) request(from, to int64) Request {
	return Request{from, l.proof(from, to), l.head(to)}
}

func (l *testLog) publicKey() receipt.Key { return receipt.Key{Name: l.origin, Public: public(l.key)} }

var now = time.Date(2024, 11, 29, 11, 0, 30, 0, time.UTC)

// open returns a witness of the log in a directory.
func open(t testing.TB, dir string, change ...func(*Config)) *Witness {
	t.Helper()
	cfg := Config{
		Name: "witness.example/w1", Key: seed(3), Dir: dir, Fresh: true, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
		Logs: []Log{{Keys: []receipt.Key{{Name: origin, Public: public(seed(1))}}}},
	}
	for _, f := range change {
		f(&cfg)
	}
	w, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// TestAdd checks the answer to each kind of request, over HTTP, as C2SP tlog-witness has it.
func TestAdd(t *testing.T) {
	good, fork := newLog(t, 21, 99), newLog(t, 21, 4)
	text := func(r Request) string { return r.Text() }
	stranger := newLog(t, 21, 99)
	stranger.key = seed(2)
	elsewhere := newLog(t, 21, 99)
	elsewhere.origin = "elsewhere.example/log"
	nobody := newLog(t, 21, 99)
	nobody.origin = "kapsel/000102030405060708090a0b0c0d0e00"
	long := good.request(7, 21)
	long.Proof = make([]receipt.Hash, 64)
	for _, c := range []struct {
		name   string
		first  int64 // the size that the witness remembers
		body   string
		status int
		answer string
		alarm  Kind
	}{
		{"the first head", 0, text(good.request(0, 7)), 200, "— witness.example/w1 ", ""},
		{"a head that grew", 7, text(good.request(7, 21)), 200, "— witness.example/w1 ", ""},
		{"the same head", 7, text(good.request(7, 7)), 200, "— witness.example/w1 ", ""},
		{"a head with more signatures", 7, text(good.request(7, 21)) + "— other.example AAAAAAAAAAAA\n", 200, "— witness.example/w1 ", ""},
		{"a size that is not remembered", 7, text(good.request(3, 21)), 409, "7\n", ""},
		{"a head from before", 7, text(good.request(0, 5)), 409, "7\n", ""},
		{"a first head from a later size", 0, text(good.request(7, 21)), 409, "0\n", ""},
		{"another head of the same size", 7, text(fork.request(7, 7)), 409, "7\n", Forked},
		{"another head of the same size, from a wrong one", 7, text(fork.request(0, 7)), 409, "7\n", Forked},
		{"a fork", 7, text(fork.request(7, 21)), 422, "does not show that the first 7", Forked},
		{"a fork from a power of two", 8, text(fork.request(8, 21)), 422, "does not show that the first 8", ""},
		{"a proof of another size", 7, text(Request{7, good.proof(6, 21), good.head(21)}), 422, "does not show", ""},
		{"no proof", 7, text(Request{7, nil, good.head(21)}), 422, "does not show", ""},
		{"a proof from nothing", 0, text(Request{0, good.proof(7, 21), good.head(21)}), 422, "does not show", ""},
		{"an old size above the head", 7, text(Request{8, nil, good.head(7)}), 400, "is above that of the checkpoint", ""},
		{"another key", 7, text(stranger.request(7, 21)), 403, "signed by none of the keys", ""},
		{"a changed head", 7, strings.Replace(text(good.request(7, 21)), "\n21\n", "\n22\n", 1), 403, "does not fit", ""},
		{"an unknown log", 7, text(elsewhere.request(0, 7)), 404, "does not know the log", ""},
		{"an unknown log of a Kapsel", 7, text(nobody.request(0, 7)), 404, "does not know the log", ""},
		{"64 lines of proof", 7, text(long), 400, "more than 63 lines", ""},
		{"nothing", 7, "", 400, "no empty line", ""},
		{"an old size with a zero in front", 7, "old 07\n\n" + good.head(7), 400, "decimal number", ""},
		{"no old size", 7, "\n" + good.head(7), 400, "the first line is not old", ""},
		{"a proof that is no hash", 7, "old 7\nAAAA\n\n" + good.head(7), 400, "no hash", ""},
		{"no checkpoint", 7, "old 7\n\nhello\n", 400, "not a signed note", ""},
		{"a body without end", 7, text(good.request(7, 21)) + strings.Repeat("x", maxText), 413, "more than 65536 bytes", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := open(t, t.TempDir())
			if c.first > 0 {
				if _, err := w.Add(good.request(0, c.first)); err != nil {
					t.Fatal(err)
				}
			}
			answer := httptest.NewRecorder()
			w.Handler().ServeHTTP(answer, httptest.NewRequest("POST", "/add-checkpoint", strings.NewReader(c.body)))
			if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.answer) || c.status == 409 && (answer.Body.String() != c.answer || answer.Header().Get("Content-Type") != "text/x.tlog.size") {
				t.Errorf("answered %d %q, want %d %q", answer.Code, answer.Body, c.status, c.answer)
			}
			if c.status == 200 {
				_, head, _ := strings.Cut(c.body, "\n\n")
				s, err := receipt.OpenCheckpoint(head+answer.Body.String(), good.publicKey(), w.Key())
				if err != nil || !s.Cosigned(w.Key()) || !s.Cosignatures[0].At.Equal(now) {
					t.Errorf("the answer %q makes %+v, %v", answer.Body, s, err)
				}
			} else if size, _ := w.size(origin); size != c.first {
				t.Errorf("the witness remembers %d leaves, and has cosigned %d", size, c.first)
			}
			alarms := w.Alarms()
			if c.alarm == "" && len(alarms) > 0 || c.alarm != "" && (len(alarms) != 1 || alarms[0].Kind != c.alarm || alarms[0].Had != good.head(c.first) || alarms[0].Got == "") {
				t.Errorf("the alarms are %+v, want %q", alarms, c.alarm)
			}
		})
	}
}

// TestAdd_OneKeyForAllLogs checks that a key without a name is that of every log of a Kapsel, and of nothing
// else.
func TestAdd_OneKeyForAllLogs(t *testing.T) {
	w := open(t, t.TempDir(), func(c *Config) { c.Logs = []Log{{Keys: []receipt.Key{{Public: public(seed(1))}}}} })
	for _, c := range []struct {
		origin string
		status int
	}{{origin, 200}, {"kapsel/000102030405060708090a0b0c0d0e00", 200}, {"kapsel/x", 404}, {"other.example/log", 404}} {
		l := newLog(t, 3, 99)
		l.origin = c.origin
		_, err := w.Add(l.request(0, 3))
		var a *Answered
		if status := map[bool]int{true: 200}[err == nil]; errors.As(err, &a) && a.Status != c.status || err == nil && status != c.status {
			t.Errorf("%s: %v, want %d", c.origin, err, c.status)
		}
	}
}

// TestAdd_TwoKapsels checks that the key of one Kapsel cannot sign for a log of another, nor accuse it, and that
// a key does that is named beside the former one of the same Kapsel.
func TestAdd_TwoKapsels(t *testing.T) {
	first, second, third := receipt.Key{Public: public(seed(1))}, receipt.Key{Public: public(seed(2))}, receipt.Key{Public: public(seed(4))}
	apart := func(c *Config) { c.Logs = []Log{{Keys: []receipt.Key{first}}, {Keys: []receipt.Key{second}}} }
	together := func(c *Config) { c.Logs = []Log{{Keys: []receipt.Key{first, second}}, {Keys: []receipt.Key{third}}} }
	real, longer, fork := newLog(t, 30, 99), newLog(t, 300, 7), newLog(t, 7, 3)
	longer.key, fork.key = seed(2), seed(2)
	refused := func(w *Witness, r Request, what string) {
		t.Helper()
		_, err := w.Add(r)
		var a *Answered
		if !errors.As(err, &a) || a.Status != http.StatusForbidden || len(w.Alarms()) != 0 {
			t.Errorf("%s: %v, alarms %v", what, err, w.Alarms())
		}
	}
	accepted := func(w *Witness, r Request, what string) {
		t.Helper()
		if _, err := w.Add(r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	dir := t.TempDir()
	w := open(t, dir, apart)
	accepted(w, real.request(0, 7), "the first head")
	refused(w, longer.request(7, 300), "a longer log, by the other Kapsel")
	refused(w, fork.request(7, 7), "another head of the same size, by the other Kapsel")
	accepted(w, real.request(7, 9), "the next head")
	w.Close()
	w = open(t, dir, apart)
	refused(w, longer.request(7, 300), "a longer log, by the other Kapsel, after a restart")
	accepted(w, real.request(9, 10), "the next head after a restart")
	w.Close()

	// A release before this one did not keep the key.
	files, err := filepath.Glob(filepath.Join(dir, logsDir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	var k map[string]any
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(k, "key")
	if b, err = json.Marshal(k); err == nil {
		err = os.WriteFile(files[0], b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w = open(t, dir, apart)
	refused(w, longer.request(10, 300), "a longer log, by the other Kapsel, over the state of an earlier release")
	w.Close()
	w = open(t, dir, func(c *Config) { c.Logs = []Log{{Keys: []receipt.Key{second}}} })
	refused(w, longer.request(10, 300), "a longer log, by a Kapsel beside which the first is not named any more")
	w.Close()

	rotated := newLog(t, 30, 99)
	rotated.key = seed(2)
	w = open(t, dir, together)
	accepted(w, rotated.request(10, 12), "the next key of the same Kapsel")
	longer.key = seed(4)
	refused(w, longer.request(12, 300), "a longer log, by a third")
	w.Close()
	// A log that is named has the keys with its name, and those of its Kapsel.
	w = open(t, t.TempDir(), func(c *Config) { together(c); c.Logs = append(c.Logs, Log{Keys: []receipt.Key{real.publicKey()}}) })
	longer.key = seed(4)
	refused(w, longer.request(0, 300), "a first head by another Kapsel than the one whose key is named")
	accepted(w, rotated.request(0, 12), "a first head by the next key of the same Kapsel")
}

// TestAdd_Nothing checks that a log is remembered when its first head is signed, and not before.
func TestAdd_Nothing(t *testing.T) {
	w, l := open(t, t.TempDir(), func(c *Config) { c.Logs[0].Keys[0].Name = "" }), newLog(t, 21, 99)
	for _, r := range []Request{l.request(7, 21), {0, l.proof(7, 21), l.head(21)}} {
		if _, err := w.Add(r); err == nil {
			t.Error("a first head that does not follow from nothing is signed")
		}
	}
	if len(w.logs) != 0 || len(w.of) != 0 {
		t.Errorf("%d logs are remembered, and %d counted", len(w.logs), len(w.of))
	}
	w.of[string(public(seed(1)))] = maxLogs
	_, err := w.Add(l.request(0, 21))
	var a *Answered
	if !errors.As(err, &a) || a.Status != http.StatusForbidden || len(w.logs) != 0 {
		t.Errorf("one log too many: %v, and %d are remembered", err, len(w.logs))
	}
	w.of = map[string]int{string(public(seed(2))): maxLogs}
	if _, err := w.Add(l.request(0, 21)); err != nil {
		t.Errorf("a log of another key than the one with too many: %v", err)
	}
}

// TestProvenOld checks what a consistency proof shows of the smaller tree, for all pairs of small sizes.
func TestProvenOld(t *testing.T) {
	l := newLog(t, 70, 999)
	for to := int64(1); to <= l.size; to++ {
		for from := int64(1); from <= to; from++ {
			proof := l.proof(from, to)
			got, ok := provenOld(proof, from, to, l.root(to))
			if shows := from < to && from&(from-1) != 0; ok != shows || ok && got != l.root(from) {
				t.Errorf("from %d to %d: %v, %v", from, to, got, ok)
			}
			if len(proof) == 0 {
				continue
			}
			proof[len(proof)-1][0] ^= 1
			if _, ok := provenOld(proof, from, to, l.root(to)); ok {
				t.Errorf("from %d to %d: a changed proof shows something", from, to)
			}
			if _, ok := provenOld(proof[1:], from, to, l.root(to)); ok {
				t.Errorf("from %d to %d: a short proof shows something", from, to)
			}
		}
	}
}

// TestState checks that a witness remembers what it has signed, and does not go on without.
func TestState(t *testing.T) {
	dir, l, fork := t.TempDir(), newLog(t, 21, 99), newLog(t, 21, 4)
	w := open(t, dir)
	if _, err := w.Add(l.request(0, 7)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(fork.request(7, 21)); err == nil {
		t.Fatal("a fork was cosigned")
	}
	w.Close()
	// A crash in the middle of keeping a head leaves the new file without its name.
	if err := os.WriteFile(filepath.Join(dir, "logs", "half.json.new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w = open(t, dir, func(c *Config) { c.Fresh = false })
	if _, err := w.Add(l.request(0, 21)); err == nil || err.Error() != "7" {
		t.Errorf("after a restart, a head from nothing: %v", err)
	}
	if _, err := w.Add(l.request(7, 21)); err != nil {
		t.Error(err)
	}
	head, ok, err := w.Head(origin)
	s, e := receipt.OpenCheckpoint(head, l.publicKey(), w.Key())
	if !ok || err != nil || e != nil || s.Size != 21 || !s.Cosigned(w.Key()) {
		t.Errorf("the newest head is %q, %v, %v: %v", head, ok, err, e)
	}
	alarms := w.Alarms()
	if len(alarms) != 1 {
		t.Fatalf("after a restart the alarms are %v", alarms)
	}
	// The evidence can be checked by anybody who has the log's key.
	b, err := os.ReadFile(filepath.Join(dir, "evidence", alarms[0].file))
	var evidence Alarm
	if err == nil {
		err = json.Unmarshal(b, &evidence)
	}
	had, e1 := receipt.OpenCheckpoint(evidence.Had, l.publicKey())
	got, e2 := receipt.OpenCheckpoint(evidence.Got, l.publicKey())
	if err != nil || e1 != nil || e2 != nil {
		t.Fatal(err, e1, e2)
	}
	if old, ok := provenOld(evidence.Proof, had.Size, got.Size, got.Root); !ok || old == had.Root {
		t.Errorf("the evidence %s shows no fork", b)
	}
	if err := os.Remove(filepath.Join(dir, "evidence", alarms[0].file)); err != nil || len(w.Alarms()) != 0 {
		t.Errorf("with the evidence gone the alarms are %v, %v", w.Alarms(), err)
	}
	w.Close()

	refuses := func(what, want string, dir string, change func(*Config)) {
		t.Helper()
		cfg := Config{Name: "witness.example/w1", Key: seed(3), Dir: dir, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
		change(&cfg)
		if w, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", what, err, want)
			if err == nil {
				w.Close()
			}
		}
	}
	refuses("another key", "the state belongs to the witness", dir, func(c *Config) { c.Key = seed(4) })
	refuses("another name", "the state belongs to the witness", dir, func(c *Config) { c.Name = "witness.example/w2" })
	refuses("a lost state", "A witness that forgot must not go on", t.TempDir(), func(c *Config) {})
	files, err := filepath.Glob(filepath.Join(dir, "logs", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	for _, text := range []string{"", "{", `{"origin":"kapsel/1","checkpoint":"nonsense"}`} {
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		refuses("a broken file", "cannot be read", dir, func(c *Config) {})
	}
}

// TestState_Lost checks that a witness does not begin without the heads that it has signed, or with fewer.
func TestState_Lost(t *testing.T) {
	dir := t.TempDir()
	w := open(t, dir, func(c *Config) { c.Logs[0].Keys[0].Name = "" })
	for _, o := range []string{origin, "kapsel/000102030405060708090a0b0c0d0e00"} {
		l := newLog(t, 21, 99)
		l.origin = o
		if _, err := w.Add(l.request(0, 21)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	again := func() error {
		w, err := Open(t.Context(), Config{Name: "witness.example/w1", Key: seed(3), Dir: dir, Now: time.Now, Log: slog.New(slog.DiscardHandler), Logs: w.cfg.Logs})
		if err == nil {
			w.Close()
		}
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, logsDir, "*.json"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	aside := filepath.Join(t.TempDir(), "aside")
	for _, path := range []string{files[0], filepath.Join(dir, logsDir)} {
		if err := os.Rename(path, aside); err != nil {
			t.Fatal(err)
		}
		if err := again(); err == nil || !strings.Contains(err.Error(), "has signed heads of 2 logs") || !strings.Contains(err.Error(), "Restore") {
			t.Errorf("without %s: %v", path, err)
		}
		if err := os.Rename(aside, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := again(); err != nil {
		t.Errorf("with all files again: %v", err)
	}
	// An earlier release did not count, and counting begins with what is there.
	id := filepath.Join(dir, identityFile)
	if err := os.WriteFile(id, []byte(`{"key":"`+w.Key().String()+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Errorf("the state of an earlier release: %v", err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := again(); err == nil {
		t.Error("the state of an earlier release, and then a file is lost: the witness begins")
	}
}

// TestEvidence_CannotBeKept checks that an alarm is there whose evidence cannot be kept, and that the evidence
// is kept once it can be.
func TestEvidence_CannotBeKept(t *testing.T) {
	dir := t.TempDir()
	w, good, fork := open(t, dir), newLog(t, 21, 99), newLog(t, 21, 4)
	if _, err := w.Add(good.request(0, 7)); err != nil {
		t.Fatal(err)
	}
	evidence := filepath.Join(dir, evidenceDir)
	if err := errors.Join(os.RemoveAll(evidence), os.WriteFile(evidence, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.Add(fork.request(0, 7)); err == nil {
			t.Fatal("a fork was cosigned")
		}
		answer := httptest.NewRecorder()
		w.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/health/logs", nil))
		if answer.Code != 503 || len(w.Alarms()) != 1 {
			t.Errorf("without a file: %d, alarms %v", answer.Code, w.Alarms())
		}
	}
	if err := os.Remove(evidence); err != nil {
		t.Fatal(err)
	}
	if alarms := w.Alarms(); len(alarms) != 1 {
		t.Errorf("with a directory again the alarms are %v", alarms)
	}
	files, err := os.ReadDir(evidence)
	if err != nil || len(files) != 1 {
		t.Fatalf("the evidence is in %v, %v", files, err)
	}
	if err := os.Remove(filepath.Join(evidence, files[0].Name())); err != nil || len(w.Alarms()) != 0 {
		t.Errorf("with the evidence gone the alarms are %v, %v", w.Alarms(), err)
	}
}

// TestState_CannotBeKept checks that nothing is signed that cannot be kept.
func TestState_CannotBeKept(t *testing.T) {
	dir, l := t.TempDir(), newLog(t, 21, 99)
	w := open(t, dir)
	if err := os.Rename(filepath.Join(dir, "logs"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	post := func(r Request) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		w.Handler().ServeHTTP(answer, httptest.NewRequest("POST", "/add-checkpoint", strings.NewReader(r.Text())))
		return answer
	}
	if a := post(l.request(0, 7)); a.Code != 503 || strings.Contains(a.Body.String(), "—") {
		t.Errorf("without its directory the witness answers %d %q", a.Code, a.Body)
	}
	if err := os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "logs")); err != nil {
		t.Fatal(err)
	}
	if a := post(l.request(7, 21)); a.Code != 409 || a.Body.String() != "0\n" {
		t.Errorf("a head that was not kept is remembered: %d %q", a.Code, a.Body)
	}
	if a := post(l.request(0, 7)); a.Code != 200 {
		t.Errorf("with its directory again the witness answers %d %q", a.Code, a.Body)
	}
}

// TestEvidence_Bounded checks that who has a log's key cannot fill the disk with evidence.
func TestEvidence_Bounded(t *testing.T) {
	w, l := open(t, t.TempDir()), newLog(t, 5, 99)
	if _, err := w.Add(l.request(0, 5)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxEvidence {
		fork := receipt.Checkpoint{Origin: origin, Size: 5, Root: receipt.Hash{byte(i)}}
		if _, err := w.Add(Request{Old: 5, Checkpoint: receipt.Sign(fork, l.key)}); err == nil {
			t.Fatal("a fork was cosigned")
		}
		if _, err := w.Add(Request{Old: 5, Checkpoint: receipt.Sign(fork, l.key)}); err == nil { // the same once more
			t.Fatal("a fork was cosigned")
		}
	}
	if n := len(w.Alarms()); n != maxEvidence {
		t.Errorf("%d pairs of heads are kept, want %d", n, maxEvidence)
	}
	answer := httptest.NewRecorder()
	w.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/health/logs", nil))
	if answer.Code != 503 || !strings.Contains(answer.Body.String(), "has signed two different heads of 5 leaves") {
		t.Errorf("/health/logs answers %d %q", answer.Code, answer.Body)
	}
}

// kapselOf answers as a Kapsel does for a log that shows some size.
func kapselOf(l **testLog, size *int64) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /attestation/{log}/checkpoint", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, (*l).head(*size)) })
	mux.HandleFunc("GET /attestation/{log}/consistency", func(w http.ResponseWriter, r *http.Request) {
		p := receipt.ConsistencyProof{ProofHashes: []receipt.Hash{}}
		fmt.Sscan(r.FormValue("from"), &p.From)
		fmt.Sscan(r.FormValue("to"), &p.To)
		p.ProofHashes = append(p.ProofHashes, (*l).proof(p.From, p.To)...)
		json.NewEncoder(w).Encode(p)
	})
	return mux
}

// TestFollow checks what a witness makes of the heads that a log shows.
func TestFollow(t *testing.T) {
	good, fork := newLog(t, 40, 99), newLog(t, 40, 4)
	for _, c := range []struct {
		name  string
		then  *testLog
		size  int64
		lost  int
		alarm Kind
		text  string
	}{
		{"nothing new", good, 16, 0, "", ""},
		{"it grew", good, 40, 0, "", ""},
		{"it shrank", good, 15, 1, Shrank, "shows 15 leaves, and has signed a head of 16"},
		{"another history of the same size", fork, 16, 1, Forked, "two different heads of 16 leaves"},
		{"another history that is longer", fork, 40, 1, Forked, "cannot show that the first 16 of its 40 leaves"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log, size := good, int64(16)
			server := httptest.NewServer(kapselOf(&log, &size))
			defer server.Close()
			w := open(t, t.TempDir(), func(cfg *Config) { cfg.Logs[0].URL, cfg.Do = server.URL, server.Client().Do })
			if lost := w.Round(t.Context()); lost != 0 {
				t.Fatalf("%d logs could not be followed", lost)
			}
			log, size = c.then, c.size
			for range shortRounds + 1 { // the alarm is raised once
				if lost := w.Round(t.Context()); lost != c.lost {
					t.Errorf("%d logs could not be followed, want %d", lost, c.lost)
				}
			}
			alarms := w.Alarms()
			if c.alarm == "" && len(alarms) > 0 || c.alarm != "" && (len(alarms) != 1 || alarms[0].Kind != c.alarm || !strings.Contains(alarms[0].Text, c.text) || alarms[0].Had != good.head(16) || alarms[0].Got != c.then.head(c.size)) {
				t.Errorf("the alarms are %+v", alarms)
			}
			want := int64(16)
			if c.lost == 0 {
				want = c.size
			}
			if got, _ := w.size(origin); got != want {
				t.Errorf("the witness remembers %d leaves, want %d", got, want)
			}
		})
	}
}

// TestFollow_Cache checks that a log is not accused of what a cache shows for a while, and that it is when it
// shows less for longer.
func TestFollow_Cache(t *testing.T) {
	log, size := newLog(t, 40, 99), int64(16)
	server := httptest.NewServer(kapselOf(&log, &size))
	defer server.Close()
	w := open(t, t.TempDir(), func(cfg *Config) { cfg.Logs[0].URL, cfg.Do = server.URL, server.Client().Do })
	for _, c := range []struct {
		size          int64
		lost, doubts  int
		alarms        int
		whatItShowsIs string
	}{
		{16, 0, 0, 0, "as it is"}, {15, 1, 1, 0, "old"}, {15, 1, 1, 0, "old still"}, {17, 0, 0, 0, "new"},
		{16, 1, 1, 0, "old again"}, {16, 1, 1, 0, "old"}, {16, 1, 0, 1, "old for too long"},
	} {
		size = c.size
		if lost := w.Round(t.Context()); lost != c.lost || w.Doubts() != c.doubts || len(w.Alarms()) != c.alarms {
			t.Errorf("what the log shows is %s: %d lost, %d doubts, alarms %v", c.whatItShowsIs, lost, w.Doubts(), w.Alarms())
		}
	}
}

// endless is a body that never ends, or never begins.
type endless struct{ io.Reader }

func (endless) Close() error { return nil }

// blocked waits until a request's time is over.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, b.ctx.Err() }

// TestFollow_HostileAnswers checks that no answer of a log costs more than its bounds, accuses the log, or is
// believed.
func TestFollow_HostileAnswers(t *testing.T) {
	good, other := newLog(t, 40, 99), newLog(t, 40, 99)
	other.origin = "kapsel/000102030405060708090a0b0c0d0e00"
	for name, body := range map[string]func(*http.Request) (int, io.Reader){
		"endless":      func(*http.Request) (int, io.Reader) { return 200, iotest.DataErrReader(zeros{}) },
		"never begins": func(r *http.Request) (int, io.Reader) { return 200, blocked{r.Context()} },
		"nothing":      func(*http.Request) (int, io.Reader) { return 200, strings.NewReader("") },
		"a page":       func(*http.Request) (int, io.Reader) { return 200, strings.NewReader("<html>\n\n</html>") },
		"an error":     func(*http.Request) (int, io.Reader) { return 500, strings.NewReader(strings.Repeat("no", 1000)) },
		"another log":  func(*http.Request) (int, io.Reader) { return 200, strings.NewReader(other.head(40)) },
		"not signed": func(*http.Request) (int, io.Reader) {
			return 200, strings.NewReader(strings.Replace(good.head(40), "\n40\n", "\n41\n", 1))
		},
		"a head, and no proof":  func(r *http.Request) (int, io.Reader) { return headOr(r, good, "") },
		"a proof that is none":  func(r *http.Request) (int, io.Reader) { return headOr(r, good, `[1]`) },
		"a proof of other size": func(r *http.Request) (int, io.Reader) { return headOr(r, good, `{"from":1,"to":2,"proof_hashes":[]}`) },
		"a proof of any length": func(r *http.Request) (int, io.Reader) {
			return headOr(r, good, `{"from":7,"to":40,"proof_hashes":["`+strings.Repeat(receipt.Hash{}.String()+`","`, 64)+receipt.Hash{}.String()+`"]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := open(t, dir, func(cfg *Config) {
					cfg.Logs[0].URL = "http://kapsel.example"
					cfg.Do = func(r *http.Request) (*http.Response, error) {
						status, b := body(r)
						return &http.Response{StatusCode: status, Body: endless{b}, Request: r}, nil
					}
				})
				if _, err := w.Add(good.request(0, 7)); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if lost := w.Round(t.Context()); lost != 1 {
					t.Errorf("%d logs could not be followed", lost)
				}
				if took := time.Since(began); took > 3*exchange {
					t.Errorf("it took %v", took)
				}
				if size, _ := w.size(origin); size != 7 || len(w.Alarms()) != 0 {
					t.Errorf("the witness remembers %d leaves, with the alarms %v", size, w.Alarms())
				}
			})
		})
	}
}

// zeros is a reader without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// headOr answers with a head, and with a text for the proof.
func headOr(r *http.Request, l *testLog, proof string) (int, io.Reader) {
	if strings.HasSuffix(r.URL.Path, "/checkpoint") {
		return 200, strings.NewReader(l.head(40))
	}
	return 200, strings.NewReader(proof)
}

// TestClient checks what a log makes of the answers of a witness.
func TestClient(t *testing.T) {
	l, key := newLog(t, 21, 99), KeyOf("witness.example/w1", seed(3))
	line := func(name string, k ed25519.PrivateKey, size int64) string {
		s, err := receipt.Cosign(l.head(size), name, k, now)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := line("witness.example/w1", seed(3), 21)
	for _, c := range []struct {
		name   string
		status int
		kind   string
		body   string
		want   string // the line, or part of the error
		size   int64
	}{
		{"a cosignature", 200, "", good, good, 0},
		{"several lines", 200, "", line("other.example", seed(4), 21) + good + line("witness.example/w1", seed(4), 21), good, 0},
		{"of another head", 200, "", line("witness.example/w1", seed(3), 20), "without a signature", 0},
		{"of another key", 200, "", line("witness.example/w1", seed(4), 21), "without a signature", 0},
		{"nothing", 200, "", "", "without a signature", 0},
		{"without a line end", 200, "", strings.TrimSuffix(good, "\n"), "without a signature", 0},
		{"a conflict", 409, "text/x.tlog.size", "7\n", "remembers 7 leaves", 7},
		{"a conflict without a size", 409, "text/plain", "7\n", "without the size", 0},
		{"a conflict that is no number", 409, "text/x.tlog.size", "-7\n", "without the size", 0},
		{"a refusal", 403, "", "no\n", `answered 403: "no"`, 0},
		{"a long refusal", 500, "", strings.Repeat("no", 9999), `answered 500: "nono`, 0},
		{"too long", 200, "", strings.Repeat(good, 9999), "more than 65536 bytes", 0},
		{"a redirect", 302, "", "", "answered 302", 0},
	} {
		client := &Client{URL: "http://witness.example", Key: key, Do: func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			if req := l.request(7, 21); err != nil || string(b) != req.Text() || r.URL.String() != "http://witness.example/add-checkpoint" || r.Method != "POST" {
				t.Errorf("the request is %s %s %q", r.Method, r.URL, b)
			}
			return &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(strings.NewReader(c.body))}, nil
		}}
		got, err := client.Add(t.Context(), l.request(7, 21), l.publicKey())
		var a *Answered
		if errors.As(err, &a) && a.Size != c.size || err == nil && got != c.want || err != nil && (!strings.Contains(err.Error(), c.want) || len(err.Error()) > 500) {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

// FuzzParseRequest checks that what is parsed has one spelling.
func FuzzParseRequest(f *testing.F) {
	l := newLog(f, 21, 99)
	for _, r := range []Request{l.request(0, 1), l.request(7, 21)} {
		f.Add(r.Text())
	}
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := ParseRequest(text); err == nil && r.Text() != text {
			t.Errorf("%q is read as %q", text, r.Text())
		}
	})
}
