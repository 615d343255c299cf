package dashboard

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// endpointForms registers the pages on which endpoints are made, changed and deleted.
func (d *Dashboard) endpointForms() {
	d.get("/endpoints/new", access.Write, func(p *page) (result, error) {
		return d.showEndpointForm(p, nil, nil)
	})
	d.post("/endpoints/new", access.Write, d.createEndpoint)
	d.get("/endpoints/{id}/edit", access.Write, func(p *page) (result, error) {
		e, err := d.endpointOf(p)
		if err != nil {
			return result{}, err
		}
		return d.showEndpointForm(p, &e, nil)
	})
	d.post("/endpoints/{id}/edit", access.Write, d.editEndpoint)
	d.get("/endpoints/{id}/delete", access.Write, func(p *page) (result, error) {
		e, err := d.endpointOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/endpoints", "Delete "+e.Name, deleteEndpointPage(p, &e))
	})
	d.post("/endpoints/{id}/delete", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseEndpointID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		return result{goTo: string(p.link("/endpoints"))}, d.Manage.DeleteEndpoint(p.ctx, p.caller, id, p.form.Has("keep_ingest"))
	})
}

// endpointOf returns the endpoint that the path names.
func (d *Dashboard) endpointOf(p *page) (manage.Endpoint, error) {
	id, err := kapsel.ParseEndpointID(p.params("id"))
	if err != nil {
		return manage.Endpoint{}, errNoPage
	}
	return d.Manage.Endpoint(p.ctx, p.caller, id)
}

// endpointForm is the form of an endpoint's settings. endpoint is nil for a new one.
type endpointForm struct {
	form
	endpoint *manage.Endpoint
	sources  []option // that it may subscribe to
}

// The inputs of an endpoint's form beside those that are named as in the API.
const (
	hasIngest    = "ingest"           // of a new endpoint: whether it gets an ingest URL
	goneHeader   = "headers.set.gone" // the name of a header that is not set any more
	fromSource   = "subscriptions.source"
	fromTypes    = "subscriptions.event_types"
	fromChannels = "subscriptions.channels"
)

// spareRows is how many subscriptions more than there are a form has room for.
const spareRows = 2

func (d *Dashboard) showEndpointForm(p *page, e *manage.Endpoint, sent *reading) (result, error) {
	f := &endpointForm{endpoint: e, form: form{groups: endpointGroups(p, e), extra: []string{"subscriptions", "metadata"}}}
	title := "New endpoint"
	if e != nil {
		title = "Edit " + e.Name
	}
	tenant := p.tenant
	if e != nil {
		tenant = e.TenantID
	}
	if !tenant.IsZero() {
		var err error
		if f.sources, err = d.originsOf(p, tenant, e); err != nil {
			return result{}, err
		}
	}
	return p.showForm("/endpoints", title, &f.form, sent, endpointFormPage(p, f))
}

// originsOf returns what an endpoint may subscribe to.
func (d *Dashboard) originsOf(p *page, tenant kapsel.TenantID, e *manage.Endpoint) ([]option, error) {
	list := []option{{"", "none"}, {kapsel.Publish, "publish: what is published"}}
	if e != nil && !e.AppID.IsZero() {
		return list, nil
	}
	sources, err := d.Manage.ListSources(p.ctx, p.caller, tenant, store.Page[kapsel.SourceID]{Limit: chosen})
	if err != nil {
		return nil, err
	}
	for i := range sources {
		list = append(list, option{sources[i].ID.String(), "source " + sources[i].Name})
	}
	endpoints, err := d.Manage.ListEndpoints(p.ctx, p.caller, tenant, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: chosen})
	if err != nil {
		return nil, err
	}
	for i := range endpoints {
		if other := &endpoints[i]; other.Ingests() && (e == nil || e.ID != other.ID) {
			list = append(list, option{other.ID.String(), "ingest of " + other.Name})
		}
	}
	return list, nil
}

// rows returns the subscriptions that a form shows, and empty ones behind.
func (f *endpointForm) rows() (list []kapsel.Subscription) {
	if f.sent != nil {
		list = subscriptionsOf(f.sent[fromSource], f.sent[fromTypes], f.sent[fromChannels])
	} else if f.endpoint != nil {
		list = slices.Clone(f.endpoint.Subscriptions)
	}
	return append(list, make([]kapsel.Subscription, spareRows)...)
}

// choices returns the choices of a subscription's source, the one that is chosen included.
func (f *endpointForm) choices(is string) []option {
	if !slices.ContainsFunc(f.sources, func(o option) bool { return o.name == is }) {
		return append(slices.Clone(f.sources), option{is, is})
	}
	return f.sources
}

// subscriptionsOf returns the subscriptions of the rows of a form. A row without a source is none.
func subscriptionsOf(sources, types, channels []string) []kapsel.Subscription {
	list := []kapsel.Subscription{}
	at := func(texts []string, i int) []string {
		if i >= len(texts) {
			return nil
		}
		return words(texts[i])
	}
	for i, source := range sources {
		if source != "" {
			list = append(list, kapsel.Subscription{Source: source, EventTypes: at(types, i), Channels: at(channels, i)})
		}
	}
	return list
}

// endpointGroups are the inputs of an endpoint's settings; e is nil for a new one.
func endpointGroups(p *page, e *manage.Endpoint) []group {
	base := kapsel.DefaultEndpoint()
	c := base
	main := group{}
	if e != nil {
		c = e.EndpointConfig
	} else {
		c.Verification.Provider = signature.None
		if asked := p.query.Get("provider"); slices.Contains(signature.Providers(), asked) {
			c.Verification.Provider = asked
		}
	}
	main.fields = []input{
		{name: "name", label: "Name", is: c.Name, needed: true, wide: true},
		{name: "url", label: "Destination URL", is: c.URL, needed: true, wide: true, hint: "Where Kapsel delivers to: https://…"},
	}
	if e == nil {
		main.fields = append(main.fields, input{name: hasIngest, label: "Where its events come from", kind: choice, wide: true, is: "true",
			choices: []option{{"true", "an ingest URL of its own, to paste at a provider"}, {"false", "what it subscribes to: published events, or a source's"}},
			hint:    "This cannot be changed later."})
	}
	ingests := e == nil || e.Ingests()
	if ingests {
		main.fields = append(main.fields, intakeMain(p, &c.Intake)...)
	}
	main.fields = append(main.fields,
		input{name: "uid", label: "uid", is: c.UID, hint: "Your own id of it, the only one in its app, or among endpoints without an app."},
		input{name: "description", label: "Description", kind: area, is: c.Description})
	groups := []group{main}

	delivery := group{title: "Delivery and retries", fields: []input{
		{name: "timeout", label: "Time-out of an exchange", is: lasting(c.Timeout), standard: lasting(base.Timeout), hint: "1s to 300s"},
		{name: "concurrency", label: "Exchanges at once, at most", is: strconv.Itoa(c.Concurrency), standard: strconv.Itoa(base.Concurrency), hint: "1 to 1000"},
	}}
	delivery.fields = append(delivery.fields, rateFields(c.RateLimit, "Exchanges")...)
	delivery.fields = append(delivery.fields,
		input{name: "retry.strategy", label: "Delays between attempts", kind: choice, is: c.Retry.Strategy, standard: base.Retry.Strategy, choices: options(kapsel.RetryExponential, kapsel.RetryLinear, kapsel.RetryFixed, kapsel.RetrySchedule)},
		input{name: "retry.max_attempts", label: "Attempts, at most", is: strconv.Itoa(c.Retry.MaxAttempts), standard: strconv.Itoa(base.Retry.MaxAttempts), hint: "1 to 100"},
		input{name: "retry.base", label: "First delay", is: lasting(c.Retry.Base), standard: lasting(base.Retry.Base), hint: "100ms to 1h"},
		input{name: "retry.max", label: "Longest delay", is: lasting(c.Retry.Max), standard: lasting(base.Retry.Max), hint: "At most 24h"},
		input{name: "retry.schedule", label: "Delays of the schedule", is: spaced(mapped(c.Retry.Schedule, lasting)), hint: "For schedule, such as 1s 10s 1m 1h; the last repeats."},
		input{name: "retry_on", label: "Statuses to retry", is: spaced(c.RetryOn), standard: "408, 425, 429, 5xx alone", hint: "Beside those, 300 to 599."},
		input{name: "forward_query", label: "Send the query along", kind: flag, is: strconv.FormatBool(c.ForwardQuery), standard: "no"},
	)
	circuit := group{title: "Circuit", about: "While a destination fails, its circuit is open: deliveries wait and use up no attempts.", fields: []input{
		{name: "circuit.enabled", label: "It may open", kind: flag, is: strconv.FormatBool(!c.Circuit.Disabled), standard: "yes"},
		{name: "circuit.failures", label: "Failures in a row that open it", is: strconv.Itoa(c.Circuit.Failures), standard: strconv.Itoa(base.Circuit.Failures)},
		{name: "circuit.ratio", label: "Share of failures that opens it", is: decimals(c.Circuit.Ratio), standard: decimals(base.Circuit.Ratio)},
		{name: "circuit.window", label: "Of the last so many exchanges", is: strconv.Itoa(c.Circuit.Window), standard: strconv.Itoa(base.Circuit.Window)},
		{name: "circuit.minimum", label: "Once there are so many", is: strconv.Itoa(c.Circuit.Minimum), standard: strconv.Itoa(base.Circuit.Minimum)},
		{name: "circuit.open_for", label: "Time until the first probe", is: lasting(c.Circuit.OpenFor), standard: lasting(base.Circuit.OpenFor)},
		{name: "circuit.successes", label: "Probes that close it", is: strconv.Itoa(c.Circuit.Successes), standard: strconv.Itoa(base.Circuit.Successes)},
	}}
	headers := group{title: "Headers and signature", fields: []input{
		{name: "signing.enabled", label: "Sign deliveries", kind: flag, is: strconv.FormatBool(c.Signing.Enabled), standard: "yes", hint: "With the signing secret (Standard Webhooks, v1)."},
		{name: "signing.v1a", label: "Sign with Ed25519, too", kind: flag, is: strconv.FormatBool(c.Signing.V1a), standard: "no", hint: "Receivers verify v1a with a public key."},
		{name: "headers.set", label: "Headers to set", kind: hidden, hint: "One a line, as Name: value. Values are sealed, and never shown again."},
		{name: "headers.drop", label: "Headers to leave out", is: spaced(c.Headers.Drop), standard: "none", hint: "Names, between spaces."},
		{name: "headers.keep", label: "Headers to keep", is: spaced(c.Headers.Keep), standard: "none", hint: "That are left out otherwise, such as Authorization."},
	}}
	if ingests {
		groups = append(groups, intakeGroups(&c.Intake)...)
	}
	groups = append(groups, delivery, circuit, headers)
	switch {
	case e == nil:
		groups = append(groups, group{title: "A customer's endpoint", fields: []input{
			{name: "app", label: "App", is: p.query.Get("app"), standard: "none", hint: "Id or uid of the app that it belongs to, for ever. It gets what is published to the app, and has no ingest URL."},
		}})
	case p.caller.IsAdmin():
		groups = append(groups, group{title: "For the operator", fields: []input{
			{name: "state", label: "State", kind: choice, is: string(e.State), choices: options(string(kapsel.EndpointActive), string(kapsel.EndpointPaused), string(kapsel.EndpointDisabled)), hint: "Only the admin resumes an endpoint that is disabled here."},
		}})
	}
	return groups
}

// mapped returns the results of a function for the values of a list.
func mapped[T, U any](list []T, f func(T) U) []U {
	made := make([]U, len(list))
	for i, v := range list {
		made[i] = f(v)
	}
	return made
}

// endpoint reads an endpoint's settings into s. was is the endpoint as it was shown, nil for a new one.
func (r *reading) endpoint(was *manage.Endpoint, s *manage.EndpointSettings) {
	c := &s.Config
	base := kapsel.DefaultEndpoint()
	c.Name, c.URL, c.Description = r.text("name"), r.text("url"), strings.TrimSpace(r.long("description"))
	shown := base.Intake
	if was != nil {
		shown = was.Intake
	}
	if was == nil || was.Ingests() {
		s.Secrets = r.intake(&shown, &c.Intake)
	}
	c.Timeout, c.Concurrency = r.duration("timeout", base.Timeout), r.number("concurrency", base.Concurrency)
	c.RateLimit = r.rate()
	c.Retry = kapsel.RetryPolicy{
		Strategy: r.text("retry.strategy"), MaxAttempts: r.number("retry.max_attempts", base.Retry.MaxAttempts),
		Base: r.duration("retry.base", base.Retry.Base), Max: r.duration("retry.max", base.Retry.Max),
	}
	for _, text := range r.list("retry.schedule") {
		d, err := time.ParseDuration(text)
		if err != nil {
			r.fail("retry.schedule", noDuration+", between spaces")
			d = -1
		}
		c.Retry.Schedule = append(c.Retry.Schedule, d)
	}
	c.RetryOn = nil
	for _, text := range r.list("retry_on") {
		status, err := strconv.Atoi(text)
		if err != nil {
			r.fail("retry_on", "must be whole numbers, between spaces")
			status = -1
		}
		c.RetryOn = append(c.RetryOn, status)
	}
	c.ForwardQuery = r.flag("forward_query")
	c.Circuit = kapsel.CircuitPolicy{
		Disabled: !r.flag("circuit.enabled"), Failures: r.number("circuit.failures", base.Circuit.Failures), Ratio: r.decimal("circuit.ratio", base.Circuit.Ratio),
		Window: r.number("circuit.window", base.Circuit.Window), Minimum: r.number("circuit.minimum", base.Circuit.Minimum),
		OpenFor: r.duration("circuit.open_for", base.Circuit.OpenFor), Successes: r.number("circuit.successes", base.Circuit.Successes),
	}
	c.Signing.Enabled, c.Signing.V1a = r.flag("signing.enabled"), r.flag("signing.v1a")
	c.Headers.Drop, c.Headers.Keep = r.list("headers.drop"), r.list("headers.keep")
	s.Headers.Set = map[string]*secret.Text{}
	for _, name := range r.form[goneHeader] {
		s.Headers.Set[name] = nil
	}
	for _, text := range r.lines("headers.set") {
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			r.fail("headers.set", "must be lines of Name: value")
			name = ":" // the name of no header
		}
		s.Headers.Set[strings.TrimSpace(name)] = new(secret.NewText(strings.TrimSpace(value)))
	}
	s.UID, c.Metadata = r.uid(), r.metadata()
	rows := subscriptionsOf(r.form[fromSource], r.form[fromTypes], r.form[fromChannels])
	switch {
	case was != nil && !r.form.Has(fromSource): // not in the form
	case len(rows) > 0, was == nil && r.text(hasIngest) == "false": // also an empty list makes an endpoint without an ingest
		c.Subscriptions = rows
	default:
		c.Subscriptions = nil
	}
	if app := r.text("app"); app != "" && was == nil {
		s.App = &app
	}
}

func (d *Dashboard) createEndpoint(p *page) (result, error) {
	r := read(p.form, endpointGroups(p, nil))
	s := manage.DefaultEndpoint()
	r.endpoint(nil, &s)
	var e manage.Endpoint
	err := r.do(func() (err error) {
		if r.text(hasIngest) == "true" && s.Config.Subscriptions != nil { // which would make it an endpoint without an ingest
			return kapsel.Invalid(http.StatusUnprocessableEntity, kapsel.FieldError{Field: "subscriptions", Detail: "come later to an endpoint with an ingest URL of its own: make it without, then edit it"})
		}
		e, err = d.Manage.CreateEndpoint(p.ctx, p.caller, p.tenant, kapsel.EndpointID{}, s)
		return err
	})
	if err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return d.showEndpointForm(p, nil, r)
	}
	return p.show("/endpoints", "New endpoint", secretPage(p, &e, true))
}

func (d *Dashboard) editEndpoint(p *page) (result, error) {
	e, err := d.endpointOf(p)
	if err != nil {
		return result{}, err
	}
	r := read(p.form, endpointGroups(p, &e))
	url := r.text("url")
	change := manage.EndpointChange{SetsURL: url != e.URL}
	change.Edit = func(s *manage.EndpointSettings) error {
		r.wrong = nil
		r.endpoint(&e, s)
		return nil
	}
	if state := kapsel.EndpointState(r.text("state")); state != "" && state != e.State {
		change.State = &state
	}
	r.endpoint(&e, &manage.EndpointSettings{})
	err = r.do(func() error {
		if err := r.unchanged(e.Revision); err != nil {
			return err
		}
		_, err := d.Manage.UpdateEndpoint(p.ctx, p.caller, e.ID, change)
		return err
	})
	if err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return d.showEndpointForm(p, &e, r)
	}
	return result{goTo: string(p.link("/endpoints/" + e.ID.String()))}, nil
}

// setHeaders returns the names of the headers that an endpoint sets.
func setHeaders(e *manage.Endpoint) []string {
	var names []string
	if e != nil {
		for name := range e.Headers.Set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// path returns where the form is sent.
func (f *endpointForm) path() string {
	if f.endpoint == nil {
		return "/endpoints/new"
	}
	return f.page() + "/edit"
}

// page returns where the endpoint's page is, "" for a new one.
func (f *endpointForm) page() string {
	if f.endpoint == nil {
		return ""
	}
	return "/endpoints/" + f.endpoint.ID.String()
}

func (f *endpointForm) button() string {
	if f.endpoint == nil {
		return "Make the endpoint"
	}
	return "Save"
}

// called returns the endpoint's name, "" for a new one.
func (f *endpointForm) called() string {
	if f.endpoint == nil {
		return ""
	}
	return f.endpoint.Name
}

// metadata returns the texts of the endpoint that is changed, nil for a new one.
func (f *endpointForm) metadata() map[string]string {
	if f.endpoint == nil {
		return nil
	}
	return f.endpoint.Metadata
}

func (f *endpointForm) revision() int64 {
	if f.endpoint == nil {
		return 0
	}
	return f.endpoint.Revision
}

// ingestURL returns the URL to paste at the provider, "" while there is none.
func (f *endpointForm) ingestURL() string {
	if f.endpoint == nil {
		return ""
	}
	return f.endpoint.IngestURL
}
