package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestApps_CommandLine publishes to customers with the command line alone: what is published to an
// app goes to its endpoints by their types and to nobody else's, what does not fit its type's schema
// goes nowhere, and a restart changes none of it.
func TestApps_CommandLine(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		schema := filepath.Join(t.TempDir(), "invoice.schema.json")
		if err := os.WriteFile(schema, []byte(`{"required":["invoice"],"properties":{"invoice":{"type":"integer"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		w.kapsel("event-types", "create", "--name", "invoice.paid", "--schema", "1="+schema, "--validate", "refuse", "-q")
		for i, app := range []string{"ada", "ada", "bob"} {
			if i != 1 {
				w.kapsel("apps", "create", "--uid", app, "-q")
			}
			w.kapsel("endpoints", "create", "--app", app, "--name", fmt.Sprint(app, i), "--url", w.sink.URL(i), "--subscribe", []string{"publish:invoice.*", "publish", "publish"}[i], "-q")
		}
		w.kapsel("endpoints", "create", "--name", "nobody's", "--url", w.sink.URL(3), "--subscribe", "publish", "-q")

		publish := func(app, eventType, data string) string {
			return w.kapsel("publish", "--app", app, "--type", eventType, "--data", data, "--id", "1042", "--wait", patience.String())
		}
		to := map[string][]string{} // the destinations that an event is for
		for _, said := range []struct {
			text string
			to   []string
		}{
			{publish("ada", "invoice.paid", `{"invoice":1042}`), []string{"127.1.0.0", "127.1.0.1"}},
			{publish("bob", "invoice.paid", `{"invoice":1042}`), []string{"127.1.0.2"}}, // the same id, of another app
		} {
			if n := strings.Count(said.text, "delivered after 1 attempt"); n != len(said.to) {
				t.Errorf("it printed %q, want %d deliveries", said.text, len(said.to))
			}
			event, _, _ := strings.Cut(said.text, " ")
			to[event] = said.to
		}
		cmd := w.command("publish", "--app", "ada", "--type", "invoice.paid", "--data", `{"invoice":"x"}`)
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("/data/invoice")) || !bytes.Contains(out, []byte("E1014")) {
			t.Errorf("what does not fit: %v, %s", err, out)
		}

		w.killAgain(1)
		said := w.kapsel("publish", "--app", "ada", "--type", "report.ready", "--data", "{}", "--wait", patience.String())
		event, _, _ := strings.Cut(said, " ")
		to[event] = []string{"127.1.0.1"}
		if again := strings.TrimSpace(w.kapsel("publish", "--app", "ada", "--type", "invoice.paid", "--data", `{"other":1}`, "--id", "1042", "-q")); to[again] == nil {
			t.Errorf("published again it is %q", again)
		}
		w.quiet()
		got := map[string][]string{}
		for _, r := range w.sink.Requests() {
			got[r.EventID] = append(got[r.EventID], r.To.Addr().String())
		}
		for event := range got {
			slices.Sort(got[event])
		}
		if fmt.Sprint(got) != fmt.Sprint(to) {
			t.Errorf("delivered to %v, want %v", got, to)
		}
		if n := len(strings.Fields(w.kapsel("events", "list", "--app", "ada", "-q"))); n != 2 {
			t.Errorf("%d events of the app are listed, want 2", n)
		}
	})
}
