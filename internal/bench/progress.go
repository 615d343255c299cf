package bench

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// Meter shows the progress of a measurement: as a bar that redraws itself on a terminal, else as
// one line per second. It is not safe for concurrent use.
type Meter struct {
	w     io.Writer
	bar   bool
	name  string // name of the current run
	last  harness.Progress
	drawn bool
}

// NewMeter returns a meter that writes to w. It returns nil, which shows nothing, if w is not a
// terminal and lines is false.
func NewMeter(w io.Writer, lines bool) *Meter {
	bar := isTerminal(w)
	if !bar && !lines {
		return nil
	}
	return &Meter{w: w, bar: bar}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// begin starts a run.
func (m *Meter) begin(name string) {
	if m != nil {
		m.name, m.last = name, harness.Progress{}
	}
}

// show is called by Load as OnProgress.
func (m *Meter) show(p harness.Progress) {
	if m == nil {
		return
	}
	interval := p.Elapsed - m.last.Elapsed
	if interval <= 0 || !m.bar && interval < 900*time.Millisecond {
		return
	}
	line := progressLine(m.name, m.last, p)
	m.last = p
	if m.bar {
		fmt.Fprintf(m.w, "\r\x1b[K%s", line)
		m.drawn = true
		return
	}
	fmt.Fprintln(m.w, line)
}

// end removes the bar.
func (m *Meter) end() {
	if m != nil && m.drawn {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.drawn = false
	}
}

// progressLine formats the progress p and the rates since last.
func progressLine(name string, last, p harness.Progress) string {
	const width = 24
	// Acknowledgements fill one half of the bar and deliveries the other. So the bar stops in the
	// middle if the sink does not answer.
	done := float64(p.Sent+p.Delivered) / float64(max(1, 2*p.Events))
	filled := min(int(done*width), width)
	seconds := (p.Elapsed - last.Elapsed).Seconds()
	line := fmt.Sprintf("%-12s [%s%s] %3.0f%%  %6.1fs  acked %s/s  delivered %s/s  waiting %s",
		name, strings.Repeat("#", filled), strings.Repeat(".", width-filled), 100*done, p.Elapsed.Seconds(),
		grouped(int(float64(p.Acked-last.Acked)/seconds)),
		grouped(int(float64(p.Delivered-last.Delivered)/seconds)),
		grouped(max(0, p.Acked-p.Delivered)))
	if p.Errors > 0 {
		line += fmt.Sprintf("  errors %s", grouped(p.Errors))
	}
	return line
}
