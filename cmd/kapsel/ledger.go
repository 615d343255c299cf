package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

// ledgerCmd is `kapsel ledger`.
type ledgerCmd struct {
	ofTenant
	Endpoint  string `complete:"endpoint" placeholder:"ENDPOINT" help:"Only this endpoint's account; its id or name."`
	Conflicts bool   `help:"Instead: what the books and the store do not agree on, those found first at the top."`
	Limit     int    `default:"50" placeholder:"N" help:"Show at most this many, 0: all (default ${default})."`
}

// Help has examples.
func (ledgerCmd) Help() string {
	return `Shows how many deliveries were made, are in flight and ended how, of each tenant and each of
its endpoints, and what of it is booked. DIFFERENCE is of the last comparison of the books with the
store: 0 if they agree, - if there was none in the last five minutes.

Examples:
  kapsel ledger
  kapsel ledger --endpoint orders --json
  kapsel ledger --conflicts`
}

func (c ledgerCmd) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	limit := listing{Limit: c.Limit}
	if c.Conflicts {
		if c.Endpoint != "" {
			return settingError("--conflicts: is of a tenant or of all; leave --endpoint out")
		}
		conflicts := s.ListLedgerConflicts(ctx, client.ListLedgerConflictsFilter{TenantID: tenant})
		return list(s, raws(s, conflicts), limit, false, func(v client.LedgerConflict) time.Time { return v.FoundAt },
			column[client.LedgerConflict]{"DELIVERY", func(v client.LedgerConflict) string { return v.DeliveryID }},
			column[client.LedgerConflict]{"FACT", func(v client.LedgerConflict) string { return v.Kind }},
			column[client.LedgerConflict]{"WHEN", func(v client.LedgerConflict) string { return ago(v.At) }},
			column[client.LedgerConflict]{"FOUND", func(v client.LedgerConflict) string { return ago(v.FoundAt) }},
			column[client.LedgerConflict]{"ENDPOINT", func(v client.LedgerConflict) string { return v.EndpointID }},
			column[client.LedgerConflict]{"ANSWER", func(v client.LedgerConflict) string { return v.Answer }})
	}
	filter := client.GetLedgerFilter{TenantID: tenant}
	if c.Endpoint != "" {
		if filter.EndpointID, err = s.endpointNamed(ctx, c.Endpoint, c.Tenant); err != nil {
			return err
		}
	}
	return list(s, raws(s, s.GetLedger(ctx, filter)), limit, false, func(client.LedgerAccount) time.Time { return time.Time{} },
		column[client.LedgerAccount]{"OWNER", ownerOf},
		column[client.LedgerAccount]{"MADE", func(a client.LedgerAccount) string { return strconv.FormatInt(a.Store.Made, 10) }},
		column[client.LedgerAccount]{"IN FLIGHT", func(a client.LedgerAccount) string { return or(a.Store.InFlight) }},
		column[client.LedgerAccount]{"DELIVERED", func(a client.LedgerAccount) string { return or(a.Store.Delivered) }},
		column[client.LedgerAccount]{"FAILED", func(a client.LedgerAccount) string { return or(a.Store.Failed) }},
		column[client.LedgerAccount]{"DEAD LETTER", func(a client.LedgerAccount) string { return or(a.Store.DeadLetter) }},
		column[client.LedgerAccount]{"CANCELED", func(a client.LedgerAccount) string { return or(a.Store.Canceled) }},
		column[client.LedgerAccount]{"BOOKED", booked},
		column[client.LedgerAccount]{"DIFFERENCE", difference},
		column[client.LedgerAccount]{"COMPARED", func(a client.LedgerAccount) string {
			if a.ReportedAt == nil {
				return "-"
			}
			return ago(*a.ReportedAt)
		}})
}

// ownerOf returns the ID of who has an account.
func ownerOf(a client.LedgerAccount) string {
	if a.EndpointID != nil {
		return *a.EndpointID
	}
	return a.TenantID
}

// booked returns how many deliveries the books had when they were last compared.
func booked(a client.LedgerAccount) string {
	if a.Books == nil {
		return "-"
	}
	return strconv.FormatInt(a.Books.Made, 10)
}

// difference returns "0" if the books and the store agree, else what the books have too many of, or, with
// a minus, too few.
func difference(a client.LedgerAccount) string {
	if a.Difference == nil {
		return "-"
	}
	text := ""
	for _, d := range []struct {
		name string
		n    *int64
	}{
		{"made", &a.Difference.Made}, {"accepted", a.Difference.Accepted}, {"replayed", a.Difference.Replayed}, {"in flight", a.Difference.InFlight},
		{"delivered", a.Difference.Delivered}, {"failed", a.Difference.Failed}, {"dead letter", a.Difference.DeadLetter}, {"canceled", a.Difference.Canceled},
	} {
		if d.n != nil && *d.n != 0 {
			if text != "" {
				text += ", "
			}
			text += fmt.Sprintf("%+d %s", *d.n, d.name)
		}
	}
	if text == "" {
		return "0"
	}
	return text
}
