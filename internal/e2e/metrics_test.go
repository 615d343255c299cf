package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// metric sums a metric of a node over the series whose labels contain a text.
func metric(t *testing.T, node *harness.Process, name, labels string) (sum float64) {
	t.Helper()
	resp, err := client.Get(node.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || series != name && !strings.HasPrefix(series, name+"{") || !strings.Contains(series, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// delivered returns how many deliveries a node has delivered since it started.
func delivered(t *testing.T, node *harness.Process) int {
	return int(metric(t, node, "kapsel_deliveries_total", `outcome="delivered"`))
}

// TestMetrics_Documented checks that docs/operating.md says what each alert and each exported metric means,
// and that each alert says what to do first.
func TestMetrics_Documented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "kapsel.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	if described := bytes.Count(rules, []byte("description: ")); len(alerts) == 0 || described != len(alerts) {
		t.Errorf("%d of %d alerts say what to do", described, len(alerts))
	}
	for _, a := range alerts {
		if !bytes.Contains(page, []byte("`"+a[1]+"`")) {
			t.Errorf("the page lacks the alert %s", a[1])
		}
	}
	w := newWorld(t, "", "KAPSEL_LEDGER=on")
	names := regexp.MustCompile(`(?m)^# HELP (kapsel_\w+)`).FindAllStringSubmatch(exposition(t, w.nodes[0]), -1)
	if len(names) == 0 {
		t.Error("nothing is exported")
	}
	for _, name := range names {
		if !bytes.Contains(page, []byte("`"+name[1])) {
			t.Errorf("the page lacks the metric %s", name[1])
		}
	}
}

// exposition returns what a node exports, as Prometheus reads it.
func exposition(t *testing.T, node *harness.Process) string {
	t.Helper()
	resp, err := client.Get(node.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMetrics_BoundedSeries checks that ten thousand endpoints, which get and fail to deliver events, make as
// many series as one does.
func TestMetrics_BoundedSeries(t *testing.T) {
	w := newWorld(t, "")
	if err := w.sink.SetMode(harness.Fail); err != nil {
		t.Fatal(err)
	}
	series := func() (names []string) {
		for line := range strings.Lines(exposition(t, w.nodes[0])) {
			if name, _, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
				names = append(names, name)
			}
		}
		return names
	}
	use := func(n int) {
		t.Helper()
		var all errgroup.Group
		all.SetLimit(32)
		for i := range n {
			all.Go(func() error {
				ep, err := w.nodes[0].CreateEndpoint(w.ctx, w.tenant, map[string]any{"name": fmt.Sprint("bounded ", i), "url": w.sink.URL(i), "retry": map[string]any{"max_attempts": 1}})
				if err != nil || i%100 != 0 {
					return err
				}
				resp, err := client.Post(ep.IngestURL, "application/json", strings.NewReader("{}"))
				if err == nil {
					resp.Body.Close()
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		w.quiet()
	}
	use(1)
	one := series()
	use(count(1_000, 10_000))
	for _, name := range series() {
		if !slices.Contains(one, name) {
			t.Errorf("with more endpoints there is the series %s", name)
		}
	}
}

// TestMetrics_AlertsAndDashboard checks that Prometheus accepts the alerts and the dashboard's
// expressions of deploy/, that each alert fires when it must, and that a node exports each metric that
// they name from its start, before anything has come in.
func TestMetrics_AlertsAndDashboard(t *testing.T) {
	rules := filepath.Join("..", "..", "deploy", "prometheus")
	promtool := func(args ...string) {
		t.Helper()
		cmd := exec.Command("promtool", args...)
		cmd.Dir = rules
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s (Debian's package prometheus): %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	promtool("check", "rules", "kapsel.rules.yml")
	promtool("test", "rules", "kapsel_test.yml")

	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "kapsel.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var exprs []rule
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$job", "kapsel", "$__rate_interval", "5m").Replace(target.Expr)
			exprs = append(exprs, rule{fmt.Sprintf("panel:%d", len(exprs)), expr})
		}
	}
	if len(exprs) == 0 {
		t.Fatal("the dashboard shows nothing")
	}
	asRules, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": exprs}}}) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.rules.yml")
	if err := os.WriteFile(file, asRules, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool("check", "rules", file)

	alerts, err := os.ReadFile(filepath.Join(rules, "kapsel.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "")
	exported := exposition(t, w.nodes[0])
	named := regexp.MustCompile(`\b(kapsel|process)_[a-z_]+(\{[a-z]+="[A-Za-z0-9_]+"\})?`)
	texts := strings.NewReplacer(`{job="kapsel"}`, "", `job="kapsel",`, "").Replace(string(alerts) + strings.ReplaceAll(string(asRules), `\"`, `"`))
	for _, m := range slices.Compact(slices.Sorted(slices.Values(named.FindAllString(texts, -1)))) {
		if strings.HasPrefix(m, "kapsel_witness_") { // of kapsel witness, a process of its own
			continue
		}
		if !strings.Contains(exported, "\n"+m) {
			t.Errorf("no metric begins with %s", m)
		}
	}
}
