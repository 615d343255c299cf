package upkeep

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

const (
	noticesMeta = "notices"      // under which the store keeps the state
	mailEvery   = time.Minute    // one e-mail has all that happened meanwhile
	mailFor     = 24 * time.Hour // after which a message that cannot be mailed is given up
	aloneEvery  = time.Hour      // after which an e-mail that was refused for good is tried again
	mostMailed  = 100            // messages in an e-mail; the next has the others
	mostLetters = 10             // e-mails in mailEvery: to some recipients, or with a message that is mailed alone
)

// ErrLetter says that the mail server refuses an e-mail for good because of the e-mail itself.
var ErrLetter = errors.New("the e-mail is refused")

// NotifierStore holds the methods of the store that a Notifier uses.
type NotifierStore interface {
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	Meta(ctx context.Context, name string) ([]byte, error)
	SetMeta(ctx context.Context, name string, value []byte) ([]byte, error)
	ReplaceMeta(ctx context.Context, name string, old, value []byte) error
	RecentStats(ctx context.Context, since time.Time) ([]store.StatsOfEndpoint, error)
	LastReceived(ctx context.Context, origin kapsel.OriginID) (time.Time, error)
	Usage(ctx context.Context, tenant kapsel.TenantID, since, until time.Time) ([]store.UsageOfDay, error)
	Accept(ctx context.Context, in store.Acceptance) (store.Accepted, error)
}

// Notifier tells operators and tenants what needs them: as events that Kapsel delivers to the endpoints
// that subscribe to them, and by e-mail. A lease row makes sure that one node does it at a time. What was
// noticed, and what is not told yet, is in the store before it is told, and the events' IDs with it; so
// after a crash each notice is told, and its event is stored once. An e-mail may come twice.
type Notifier struct {
	Store    NotifierStore
	Settings *settings.Cache
	Clock    *clock.Clock
	Node     kapsel.NodeID
	Every    time.Duration
	Log      *slog.Logger
	// Operator is the tenant that gets the notices of all tenants; zero: none does.
	Operator kapsel.TenantID
	// Mail sends an e-mail to some recipients, to nobody means all that there are, and returns those that the
	// same e-mail may be sent to later. ErrLetter: another may pass. It may be nil: none is sent.
	Mail func(ctx context.Context, to []string, subject, text string) (later []string, err error)
	// Due is told of the deliveries that were made.
	Due func(kapsel.Delivery)

	mailed time.Time // when the last e-mail was tried
}

// Run looks every n.Every until ctx ends. It logs a failure, and tries again the next time.
func (n *Notifier) Run(ctx context.Context) {
	tick := time.NewTicker(n.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.turn(ctx, n.Clock.Now()); err != nil && ctx.Err() == nil {
			n.Log.Warn("notices could not be found or told; trying again", "error", err)
		}
	}
}

// turn finds and tells what there is at a time, if this node leads the duty. The state is saved before anything is
// told, and again afterwards: a crash in between tells it again, under the same IDs.
func (n *Notifier) turn(ctx context.Context, now time.Time) error {
	leads, err := n.Store.Lead(ctx, "notices", n.Node, now, 3*n.Every)
	if err != nil || !leads {
		return err
	}
	var state notices
	saved, err := n.load(ctx, &state)
	if err != nil {
		return err
	}
	seen, err := n.observe(ctx, now)
	if err != nil {
		return err
	}
	if state.update(&seen) {
		if saved, err = n.save(ctx, saved, &state); err != nil {
			return err
		}
	}
	if len(state.Outbox) == 0 {
		return nil
	}
	failed := n.tell(ctx, &state, now)
	for _, m := range state.trim() {
		n.Log.WarnContext(ctx, "too many notices wait to be told; one is given up", "notice_id", m.ID, "tenant_id", m.Tenant, "over", m.Over, "published", m.Published)
	}
	if _, err := n.save(ctx, saved, &state); err != nil {
		return err
	}
	return failed
}

// load reads the state, and returns its text as the store has it.
func (n *Notifier) load(ctx context.Context, state *notices) (text []byte, err error) {
	text, err = n.Store.Meta(ctx, noticesMeta)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		text, err = n.Store.SetMeta(ctx, noticesMeta, []byte("{}"))
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, state); err != nil {
		return nil, fmt.Errorf("read the notices: %w", err)
	}
	return text, nil
}

// save replaces the state that this node read. It fails if another node has replaced it meanwhile.
func (n *Notifier) save(ctx context.Context, was []byte, state *notices) (text []byte, err error) {
	if text, err = json.Marshal(state); err != nil {
		return nil, fmt.Errorf("write the notices: %w", err)
	}
	if string(was) == string(text) {
		return text, nil
	}
	return text, n.Store.ReplaceMeta(ctx, noticesMeta, was, text)
}

// observe reads what the conditions are found in.
func (n *Notifier) observe(ctx context.Context, now time.Time) (o observed, err error) {
	o = observed{
		now: now, endpoints: n.Settings.Endpoints(), sources: n.Settings.Sources(), tenants: n.Settings.Tenants(), circuit: n.Settings.Circuit,
		received: map[kapsel.OriginID]time.Time{}, used: map[kapsel.TenantID]int64{},
	}
	if o.stats, err = n.Store.RecentStats(ctx, kapsel.StatsHour(now).Add(-time.Hour)); err != nil {
		return o, err
	}
	retention := map[kapsel.TenantID]time.Duration{}
	for _, t := range o.tenants {
		retention[t.ID] = t.Retention()
	}
	for _, e := range o.endpoints {
		if e.Ingests() && e.ExpectEvery > 0 {
			o.expecting = append(o.expecting, expecting{e.ID.String(), kapsel.OriginID(e.ID), e.ExpectEvery, retention[e.TenantID], e.CreatedAt})
		}
	}
	for _, s := range o.sources {
		if s.ExpectEvery > 0 {
			o.expecting = append(o.expecting, expecting{s.ID.String(), kapsel.OriginID(s.ID), s.ExpectEvery, retention[s.TenantID], s.CreatedAt})
		}
	}
	for _, e := range o.expecting {
		if o.received[e.origin], err = n.Store.LastReceived(ctx, e.origin); err != nil {
			return o, err
		}
	}
	month := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, t := range o.tenants {
		if t.Effective().EventsPerMonth == nil {
			continue
		}
		days, err := n.Store.Usage(ctx, t.ID, month, now)
		if err != nil {
			return o, err
		}
		for _, d := range days {
			o.used[t.ID] += d.Events
		}
	}
	return o, nil
}

// tell publishes and mails what is in the outbox, and takes out of it what is told. It returns the last
// error.
func (n *Notifier) tell(ctx context.Context, state *notices, now time.Time) (failed error) {
	for i := range state.Outbox {
		m := &state.Outbox[i]
		if m.Published {
			continue
		}
		if err := n.publish(ctx, m); err != nil {
			failed = err
			continue
		}
		m.Published = true
		n.Log.InfoContext(ctx, "notice", "notice_id", m.ID, "kind", m.Kind, "over", m.Over, "tenant_id", m.Tenant, "subject", m.Subject, "text", m.Text)
	}
	if err := n.mail(ctx, state.Outbox, now); err != nil {
		failed = err
	}
	state.Outbox = slices.DeleteFunc(state.Outbox, func(m message) bool { return m.Published && m.Mailed })
	return failed
}

// publish stores the event of a message for the endpoints that subscribe to it: those of the tenant whose
// object it is about, and those of the operator's.
func (n *Notifier) publish(ctx context.Context, m *message) error {
	recipients := []kapsel.TenantID{m.Tenant}
	if !n.Operator.IsZero() && n.Operator != m.Tenant {
		recipients = append(recipients, n.Operator)
	}
	for _, tenant := range recipients {
		in := acceptance(m, tenant, n.Settings.Endpoints())
		if len(in.Deliveries) == 0 {
			continue
		}
		if _, err := n.Store.Accept(ctx, in); err != nil {
			return err
		}
		if n.Due != nil {
			for _, d := range in.Deliveries {
				n.Due(d)
			}
		}
	}
	return nil
}

// acceptance returns the event of a message for a tenant. Its ID and those of its deliveries are always the
// same. An endpoint gets it if a subscription to what the tenant publishes names types of notices: one to
// everything does not. No endpoint is told of itself.
func acceptance(m *message, tenant kapsel.TenantID, endpoints []*kapsel.Endpoint) store.Acceptance {
	id := m.Event
	if tenant != m.Tenant {
		id = kapsel.EventID(derived(id, tenant[:]))
	}
	e := kapsel.Event{
		ID: id, TenantID: tenant, ReceivedAt: m.At, ContentType: "application/json", Type: noticeType + string(m.Kind), Salt: kapsel.NewSalt(),
		Header: kapsel.Header{{Name: "Content-Type", Value: "application/json"}}, Body: m.body(), Signature: kapsel.SignatureVerdict{Scheme: "none"},
	}
	e.Size = len(e.Body)
	in := store.Acceptance{Event: e}
	for _, to := range endpoints {
		if to.TenantID != tenant || !to.AppID.IsZero() || to.ID.String() == m.Subject || !wantsNotice(to, e.Type) || len(in.Deliveries) == kapsel.MaxInline {
			continue
		}
		in.Deliveries = append(in.Deliveries, kapsel.Delivery{
			ID: kapsel.DeliveryID(derived(id, to.ID[:])), EventID: id, EndpointID: to.ID, TenantID: tenant, Status: kapsel.Pending,
			DueAt: m.At, Size: e.Size, CreatedAt: m.At,
		})
	}
	return in
}

// wantsNotice reports whether an endpoint names a type of notices in a subscription to what its tenant
// publishes.
func wantsNotice(e *kapsel.Endpoint, eventType string) bool {
	return slices.ContainsFunc(e.Subscriptions, func(s kapsel.Subscription) bool {
		named := slices.ContainsFunc(s.EventTypes, func(pattern string) bool { return strings.HasPrefix(pattern, "kapsel.") })
		return named && s.Source == kapsel.Publish && s.Matches(eventType, nil)
	})
}

// derived returns an ID of the same millisecond and part as another, which depends on it and on a salt
// alone.
func derived(id kapsel.EventID, salt []byte) (made [16]byte) {
	sum := sha256.Sum256(append(id[:], salt...))
	copy(made[:], id[:])
	copy(made[9:], sum[:]) // what is before holds the time, the version, the part and the variant
	return made
}

// body returns what the event of a message says, in the form that Standard Webhooks suggest.
func (m *message) body() []byte {
	state := "begun"
	if m.Over {
		state = "over"
	}
	type data struct {
		NoticeID string          `json:"notice_id"`
		State    string          `json:"state"`
		TenantID kapsel.TenantID `json:"tenant_id"`
		ObjectID string          `json:"object_id"`
		Name     string          `json:"name"`
		Since    string          `json:"since"`
		Text     string          `json:"text"`
		Advice   string          `json:"what_to_do,omitempty"`
		Because  string          `json:"over_because,omitempty"`
	}
	advice := m.Advice
	if m.Over {
		advice = ""
	}
	b, err := json.Marshal(struct {
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
		Data      data   `json:"data"`
	}{noticeType + string(m.Kind), m.At.UTC().Format(time.RFC3339), data{m.ID, state, m.Tenant, m.Subject, m.Name, m.Since.UTC().Format(time.RFC3339), m.Text, advice, m.Because}})
	if err != nil {
		panic(err) // texts
	}
	return b
}

// mail sends one e-mail in mailEvery with the messages that were not mailed, and others to those recipients, and
// with those messages, that the mail server did not take before. What cannot be mailed for mailFor is given up.
func (n *Notifier) mail(ctx context.Context, outbox []message, now time.Time) (failed error) {
	var all []*message
	var letters [][]*message // with one list of recipients each
	by := map[string]int{}
	for i := range outbox {
		m := &outbox[i]
		if m.Mailed {
			continue
		}
		if n.Mail == nil {
			m.Mailed = true
			continue
		}
		all = append(all, m)
		key := strings.Join(m.To, ",")
		if !m.Alone.IsZero() {
			key = m.Event.String()
		}
		at, known := by[key]
		switch {
		case now.Before(m.Alone):
		case !known:
			by[key], letters = len(letters), append(letters, []*message{m})
		case len(letters[at]) < mostMailed:
			letters[at] = append(letters[at], m)
		}
	}
	if len(letters) == 0 || now.Sub(n.mailed) < mailEvery {
		return nil
	}
	n.mailed = now
	for _, l := range letters[:min(len(letters), mostLetters)] {
		err := n.send(ctx, l, now)
		if err != nil {
			failed = fmt.Errorf("send the e-mail of %d notices: %w", len(l), err)
		}
		if answer := (*textproto.Error)(nil); err != nil && !errors.As(err, &answer) {
			break // the server is away
		}
	}
	for _, m := range all {
		if now.Sub(m.At) >= mailFor {
			m.Mailed = true
		}
	}
	return failed
}

// send mails messages in one e-mail or, if the mail server refuses it for what it says, in several. A message that
// it refuses by itself keeps no other from being mailed.
func (n *Notifier) send(ctx context.Context, messages []*message, now time.Time) error {
	subject, text := letter(messages)
	later, err := n.Mail(ctx, messages[0].To, subject, text)
	switch half := len(messages) / 2; {
	case errors.Is(err, ErrLetter) && half == 0:
		n.Log.ErrorContext(ctx, "the mail server refuses the e-mail of a notice; trying again in an hour", "notice_id", messages[0].ID, "error", err)
		messages[0].Alone = now.Add(aloneEvery)
		return nil
	case errors.Is(err, ErrLetter):
		if err = n.send(ctx, messages[:half], now); err == nil {
			err = n.send(ctx, messages[half:], now)
		}
		return err
	case err != nil:
		return err
	}
	for _, m := range messages {
		m.To, m.Mailed = later, len(later) == 0
	}
	return nil
}

// letter returns the subject and the text of an e-mail with some messages.
func letter(messages []*message) (subject, text string) {
	var b strings.Builder
	for _, m := range messages {
		what := "Notice"
		if m.Over {
			what = "Over (" + m.Because + ")"
		}
		fmt.Fprintf(&b, "%s: %s\n  since %s, %s, tenant %s\n", what, m.Text, m.Since.UTC().Format(time.RFC1123), m.Subject, m.Tenant)
		if !m.Over {
			fmt.Fprintf(&b, "  What to do: %s.\n", m.Advice)
		}
		b.WriteByte('\n')
	}
	first := messages[0]
	name := []rune(first.Name)
	if len(name) > 60 { // it is in the text
		name = append(name[:59], '…')
	}
	subject = "Kapsel: " + strings.ReplaceAll(string(first.Kind), "_", " ") + ", " + string(name)
	if first.Over {
		subject += ", is over"
	}
	if more := len(messages) - 1; more > 0 {
		subject += fmt.Sprintf(", and %d more", more)
	}
	return subject, b.String()
}
