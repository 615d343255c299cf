package main

import (
	"context"
	"io"

	"github.com/kapsel-hq/kapsel/client"
)

type eventsWhy struct{ eventID }

// Help has examples.
func (eventsWhy) Help() string {
	return `Lists the endpoints that have a delivery of the event, and those that subscribe to where it came
from and have none, each with what the delivery waits for or why there is none.

Examples:
  kapsel events why evt_01m84z2d7vf9zws4jxr1p6y3kb
  kapsel events why evt_01m84z2d7vf9zws4jxr1p6y3kb --json`
}

func (c eventsWhy) do(ctx context.Context, s *session) error {
	return list(s, raws(s, s.GetWhy(ctx, c.ID)), listing{}, false, nil,
		column[client.Reason]{"ENDPOINT", func(r client.Reason) string { return r.EndpointID }},
		column[client.Reason]{"DELIVERY", func(r client.Reason) string { return or(r.DeliveryID) }},
		column[client.Reason]{"STATUS", func(r client.Reason) string { return or(r.Status) }},
		column[client.Reason]{"WHY", func(r client.Reason) string { return r.Reason }})
}

type eventsCancel struct {
	eventID
	Endpoint string `complete:"endpoint" placeholder:"ENDPOINT" help:"Only the delivery to this endpoint; its id or name."`
	Tenant   string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: the tenant whose endpoint has the name."`
}

// Help has examples.
func (eventsCancel) Help() string {
	return `Cancels the event's deliveries that wait for their first or next attempt. One in flight goes on.

Examples:
  kapsel events cancel evt_01m84z2d7vf9zws4jxr1p6y3kb
  kapsel events cancel evt_01m84z2d7vf9zws4jxr1p6y3kb --endpoint warehouse`
}

func (c eventsCancel) do(ctx context.Context, s *session) error {
	var in client.CancelEventInput
	if endpoint, err := s.endpointNamed(ctx, c.Endpoint, c.Tenant); err != nil {
		return err
	} else if endpoint != "" {
		in.EndpointID = client.Some(endpoint)
	}
	s.named = sentBy{"endpoint_id": "--endpoint"}
	e, err := s.CancelEvent(ctx, c.ID, in)
	if err != nil {
		return err
	}
	return s.show(e.ID, func(w io.Writer) {
		eventCard(w, e.Event)
		for _, d := range e.Deliveries {
			io.WriteString(w, "  "+d.ID+"  "+clean(d.EndpointID)+"  "+clean(deliveryText(d))+"\n")
		}
	})
}
