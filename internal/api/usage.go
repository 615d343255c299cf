package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

func (a *api) usage() {
	add(a, access.Read, huma.Operation{
		OperationID: "get-endpoint-stats", Method: http.MethodGet, Path: "/v1/endpoints/{id}/stats", Tags: []string{"Endpoints"},
		Summary: "Count an endpoint's attempts and deliveries",
	}, a.getEndpointStats)
	add(a, access.Read, fails(huma.Operation{
		OperationID: "get-usage", Method: http.MethodGet, Path: "/v1/usage", Tags: []string{"Tenants"},
		Summary: "Count what a tenant used",
	}, failure{404, kapsel.NotFound}), a.getUsage)
}

// Limits of one answer.
const (
	maxStatsHours = 31 * 24
	maxStatsDays  = 92
	maxUsageDays  = 400
)

// StatsQuery is which stats are asked for.
type StatsQuery struct {
	EndpointPath
	Since    timestamp `query:"since" doc:"From this time on, rounded down to the interval; without it 24 hours, or 30 days, before until"`
	Until    timestamp `query:"until" doc:"Before this time, rounded up; without it now"`
	Interval string    `query:"interval" enum:"hour,day" default:"hour" doc:"At most 744 hours or 92 days"`
}

func (a *api) getEndpointStats(ctx context.Context, in *StatsQuery) (*out[EndpointStats], error) {
	e, err := a.Store.Endpoint(ctx, callerOf(ctx).Tenant, in.ID)
	if err != nil {
		return nil, err
	}
	step, usual, most := time.Hour, 24*time.Hour, maxStatsHours
	if in.Interval == "day" {
		step, usual, most = 24*time.Hour, 30*24*time.Hour, maxStatsDays
	}
	until := timeOr(in.Until, a.Clock())
	since, until, err := span(timeOr(in.Since, until.Add(-usual)), until, step, most)
	if err != nil {
		return nil, err
	}
	hours, err := a.Store.EndpointStats(ctx, callerOf(ctx).Tenant, e.ID, since, until)
	if err != nil {
		return nil, err
	}
	var total kapsel.Stats
	intervals := make([]kapsel.Stats, until.Sub(since)/step)
	for _, h := range hours {
		total.Add(&h.Stats)
		intervals[h.Hour.Sub(since)/step].Add(&h.Stats)
	}
	view := EndpointStats{
		EndpointID: e.ID, Interval: in.Interval, Since: timestamp(since), Until: timestamp(until),
		Total: viewStats(&total), Intervals: make([]StatsInterval, len(intervals)),
	}
	for i := range intervals {
		view.Intervals[i] = StatsInterval{timestamp(since.Add(time.Duration(i) * step)), viewStats(&intervals[i])}
	}
	return answer(view), nil
}

// timeOr is the time that a query names, or another where it names none.
func timeOr(t timestamp, other time.Time) time.Time {
	if time.Time(t).IsZero() {
		return other
	}
	return time.Time(t)
}

// span is a range of times of whole intervals of UTC, of which there may be so many.
func span(since, until time.Time, step time.Duration, most int) (first, end time.Time, err error) {
	if !since.Before(until) {
		return since, until, unreadable(field("since", "must be before until, which is now where it is not given"))
	}
	first, end = since.UTC().Truncate(step), until.UTC().Add(step-1).Truncate(step)
	if end.Sub(first) > time.Duration(most)*step {
		return since, until, unreadable(field("since", "is too long before until for one answer; ask for a part, or for longer intervals"))
	}
	return first, end, nil
}

// UsageQuery is which usage is asked for.
type UsageQuery struct {
	TenantQuery
	Since timestamp `query:"since" doc:"From the day of this time on; without it from the first of until's month on"`
	Until timestamp `query:"until" doc:"Before this time, rounded up to a day; without it now. At most 400 days"`
}

func (a *api) getUsage(ctx context.Context, in *UsageQuery) (*out[UsageReport], error) {
	now := a.Clock()
	until := timeOr(in.Until, now)
	month, _ := kapsel.UsageMonth(until.Add(-1))
	since, until, err := span(timeOr(in.Since, month), until, 24*time.Hour, maxUsageDays)
	if err != nil {
		return nil, err
	}
	id := in.of(callerOf(ctx))
	view := UsageReport{TenantID: orNull(id), Since: timestamp(since), Until: timestamp(until)}
	if !id.IsZero() {
		if view.Limits, err = a.usageLimits(ctx, id, now); err != nil {
			return nil, err
		}
	}
	days, err := a.Store.Usage(ctx, id, since, until)
	if err != nil {
		return nil, err
	}
	var total kapsel.Usage
	view.Days = make([]UsageDay, until.Sub(since)/(24*time.Hour))
	for i := range view.Days {
		view.Days[i].Day = since.AddDate(0, 0, i).Format(time.DateOnly)
	}
	for _, d := range days {
		total.Add(d.Usage)
		view.Days[d.Day.Sub(since)/(24*time.Hour)].Usage = viewUsage(d.Usage)
	}
	view.Total = viewUsage(total)
	return answer(view), nil
}

// usageLimits are what a tenant has used of its limits.
func (a *api) usageLimits(ctx context.Context, id kapsel.TenantID, now time.Time) (*UsageLimits, error) {
	t, err := a.Store.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	month, next := kapsel.UsageMonth(now)
	days, err := a.Store.Usage(ctx, id, month, next)
	if err != nil {
		return nil, err
	}
	quota := Quota{Limit: t.Effective().EventsPerMonth, ResetsAt: timestamp(next)}
	for _, d := range days {
		quota.Used += d.Events
	}
	if quota.Limit != nil {
		quota.Remaining = ptr(max(0, *quota.Limit-quota.Used))
	}
	return &UsageLimits{EventsPerMonth: quota}, nil
}

// EndpointStats are an endpoint's stats, in total and by interval.
type EndpointStats struct {
	EndpointID kapsel.EndpointID `json:"endpoint_id"`
	Interval   string            `json:"interval" enum:"hour,day"`
	Since      timestamp         `json:"since" doc:"When the first interval begins"`
	Until      timestamp         `json:"until" doc:"When the last interval ends"`
	Total      Stats             `json:"total"`
	Intervals  []StatsInterval   `json:"intervals" doc:"All of them, the oldest first, also those in which nothing was counted"`
}

// StatsInterval are the stats of one interval.
type StatsInterval struct {
	Start timestamp `json:"start"`
	Stats
}

// Stats count what became of attempts and deliveries.
type Stats struct {
	Attempts    AttemptCounts  `json:"attempts"`
	Deliveries  DeliveryCounts `json:"deliveries"`
	SuccessRate *float64       `json:"success_rate" nullable:"true" minimum:"0" maximum:"1" example:"0.998" doc:"The share of the attempts with a known outcome that were answered 2xx; null: there was none"`
	Latency     Latency        `json:"latency"`
	Unkeyed     int64          `json:"unkeyed" example:"0" doc:"Accepted webhooks without an idempotency key, where the endpoint says where they have one. Up to 10 s late"`
	Refused     int64          `json:"refused" example:"3" doc:"Webhooks that were answered with an error and not stored; /refusals says why. Up to 10 s late"`
}

// AttemptCounts are attempts by their outcome.
type AttemptCounts struct {
	Total        int64 `json:"total" example:"1204"`
	Succeeded    int64 `json:"succeeded" doc:"Answered 2xx" example:"1198"`
	ClientErrors int64 `json:"client_errors" doc:"Answered 3xx or 4xx (E2003)" example:"0"`
	ServerErrors int64 `json:"server_errors" doc:"Answered 5xx (E2004)" example:"4"`
	Timeouts     int64 `json:"timeouts" doc:"No answer in time (E2002)" example:"1"`
	NoAnswers    int64 `json:"no_answers" doc:"No answer for another reason (E2001, E2006 to E2009)" example:"1"`
	Unknown      int64 `json:"unknown" doc:"The node that made it was lost (E2010)" example:"0"`
}

// DeliveryCounts are deliveries by how they ended.
type DeliveryCounts struct {
	Delivered  int64 `json:"delivered" example:"1198"`
	Failed     int64 `json:"failed" example:"0"`
	DeadLetter int64 `json:"dead_letter" example:"1"`
	Canceled   int64 `json:"canceled" example:"0"`
}

// Latency are percentiles of how long the destination took.
type Latency struct {
	P50 *float64 `json:"p50_ms" nullable:"true" example:"48.5" doc:"Half of the attempts that were answered, or ran into the time-out, took no longer. Estimated from buckets that double: off by less than a factor of 2. null: there was none"`
	P95 *float64 `json:"p95_ms" nullable:"true" example:"210"`
	P99 *float64 `json:"p99_ms" nullable:"true" example:"480"`
}

func viewStats(s *kapsel.Stats) Stats {
	view := Stats{
		Attempts: AttemptCounts{
			Total: s.Attempts(), Succeeded: s.Outcomes[kapsel.Succeeded], ClientErrors: s.Outcomes[kapsel.ClientErrors],
			ServerErrors: s.Outcomes[kapsel.ServerErrors], Timeouts: s.Outcomes[kapsel.Timeouts],
			NoAnswers: s.Outcomes[kapsel.NoAnswers], Unknown: s.Outcomes[kapsel.Unknowns],
		},
		Deliveries: DeliveryCounts{Delivered: s.Ended[0], Failed: s.Ended[1], DeadLetter: s.Ended[2], Canceled: s.Ended[3]},
		Latency:    Latency{P50: quantile(&s.Latency, 0.5), P95: quantile(&s.Latency, 0.95), P99: quantile(&s.Latency, 0.99)},
		Unkeyed:    s.Unkeyed,
		Refused:    s.Refused,
	}
	if known := view.Attempts.Total - view.Attempts.Unknown; known > 0 {
		view.SuccessRate = ptr(float64(view.Attempts.Succeeded) / float64(known))
	}
	return view
}

// quantile is in milliseconds, to a tenth.
func quantile(h *kapsel.Histogram, q float64) *float64 {
	d, ok := h.Quantile(q)
	if !ok {
		return nil
	}
	return ptr(math.Round(10*float64(d)/float64(time.Millisecond)) / 10)
}

// UsageReport is what a tenant, or all of them together, used.
type UsageReport struct {
	TenantID *kapsel.TenantID `json:"tenant_id" nullable:"true" doc:"null: all tenants together"`
	Since    timestamp        `json:"since" doc:"When the first day begins"`
	Until    timestamp        `json:"until" doc:"When the last day ends"`
	Total    Usage            `json:"total"`
	Days     []UsageDay       `json:"days" doc:"All of them, the oldest first, also those on which nothing was counted"`
	Limits   *UsageLimits     `json:"limits" doc:"Of this month, whatever is asked for; null: all tenants together have none"`
}

// TransformSchema lets limits be null.
func (UsageReport) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	return mayBeNull(s, "limits")
}

// UsageDay is what was used on one day of UTC.
type UsageDay struct {
	Day string `json:"day" format:"date" example:"2026-03-01"`
	Usage
}

// Usage counts what was used.
type Usage struct {
	Events     int64 `json:"events" doc:"Accepted" example:"1200"`
	Bytes      int64 `json:"bytes" doc:"Of their bodies" example:"2457600"`
	Attempts   int64 `json:"attempts" example:"1204"`
	Deliveries int64 `json:"deliveries" doc:"That ended, in whatever state" example:"1199"`
	Delivered  int64 `json:"delivered" doc:"Of the deliveries, those that were answered 2xx" example:"1198"`
}

func viewUsage(u kapsel.Usage) Usage {
	return Usage{Events: u.Events, Bytes: u.Bytes, Attempts: u.Attempts, Deliveries: u.Deliveries, Delivered: u.Delivered}
}

// UsageLimits are the limits that are used up in time.
type UsageLimits struct {
	EventsPerMonth Quota `json:"events_per_month" doc:"Beyond it ingest answers 429 E1011"`
}

// Quota is what was used of a limit.
type Quota struct {
	Limit     *int64    `json:"limit" nullable:"true" doc:"null: no limit" example:"100000"`
	Used      int64     `json:"used" example:"1200"`
	Remaining *int64    `json:"remaining" nullable:"true" example:"98800"`
	ResetsAt  timestamp `json:"resets_at" doc:"When it begins anew"`
}

// unkeyed counts the webhooks of the last 24 hours and of the hour before them that an endpoint
// accepted without an idempotency key, although it says where they have one.
func (a *api) unkeyed(ctx context.Context, e *kapsel.Endpoint, now time.Time) (int64, error) {
	if !ingest.NamesKeys(&e.Intake) {
		return 0, nil
	}
	until := kapsel.StatsHour(now).Add(time.Hour)
	hours, err := a.Store.EndpointStats(ctx, e.TenantID, e.ID, until.Add(-25*time.Hour), until)
	if err != nil {
		return 0, err
	}
	n := a.Arrivals(e.ID).Unkeyed
	for i := range hours {
		n += hours[i].Stats.Unkeyed
	}
	return n, nil
}

// unkeyedWarning says where n webhooks of an endpoint had no idempotency key, and what follows.
func unkeyedWarning(e *kapsel.Endpoint, n int64) string {
	var where []string
	if e.Idempotency.Strategy == kapsel.KeyFromSourceID {
		where = append(where, "at idempotency.path "+e.Idempotency.Path)
	} else {
		if e.Idempotency.Header != "" {
			where = append(where, "in the header "+e.Idempotency.Header)
		}
		if signature.NamesDeliveries(e.Verification.Provider) {
			where = append(where, "where "+e.Verification.Provider+" has it")
		}
	}
	webhooks := "1 webhook"
	if n != 1 {
		webhooks = fmt.Sprintf("%d webhooks", n)
	}
	return fmt.Sprintf("unkeyed: %s of the last 24 hours had no idempotency key %s; a repetition of one is a new event", webhooks, strings.Join(where, " or "))
}
