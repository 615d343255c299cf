package manage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// Limits of one answer.
const (
	maxStatsHours = 31 * 24
	maxStatsDays  = 92
	maxUsageDays  = 400
	day           = 24 * time.Hour
)

// EndpointStats are an endpoint's stats, in total and by interval.
type EndpointStats struct {
	EndpointID   kapsel.EndpointID
	Since, Until time.Time     // when the first interval begins, and the last one ends
	Step         time.Duration // of an interval
	Total        kapsel.Stats
	Intervals    []kapsel.Stats // all of them, the oldest first
}

// EndpointStats counts what became of an endpoint's attempts and deliveries, by the hour or by the day. A
// zero until is now; a zero since is 24 hours, or 30 days, before until. There may be 744 hours or 92 days.
func (m *Manager) EndpointStats(ctx context.Context, c access.Caller, id kapsel.EndpointID, since, until time.Time, daily bool) (EndpointStats, error) {
	e, err := m.endpoint(ctx, c, access.Read, id)
	if err != nil {
		return EndpointStats{}, err
	}
	step, usual, most := time.Hour, day, maxStatsHours
	if daily {
		step, usual, most = day, 30*day, maxStatsDays
	}
	until = timeOr(until, m.Clock())
	since, until, err = span(timeOr(since, until.Add(-usual)), until, step, most)
	if err != nil {
		return EndpointStats{}, err
	}
	hours, err := m.Store.EndpointStats(ctx, c.Tenant, []kapsel.EndpointID{e.ID}, since, until)
	if err != nil {
		return EndpointStats{}, err
	}
	stats := EndpointStats{EndpointID: e.ID, Since: since, Until: until, Step: step, Intervals: make([]kapsel.Stats, until.Sub(since)/step)}
	for _, h := range hours {
		stats.Total.Add(&h.Stats)
		stats.Intervals[h.Hour.Sub(since)/step].Add(&h.Stats)
	}
	return stats, nil
}

// DayStats counts what became of the attempts and deliveries of endpoints of a list within 24 hours, the hour
// that has begun included.
func (m *Manager) DayStats(ctx context.Context, c access.Caller, endpoints []kapsel.Endpoint) (map[kapsel.EndpointID]kapsel.Stats, error) {
	if err := c.Check(access.Read); err != nil {
		return nil, err
	}
	ids := make([]kapsel.EndpointID, len(endpoints))
	for i := range endpoints {
		ids[i] = endpoints[i].ID
	}
	until := m.Clock()
	since, until, err := span(until.Add(-day), until, time.Hour, maxStatsHours)
	if err != nil {
		return nil, err
	}
	hours, err := m.Store.EndpointStats(ctx, c.Tenant, ids, since, until)
	if err != nil {
		return nil, err
	}
	total := make(map[kapsel.EndpointID]kapsel.Stats, len(ids))
	for i := range hours {
		s := total[hours[i].EndpointID]
		s.Add(&hours[i].Stats)
		total[hours[i].EndpointID] = s
	}
	return total, nil
}

// UsageReport is what a tenant, or all of them together, used.
type UsageReport struct {
	Tenant       kapsel.TenantID // zero: all tenants together
	Since, Until time.Time       // when the first day begins, and the last one ends
	Total        kapsel.Usage
	Days         []kapsel.Usage // all of them, the oldest first
	Events       *Quota         // of this month, whatever is asked for; nil: all tenants together have none
}

// Quota is what was used of a limit.
type Quota struct {
	Limit    *int64 // nil: no limit
	Used     int64
	ResetsAt time.Time // when it begins anew
}

// Remaining returns what is left of the limit; nil: no limit.
func (q *Quota) Remaining() *int64 {
	if q.Limit == nil {
		return nil
	}
	return new(max(0, *q.Limit-q.Used))
}

// Usage counts what a tenant used, by the day of UTC; for an admin who names none, what all used. A zero
// until is now; a zero since is the first of until's month. There may be 400 days.
func (m *Manager) Usage(ctx context.Context, c access.Caller, tenant kapsel.TenantID, since, until time.Time) (UsageReport, error) {
	if err := c.Check(access.Read); err != nil {
		return UsageReport{}, err
	}
	now := m.Clock()
	until = timeOr(until, now)
	month, _ := kapsel.UsageMonth(until.Add(-1))
	since, until, err := span(timeOr(since, month), until, day, maxUsageDays)
	if err != nil {
		return UsageReport{}, err
	}
	report := UsageReport{Tenant: c.TenantOr(tenant), Since: since, Until: until, Days: make([]kapsel.Usage, until.Sub(since)/day)}
	if !report.Tenant.IsZero() {
		if report.Events, err = m.monthly(ctx, report.Tenant, now); err != nil {
			return UsageReport{}, err
		}
	}
	days, err := m.Store.Usage(ctx, report.Tenant, since, until)
	if err != nil {
		return UsageReport{}, err
	}
	for _, d := range days {
		report.Total.Add(d.Usage)
		report.Days[d.Day.Sub(since)/day] = d.Usage
	}
	return report, nil
}

// monthly returns what a tenant has used of its events of the month.
func (m *Manager) monthly(ctx context.Context, id kapsel.TenantID, now time.Time) (*Quota, error) {
	t, err := m.Store.Tenant(ctx, id)
	if err != nil {
		return nil, err
	}
	month, next := kapsel.UsageMonth(now)
	days, err := m.Store.Usage(ctx, id, month, next)
	if err != nil {
		return nil, err
	}
	quota := Quota{Limit: t.Effective().EventsPerMonth, ResetsAt: next}
	for _, d := range days {
		quota.Used += d.Events
	}
	return &quota, nil
}

// timeOr returns t, or another time if t is zero.
func timeOr(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}

// unreadable is the HTTP status of a request that cannot be read.
const unreadable = 400

// span returns a range of times of whole intervals of UTC, and fails if there are more than allowed.
func span(since, until time.Time, step time.Duration, most int) (first, end time.Time, err error) {
	if !since.Before(until) {
		return since, until, kapsel.Invalid(unreadable, kapsel.FieldError{Field: "since", Detail: "must be before until, which is now where it is not given"})
	}
	first, end = since.UTC().Truncate(step), until.UTC().Add(step-1).Truncate(step)
	if end.Sub(first) > time.Duration(most)*step {
		return since, until, kapsel.Invalid(unreadable, kapsel.FieldError{Field: "since", Detail: "is too long before until for one answer; ask for a part, or for longer intervals"})
	}
	return first, end, nil
}

// unkeyed counts the webhooks of the last 24 hours and of the hour before them that an endpoint
// accepted without an idempotency key, although it says where they have one.
func (m *Manager) unkeyed(ctx context.Context, e *kapsel.Endpoint, now time.Time) (int64, error) {
	if !signature.NamesKeys(&e.Intake) {
		return 0, nil
	}
	until := kapsel.StatsHour(now).Add(time.Hour)
	hours, err := m.Store.EndpointStats(ctx, e.TenantID, []kapsel.EndpointID{e.ID}, until.Add(-25*time.Hour), until)
	if err != nil {
		return 0, err
	}
	n := m.Arrivals(e.ID).Unkeyed
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

// UsedToday returns what a tenant has used of the day of UTC so far; for an admin who names none, what all
// have.
func (m *Manager) UsedToday(ctx context.Context, c access.Caller, tenant kapsel.TenantID) (u kapsel.Usage, err error) {
	if err := c.Check(access.Read); err != nil {
		return u, err
	}
	today := kapsel.UsageDay(m.Clock())
	days, err := m.Store.Usage(ctx, c.TenantOr(tenant), today, today.Add(day))
	for _, d := range days {
		u.Add(d.Usage)
	}
	return u, err
}
