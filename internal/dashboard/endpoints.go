package dashboard

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (d *Dashboard) endpoints() {
	d.get("/endpoints", access.Read, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseEndpointID)
		if err != nil {
			return result{}, err
		}
		rows, err := d.Manage.ListEndpoints(p.ctx, p.caller, p.tenant, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		rows, next := more(rows, func(e kapsel.Endpoint) string { return e.ID.String() })
		days, err := d.Manage.DayStats(p.ctx, p.caller, rows)
		if err != nil {
			return result{}, err
		}
		list := make([]endpointView, len(rows))
		for i, e := range rows {
			list[i].day = days[e.ID]
			if list[i].Endpoint, err = d.Manage.Describe(p.ctx, e); err != nil {
				return result{}, err
			}
		}
		return p.show("/endpoints", "Endpoints", endpointsPage(p, list, next))
	})
	d.get("/endpoints/{id}", access.Read, func(p *page) (result, error) {
		v, err := d.endpointDetail(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/endpoints", v.Name, endpointPage(p, v))
	})
	for action, do := range map[string]func(*page, kapsel.EndpointID) error{
		"pause": func(p *page, id kapsel.EndpointID) error {
			_, err := d.Manage.PauseEndpoint(p.ctx, p.caller, id)
			return err
		},
		"resume": func(p *page, id kapsel.EndpointID) error {
			_, err := d.Manage.ResumeEndpoint(p.ctx, p.caller, id)
			return err
		},
		"reset": func(p *page, id kapsel.EndpointID) error {
			_, err := d.Manage.ResetCircuit(p.ctx, p.caller, id)
			return err
		},
	} {
		d.post("/endpoints/{id}/"+action, access.Write, func(p *page) (result, error) {
			id, err := kapsel.ParseEndpointID(p.params("id"))
			if err != nil {
				return result{}, errNoPage
			}
			return result{goTo: string(p.link("/endpoints/" + id.String()))}, do(p, id)
		})
	}
	d.post("/endpoints/{id}/test", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseEndpointID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		r, err := d.Manage.TestEndpoint(p.ctx, p.caller, id)
		return result{goTo: string(p.link("/events/" + r.Event.ID.String()))}, err
	})
	d.post("/endpoints/{id}/rotate", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseEndpointID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		e, err := d.Manage.RotateSecret(p.ctx, p.caller, id, manage.DefaultOverlap)
		if err != nil {
			return result{}, err
		}
		return p.show("/endpoints", "New signing secret", secretPage(p, &e, false))
	})
}

// endpointView is an endpoint of a list with how it does.
type endpointView struct {
	manage.Endpoint
	day kapsel.Stats // of the last 24 hours
}

// health returns how an endpoint does in one word, and why.
func (v *endpointView) health() (word, why string) { return health(&v.Endpoint, &v.day) }

// failures returns how many attempts were counted as failures of the destination.
func failures(s *kapsel.Stats) int64 { return s.Attempts() - s.Outcomes[kapsel.Succeeded] }

// health returns how an endpoint does: a word for a badge, and the reason in words.
func health(e *manage.Endpoint, s *kapsel.Stats) (word, why string) {
	failed, all := failures(s), s.Attempts()
	most := mostOf(s)
	switch {
	case e.State == kapsel.EndpointDisabled && e.DisabledReason == kapsel.DisabledGone:
		return "disabled", "The destination answered 410 Gone. Nothing is sent until the endpoint is resumed."
	case e.State == kapsel.EndpointDisabled:
		return "disabled", "The operator disabled it. Nothing is sent until the admin resumes it."
	case e.Breaker.State == kapsel.CircuitOpened:
		why := "The destination fails"
		if most != "" {
			why += ": " + most
		}
		return "circuit open", why + ". Deliveries wait and use up no attempts."
	case e.Breaker.State == kapsel.CircuitHalfOpen:
		return "probing", "The destination failed, and single deliveries try whether it works again."
	case e.State == kapsel.EndpointPaused:
		return "paused", "A person paused it. Its events are accepted and wait."
	case !e.ThrottledUntil.IsZero():
		return "throttled", "The destination asked for quiet (429 with Retry-After) until " + exact(e.ThrottledUntil) + "."
	case all >= 5 && failed*2 >= all:
		return "failing", fmt.Sprintf("%s of %s attempts of the last 24 hours failed, mostly: %s.", count(failed), count(all), most)
	case failed > 0 && failed*20 >= all:
		return "unsteady", fmt.Sprintf("%s of %s attempts of the last 24 hours failed, mostly: %s.", count(failed), count(all), most)
	case all == 0:
		return "idle", "Nothing was sent in the last 24 hours."
	}
	return "healthy", ""
}

// classes are the outcomes of attempts in words.
var classes = [kapsel.OutcomeCount]string{
	kapsel.Succeeded: "answered 2xx", kapsel.ClientErrors: "refused with 3xx or 4xx", kapsel.ServerErrors: "answered 5xx",
	kapsel.Timeouts: "no answer in time", kapsel.NoAnswers: "no connection, TLS or valid HTTP", kapsel.Unknowns: "outcome unknown",
}

// mostOf returns the most frequent class of failures in words, "" without one.
func mostOf(s *kapsel.Stats) string {
	best := 0
	for o := 1; o < kapsel.OutcomeCount; o++ {
		if s.Outcomes[o] > s.Outcomes[best] || best == 0 && s.Outcomes[o] > 0 {
			best = o
		}
	}
	if best == 0 {
		return ""
	}
	return classes[best]
}

// healthTone returns the colour of a word of health.
func healthTone(word string) string {
	switch word {
	case "healthy":
		return "ok"
	case "disabled", "circuit open", "failing":
		return "bad"
	case "probing", "throttled", "unsteady", "paused", "waiting":
		return "wait"
	}
	return "off"
}

// endpointDetail is an endpoint as its page shows it.
type endpointDetail struct {
	endpointView
	stats    manage.EndpointStats
	failing  []manage.Delivery // the newest that ended without having arrived
	causes   []causeCount      // of those
	refused  kapsel.Refused
	settings []setting
}

// causeCount is how often something was the cause of a delivery's end.
type causeCount struct {
	cause  string
	status kapsel.DeliveryStatus
	n      int
}

// recentEnds is how many of an endpoint's newest failed deliveries its page looks at.
const recentEnds = 100

func (d *Dashboard) endpointDetail(p *page) (*endpointDetail, error) {
	id, err := kapsel.ParseEndpointID(p.params("id"))
	if err != nil {
		return nil, errNoPage
	}
	v := &endpointDetail{}
	if v.Endpoint, err = d.Manage.Endpoint(p.ctx, p.caller, id); err != nil {
		return nil, err
	}
	if v.stats, err = d.Manage.EndpointStats(p.ctx, p.caller, id, time.Time{}, time.Time{}, false); err != nil {
		return nil, err
	}
	v.day = v.stats.Total
	for _, status := range []kapsel.DeliveryStatus{kapsel.DeadLetter, kapsel.Failed} {
		list, err := d.Manage.ListDeliveries(p.ctx, p.caller, v.TenantID, store.DeliveryFilter{EndpointID: id, Status: new(status), Replayed: new(false)}, store.Page[kapsel.DeliveryID]{Limit: recentEnds})
		if err != nil {
			return nil, err
		}
		v.failing = append(v.failing, list...)
	}
	v.causes = byCause(v.failing)
	slices.SortStableFunc(v.failing, func(a, b manage.Delivery) int { return b.FinishedAt.Compare(a.FinishedAt) })
	v.failing = v.failing[:min(len(v.failing), 10)]
	if v.Ingests() {
		if v.refused, err = d.Manage.Refusals(p.ctx, p.caller, id); err != nil {
			return nil, err
		}
	}
	v.settings = endpointSettings(&v.Endpoint)
	return v, nil
}

// byCause counts deliveries by why their last attempt failed, the most frequent first.
func byCause(list []manage.Delivery) (counts []causeCount) {
	for i := range list {
		c := cause(list[i].LastStatusCode, list[i].LastErrorCode)
		at := slices.IndexFunc(counts, func(x causeCount) bool { return x.cause == c && x.status == list[i].Status })
		if at < 0 {
			counts = append(counts, causeCount{cause: c, status: list[i].Status})
			at = len(counts) - 1
		}
		counts[at].n++
	}
	slices.SortStableFunc(counts, func(a, b causeCount) int { return b.n - a.n })
	return counts
}

// chartData is what app.js draws.
type chartData struct {
	X      []int64  `json:"x"` // seconds since 1970
	Series []series `json:"series"`
}

type series struct {
	Label  string     `json:"label"`
	Unit   string     `json:"unit,omitempty"`
	Color  int        `json:"color,omitempty"` // a --chart… variable of style.css; 0: the next
	Values []*float64 `json:"values"`          // nil: nothing is known
}

func (c chartData) text() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // numbers and texts always encode
	}
	return string(b)
}

// attemptsChart draws attempts by the hour, those that arrived and those that failed.
func attemptsChart(s *manage.EndpointStats) string {
	c := chartData{Series: []series{{Label: "answered 2xx", Color: 2}, {Label: "failed", Color: 3}}}
	for i := range s.Intervals {
		c.X = append(c.X, s.Since.Add(time.Duration(i)*s.Step).Unix())
		c.Series[0].Values = append(c.Series[0].Values, new(float64(s.Intervals[i].Outcomes[kapsel.Succeeded])))
		c.Series[1].Values = append(c.Series[1].Values, new(float64(failures(&s.Intervals[i]))))
	}
	return c.text()
}

// latencyChart draws the percentiles of how long the destination takes, in milliseconds.
func latencyChart(s *manage.EndpointStats) string {
	c := chartData{Series: []series{{Label: "p50", Unit: "ms"}, {Label: "p95", Unit: "ms"}, {Label: "p99", Unit: "ms"}}}
	for i := range s.Intervals {
		c.X = append(c.X, s.Since.Add(time.Duration(i)*s.Step).Unix())
		for k, q := range []float64{.5, .95, .99} {
			c.Series[k].Values = append(c.Series[k].Values, quantile(&s.Intervals[i].Latency, q))
		}
	}
	return c.text()
}

func quantile(h *kapsel.Histogram, q float64) *float64 {
	d, ok := h.Quantile(q)
	if !ok {
		return nil
	}
	return new(float64(d) / float64(time.Millisecond))
}

func latencyText(h *kapsel.Histogram, q float64) string {
	d, ok := h.Quantile(q)
	if !ok {
		return "–"
	}
	return span(d)
}

// setting is a setting as a page shows it.
type setting struct{ name, is, standard string }

// changed reports whether a setting is not its default.
func (s setting) changed() bool { return s.is != s.standard }

// endpointSettings returns all settings of an endpoint beside those at the head of its page, with their
// defaults. They are named as in the API.
func endpointSettings(e *manage.Endpoint) []setting {
	base := kapsel.DefaultEndpoint()
	list := []setting{
		{"retry.strategy", e.Retry.Strategy, base.Retry.Strategy},
		{"retry.max_attempts", strconv.Itoa(e.Retry.MaxAttempts), strconv.Itoa(base.Retry.MaxAttempts)},
		{"retry.base", e.Retry.Base.String(), base.Retry.Base.String()},
		{"retry.max", e.Retry.Max.String(), base.Retry.Max.String()},
		{"retry.schedule", joined(e.Retry.Schedule), "none"},
		{"retry_on", joined(e.RetryOn), "none"},
		{"timeout", e.Timeout.String(), base.Timeout.String()},
		{"concurrency", strconv.Itoa(e.Concurrency), strconv.Itoa(base.Concurrency)},
		{"rate_limit", rateText(e.RateLimit), "none"},
	}
	list = append(list, circuitSettings(e.Circuit, base.Circuit)...)
	list = append(list,
		setting{"signing.enabled", strconv.FormatBool(e.Signing.Enabled), strconv.FormatBool(base.Signing.Enabled)},
		setting{"signing.v1a", strconv.FormatBool(e.Signing.V1a), "false"},
		setting{"headers.set", named(e.Headers.Set), "none"},
		setting{"headers.drop", joined(e.Headers.Drop), "none"},
		setting{"headers.keep", joined(e.Headers.Keep), "none"},
		setting{"forward_query", strconv.FormatBool(e.ForwardQuery), "false"},
		setting{"subscriptions", subscriptions(e.Subscriptions), "none"},
	)
	if e.Ingests() {
		list = append(list, intakeSettings(&e.Intake)...)
	}
	return list
}

func circuitSettings(is, base kapsel.CircuitPolicy) []setting {
	return []setting{
		{"circuit.enabled", strconv.FormatBool(!is.Disabled), strconv.FormatBool(!base.Disabled)},
		{"circuit.failures", strconv.Itoa(is.Failures), strconv.Itoa(base.Failures)},
		{"circuit.ratio", fmt.Sprint(is.Ratio), fmt.Sprint(base.Ratio)},
		{"circuit.window", strconv.Itoa(is.Window), strconv.Itoa(base.Window)},
		{"circuit.minimum", strconv.Itoa(is.Minimum), strconv.Itoa(base.Minimum)},
		{"circuit.open_for", is.OpenFor.String(), base.OpenFor.String()},
		{"circuit.successes", strconv.Itoa(is.Successes), strconv.Itoa(base.Successes)},
	}
}

// intakeSettings returns the settings of a way in.
func intakeSettings(in *kapsel.Intake) []setting {
	base := kapsel.DefaultIntake()
	provider, response, challenge := in.Verification.Provider, "the provider's, else 200", "the provider's"
	if provider == "" {
		provider = "none"
	}
	if r := in.Response; r != nil {
		response = fmt.Sprintf("%d %s", r.Status, r.ContentType)
	}
	if c := in.Challenge; c != nil {
		challenge = c.From + " to " + c.To
	}
	return []setting{
		{"verification.provider", provider, "none"},
		{"verification.secrets", count(len(in.Verification.Secrets)), "0"},
		{"verification.tolerance", in.Verification.Tolerance.String(), in.Verification.Tolerance.String()},
		{"idempotency.strategy", in.Idempotency.Strategy, base.Idempotency.Strategy},
		{"idempotency.header", orNone(in.Idempotency.Header), "none"},
		{"idempotency.path", orNone(in.Idempotency.Path), "none"},
		{"idempotency.window", in.Idempotency.Window.String(), base.Idempotency.Window.String()},
		{"response", response, "the provider's, else 200"},
		{"challenge", challenge, "the provider's"},
		{"probe", strconv.FormatBool(in.Probe), "false"},
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func joined[T any](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = fmt.Sprint(v)
	}
	return orNone(strings.Join(texts, ", "))
}

// named returns the names of headers whose values nobody reads again.
func named(set map[string]kapsel.Secret) string {
	var names []string
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return joined(names)
}

func rateText(r *kapsel.RateLimit) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%g a second, %d at once", r.PerSecond, r.Burst)
}

// subscriptions returns what an endpoint subscribes to, in words.
func subscriptions(list []kapsel.Subscription) string {
	var texts []string
	for _, s := range list {
		text := s.Source
		if len(s.EventTypes) > 0 {
			text += " (" + strings.Join(s.EventTypes, ", ") + ")"
		}
		if len(s.Channels) > 0 {
			text += " in " + strings.Join(s.Channels, ", ")
		}
		texts = append(texts, text)
	}
	return orNone(strings.Join(texts, "; "))
}

// wrongFields returns the wrong fields of a form, false if an error is not about those.
func wrongFields(err error) ([]kapsel.FieldError, bool) {
	e, ok := err.(*kapsel.Error)
	switch {
	case !ok:
		return nil, false
	case e.Code == kapsel.DestinationBlocked:
		return []kapsel.FieldError{{Field: "url", Detail: e.Detail}}, true
	case e.Code == kapsel.InvalidRequest && len(e.Fields) > 0:
		return e.Fields, true
	}
	return nil, false
}

// circuitWord returns the state of a circuit; a stored "" is closed.
func circuitWord(s kapsel.CircuitState) string {
	if s == "" {
		s = kapsel.CircuitClosed
	}
	return string(s)
}

// backlogText returns how many deliveries wait, as far as that is known.
func backlogText(n *int) string {
	switch {
	case n == nil:
		return "–"
	case *n >= 10_000:
		return "10\u202f000+"
	}
	return count(*n)
}
