package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/kapsel-hq/kapsel/client"
)

// topCmd shows the overview in a terminal.
type topCmd struct {
	ofTenant
	Every time.Duration `default:"2s" placeholder:"DURATION" help:"How often to ask, 1s to 1h (default ${default})."`
	Once  bool          `help:"Print the overview once and exit, as when the output is no terminal."`
}

// Help says what it shows and has examples.
func (topCmd) Help() string {
	return `Shows what comes in and goes out a second, and the endpoints: those that need somebody first, with why.
Counts are of the tenant of the key; with the admin key and no --tenant they are all tenants' together.

Rates are differences between two looks. What an endpoint's attempts came to is of this hour and the
one before; it is read for the first 20 endpoints of the list.

In a terminal: arrows or j and k move through the list, p pauses, q ends.

Examples:
  kapsel top
  kapsel top --tenant acme --every 10s
  kapsel top --once --json`
}

// topRows is how many endpoints' stats a look reads.
const topRows = 20

func (c topCmd) do(ctx context.Context, s *session) error {
	if c.Every < time.Second || c.Every > time.Hour {
		return settingError("--every: must be 1s to 1h")
	}
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	first, err := look(ctx, s.Client, tenant, nil)
	if err != nil {
		return err
	}
	in, out, tty := terminal(s.out)
	if tty && !c.Once && !s.JSON && !s.Quiet {
		m := topModel{look: func(since *overview) (*overview, error) { return look(ctx, s.Client, tenant, since) },
			explain: s.advise, every: c.Every, server: s.Server, now: first}
		_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler()).Run()
		if errors.Is(err, tea.ErrProgramKilled) { // ctx has ended
			err = nil
		}
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.Every):
	}
	now, err := look(ctx, s.Client, tenant, first)
	switch {
	case err != nil:
		return err
	case s.JSON:
		return s.own(now)
	case s.Quiet:
		for _, e := range now.Endpoints {
			if e.Why != "" {
				if err := printed(fmt.Fprintln(s.out, e.ID)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return printed(io.WriteString(s.out, strings.Join(now.lines(s.Server), "\n")+"\n"))
}

// terminal returns the terminal that the program reads keys from and writes to, if it has both.
func terminal(w io.Writer) (in, out *os.File, ok bool) {
	out, ok = w.(*os.File)
	return os.Stdin, out, ok && isTerminal(out) && isTerminal(os.Stdin)
}

// overview is what one look found.
type overview struct {
	At        time.Time    `json:"at"`
	Accepted  *float64     `json:"accepted_per_second"`  // null: a first look, or the day has changed
	Attempted *float64     `json:"attempted_per_second"` // likewise
	Delivered *float64     `json:"delivered_per_second"` // likewise
	Backlog   int64        `json:"backlog"`
	Oldest    *time.Time   `json:"oldest_waiting_at"`
	Open      int          `json:"circuits_open"` // half-open ones included
	Endpoints []topRow     `json:"endpoints"`
	used      client.Usage // today
	day       string       // the day that used is of
	past      [3][]float64 // the latest rates of what was accepted, attempted and delivered
}

// topRow is an endpoint in an overview.
type topRow struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	State       string         `json:"state"`
	Circuit     string         `json:"circuit"`
	Backlog     *int64         `json:"backlog"`
	Oldest      *time.Time     `json:"oldest_waiting_at"`
	Attempts    *int64         `json:"attempts"` // of this hour and the one before; null: not read
	SuccessRate *float64       `json:"success_rate"`
	Latency     client.Latency `json:"latency"`
	Why         string         `json:"why"` // what somebody should look at; "": nothing
	urgency     int            // 0: nothing is wrong
}

// look asks the service for an overview. Rates are those since an earlier look, if there is one.
func look(ctx context.Context, api *client.Client, tenant string, since *overview) (*overview, error) {
	o := &overview{At: time.Now(), Endpoints: []topRow{}}
	usage, err := api.GetUsage(ctx, client.GetUsageFilter{TenantID: tenant, Since: o.At})
	if err != nil {
		return nil, err
	}
	if n := len(usage.Days); n > 0 {
		d := usage.Days[n-1]
		o.day, o.used = d.Day, client.Usage{Events: d.Events, Attempts: d.Attempts, Delivered: d.Delivered}
	}
	o.rates(since)
	for e, err := range api.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: tenant}) {
		if err != nil {
			return nil, err
		}
		o.add(&e)
	}
	o.sort()
	for i := range o.Endpoints[:min(topRows, len(o.Endpoints))] {
		row := &o.Endpoints[i]
		hour := o.At.UTC().Truncate(time.Hour)
		stats, err := api.GetEndpointStats(ctx, row.ID, client.GetEndpointStatsFilter{Since: hour.Add(-time.Hour), Interval: "hour"})
		var refused *client.Error
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
			continue // it was deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		row.count(&stats.Total)
	}
	o.sort()
	return o, nil
}

// rates sets the rates since an earlier look, which may be nil.
func (o *overview) rates(since *overview) {
	if since == nil {
		return
	}
	o.past = since.past
	seconds := o.At.Sub(since.At).Seconds()
	if since.day != o.day || seconds <= 0 {
		return
	}
	for i, r := range []struct {
		to       **float64
		now, was int64
	}{
		{&o.Accepted, o.used.Events, since.used.Events},
		{&o.Attempted, o.used.Attempts, since.used.Attempts},
		{&o.Delivered, o.used.Delivered, since.used.Delivered},
	} {
		rate := max(0, float64(r.now-r.was)) / seconds
		*r.to = &rate
		past := append(slices.Clone(o.past[i]), rate)
		o.past[i] = past[max(0, len(past)-20):]
	}
}

// add enters an endpoint, with what its state says.
func (o *overview) add(e *client.Endpoint) {
	row := topRow{ID: e.ID, Name: e.Name, State: e.State, Circuit: e.Circuit.State, Backlog: e.Backlog, Oldest: e.OldestWaitingAt}
	if e.Backlog != nil {
		o.Backlog += *e.Backlog
	}
	if e.OldestWaitingAt != nil && (o.Oldest == nil || e.OldestWaitingAt.Before(*o.Oldest)) {
		o.Oldest = e.OldestWaitingAt
	}
	if row.Circuit != client.CircuitStateClosed {
		o.Open++
	}
	waits := e.Backlog != nil && *e.Backlog > 0
	switch {
	case e.State == client.EndpointStateDisabled && there(e.DisabledReason) == "gone":
		row.why(5, "disabled: the destination answered 410 Gone; resume it when it is back")
	case e.State == client.EndpointStateDisabled:
		row.why(5, "disabled by the operator")
	case row.Circuit == client.CircuitStateOpen:
		row.why(4, "the circuit is open: the destination fails"+probedIn(e.Circuit.RetryAt))
	case row.Circuit == client.CircuitStateHalfOpen:
		row.why(3, "the circuit is half-open: a few deliveries try the destination")
	case e.ThrottledUntil != nil && e.ThrottledUntil.After(o.At):
		row.why(2, "the destination asked for a pause; the next is sent "+ago(*e.ThrottledUntil))
	case e.State == client.EndpointStatePaused && waits:
		row.why(1, "paused, and deliveries wait")
	case waits && e.OldestWaitingAt != nil && o.At.Sub(*e.OldestWaitingAt) > time.Minute:
		row.why(2, "deliveries have been due for "+roughly(o.At.Sub(*e.OldestWaitingAt)))
	}
	o.Endpoints = append(o.Endpoints, row)
}

func probedIn(at *time.Time) string {
	if at == nil || time.Until(*at) <= 0 {
		return ""
	}
	return "; tried again " + ago(*at)
}

// why notes what somebody should look at, if nothing more urgent is noted.
func (r *topRow) why(urgency int, text string) {
	if urgency > r.urgency {
		r.urgency, r.Why = urgency, text
	}
}

// count enters what an endpoint's attempts came to.
func (r *topRow) count(s *client.Stats) {
	r.Attempts, r.SuccessRate, r.Latency = &s.Attempts.Total, s.SuccessRate, s.Latency
	if s.SuccessRate == nil || *s.SuccessRate >= 0.95 {
		return
	}
	a := s.Attempts
	causes := []struct {
		n    int64
		name string
	}{{a.NoAnswers, "no answer"}, {a.Timeouts, "time-outs"}, {a.ServerErrors, "answered 5xx"}, {a.ClientErrors, "answered 3xx or 4xx"}}
	worst := slices.MaxFunc(causes, func(a, b struct {
		n    int64
		name string
	}) int {
		return cmp.Compare(a.n, b.n)
	})
	r.why(2, fmt.Sprintf("%d of %d attempts failed, most: %s", a.Total-a.Succeeded-a.Unknown, a.Total-a.Unknown, worst.name))
}

// sort puts what needs somebody first, then what waits, then by name.
func (o *overview) sort() {
	slices.SortStableFunc(o.Endpoints, func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.urgency, a.urgency), cmp.Compare(deref(b.Backlog), deref(a.Backlog)),
			cmp.Compare(deref(b.Attempts), deref(a.Attempts)), strings.Compare(a.Name, b.Name))
	})
}

func deref(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// topHead is how many of an overview's lines stand above the list of endpoints.
const topHead = 7

// lines returns the overview as text: topHead lines, then one an endpoint.
func (o *overview) lines(server string) []string {
	waiting := "nothing waits"
	if o.Backlog > 0 {
		waiting = fmt.Sprintf("%d waiting", o.Backlog)
		if o.Oldest != nil && o.Oldest.Before(o.At) {
			waiting += ", the oldest due " + roughly(o.At.Sub(*o.Oldest)) + " ago"
		}
	}
	wrong := 0
	for _, e := range o.Endpoints {
		if e.urgency > 0 {
			wrong++
		}
	}
	lines := []string{
		"kapsel " + clean(server) + "  " + o.At.Format(time.TimeOnly),
		rateLine("accepted", o.Accepted, o.past[0]),
		rateLine("attempts", o.Attempted, o.past[1]),
		rateLine("delivered", o.Delivered, o.past[2]),
		fmt.Sprintf("%s; %d of %d endpoints need somebody, %d with an open circuit", waiting, wrong, len(o.Endpoints), o.Open),
		"",
	}
	rows := [][]string{{"ENDPOINT", "STATE", "CIRCUIT", "WAITING", "ATTEMPTS", "SUCCESS", "P50", "P99", "WHY"}}
	for _, e := range o.Endpoints {
		success := "-"
		if e.SuccessRate != nil {
			success = fmt.Sprintf("%.1f%%", 100**e.SuccessRate)
		}
		rows = append(rows, []string{short(clean(e.Name)), e.State, e.Circuit, or(e.Backlog), or(e.Attempts), success,
			milliseconds(e.Latency.P50Ms), milliseconds(e.Latency.P99Ms), e.Why})
	}
	var text strings.Builder
	table(&text, rows)
	return append(lines, strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")...)
}

// short returns a name as it fits into the list.
func short(name string) string {
	if all := []rune(name); len(all) > 28 {
		return string(all[:27]) + "…"
	}
	return name
}

func milliseconds(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return time.Duration(*ms * float64(time.Millisecond)).Round(time.Millisecond).String()
}

// rateLine returns a rate with how it moved, as a line of bars whose highest is the highest rate.
func rateLine(name string, rate *float64, past []float64) string {
	if rate == nil {
		return fmt.Sprintf("%-10s %9s/s", name, "-")
	}
	bars := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, r := range past {
		b.WriteRune(bars[int(r/max(slices.Max(past), 1)*float64(len(bars)-1))])
	}
	return fmt.Sprintf("%-10s %9.1f/s  %s", name, *rate, b.String())
}

// topModel is the overview in a terminal.
type topModel struct {
	look    func(since *overview) (*overview, error)
	explain func(error) error // says what the user can do
	every   time.Duration
	server  string

	now     *overview
	trouble string // why the latest look failed
	paused  bool
	top     int // the first endpoint that is shown
	height  int
}

// looked is what a look came to.
type looked struct {
	found *overview
	err   error
}

// due says that it is time for the next look.
type due struct{}

// Init implements tea.Model.
func (m topModel) Init() tea.Cmd { return m.wait() }

func (m topModel) wait() tea.Cmd { return tea.Tick(m.every, func(time.Time) tea.Msg { return due{} }) }

// Update implements tea.Model.
func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.height = msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return m, tea.Quit
		case "p", "space":
			m.paused = !m.paused
		case "j", "down":
			m.top++
		case "k", "up":
			m.top--
		case "pgdown":
			m.top += m.rows()
		case "pgup":
			m.top -= m.rows()
		case "g", "home":
			m.top = 0
		case "G", "end":
			m.top = len(m.now.Endpoints)
		}
	case due:
		if m.paused {
			return m, m.wait()
		}
		since, look := m.now, m.look
		return m, func() tea.Msg {
			found, err := look(since)
			return looked{found, err}
		}
	case looked:
		m.trouble = ""
		if msg.err != nil {
			m.trouble = m.explain(msg.err).Error()
		} else {
			m.now = msg.found
		}
		m.top = m.bounded()
		return m, m.wait()
	}
	m.top = m.bounded()
	return m, nil
}

// rows returns how many endpoints the window has room for.
func (m topModel) rows() int { return max(1, m.height-topHead-1) }

// bounded returns top as it can be, for the endpoints and the window of now.
func (m topModel) bounded() int { return max(0, min(m.top, len(m.now.Endpoints)-m.rows())) }

// View implements tea.Model.
func (m topModel) View() tea.View {
	lines := m.now.lines(m.server)
	head, list := lines[:topHead], lines[topHead:]
	shown := append(slices.Clone(head), list[m.top:min(len(list), m.top+m.rows())]...)
	foot := "q ends  p pauses  j k move"
	switch {
	case m.trouble != "":
		foot = clean(m.trouble)
	case m.paused:
		foot = "paused: p goes on"
	}
	for len(shown) < m.height-1 {
		shown = append(shown, "")
	}
	shown = append(shown, foot)
	v := tea.NewView(strings.Join(shown, "\n"))
	v.AltScreen = true
	v.WindowTitle = "kapsel top"
	return v
}
