package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// Report is the result of a whole measurement. Its JSON names are stable.
type Report struct {
	Command  string   `json:"command"` // command line, without secrets
	Machine  Machine  `json:"machine"`
	Settings Settings `json:"settings"`
	// Targets holds the measured gateways, in their order; the relay is the first if it was measured.
	Targets []Target `json:"targets"`
	// Ratio is Kapsel's median delivered_per_s divided by the relay's, and AckRatio the same of
	// ack_per_s. Ratios holds the ratio of each round. They are 0 and empty without the relay.
	Ratio    float64   `json:"ratio,omitempty"`
	AckRatio float64   `json:"ack_ratio,omitempty"`
	Ratios   []float64 `json:"ratios,omitempty"`
}

// Settings describes the load.
type Settings struct {
	Events      int          `json:"events"` // per run
	Size        int          `json:"size"`   // bytes
	Connections int          `json:"connections"`
	Rate        float64      `json:"rate"` // events per second; 0: a closed loop
	Keys        bool         `json:"keys"`
	Endpoints   int          `json:"endpoints"`
	Runs        int          `json:"runs"`
	Sink        harness.Mode `json:"sink"`
	Database    string       `json:"database"` // sqlite, postgres, or "" for a gateway that runs elsewhere
}

// Target is a gateway and its runs.
type Target struct {
	Name string           `json:"name"` // "relay", "kapsel" or "gateway"
	Runs []harness.Result `json:"runs"`
	// Lost, Duplicates and Errors are sums over all runs.
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"`
	Errors     int `json:"errors"`
	// Each rate and percentile is the median over the runs, the lower one of two. PeakRSSMiB is the
	// largest of all runs.
	AckPerS       float64         `json:"ack_per_s"`
	DeliveredPerS float64         `json:"delivered_per_s"`
	AckMS         harness.Latency `json:"ack_ms"`
	E2EMS         harness.Latency `json:"e2e_ms"`
	AfterAckMS    harness.Latency `json:"after_ack_ms"`
	PeakRSSMiB    float64         `json:"peak_rss_mib,omitempty"`
}

// summarize computes the target's figures from its runs.
func (t *Target) summarize() {
	middle := func(value func(harness.Result) float64) float64 {
		values := make([]float64, len(t.Runs))
		for i, r := range t.Runs {
			values[i] = value(r)
		}
		return median(values)
	}
	latency := func(of func(harness.Result) harness.Latency) harness.Latency {
		return harness.Latency{
			P50:  middle(func(r harness.Result) float64 { return of(r).P50 }),
			P90:  middle(func(r harness.Result) float64 { return of(r).P90 }),
			P99:  middle(func(r harness.Result) float64 { return of(r).P99 }),
			P999: middle(func(r harness.Result) float64 { return of(r).P999 }),
			Max:  middle(func(r harness.Result) float64 { return of(r).Max }),
		}
	}
	t.Lost, t.Duplicates, t.Errors, t.PeakRSSMiB = 0, 0, 0, 0
	for _, r := range t.Runs {
		t.Lost += r.Lost
		t.Duplicates += r.Duplicates
		t.Errors += r.Errors
		t.PeakRSSMiB = max(t.PeakRSSMiB, r.PeakRSSMiB)
	}
	t.AckPerS = middle(func(r harness.Result) float64 { return r.AckPerS })
	t.DeliveredPerS = middle(func(r harness.Result) float64 { return r.DeliveredPerS })
	t.AckMS = latency(func(r harness.Result) harness.Latency { return r.AckMS })
	t.E2EMS = latency(func(r harness.Result) harness.Latency { return r.E2EMS })
	t.AfterAckMS = latency(func(r harness.Result) harness.Latency { return r.AfterAckMS })
}

// target returns the target with a name, which it adds if necessary.
func (r *Report) target(name string) *Target {
	i := slices.IndexFunc(r.Targets, func(t Target) bool { return t.Name == name })
	if i < 0 {
		i = len(r.Targets)
		r.Targets = append(r.Targets, Target{Name: name})
	}
	return &r.Targets[i]
}

// summarize computes the report's figures from the targets' runs.
func (r *Report) summarize() {
	for i := range r.Targets {
		r.Targets[i].summarize()
	}
	if len(r.Targets) != 2 || r.Targets[0].Name != relayName {
		return
	}
	relay, other := r.Targets[0], r.Targets[1]
	r.Ratio = ratio(other.DeliveredPerS, relay.DeliveredPerS)
	r.AckRatio = ratio(other.AckPerS, relay.AckPerS)
	r.Ratios = nil
	for i := range min(len(relay.Runs), len(other.Runs)) {
		r.Ratios = append(r.Ratios, ratio(other.Runs[i].DeliveredPerS, relay.Runs[i].DeliveredPerS))
	}
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Check returns an error if a gateway lost or duplicated an acknowledged event, or acknowledged
// nothing. The relay promises nothing, so its losses are not errors.
func (r *Report) Check() error {
	for _, t := range r.Targets {
		acked := 0
		for _, run := range t.Runs {
			acked += run.Acked
		}
		switch {
		case acked == 0:
			first := "no answer was 2xx"
			for _, run := range t.Runs {
				first = cmp.Or(run.FirstError, first)
			}
			return fmt.Errorf("%s acknowledged nothing: %s", t.Name, first)
		case t.Name != relayName && t.Lost+t.Duplicates > 0:
			return fmt.Errorf("%s lost %d and duplicated %d of %d acknowledged events", t.Name, t.Lost, t.Duplicates, acked)
		}
	}
	return nil
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s\n\n", r.Settings)
	r.writeTable(b)
	if r.Ratio > 0 {
		rounds := make([]string, len(r.Ratios))
		for i, v := range r.Ratios {
			rounds[i] = fmt.Sprintf("%.2f", v)
		}
		fmt.Fprintf(b, "\nratio     %.2f of the relay's deliveries, %.2f of its acknowledgements (rounds: %s)\n",
			r.Ratio, r.AckRatio, strings.Join(rounds, " "))
	} else {
		b.WriteString("\n")
	}
	m := r.Machine
	fmt.Fprintf(b, "machine   %s\n", join(m.CPU, counted(m.Cores, "core"), m.Kernel, m.Filesystem))
	fmt.Fprintf(b, "versions  %s\n", join("kapsel "+m.Kapsel, m.Go))
	fmt.Fprintf(b, "command   %s\n", r.Command)
	for _, t := range r.Targets {
		for i, run := range t.Runs {
			if run.Output != "" {
				fmt.Fprintf(b, "output    of %s, run %d: %s\n", t.Name, i+1, run.Output)
			}
		}
	}
	if m.Filesystem == "tmpfs" {
		b.WriteString("\nThe data was on a file system in memory, where syncing is free: choose another with --dir.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// join joins the parts that are not empty with commas.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

func (s Settings) String() string {
	loop := "closed loop"
	if s.Rate > 0 {
		loop = fmt.Sprintf("open loop at %g/s", s.Rate)
	}
	parts := []string{
		fmt.Sprintf("%s events of %s bytes", grouped(s.Events), grouped(s.Size)),
		counted(s.Connections, "connection"),
		loop,
		counted(s.Endpoints, "endpoint"),
	}
	if s.Keys {
		parts = append(parts, "a key each")
	}
	if s.Sink != harness.OK {
		parts = append(parts, "sink: "+string(s.Sink))
	}
	if s.Database != "" {
		parts = append(parts, s.Database)
	}
	if s.Runs > 1 {
		parts = append(parts, fmt.Sprintf("median of %d runs", s.Runs))
	}
	return strings.Join(parts, ", ")
}

// writeTable writes a row for each figure and a column for each target.
func (r *Report) writeTable(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	defer tw.Flush() // never fails on a strings.Builder
	row := func(name string, value func(Target) string) {
		// Pad the first cell here, because the others are aligned right.
		fmt.Fprintf(tw, "%-18s\t", name)
		for _, t := range r.Targets {
			fmt.Fprintf(tw, "%s\t", value(t))
		}
		fmt.Fprintln(tw)
	}
	count := func(name string, value func(Target) int) {
		row(name, func(t Target) string { return grouped(value(t)) })
	}
	sum := func(t Target, of func(harness.Result) int) (n int) {
		for _, run := range t.Runs {
			n += of(run)
		}
		return n
	}
	latency := func(name string, of func(Target) harness.Latency) {
		row(name+" p50 ms", func(t Target) string { return millis(of(t).P50) })
		row("  p90", func(t Target) string { return millis(of(t).P90) })
		row("  p99", func(t Target) string { return millis(of(t).P99) })
		row("  p99.9", func(t Target) string { return millis(of(t).P999) })
		row("  max", func(t Target) string { return millis(of(t).Max) })
	}
	row("", func(t Target) string { return t.Name })
	count("acknowledged/s", func(t Target) int { return int(t.AckPerS + 0.5) })
	if r.Settings.Sink == harness.OK {
		count("delivered/s", func(t Target) int { return int(t.DeliveredPerS + 0.5) })
	}
	count("sent", func(t Target) int { return sum(t, func(r harness.Result) int { return r.Sent }) })
	count("acknowledged", func(t Target) int { return sum(t, func(r harness.Result) int { return r.Acked }) })
	count("errors", func(t Target) int { return t.Errors })
	if r.Settings.Sink == harness.OK {
		count("delivered", func(t Target) int { return sum(t, func(r harness.Result) int { return r.Delivered }) })
		count("lost", func(t Target) int { return t.Lost })
		count("duplicates", func(t Target) int { return t.Duplicates })
	}
	latency("ack", func(t Target) harness.Latency { return t.AckMS })
	if r.Settings.Sink == harness.OK {
		latency("end to end", func(t Target) harness.Latency { return t.E2EMS })
		latency("ack to sink", func(t Target) harness.Latency { return t.AfterAckMS })
	}
	row("peak memory MiB", func(t Target) string {
		if t.PeakRSSMiB == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f", t.PeakRSSMiB)
	})
}

// millis formats a latency with three digits.
func millis(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f", ms)
	default:
		return grouped(int(ms + 0.5))
	}
}

// grouped formats a number with commas between thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted formats a number with its noun.
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return grouped(n) + " " + thing
}

// CommandLine formats the arguments of a command for a report. It leaves out passwords in URLs and
// the values of NAME=value if the name suggests a secret, and quotes arguments if necessary.
func CommandLine(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		a = withoutSecret(a)
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$&|;<>()*?`") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

func withoutSecret(arg string) string {
	flag, value := "", arg
	if strings.HasPrefix(arg, "--") {
		if f, v, ok := strings.Cut(arg, "="); ok {
			flag, value = f+"=", v
		}
	}
	if name, _, ok := strings.Cut(value, "="); ok && !strings.Contains(name, "/") {
		for _, word := range []string{"KEY", "SECRET", "PASSWORD", "TOKEN"} {
			if strings.Contains(strings.ToUpper(name), word) {
				return flag + name + "=xxxxx"
			}
		}
		if name == "DATABASE_URL" {
			flag, value = flag+name+"=", value[len(name)+1:]
		}
	}
	if name, _, ok := strings.Cut(value, ":"); ok {
		switch strings.ToLower(name) {
		case "authorization", "cookie", "x-api-key", "api-key":
			return flag + name + ": xxxxx"
		}
	}
	if u, err := url.Parse(value); err == nil && u.User != nil {
		value = u.Redacted()
	}
	return flag + value
}
