package kapsel

import "time"

// Plans holds the preset limits of each plan. A tenant's own limits override them.
var Plans = map[string]Limits{
	"free": {
		IngestPerSecond: ptr(10.0), IngestBurst: ptr(50), Endpoints: ptr(10),
		EventsPerMonth: ptr(int64(100_000)), Retention: ptr(7 * 24 * time.Hour),
	},
	"team": {
		IngestPerSecond: ptr(500.0), IngestBurst: ptr(2000), Endpoints: ptr(200),
		EventsPerMonth: ptr(int64(10_000_000)), Retention: ptr(30 * 24 * time.Hour),
	},
	DefaultPlan: {},
}

// DefaultPlan is the plan of a tenant created without one. It has no limits.
const DefaultPlan = "unlimited"

func ptr[T any](v T) *T { return &v }

// Effective returns the limits in force: each limit that the tenant sets itself, else its plan's.
// If Limits.Own is set, the plan does not count at all.
func (t *Tenant) Effective() Limits {
	l, p := t.Limits, Plans[t.Plan]
	if l.Own {
		return l
	}
	if l.IngestPerSecond == nil {
		l.IngestPerSecond = p.IngestPerSecond
	}
	if l.IngestBurst == nil {
		l.IngestBurst = p.IngestBurst
	}
	if l.Endpoints == nil {
		l.Endpoints = p.Endpoints
	}
	if l.EventsPerMonth == nil {
		l.EventsPerMonth = p.EventsPerMonth
	}
	if l.Retention == nil {
		l.Retention = p.Retention
	}
	return l
}
