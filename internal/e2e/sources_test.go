package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestSources_CommandLine makes a source with two destinations by the command line alone. What is
// posted to its ingest URL arrives at both, also after the process was killed, and the source
// stays as long as they subscribe to it.
func TestSources_CommandLine(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		id := strings.TrimSpace(w.kapsel("sources", "create", "--name", "shop", "--type", "path:$.type", "-q"))
		var source struct {
			IngestURL string `json:"ingest_url"`
		}
		if err := json.Unmarshal([]byte(w.kapsel("sources", "get", "shop", "--json")), &source); err != nil || !strings.HasSuffix(source.IngestURL, "/ingest/"+id) {
			t.Fatalf("the ingest URL of %s is %q: %v", id, source.IngestURL, err)
		}
		billing := strings.TrimSpace(w.kapsel("endpoints", "create", "--name", "billing", "--url", w.sink.URL(0), "--subscribe", "shop:invoice.*", "-q"))
		audit := strings.TrimSpace(w.kapsel("endpoints", "create", "--name", "audit", "--url", w.sink.URL(1), "--subscribe", id, "-q"))
		refunds := strings.TrimSpace(w.kapsel("endpoints", "create", "--name", "refunds", "--url", w.sink.URL(2), "--subscribe", "shop:refund", "-q"))
		if err := w.nodes[0].Kill(); err != nil {
			t.Fatal(err)
		}
		if err := w.nodes[0].Start(w.ctx); err != nil {
			t.Fatal(err)
		}

		const body = `{ "type": "invoice.paid", "invoice": 1042 }`
		resp, err := client.Post(source.IngestURL, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("the ingest answered %s %s %v", resp.Status, answer, err)
		}
		w.quiet()
		var hosts []string
		for _, r := range w.sink.Requests() {
			hosts = append(hosts, r.To.Addr().String())
			if string(r.Body) != body || r.Get("X-Kapsel-Event-Type") != "invoice.paid" {
				t.Errorf("delivered %q with %v", r.Body, r.Header)
			}
		}
		if slices.Sort(hosts); !slices.Equal(hosts, []string{"127.1.0.0", "127.1.0.1"}) {
			t.Errorf("delivered to %v", hosts)
		}

		event := strings.TrimSpace(w.kapsel("events", "list", "--limit", "1", "-q"))
		why := map[string]string{}
		for line := range strings.Lines(w.kapsel("events", "why", event)) {
			endpoint, rest, _ := strings.Cut(line, " ")
			why[endpoint] = rest
		}
		if !strings.Contains(why[billing], "delivered") || !strings.Contains(why[audit], "delivered") || !strings.Contains(why[refunds], "other types") {
			t.Errorf("why: %v", why)
		}
		if shown := w.kapsel("events", "show", event); !strings.Contains(shown, id) || strings.Count(shown, "delivered after 1 attempt") != 2 {
			t.Errorf("shown: %s", shown)
		}

		out, err := w.command("sources", "delete", "shop").CombinedOutput()
		var failed *exec.ExitError
		if !errors.As(err, &failed) || failed.ExitCode() != 1 {
			t.Fatalf("deleted while endpoints subscribe to it: %v %s", err, out)
		}
		for _, word := range []string{"E1010", "billing", "audit", "refunds"} {
			if !strings.Contains(string(out), word) {
				t.Errorf("the refusal does not say %q: %s", word, out)
			}
		}
		w.kapsel("endpoints", "update", "audit", "--subscribe", "none")
		w.kapsel("endpoints", "delete", billing)
		w.kapsel("endpoints", "delete", refunds)
		w.kapsel("sources", "delete", "shop")
		w.kapsel("events", "show", event) // its events stay
	})
}

// TestSources_Listen brings what comes in at a source to a program on the developer's machine, and
// nothing that comes in elsewhere. It needs no endpoint that subscribes to the source.
func TestSources_Listen(t *testing.T) {
	w := newWorld(t, "")
	there, folder := newLocal(t), t.TempDir()
	id := strings.TrimSpace(w.kapsel("sources", "create", "--name", "shop", "--type", "path:$.type", "-q"))
	other := w.endpoint("other", nil)
	post := func(to, body string) (event string) {
		t.Helper()
		resp, err := client.Post(w.nodes[0].URL+"/ingest/"+to, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			EventID string `json:"event_id"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return answer.EventID
	}
	l := w.listenTo(folder, "shop", "--to", there.URL)
	begun(t, folder)
	post(other.ID, `{"type":"other"}`)
	first := post(id, `{"type":"invoice.paid"}`)
	if got := l.next(); got.EventID != first || got.Status != http.StatusAccepted {
		t.Errorf("posted %+v, want %s", got, first)
	}
	there.mu.Lock()
	if there.bodies[first] != `{"type":"invoice.paid"}` || there.header[first].Get("X-Kapsel-Event-Type") != "invoice.paid" {
		t.Errorf("the local program got %q with %v", there.bodies[first], there.header[first])
	}
	there.mu.Unlock()
	there.signed(t, first, secretOf(t, folder))
	if rest := l.interrupt(); len(rest) != 0 {
		t.Errorf("it posted more: %+v", rest)
	}
	post(other.ID, `{"type":"other"}`)
	second := post(id, `{"type":"order.made"}`)
	l = w.listenTo(folder, id, "--to", there.URL) // goes on where it was
	if got := l.next(); got.EventID != second {
		t.Errorf("posted %+v, want %s", got, second)
	}
	if rest := l.interrupt(); len(rest) != 0 {
		t.Errorf("it posted more: %+v", rest)
	}
	there.mu.Lock()
	defer there.mu.Unlock()
	if len(there.bodies) != 2 {
		t.Errorf("the local program got %v", there.bodies)
	}
}
