package dashboard

import (
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (d *Dashboard) undelivered() {
	d.get("/undelivered", access.Read, func(p *page) (result, error) {
		v, err := d.findUndelivered(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/undelivered", "Undelivered", undeliveredPage(p, v))
	})
}

// Bounds of the page of what did not arrive.
const (
	sinceYesterday = "24h"
	maxUndelivered = 300 // deliveries of each status that are looked at, the newest
	maxNobodys     = 100 // events without a destination that are counted
)

// undelivered is what came in since a time and has not arrived.
type undelivered struct {
	since   time.Time
	asked   string
	groups  []undeliveredGroup // the largest first
	nobodys int                // events that no endpoint wanted, up to maxNobodys
	partial bool               // more than maxUndelivered have a status
}

// undeliveredGroup is what has not arrived at an endpoint for one reason.
type undeliveredGroup struct {
	endpoint *kapsel.Endpoint // nil: deleted
	id       kapsel.EndpointID
	status   kapsel.DeliveryStatus
	why      string
	n        int
	newest   manage.Delivery
}

func (d *Dashboard) findUndelivered(p *page) (*undelivered, error) {
	v := &undelivered{asked: p.query.Get("since")}
	if v.asked == "" {
		v.asked = sinceYesterday
		p.query.Set("since", v.asked)
	}
	var err error
	if v.since, err = when(p, "since"); err != nil {
		return nil, err
	}
	endpoint, err := filter(p, "endpoint", kapsel.ParseEndpointID)
	if err != nil {
		return nil, err
	}
	for _, status := range []kapsel.DeliveryStatus{kapsel.DeadLetter, kapsel.Failed, kapsel.Pending} {
		list, err := d.Manage.ListDeliveries(p.ctx, p.caller, p.tenant, store.DeliveryFilter{EndpointID: endpoint, Status: &status, Replayed: new(false)}, store.Page[kapsel.DeliveryID]{Limit: maxUndelivered})
		if err != nil {
			return nil, err
		}
		v.partial = v.partial || len(list) == maxUndelivered && !list[len(list)-1].CreatedAt.Before(v.since)
		for i := range list {
			if one := &list[i]; !one.CreatedAt.Before(v.since) && late(one) {
				v.count(one)
			}
		}
	}
	slices.SortStableFunc(v.groups, func(a, b undeliveredGroup) int { return b.n - a.n })
	if endpoint.IsZero() {
		nobodys, _, err := d.Manage.ListEvents(p.ctx, p.caller, p.tenant, store.EventFilter{Status: kapsel.EventUnmatched, Since: v.since}, store.Page[kapsel.EventID]{Limit: maxNobodys})
		if err != nil {
			return nil, err
		}
		v.nobodys = len(nobodys)
	}
	return v, nil
}

// late reports whether a delivery should have arrived: it ended otherwise, or it waits for something that
// its publisher did not ask for.
func late(d *manage.Delivery) bool {
	return d.Status != kapsel.Pending || d.Attempts > 0 || d.WaitingFor != "" && d.WaitingFor != "scheduled"
}

// waitWords are what a delivery waits for, in words.
var waitWords = map[string]string{
	"retry": "next attempt later", "circuit": "circuit open", "paused": "endpoint paused", "disabled": "endpoint disabled", "throttled": "destination asked for quiet",
	"rate": "rate limit", "concurrency": "concurrency used up", "worker": "workers busy", "order": "waits for an earlier event",
}

// whyUndelivered returns why a delivery has not arrived, in words.
func whyUndelivered(d *manage.Delivery) string {
	last := cause(d.LastStatusCode, d.LastErrorCode)
	if d.Status != kapsel.Pending {
		return last
	}
	words := waitWords[d.WaitingFor]
	if words == "" {
		words = "starts at once"
	}
	if d.LastErrorCode == "" {
		return words
	}
	return last + "; " + words
}

func (v *undelivered) count(d *manage.Delivery) {
	why := whyUndelivered(d)
	for i := range v.groups {
		if g := &v.groups[i]; g.id == d.EndpointID && g.status == d.Status && g.why == why {
			g.n++
			return
		}
	}
	v.groups = append(v.groups, undeliveredGroup{d.Endpoint, d.EndpointID, d.Status, why, 1, *d})
}

// all returns how many deliveries the groups have.
func (v *undelivered) all() (n int) {
	for i := range v.groups {
		n += v.groups[i].n
	}
	return n
}
