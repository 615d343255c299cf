package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// local is a program on the developer's machine, and the requests that it got.
type local struct {
	*httptest.Server
	mu     sync.Mutex
	bodies map[string]string      // by event
	header map[string]http.Header // by event
}

func newLocal(t *testing.T) *local {
	l := &local{bodies: map[string]string{}, header: map[string]http.Header{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		defer l.mu.Unlock()
		id := r.Header.Get("X-Kapsel-Event-Id")
		l.bodies[id], l.header[id] = string(body), r.Header
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(l.Close)
	return l
}

// signed checks that the program's request for an event is signed with a secret, and with no other.
func (l *local) signed(t *testing.T, event, secret string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := signature.Request{Method: http.MethodPost, Header: l.header[event], Body: []byte(l.bodies[event])}
	for text, ok := range map[string]bool{secret: true, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw": false} {
		v, err := signature.New(kapsel.Verification{Provider: "standard-webhooks"}, []signature.Key{{Value: []byte(text)}}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if verdict, err := v.Verify(r, time.Now()); verdict.Valid != ok {
			t.Errorf("checked with %s: %+v, %v; the header is %v", text, verdict, err, r.Header)
		}
	}
	if id := r.Header.Get("Webhook-Id"); id != event {
		t.Errorf("webhook-id is %s, want %s", id, event)
	}
}

// secretOf returns the secret that kapsel listen keeps in a folder.
func secretOf(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(folder + "/kapsel/listen/*.json")
	if err != nil || len(files) != 1 {
		t.Fatalf("the folder has %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		SigningSecret string `json:"signing_secret"`
	}
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	return kept.SigningSecret
}

// heard is what kapsel listen prints for an event.
type heard struct {
	EventID     string `json:"event_id"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"`
	Status      int    `json:"status"`
	Error       string `json:"error"`
}

// listening is a running kapsel listen.
type listening struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan heard // closed at its end
	said  *bytes.Buffer
}

// listen starts kapsel listen for an endpoint and waits until it follows the stream. It keeps its position in the
// folder.
func (w *world) listen(ep harness.Endpoint, to, folder string, args ...string) *listening {
	w.t.Helper()
	return w.listenTo(folder, append([]string{"--endpoint", ep.ID, "--to", to}, args...)...)
}

// listenTo is listen with the command's own arguments.
func (w *world) listenTo(folder string, args ...string) *listening {
	w.t.Helper()
	l := &listening{t: w.t, lines: make(chan heard, 10_000), said: &bytes.Buffer{}}
	l.cmd = exec.Command(program(w.t), append([]string{"listen", "--json"}, args...)...)
	l.cmd.Env = []string{"XDG_CACHE_HOME=" + folder, "KAPSEL_URL=" + w.nodes[0].URL, "KAPSEL_API_KEY=" + w.nodes[0].AdminKey}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	l.cmd.Stderr = l.said
	if err := l.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(l.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var h heard
			if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
				h.Error = lines.Text()
			}
			l.lines <- h
		}
	}()
	w.t.Cleanup(func() {
		l.cmd.Process.Kill()
		l.cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("kapsel listen said:\n%s", l.said)
		}
	})
	return l
}

// begun waits until the folder has a position: the stream has begun.
func begun(t *testing.T, folder string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		files, err := os.ReadDir(folder + "/kapsel/listen")
		for _, f := range files {
			if info, err := f.Info(); err == nil && strings.HasSuffix(f.Name(), ".json") {
				if info.Mode().Perm() != 0o600 {
					t.Fatalf("%s has mode %v", f.Name(), info.Mode())
				}
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("kapsel listen has kept no place: %v", err)
		}
	}
}

// next returns the next event that kapsel listen prints.
func (l *listening) next() heard {
	l.t.Helper()
	select {
	case h, ok := <-l.lines:
		if !ok {
			l.t.Fatalf("kapsel listen ended")
		}
		return h
	case <-time.After(patience):
		l.t.Fatal("kapsel listen prints nothing")
	}
	return heard{}
}

// interrupt ends kapsel listen as Ctrl-C does, and returns what it still prints.
func (l *listening) interrupt() (rest []heard) {
	l.t.Helper()
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		l.t.Fatal(err)
	}
	for h := range l.lines {
		rest = append(rest, h)
	}
	if err := l.cmd.Wait(); err != nil {
		l.t.Errorf("kapsel listen ended with %v", err)
	}
	return rest
}

// TestListen_EveryEventOnce checks that kapsel listen prints each webhook once, with the local
// program's answer, and misses none, although the server is killed and kapsel listen is ended and
// started again meanwhile.
func TestListen_EveryEventOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		there, folder := newLocal(t), t.TempDir()
		ep, other := w.endpoint("listened", nil), w.endpoint("other", nil)
		l := w.listen(ep, there.URL, folder)
		begun(t, folder)

		req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, w.nodes[0].URL+"/ingest/"+ep.ID, strings.NewReader("a=1"))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"Content-Type": "application/x-www-form-urlencoded", "X-Custom": "kept", "Authorization": "Bearer theirs",
			"X-Api-Key": "theirs", "X-Forwarded-For": "1.2.3.4", "webhook-signature": "v1,forged", "Idempotency-Key": "k",
		} {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			EventID string `json:"event_id"`
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		first := l.next()
		if want := (heard{answer.EventID, "application/x-www-form-urlencoded", 3, 202, ""}); first != want {
			t.Errorf("printed %+v, want %+v", first, want)
		}
		there.mu.Lock()
		h := there.header[answer.EventID]
		if there.bodies[answer.EventID] != "a=1" || h.Get("X-Custom") != "kept" || h.Get("Content-Type") != "application/x-www-form-urlencoded" ||
			h.Get("Idempotency-Key") != "k" || h.Get("X-Kapsel-Original-Timestamp") == "" {
			t.Errorf("the local program got %q with %v", there.bodies[answer.EventID], h)
		}
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Forwarded-For"} {
			if h.Get(name) != "" {
				t.Errorf("the local program got %s: %s", name, h.Get(name))
			}
		}
		there.mu.Unlock()
		secret := secretOf(t, folder)
		there.signed(t, answer.EventID, secret)

		s, noise := w.send(4, ep, 5*time.Millisecond), w.send(1, other, 5*time.Millisecond)
		shown := []heard{first}
		for kill := range count(2, 10) {
			eventually(t, "more events are accepted", patience, func() bool { return s.acked() >= (kill+1)*100 })
			if err := w.nodes[0].Kill(); err != nil {
				t.Fatal(err)
			}
			if err := w.nodes[0].Start(w.ctx); err != nil {
				t.Fatal(err)
			}
			shown = append(shown, l.next())
			if kill == 0 { // it goes on from where it is interrupted
				shown = append(shown, l.interrupt()...)
				if !strings.Contains(l.said.String(), secret) {
					t.Errorf("the secret is not printed: %s", l.said)
				}
				l = w.listen(ep, there.URL, folder)
				shown = append(shown, l.next()) // before the next kill: it does not wait for a server at its start
			}
		}
		s.end()
		noise.end()
		for len(shown) < s.acked()+1 {
			shown = append(shown, l.next())
		}
		shown = append(shown, l.interrupt()...)

		if !strings.Contains(l.said.String(), secret) {
			t.Errorf("the second time another secret is printed: %s", l.said)
		}
		times := map[string]int{}
		for _, h := range shown {
			if times[h.EventID]++; h.Status != 202 || h.Error != "" {
				t.Errorf("printed %+v", h)
			}
		}
		for key, id := range s.events {
			if times[id] != 1 {
				t.Errorf("event %s (key %s) was shown %d times", id, key, times[id])
			}
		}
		if len(times) != len(s.events)+1 {
			t.Errorf("%d events were shown, want %d", len(times), len(s.events)+1)
		}
		t.Logf("%d events", len(times))
	})
}

// TestListen_LocalProgramIsDown checks that kapsel listen says so and goes on with the next event.
func TestListen_LocalProgramIsDown(t *testing.T) {
	w := newWorld(t, "")
	there, folder := newLocal(t), t.TempDir()
	ep := w.endpoint("listened", nil)
	nobody := httptest.NewServer(nil)
	nobody.Close()
	l := w.listen(ep, nobody.URL, folder)
	begun(t, folder)
	w.post(ep, 1)
	missed := l.next()
	if missed.Status != 0 || missed.Error != "the connection was refused" {
		t.Errorf("printed %+v", missed)
	}
	l.interrupt()
	l = w.listen(ep, there.URL, folder)
	w.post(ep, 2) // the first again, which is a duplicate, and another
	if got := l.next(); got.EventID == missed.EventID || got.Status != 202 {
		t.Errorf("printed %+v after %+v", got, missed)
	}
	l.interrupt()
	l = w.listen(ep, there.URL, folder, "--after", "0")
	if got := l.next(); got.EventID != missed.EventID || got.Status != 202 {
		t.Errorf("from the beginning it printed %+v, want %s", got, missed.EventID)
	}
	l.interrupt()

	w.quiet()
	w.kapsel("events", "erase", missed.EventID)
	l = w.listen(ep, there.URL, folder, "--after", "0")
	if got := l.next(); got.EventID != missed.EventID || got.Error != "the event's contents were erased" {
		t.Errorf("of an erased event it printed %+v", got)
	}
}
