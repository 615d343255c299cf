package dashboard

import (
	"fmt"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

func (d *Dashboard) usage() {
	d.get("/usage", access.Read, func(p *page) (result, error) {
		v := usageView{days: p.query.Get("days")}
		since, ok := map[string]time.Duration{"": 0, "30": 29 * 24 * time.Hour, "90": 89 * 24 * time.Hour, "365": 364 * 24 * time.Hour}[v.days]
		if !ok {
			return result{}, kapsel.Invalid(400, kapsel.FieldError{Field: "days", Detail: "must be 30, 90 or 365; without it this month is shown"})
		}
		var from time.Time // the first of the month
		if since > 0 {
			from = p.now.Add(-since)
		}
		var err error
		if v.UsageReport, err = d.Manage.Usage(p.ctx, p.caller, p.tenant, from, time.Time{}); err != nil {
			return result{}, err
		}
		if !p.tenant.IsZero() {
			t, err := d.Manage.Tenant(p.ctx, p.caller, p.tenant)
			if err != nil {
				return result{}, err
			}
			v.tenant = &t
		}
		return p.show("/usage", "Usage", usagePage(p, &v))
	})
}

// usageView is what a tenant used, or all of them together, as the page shows it.
type usageView struct {
	manage.UsageReport
	tenant *kapsel.Tenant // nil: all together
	days   string         // as asked for
}

// usageSpans are the spans of time that the page offers.
var usageSpans = []struct{ days, name string }{{"", "This month"}, {"30", "30 days"}, {"90", "90 days"}, {"365", "A year"}}

// chart draws events and deliveries by the day.
func (v *usageView) chart() string {
	c := chartData{X: []int64{}, Series: []series{{Label: "events", Values: []*float64{}}, {Label: "delivered", Values: []*float64{}}}}
	for i := range v.Days {
		c.X = append(c.X, v.day(i).Unix())
		c.Series[0].Values = append(c.Series[0].Values, new(float64(v.Days[i].Events)))
		c.Series[1].Values = append(c.Series[1].Values, new(float64(v.Days[i].Delivered)))
	}
	return c.text()
}

// day returns when a day of the report begins.
func (v *usageView) day(i int) time.Time { return v.Since.AddDate(0, 0, i) }

// usedTone colours a quota by how much of it is used.
func usedTone(q *manage.Quota) string {
	switch {
	case q.Limit == nil:
		return ""
	case q.Used >= *q.Limit:
		return "bad"
	case q.Used*10 >= *q.Limit*8:
		return "wait"
	}
	return ""
}

// perSecondLimit returns a limit of requests a second in words.
func perSecondLimit(l *kapsel.Limits) string {
	if l.IngestPerSecond == nil {
		return "no limit"
	}
	text := fmt.Sprintf("%g a second", *l.IngestPerSecond)
	if l.IngestBurst != nil {
		text += fmt.Sprintf(", %s at once", count(*l.IngestBurst))
	}
	return text
}
