package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

// publishCmd publishes an event.
type publishCmd struct {
	Tenant      string        `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose event it is; its id or name."`
	Type        string        `required:"" placeholder:"TYPE" help:"What happened, such as invoice.paid; endpoints subscribe to types."`
	Data        string        `placeholder:"FILE" help:"A file with the JSON that is delivered; - is standard input. What begins with { or [ is the JSON itself."`
	ContentType string        `placeholder:"TYPE" help:"Of a file that is not JSON, such as text/csv."`
	ID          string        `placeholder:"KEY" help:"What the event is known by: published again with it within 24 hours, nothing is made, and the first event is shown."`
	App         string        `complete:"app" placeholder:"APP" help:"The app that it is published to, by id, uid or name: it goes to the app's endpoints alone. Without it it goes to endpoints that belong to no app."`
	Channel     []string      `placeholder:"CHANNEL" help:"A channel of the event; may be repeated. Endpoints that subscribe to channels get it if it has one of theirs."`
	OrderingKey string        `placeholder:"KEY" help:"What the event is about. A --id counts among the events of the same app with the same one."`
	At          instant       `placeholder:"TIME" help:"Deliver it at this time or date, at most 30 days ahead; in the past: at once."`
	In          time.Duration `placeholder:"DURATION" help:"Deliver it after so long, such as 10m or 2d."`
	DryRun      bool          `help:"Store nothing; say how many endpoints would get it."`

	Wait time.Duration `placeholder:"DURATION" help:"Wait so long for all deliveries to end; exit 1 unless all are delivered."`
}

// Help says what it does and has examples.
func (publishCmd) Help() string {
	return `Stores an event of your own and delivers it to the endpoints that subscribe to it
(kapsel endpoints create --subscribe publish:invoice.paid). The bytes are delivered as they are.

Examples:
  kapsel publish --type invoice.paid --data '{"invoice":1042}'
  kapsel publish --type invoice.paid --data invoice.json --id invoice-1042-paid --wait 10s
  kapsel publish --type trial.ends --data '{"customer":17}' --in 2d
  kapsel publish --app customer-17 --type invoice.paid --data '{"invoice":1042}'
  kapsel publish --type report.ready --content-type text/csv --data - <report.csv
  kapsel publish --type invoice.paid --data '{}' --channel eu --dry-run`
}

// publishFlags holds the flags of the fields of a publication.
var publishFlags = sentBy{
	"type": "--type", "data": "--data", "body_base64": "--data", "content_type": "--content-type", "id": "--id", "channels": "--channel", "ordering_key": "--ordering-key",
	"deliver_at": "--at", "app": "--app",
}

func (c publishCmd) do(ctx context.Context, s *session) error {
	in := client.PublishInput{
		Type: c.Type, ID: nonEmpty(c.ID), Channels: c.Channel, OrderingKey: nonEmpty(c.OrderingKey), ContentType: nonEmpty(c.ContentType),
	}
	data, err := c.read()
	if err != nil {
		return err
	}
	if in.ContentType != nil {
		in.BodyBase64 = new(base64.StdEncoding.EncodeToString(data))
	} else {
		if !json.Valid(data) {
			return settingError("--data: is not JSON; name its --content-type")
		}
		in.Data = data
	}
	if c.DryRun {
		in.DryRun = &c.DryRun
	}
	named := publishFlags
	switch {
	case c.In != 0 && !c.At.IsZero():
		return settingError("--in: does not go with --at; one of them says when it is delivered")
	case c.In < 0:
		return settingError("--in: must not be negative")
	case c.In > 0:
		in.DeliverAt = new(time.Now().Add(c.In))
		named = maps.Clone(publishFlags)
		named["deliver_at"] = "--in"
	case !c.At.IsZero():
		in.DeliverAt = &c.At.Time
	}
	tenant, err := s.newOwner(ctx, c.Tenant)
	if err != nil {
		return err
	}
	app, err := s.appNamed(ctx, c.App, tenant)
	if err != nil {
		return err
	}
	in.App = nonEmpty(app)
	s.named = named
	e, err := s.Publish(ctx, tenant, in)
	switch {
	case err != nil:
		return err
	case c.DryRun && !s.JSON:
		return printed(fmt.Fprintf(s.out, "%s  %s  would go to %s; nothing was stored\n", clean(c.Type), size(e.Size), plural(e.Deliveries, "endpoint")))
	case c.Wait > 0 && !c.DryRun:
		return c.finish(ctx, s, e)
	}
	return s.show(e.ID, func(w io.Writer) {
		when := ""
		if e.DeliverAt != nil && e.DeliverAt.After(e.ReceivedAt) {
			when = "  at " + at(*e.DeliverAt)
		}
		for _, warning := range e.Warnings {
			fmt.Fprintf(s.err, "warning: %s %s\n", clean(warning.Field), clean(warning.Detail))
		}
		fmt.Fprintf(w, "%s  %s  %s  to %s%s\n", e.ID, clean(c.Type), size(e.Size), plural(e.Deliveries, "endpoint"), when)
		if e.Deliveries == 0 {
			of := ""
			if c.App != "" {
				of = " --app " + clean(c.App)
			}
			fmt.Fprintf(s.err, "no endpoint subscribes to it: kapsel endpoints create%s --subscribe publish:%s makes one\n", of, clean(c.Type))
		}
	})
}

// read returns the data that --data names.
func (c publishCmd) read() ([]byte, error) {
	switch {
	case c.Data == "":
		return nil, settingError("--data: is needed: a file with the JSON to deliver, - for standard input, or the JSON itself")
	case c.ContentType == "" && (strings.HasPrefix(c.Data, "{") || strings.HasPrefix(c.Data, "[")):
		return []byte(c.Data), nil
	}
	return readAll("--data", c.Data)
}

// finish waits until an event's deliveries have ended, and shows them. It fails unless all were delivered.
func (c publishCmd) finish(ctx context.Context, s *session, e client.NewEvent) error {
	var detail client.EventDetail
	err := await(ctx, c.Wait, func() (ended bool, err error) {
		detail, err = s.GetEvent(ctx, e.ID)
		return !detail.Expanding && !slices.ContainsFunc(detail.Deliveries, func(d client.Delivery) bool { return d.FinishedAt == nil }), err
	})
	if err != nil {
		return err
	}
	err = s.show(detail.ID, func(w io.Writer) {
		fmt.Fprintf(w, "%s  %s  %s\n", detail.ID, clean(c.Type), size(detail.Size))
		for _, d := range detail.Deliveries {
			fmt.Fprintf(w, "  %s  %s  %s\n", d.ID, clean(d.EndpointID), clean(deliveryText(d)))
		}
	})
	if err != nil {
		return err
	}
	if detail.Status != client.EventStatusDelivered {
		return fmt.Errorf("the event is %s; kapsel events show %s has the answers", detail.Status, detail.ID)
	}
	return nil
}
