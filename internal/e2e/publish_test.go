package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// command returns a command of the real program beside the first node, with the admin key.
func (w *world) command(args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.CommandContext(w.ctx, w.bin, args...)
	cmd.Dir = w.t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "KAPSEL_URL=" + w.nodes[0].URL, "KAPSEL_API_KEY=" + w.nodes[0].AdminKey}
	return cmd
}

// kapsel runs a command and returns what it prints.
func (w *world) kapsel(args ...string) string {
	w.t.Helper()
	cmd := w.command(args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("kapsel %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// TestPublish_CommandLine publishes to three of five endpoints, by their subscriptions, with the
// command line alone.
func TestPublish_CommandLine(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		for i, subscription := range []string{"publish:invoice.paid", "publish:invoice.*", "publish", "publish:invoice.created,order.*", "publish:invoice"} {
			w.kapsel("endpoints", "create", "--name", fmt.Sprint("customer", i), "--url", w.sink.URL(i), "--subscribe", subscription, "-q")
		}
		body := `{ "invoice": 1042 }`
		said := w.kapsel("publish", "--type", "invoice.paid", "--data", body, "--id", "1042", "--wait", patience.String())
		if n := strings.Count(said, "delivered after 1 attempt"); n != 3 {
			t.Errorf("it printed %q", said)
		}
		event := strings.TrimSpace(w.kapsel("publish", "--type", "invoice.paid", "--data", "{}", "--id", "1042", "-q"))
		if !strings.HasPrefix(said, event) {
			t.Errorf("published again it is %q, and was %q", event, said)
		}
		w.quiet()
		var hosts []string
		for _, r := range w.sink.Requests() {
			hosts = append(hosts, r.To.Addr().String())
			if string(r.Body) != body || r.Get("X-Kapsel-Event-Type") != "invoice.paid" || r.EventID != event || r.Get("Content-Type") != "application/json" {
				t.Errorf("delivered %q with %v", r.Body, r.Header)
			}
		}
		slices.Sort(hosts)
		if fmt.Sprint(hosts) != "[127.1.0.0 127.1.0.1 127.1.0.2]" {
			t.Errorf("delivered to %v", hosts)
		}
	})
}

// TestPublish_KillUnderLoad kills the process again and again while events are published, each
// with an id, until each is answered. No acknowledged event is lost, each id has one event, and
// each event has all of its deliveries.
func TestPublish_KillUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for i := range 3 {
			fields := map[string]any{"url": w.sink.URL(1000 + i), "subscriptions": []any{map[string]any{"source": "publish", "event_types": []string{"load.*"}}}}
			for name, value := range gentle {
				fields[name] = value
			}
			w.endpoint(fmt.Sprint("subscriber", i), fields)
		}
		p := w.publish(4, 20*time.Millisecond)
		w.killAgain(count(2, 20))
		p.end()
		w.quiet()
		delivered := w.deliveredTo()
		for id, event := range p.events {
			if len(delivered[event]) != 3 {
				t.Errorf("%s of %s was acknowledged and is delivered to %d of 3 endpoints", event, id, len(delivered[event]))
			}
		}
		if len(delivered) != len(p.events) {
			t.Errorf("%d events are delivered, %d ids were published", len(delivered), len(p.events))
		}
		t.Logf("%d published", len(p.events))
	})
}

// publisher publishes until it is stopped.
type publisher struct {
	w    *world
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	events map[string]string // id → event, of those that were answered; guarded by mu
}

// publish is send for events of the world's tenant, in batches.
func (w *world) publish(n int, pause time.Duration) *publisher {
	p := &publisher{w: w, events: map[string]string{}, stop: make(chan struct{})}
	for i := range n {
		p.wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-p.stop:
					return
				case <-time.After(time.Duration(rand.Int64N(int64(2*pause) + 1))):
					p.batch(fmt.Sprint(i, "-", k))
				}
			}
		})
	}
	return p
}

// end stops publishing and waits for what is under way.
func (p *publisher) end() {
	close(p.stop)
	p.wg.Wait()
}

// batch publishes three events until all are answered with an event.
func (p *publisher) batch(id string) {
	events := []any{}
	for i := range 3 {
		events = append(events, map[string]any{"type": "load.test", "data": i, "id": fmt.Sprint(id, ".", i)})
	}
	for try := 0; try < 600; try++ {
		var answer struct {
			Data []struct {
				Status int
				Event  *struct{ ID string }
			}
		}
		err := p.w.nodes[0].API(p.w.ctx, http.MethodPost, "/v1/events?tenant_id="+p.w.tenant, map[string]any{"events": events}, &answer)
		missing := err != nil
		for i, item := range answer.Data {
			if item.Event == nil {
				missing = true
				continue
			}
			p.mu.Lock()
			key := fmt.Sprint(id, ".", i)
			if was := p.events[key]; was != "" && was != item.Event.ID {
				p.w.t.Errorf("%s is %s, and was %s", key, item.Event.ID, was)
			}
			p.events[key] = item.Event.ID
			p.mu.Unlock()
		}
		if !missing {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.w.t.Errorf("%s could not be published", id)
}
