package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

type endpointsStats struct {
	endpointID
	Since    moment `placeholder:"TIME" help:"From this time or date on, or how long ago, such as 48h (default 24h, or 30d by day)."`
	Until    moment `placeholder:"TIME" help:"Before this time (default now)."`
	Interval string `default:"hour" enum:"hour,day" placeholder:"hour|day" help:"hour or day, of UTC (default ${default})."`
}

// Help has examples.
func (endpointsStats) Help() string {
	return `Intervals in which nothing happened are not shown. Latencies are estimates, off by less
than a factor of 2.

Examples:
  kapsel endpoints stats orders
  kapsel endpoints stats orders --since 7d --interval day
  kapsel endpoints stats ep_01m84yz4zqfgjtcypmsesbpznb --json`
}

func (c endpointsStats) do(ctx context.Context, s *session) error {
	id, err := c.id(ctx, s)
	if err != nil {
		return err
	}
	stats, err := s.GetEndpointStats(ctx, id, client.GetEndpointStatsFilter{Since: c.Since.Time, Until: c.Until.Time, Interval: c.Interval})
	if err != nil {
		return err
	}
	return s.show(stats.EndpointID, func(w io.Writer) {
		rows := [][]string{{"FROM", "ATTEMPTS", "2XX", "3XX 4XX", "5XX", "TIMEOUT", "NO ANSWER", "UNKNOWN", "SUCCESS", "P50", "P95", "P99", "DELIVERED", "FAILED", "DEAD LETTER", "CANCELED", "REFUSED", "UNKEYED"}}
		for _, i := range stats.Intervals {
			ended := i.Deliveries != (client.DeliveryCounts{})
			if i.Attempts.Total > 0 || i.Refused > 0 || i.Unkeyed > 0 || ended {
				rows = append(rows, statsRow(begins(i.Start, stats.Interval), client.Stats{Attempts: i.Attempts, Deliveries: i.Deliveries, SuccessRate: i.SuccessRate, Latency: i.Latency, Refused: i.Refused, Unkeyed: i.Unkeyed}))
			}
		}
		table(w, append(rows, statsRow("total", stats.Total)))
	})
}

// begins returns when an interval begins: an hour in local time, a day, which is a day of UTC, as its date.
func begins(t time.Time, interval string) string {
	if interval == "day" {
		return t.UTC().Format(time.DateOnly)
	}
	return t.Local().Format("2006-01-02 15:04")
}

func statsRow(name string, s client.Stats) []string {
	row := []string{name}
	a, d := s.Attempts, s.Deliveries
	for _, n := range []int64{a.Total, a.Succeeded, a.ClientErrors, a.ServerErrors, a.Timeouts, a.NoAnswers, a.Unknown} {
		row = append(row, strconv.FormatInt(n, 10))
	}
	success := "-"
	if s.SuccessRate != nil {
		success = fmt.Sprintf("%.2f%%", 100**s.SuccessRate)
	}
	row = append(row, success)
	for _, ms := range []*float64{s.Latency.P50Ms, s.Latency.P95Ms, s.Latency.P99Ms} {
		text := "-"
		if ms != nil {
			text = time.Duration(*ms * float64(time.Millisecond)).Round(time.Millisecond).String()
		}
		row = append(row, text)
	}
	for _, n := range []int64{d.Delivered, d.Failed, d.DeadLetter, d.Canceled, s.Refused, s.Unkeyed} {
		row = append(row, strconv.FormatInt(n, 10))
	}
	return row
}

type usageCmd struct {
	ofTenant
	Since moment `placeholder:"TIME" help:"From the day of this time on: a time or a date, or how long ago, such as 7d (default the first of the month)."`
	Until moment `placeholder:"TIME" help:"Before this time (default now)."`
}

// Help has examples.
func (usageCmd) Help() string {
	return `Days and months are of UTC. With the admin key and no --tenant it is all tenants' together.

Examples:
  kapsel usage
  kapsel usage --tenant acme --since 2026-02-01T00:00:00Z --until 2026-03-01T00:00:00Z
  kapsel usage --json`
}

func (c usageCmd) do(ctx context.Context, s *session) error {
	tenant, err := s.tenantNamed(ctx, c.Tenant)
	if err != nil {
		return err
	}
	u, err := s.GetUsage(ctx, client.GetUsageFilter{TenantID: tenant, Since: c.Since.Time, Until: c.Until.Time})
	if err != nil {
		return err
	}
	return s.show(there(u.TenantID), func(w io.Writer) {
		rows := [][]string{{"DAY", "EVENTS", "BYTES", "ATTEMPTS", "DELIVERIES", "DELIVERED"}}
		for _, d := range u.Days {
			rows = append(rows, usageRow(d.Day, client.Usage{Events: d.Events, Bytes: d.Bytes, Attempts: d.Attempts, Deliveries: d.Deliveries, Delivered: d.Delivered}))
		}
		table(w, append(rows, usageRow("total", u.Total)))
		if u.Limits == nil {
			return
		}
		q := u.Limits.EventsPerMonth
		limit := "unlimited"
		if q.Limit != nil {
			limit = fmt.Sprintf("%d, %s left until %s", *q.Limit, or(q.Remaining), q.ResetsAt.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(w)
		card(w, fact{"events this month", strconv.FormatInt(q.Used, 10)}, fact{"events per month", limit})
	})
}

func usageRow(name string, u client.Usage) []string {
	row := []string{name}
	for _, n := range []int64{u.Events, u.Bytes, u.Attempts, u.Deliveries, u.Delivered} {
		row = append(row, strconv.FormatInt(n, 10))
	}
	return row
}
