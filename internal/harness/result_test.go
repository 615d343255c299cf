package harness

import (
	"testing"
	"time"
)

func TestHistogram_Percentiles(t *testing.T) {
	h := newHistogram()
	for i := 1; i <= 10_000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	got := h.latency()
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"p50", got.P50, 5000}, {"p90", got.P90, 9000}, {"p99", got.P99, 9900},
		{"p999", got.P999, 9990}, {"max", got.Max, 10_000},
	} {
		if d := c.got/c.want - 1; d < -0.001 || d > 0.001 {
			t.Errorf("%s = %v, want %v within 0.1 %%", c.name, c.got, c.want)
		}
	}
	if got := newHistogram().latency(); got != (Latency{}) {
		t.Errorf("latency of nothing = %v", got)
	}
	h = newHistogram()
	h.add(-time.Second)
	h.add(48 * time.Hour)
	if got := h.latency(); got.P50 != 0 || got.Max < 3.59e6 {
		t.Errorf("out of range: %v", got)
	}
}
