package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

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
	most
	Endpoint string `placeholder:"ENDPOINT" help:"Only to this endpoint, ep_…"`
	Status   string `placeholder:"STATUS" help:"Only those pending, delivering, delivered, failed, dead_letter or canceled."`
	Replayed string `enum:",true,false" default:"" placeholder:"BOOL" help:"Only those that a later delivery repeats (true), or that none does (false)."`
}

// Help has examples.
func (deliveriesList) Help() string {
	return `Examples:
  kapsel deliveries list --status pending
  kapsel deliveries list --status dead_letter --replayed false
  kapsel deliveries list --endpoint ep_01m84yz4zqfgjtcypmsesbpznb --json`
}

func (c deliveriesList) do(ctx context.Context, s *session) error {
	filter := client.ListDeliveriesFilter{TenantID: c.Tenant, EndpointID: c.Endpoint, Status: c.Status, Replayed: c.Replayed}
	return list(s, s.ListDeliveries(ctx, filter), c.most,
		column[client.Delivery]{"ID", func(d client.Delivery) string { return d.ID }},
		column[client.Delivery]{"STATUS", func(d client.Delivery) string { return d.Status }},
		column[client.Delivery]{"ATTEMPTS", func(d client.Delivery) string { return attemptsOf(d) }},
		column[client.Delivery]{"LAST", lastAnswer},
		column[client.Delivery]{"NEXT", func(d client.Delivery) string { return agoOr(d.NextAttemptAt) }},
		column[client.Delivery]{"WAITING FOR", func(d client.Delivery) string { return or(d.WaitingFor) }},
		column[client.Delivery]{"CREATED", func(d client.Delivery) string { return ago(d.CreatedAt) }},
		column[client.Delivery]{"EVENT", func(d client.Delivery) string { return d.EventID }})
}

// attemptsOf is how many attempts were made of how many there may be.
func attemptsOf(d client.Delivery) string {
	if d.MaxAttempts == nil {
		return fmt.Sprint(d.Attempts)
	}
	return fmt.Sprintf("%d/%d", d.Attempts, *d.MaxAttempts)
}

// lastAnswer is how the last attempt ended.
func lastAnswer(d client.Delivery) string {
	text := strings.TrimSpace(there(d.LastStatusCode) + " " + there(d.LastErrorCode))
	if text == "" {
		return "-"
	}
	return text
}

// deliveryText is a delivery in a few words.
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
	return s.show(d, d.ID, func(w io.Writer) {
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

// pollEvery is how often a delivery that is waited for is looked at.
const pollEvery = 200 * time.Millisecond

// deliver prints a delivery, at once or, when asked to wait, once it has ended.
func (c waiting) deliver(ctx context.Context, s *session, d client.Delivery) error {
	if c.Wait <= 0 {
		return s.showDelivery(d, nil)
	}
	deadline := time.After(c.Wait)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for late := false; d.FinishedAt == nil && !late; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			late = true
		case <-tick.C:
		}
		var err error
		if d, err = s.GetDelivery(ctx, d.ID); err != nil {
			return err
		}
	}
	if err := s.showDelivery(d, nil); err != nil {
		return err
	}
	if d.Status != "delivered" {
		return fmt.Errorf("the delivery is not delivered: %s; kapsel attempts list %s has the answers", deliveryText(d), d.ID)
	}
	return nil
}
