package dashboard

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (d *Dashboard) overview() {
	d.get("/{$}", access.Read, func(p *page) (result, error) {
		state, why, err := d.live.once(p.ctx, p.tenant)
		if err != nil {
			return result{}, err
		}
		start, err := d.firstStep(p, state)
		if err != nil && why == nil {
			return result{}, err
		}
		return p.show("/", "Overview", overviewPage(p, state, start, why))
	})
}

// once returns the state of a tenant's view, and why it is not that of now or will not be kept up to date:
// errCrowded where there is no room for the view, else why the store cannot be read.
func (l *live) once(ctx context.Context, tenant kapsel.TenantID) (state *overviewState, why, err error) {
	v, leave, err := l.watch(tenant)
	if err != nil {
		state, err := l.read(ctx, &view{tenant: tenant})
		return state, errCrowded, err
	}
	defer leave()
	if state, _, why = v.now(ctx); state == nil {
		return nil, nil, why
	}
	return state, why, nil
}

// firstStep is what a new instance leads to: an endpoint, then a webhook to it.
type firstStep struct {
	endpoint *kapsel.Endpoint // nil: there is none yet
	ingest   string
}

// firstStep returns what to do next where nothing has been delivered yet, nil elsewhere.
func (d *Dashboard) firstStep(p *page, s *overviewState) (*firstStep, error) {
	if s.Endpoints > 20 || s.Recent.Attempts() > 0 {
		return nil, nil
	}
	events, _, err := d.Manage.ListEvents(p.ctx, p.caller, p.tenant, store.EventFilter{}, store.Page[kapsel.EventID]{Limit: 1})
	if err != nil || len(events) > 0 {
		return nil, err
	}
	list, err := d.Manage.ListEndpoints(p.ctx, p.caller, p.tenant, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 20})
	if err != nil {
		return nil, err
	}
	step := &firstStep{}
	for i := range list {
		if list[i].Ingests() {
			e, err := d.Manage.Describe(p.ctx, list[i])
			step.endpoint, step.ingest = &list[i], e.IngestURL
			return step, err
		}
	}
	return step, nil
}

// perSecond returns a rate with the digits that it deserves.
func perSecond(v float64) string {
	if v >= 100 {
		return count(int64(v + .5))
	}
	return fmt.Sprintf("%.1f", v)
}

// deadText returns a count of dead letters, which are counted up to a bound.
func deadText(n, most int) string {
	if n >= most {
		return count(most) + "+"
	}
	return count(n)
}

// toneIf returns a tone where something is so.
func toneIf(is bool, tone string) string {
	if is {
		return tone
	}
	return ""
}

// lateAfter is how long the oldest delivery may have been due before the overview says so in colour.
const lateAfter = time.Minute

// waitingText returns how many deliveries wait.
func waitingText(n int, atLeast bool) string {
	if atLeast {
		return count(n) + "+"
	}
	return count(n)
}

// sentence returns words as a sentence.
func sentence(words string) string {
	if words == "" {
		return ""
	}
	return strings.ToUpper(words[:1]) + words[1:] + "."
}
