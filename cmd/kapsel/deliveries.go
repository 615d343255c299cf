package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
)

type deliveriesCmd struct {
	List   ask[deliveriesList]   `cmd:"" help:"List deliveries, newest first."`
	Get    ask[deliveriesGet]    `cmd:"" help:"Show a delivery."`
	Retry  ask[deliveriesRetry]  `cmd:"" help:"Make a pending delivery due now."`
	Cancel ask[deliveriesCancel] `cmd:"" help:"End a pending delivery."`
}

// deliveryID is the argument of commands that are about one delivery.
type deliveryID struct {
	ID string `arg:"" name:"delivery" help:"A delivery's id, dlv_…"`
}

type deliveriesList struct {
	ofTenant
	Endpoint string   `complete:"endpoint" placeholder:"ENDPOINT" help:"Only to this endpoint; its id or name."`
	Event    string   `placeholder:"EVENT" help:"Only those of this event, evt_…"`
	Status   []string `complete:"pending,delivering,delivered,failed,dead_letter,canceled" placeholder:"STATUS" help:"Only those with any of these statuses: pending, delivering, delivered, failed, dead_letter, canceled."`
	Replayed string   `enum:",true,false" default:"" placeholder:"BOOL" help:"Only those that a later delivery repeats (true), or that none does (false)."`
	listing
}

// Help has examples.
func (deliveriesList) Help() string {
	return `Examples:
  kapsel deliveries list --status pending
  kapsel deliveries list --status failed,dead_letter --replayed false --since 7d
  kapsel deliveries list --event evt_01m84z2d7vf9zws4jxr1p6y3kb
  kapsel deliveries list --endpoint orders --json`
}

func (c deliveriesList) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	endpoint, err := s.endpointNamed(ctx, c.Endpoint, tenant)
	if err != nil {
		return err
	}
	var deliveries iter.Seq2[found[client.Delivery], error]
	if c.Event != "" {
		if _, err := kapsel.ParseEventID(c.Event); err != nil {
			return settingError("--event: %q is %v", c.Event, err)
		}
		if err := c.knownStatuses(); err != nil {
			return err
		}
		if _, err := s.GetEvent(ctx, c.Event); err != nil {
			return err
		}
		all, err := membersOf[client.Delivery](s.raw, "deliveries")
		if err != nil {
			return err
		}
		slices.Reverse(all) // the oldest comes first there
		deliveries = only(each(all), func(d client.Delivery) bool {
			return (endpoint == "" || d.EndpointID == endpoint) && (c.Status == nil || slices.Contains(c.Status, d.Status)) &&
				(c.Replayed == "" || c.Replayed == strconv.FormatBool(d.ReplayedAs != nil))
		})
	} else {
		filter := client.ListDeliveriesFilter{TenantID: tenant, EndpointID: endpoint, Replayed: c.Replayed}
		deliveries = byStatus(s, c.Status, func(d client.Delivery) string { return d.ID }, func(status string) iter.Seq2[client.Delivery, error] {
			filter.Status = status
			return s.ListDeliveries(ctx, filter)
		})
	}
	return list(s, deliveries, c.listing, true, func(d client.Delivery) time.Time { return d.CreatedAt },
		column[client.Delivery]{"ID", func(d client.Delivery) string { return d.ID }},
		column[client.Delivery]{"STATUS", func(d client.Delivery) string { return d.Status }},
		column[client.Delivery]{"ATTEMPTS", func(d client.Delivery) string { return attemptsOf(d) }},
		column[client.Delivery]{"LAST", lastAnswer},
		column[client.Delivery]{"NEXT", func(d client.Delivery) string { return agoOr(d.NextAttemptAt) }},
		column[client.Delivery]{"WAITING FOR", func(d client.Delivery) string { return or(d.WaitingFor) }},
		column[client.Delivery]{"CREATED", func(d client.Delivery) string { return ago(d.CreatedAt) }},
		column[client.Delivery]{"EVENT", func(d client.Delivery) string { return d.EventID }})
}

// knownStatuses returns an error if --status has a status that no delivery has. It is for the case in which
// the server does not check the statuses.
func (c deliveriesList) knownStatuses() error {
	for _, status := range c.Status {
		if _, err := kapsel.ParseDeliveryStatus(status); err != nil {
			return settingError("--status: no delivery is %q", status)
		}
	}
	return nil
}

// attemptsOf returns how many attempts were made and, if known, how many there may be.
func attemptsOf(d client.Delivery) string {
	if d.MaxAttempts == nil {
		return fmt.Sprint(d.Attempts)
	}
	return fmt.Sprintf("%d/%d", d.Attempts, *d.MaxAttempts)
}

// lastAnswer returns the status and the error code of the last attempt, "-" if there are none.
func lastAnswer(d client.Delivery) string {
	text := strings.TrimSpace(there(d.LastStatusCode) + " " + there(d.LastErrorCode))
	if text == "" {
		return "-"
	}
	return text
}

// deliveryText describes a delivery in a few words.
func deliveryText(d client.Delivery) string {
	text := d.Status + " after " + plural(d.Attempts, "attempt")
	if d.NextAttemptAt != nil {
		text += ", next " + ago(*d.NextAttemptAt)
	}
	if d.WaitingFor != nil {
		text += ", waits for " + *d.WaitingFor
	}
	if d.ReplayOf != nil {
		text += ", repeats " + *d.ReplayOf
	}
	if d.ReplayedAs != nil {
		text += ", repeated as " + *d.ReplayedAs
	}
	return text
}

func plural(n int64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

type deliveriesGet struct{ deliveryID }

// Help has an example.
func (deliveriesGet) Help() string {
	return `Example:
  kapsel deliveries get dlv_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c deliveriesGet) do(ctx context.Context, s *session) error {
	return s.showDelivery(s.GetDelivery(ctx, c.ID))
}

// showDelivery prints the delivery that a call answered, or returns the call's error.
func (s *session) showDelivery(d client.Delivery, err error) error {
	if err != nil {
		return err
	}
	return s.show(d.ID, func(w io.Writer) {
		card(w, fact{"id", d.ID}, fact{"status", d.Status}, fact{"event", d.EventID}, fact{"endpoint", d.EndpointID},
			fact{"attempts", attemptsOf(d)}, fact{"last answer", lastAnswer(d)}, fact{"next attempt", atOr(d.NextAttemptAt)},
			fact{"waiting for", there(d.WaitingFor)}, fact{"repeats", there(d.ReplayOf)}, fact{"repeated as", there(d.ReplayedAs)},
			fact{"created", at(d.CreatedAt)}, fact{"finished", atOr(d.FinishedAt)})
	})
}

type deliveriesRetry struct {
	deliveryID
	waiting
}

// Help has examples.
func (deliveriesRetry) Help() string {
	return `A delivery that has ended is not retried: kapsel events replay delivers its event again.

Examples:
  kapsel deliveries retry dlv_01m84z3e8wgaaxt5kys2q7z4mc
  kapsel deliveries retry dlv_01m84z3e8wgaaxt5kys2q7z4mc --wait 10s`
}

func (c deliveriesRetry) do(ctx context.Context, s *session) error {
	d, err := s.RetryDelivery(ctx, c.ID)
	if err != nil {
		return err
	}
	return c.deliver(ctx, s, d)
}

type deliveriesCancel struct{ deliveryID }

// Help has an example.
func (deliveriesCancel) Help() string {
	return `Example:
  kapsel deliveries cancel dlv_01m84z3e8wgaaxt5kys2q7z4mc`
}

func (c deliveriesCancel) do(ctx context.Context, s *session) error {
	return s.showDelivery(s.CancelDelivery(ctx, c.ID))
}

// waiting lets a command wait for a delivery to end.
type waiting struct {
	Wait time.Duration `placeholder:"DURATION" help:"Wait so long for the delivery to end; exit 1 unless it is delivered."`
}

// pollEvery is how often await calls its function.
const pollEvery = 200 * time.Millisecond

// await calls look every pollEvery until it reports true or fails. When atMost is over, await calls look once
// more and returns its error.
func await(ctx context.Context, atMost time.Duration, look func() (done bool, err error)) error {
	deadline := time.After(atMost)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for late := false; ; {
		if done, err := look(); done || err != nil || late {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			late = true
		case <-tick.C:
		}
	}
}

// deliver prints a delivery, with --wait after it has ended. It then fails unless the delivery was delivered.
func (c waiting) deliver(ctx context.Context, s *session, d client.Delivery) error {
	if c.Wait <= 0 {
		return s.showDelivery(d, nil)
	}
	err := await(ctx, c.Wait, func() (ended bool, err error) {
		d, err = s.GetDelivery(ctx, d.ID)
		return d.FinishedAt != nil, err
	})
	if err != nil {
		return err
	}
	if err := s.showDelivery(d, nil); err != nil {
		return err
	}
	if d.Status != "delivered" {
		return fmt.Errorf("the delivery is not delivered: %s; kapsel attempts list %s has the answers", deliveryText(d), d.ID)
	}
	return nil
}
