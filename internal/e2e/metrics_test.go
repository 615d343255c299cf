package e2e

import (
	"bufio"
	"strconv"
	"strings"
	"testing"

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
