package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel/client"
)

type eventsCmd struct {
	List    ask[eventsList]    `cmd:"" help:"List events, newest first."`
	Tail    ask[eventsTail]    `cmd:"" help:"Print events as they come in."`
	Show    ask[eventsShow]    `cmd:"" aliases:"get" help:"Show the whole story of an event."`
	Payload ask[eventsPayload] `cmd:"" help:"Write an event's body, byte for byte."`
	Replay  ask[eventsReplay]  `cmd:"" help:"Deliver an event again."`
	Why     ask[eventsWhy]     `cmd:"" help:"Say what an event's deliveries wait for, and why an endpoint has none."`
	Cancel  ask[eventsCancel]  `cmd:"" help:"Cancel an event's deliveries that wait."`
	Erase   ask[eventsErase]   `cmd:"" help:"Erase an event's contents for ever."`
}

// eventID is the argument of commands that are about one event.
type eventID struct {
	ID string `arg:"" name:"event" help:"An event's id, evt_…"`
}

type eventsList struct {
	ofTenant
	Endpoint       string   `complete:"endpoint" placeholder:"ENDPOINT" help:"Only of this endpoint; its id or name."`
	Source         string   `complete:"source" placeholder:"SOURCE" help:"Only what came in at this source; its id or name."`
	App            string   `complete:"app" placeholder:"APP" help:"Only of those that were published to this app; its id, uid or name."`
	Type           string   `placeholder:"TYPE" help:"Only those of exactly this type."`
	Status         []string `complete:"received,pending,delivering,delivered,failed,dead_letter,canceled,unmatched" placeholder:"STATUS" help:"Only those with any of these statuses: received, pending, delivering, delivered, failed, dead_letter, canceled, unmatched."`
	IdempotencyKey string   `placeholder:"KEY" help:"Only the one with this key."`
	listing
}

// Help has examples.
func (eventsList) Help() string {
	return `Examples:
  kapsel events list
  kapsel events list --status failed,dead_letter --since 30d
  kapsel events list --app customer-17
  kapsel events list --type invoice.paid
  kapsel events list --endpoint orders --since 2026-01-31 --limit 0 --json
  kapsel events list --source stripe`
}

func (c eventsList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	endpoint, err := s.endpointNamed(ctx, c.Endpoint, tenant)
	if err != nil {
		return err
	}
	source, err := s.sourceNamed(ctx, c.Source, tenant)
	if err != nil {
		return err
	}
	app, err := s.appNamed(ctx, c.App, tenant)
	if err != nil {
		return err
	}
	filter := client.ListEventsFilter{TenantID: tenant, EndpointID: endpoint, SourceID: source, AppID: app, Type: c.Type, Since: c.Since.Time, Until: c.Until.Time, IdempotencyKey: c.IdempotencyKey}
	events := byStatus(s, c.Status, func(e client.Event) string { return e.ID }, func(status string) iter.Seq2[client.Event, error] {
		filter.Status = status
		return s.ListEvents(ctx, filter)
	})
	// The server has already chosen by time, by the store's clock. IDs hold no more than the millisecond.
	return list(s, events, listing{Limit: c.Limit}, true, func(e client.Event) time.Time { return e.ReceivedAt },
		column[client.Event]{"ID", func(e client.Event) string { return e.ID }},
		column[client.Event]{"STATUS", func(e client.Event) string { return e.Status }},
		column[client.Event]{"RECEIVED", func(e client.Event) string { return ago(e.ReceivedAt) }},
		column[client.Event]{"DELIVERED", func(e client.Event) string { return agoOr(e.DeliveredAt) }},
		column[client.Event]{"SIZE", func(e client.Event) string { return size(e.Size) }},
		column[client.Event]{"CAME IN AT", cameInAt})
}

type eventsTail struct {
	ofTenant
	Endpoint string `complete:"endpoint" placeholder:"ENDPOINT" help:"Only of this endpoint; its id or name."`
	Source   string `complete:"source" placeholder:"SOURCE" help:"Only what comes in at this source; its id or name."`
	After    string `placeholder:"EVENT" help:"Begin behind this event, evt_…, or 0: with the oldest one (default: with the next)."`
}

// Help has examples.
func (eventsTail) Help() string {
	return `Prints a line for each event, until it is interrupted. A lost connection is made again, and
nothing is missed meanwhile.

Examples:
  kapsel events tail
  kapsel events tail --endpoint orders --json
  kapsel events tail --source stripe
  kapsel events tail --after evt_01m84z2d7vf9zws4jxr1p6y3kb`
}

func (c eventsTail) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	endpoint, err := s.endpointNamed(ctx, c.Endpoint, tenant)
	if err != nil {
		return err
	}
	source, err := s.sourceNamed(ctx, c.Source, tenant)
	if err != nil {
		return err
	}
	stream := client.StreamOptions{TenantID: tenant, EndpointID: endpoint, SourceID: source, After: c.After, Lost: s.lost}
	for e, err := range s.StreamEvents(ctx, stream) {
		switch {
		case ctx.Err() != nil: // interrupted, which is how it ends
			return nil
		case err != nil:
			return err
		case s.JSON || s.Quiet:
			err = s.show(e.ID, nil)
		default:
			err = printed(fmt.Fprintf(s.out, "%s  %s  %s\n", eventLine(e.Event), clean(verdict(e.Signature)), clean(cameInAt(e.Event))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eventLine describes an event on one line: time, ID, content type and size.
func eventLine(e client.Event) string {
	kind := e.ContentType
	if kind == "" {
		kind = "-"
	}
	return fmt.Sprintf("%s  %s  %s  %s", e.ReceivedAt.Local().Format("15:04:05.000"), clean(e.ID), clean(kind), size(e.Size))
}

// lost prints that a stream's connection was lost, and when it is made again.
func (s *session) lost(err error, again time.Duration) {
	fmt.Fprintf(s.err, "kapsel: %v; connecting again in %s\n", s.advise(err), again)
}

// size returns a number of bytes as people read it.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

type eventsShow struct{ eventID }

// Help has examples.
func (eventsShow) Help() string {
	return `Shows how the event came in, its headers and the beginning of its body, each delivery, and each
attempt with what the destination answered. With --json it is the event alone, as the API has it;
kapsel attempts list has a delivery's attempts.

Examples:
  kapsel events show evt_01m84z2d7vf9zws4jxr1p6y3kb
  kapsel events show evt_01m84z2d7vf9zws4jxr1p6y3kb --json`
}

// story holds everything about an event but its body.
type story struct {
	client.EventDetail
	deliveries []deliveryStory
}

type deliveryStory struct {
	client.Delivery
	attempts []client.Attempt
}

func (c eventsShow) do(ctx context.Context, s *session) error {
	detail, err := s.GetEvent(ctx, c.ID)
	if err != nil {
		return err
	}
	if s.JSON || s.Quiet {
		return s.show(detail.ID, nil)
	}
	told := story{EventDetail: detail}
	for _, d := range detail.Deliveries {
		ds := deliveryStory{Delivery: d}
		for a, err := range s.ListAttempts(ctx, d.ID) {
			if err != nil {
				return err
			}
			ds.attempts = append(ds.attempts, a)
		}
		told.deliveries = append(told.deliveries, ds)
	}
	var body []byte
	if detail.ErasedAt == nil {
		if body, err = s.GetPayload(ctx, c.ID); err != nil {
			return err
		}
	}
	return s.show(told.ID, func(w io.Writer) { told.tell(w, body) })
}

// tell prints the story for people.
func (t story) tell(w io.Writer, body []byte) {
	eventCard(w, t.Event)
	if t.ErasedAt != nil {
		t.tellDeliveries(w)
		return
	}
	if t.Query != "" {
		card(w, fact{"query", t.Query})
	}
	fmt.Fprintln(w, "\nHeaders")
	headers(w, t.Headers)
	excerpt(w, "\nBody", body)
	t.tellDeliveries(w)
}

// tellDeliveries prints the deliveries with their attempts.
func (t story) tellDeliveries(w io.Writer) {
	for _, d := range t.deliveries {
		fmt.Fprintf(w, "\nDelivery %s: %s\n", clean(d.ID), clean(deliveryText(d.Delivery)))
		for _, a := range d.attempts {
			fmt.Fprintf(w, "  #%d  %s  %s\n", a.Number, a.StartedAt.Local().Format("15:04:05.000"), clean(attemptText(a)))
			if body := answerBody(a); body != "" {
				fmt.Fprintf(w, "      answer: %s\n", clean(shortened(body, 200)))
			}
		}
	}
}

// cameInAt returns the ID of the endpoint or the source whose ingest URL an event came in at.
func cameInAt(e client.Event) string {
	switch {
	case e.EndpointID != nil:
		return *e.EndpointID
	case e.SourceID != nil:
		return *e.SourceID
	}
	return "published"
}

func eventCard(w io.Writer, e client.Event) {
	status := e.Status
	if e.Expanding {
		status += ", and deliveries are still being made"
	}
	card(w, fact{"id", e.ID}, fact{"status", status}, fact{"received", at(e.ReceivedAt)}, fact{"deliver at", atOr(e.DeliverAt)}, fact{"delivered", atOr(e.DeliveredAt)},
		fact{"came in at", cameInAt(e)}, fact{"type", there(e.Type)}, fact{"tenant", e.TenantID}, fact{"signature", verdict(e.Signature)}, fact{"key", there(e.IdempotencyKey)}, fact{"erased", atOr(e.ErasedAt)},
		fact{"content", strings.TrimSpace(e.ContentType + "  " + size(e.Size))})
}

// verdict describes the result of the check of a signature.
func verdict(v client.Verdict) string {
	if v.Scheme == "none" {
		return "not checked"
	}
	text := v.Scheme + ", not valid"
	if v.Valid {
		text = v.Scheme + ", valid"
	}
	if v.Skew != nil {
		text += ", signed " + roughly(time.Duration(*v.Skew).Abs()) + " away from our time"
	}
	return text
}

// headers prints header fields, one a line.
func headers(w io.Writer, fields [][]string) {
	for _, f := range fields {
		if len(f) == 2 {
			fmt.Fprintf(w, "  %s: %s\n", clean(f[0]), clean(f[1]))
		}
	}
}

// excerptMost is how many bytes of a body excerpt prints.
const excerptMost = 2000

// excerpt prints the beginning of a body.
func excerpt(w io.Writer, title string, body []byte) {
	switch {
	case len(body) == 0:
		fmt.Fprintln(w, title+": empty")
		return
	case !utf8.Valid(body):
		fmt.Fprintln(w, title+": not text; kapsel events payload writes it")
		return
	}
	fmt.Fprintln(w, title)
	for line := range strings.Lines(shortened(string(body), excerptMost)) {
		fmt.Fprintf(w, "  %s\n", clean(strings.TrimRight(line, "\r\n")))
	}
}

// shortened returns a text of at most most bytes as it is, and of a longer one the beginning and how much
// follows.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	cut := most
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%s more)", text[:cut], size(int64(len(text)-cut)))
}

type eventsPayload struct{ eventID }

// Help has examples.
func (eventsPayload) Help() string {
	return `The bytes go to standard output as they came in, with --json and --quiet too.

Examples:
  kapsel events payload evt_01m84z2d7vf9zws4jxr1p6y3kb > body
  kapsel events payload evt_01m84z2d7vf9zws4jxr1p6y3kb | jq .`
}

func (c eventsPayload) do(ctx context.Context, s *session) error {
	body, err := s.GetPayload(ctx, c.ID)
	if err != nil {
		return err
	}
	return printed(s.out.Write(body))
}

type eventsErase struct{ eventID }

// Help has an example.
func (eventsErase) Help() string {
	return `Erases the body, headers and query of an event, and what its attempts kept of requests and answers; in
the audit log the salt and the texts of its attempts' leaves, whose hashes stay. Nothing brings them back.
Ids, times, outcomes and the idempotency key stay. Deliveries that have not ended must be canceled before (kapsel events cancel).

Example:
  kapsel events erase evt_01m84z2d7vf9zws4jxr1p6y3kb`
}

func (c eventsErase) do(ctx context.Context, s *session) error {
	e, err := s.EraseEvent(ctx, c.ID)
	if err != nil {
		return err
	}
	return s.show(e.ID, func(w io.Writer) { eventCard(w, e.Event) })
}

type eventsReplay struct {
	eventID
	Endpoint string `complete:"endpoint" placeholder:"ENDPOINT" help:"Of several that the event went to, the one that gets it again, by id or name."`
	Tenant   string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose endpoint has the name."`
	waiting
}

// Help has examples.
func (eventsReplay) Help() string {
	return `Makes a new delivery of the same bytes; the former one stays as it is.

Examples:
  kapsel events replay evt_01m84z2d7vf9zws4jxr1p6y3kb
  kapsel events replay evt_01m84z2d7vf9zws4jxr1p6y3kb --wait 10s
  kapsel events replay evt_01m84z2d7vf9zws4jxr1p6y3kb --endpoint warehouse`
}

func (c eventsReplay) do(ctx context.Context, s *session) error {
	var in client.ReplayEventInput
	if endpoint, err := s.endpointNamed(ctx, c.Endpoint, c.Tenant); err != nil {
		return err
	} else if endpoint != "" {
		in.EndpointID = client.Some(endpoint)
	}
	s.named = sentBy{"endpoint_id": "--endpoint"}
	d, err := s.ReplayEvent(ctx, c.ID, in)
	if err != nil {
		return err
	}
	return c.deliver(ctx, s, d)
}
