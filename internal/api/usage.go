package api

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
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

// StatsQuery is which stats are asked for.
type StatsQuery struct {
	EndpointPath
	Since    timestamp `query:"since" doc:"From this time on, rounded down to the interval; without it 24 hours, or 30 days, before until"`
	Until    timestamp `query:"until" doc:"Before this time, rounded up; without it now"`
	Interval string    `query:"interval" enum:"hour,day" default:"hour" doc:"At most 744 hours or 92 days"`
}

func (a *api) getEndpointStats(ctx context.Context, in *StatsQuery) (*out[EndpointStats], error) {
	s, err := a.Manage.EndpointStats(ctx, callerOf(ctx), in.ID, time.Time(in.Since), time.Time(in.Until), in.Interval == "day")
	if err != nil {
		return nil, err
	}
	view := EndpointStats{
		EndpointID: s.EndpointID, Interval: in.Interval, Since: timestamp(s.Since), Until: timestamp(s.Until),
		Total: viewStats(&s.Total), Intervals: make([]StatsInterval, len(s.Intervals)),
	}
	for i := range s.Intervals {
		view.Intervals[i] = StatsInterval{timestamp(s.Since.Add(time.Duration(i) * s.Step)), viewStats(&s.Intervals[i])}
	}
	return answer(view), nil
}

// UsageQuery is which usage is asked for.
type UsageQuery struct {
	TenantQuery
	Since timestamp `query:"since" doc:"From the day of this time on; without it from the first of until's month on"`
	Until timestamp `query:"until" doc:"Before this time, rounded up to a day; without it now. At most 400 days"`
}

func (a *api) getUsage(ctx context.Context, in *UsageQuery) (*out[UsageReport], error) {
	u, err := a.Manage.Usage(ctx, callerOf(ctx), in.TenantID, time.Time(in.Since), time.Time(in.Until))
	if err != nil {
		return nil, err
	}
	view := UsageReport{TenantID: orNull(u.Tenant), Since: timestamp(u.Since), Until: timestamp(u.Until), Total: viewUsage(u.Total), Days: make([]UsageDay, len(u.Days))}
	for i := range u.Days {
		view.Days[i] = UsageDay{u.Since.AddDate(0, 0, i).Format(time.DateOnly), viewUsage(u.Days[i])}
	}
	if q := u.Events; q != nil {
		view.Limits = &UsageLimits{EventsPerMonth: Quota{q.Limit, q.Used, q.Remaining(), timestamp(q.ResetsAt)}}
	}
	return answer(view), nil
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

// quantile returns a quantile in milliseconds, rounded to a tenth; nil if there is none.
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
