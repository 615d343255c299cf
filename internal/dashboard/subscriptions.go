package dashboard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// drawing registers the page that draws who subscribes to what.
func (d *Dashboard) drawing() {
	d.get("/subscriptions", access.Read, func(p *page) (result, error) {
		if p.tenant.IsZero() {
			return p.show("/subscriptions", "Subscriptions", subscriptionsPage(p, nil))
		}
		g, err := d.readGraph(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/subscriptions", "Subscriptions", subscriptionsPage(p, g))
	})
}

// Bounds of the drawing, and of what is read for it.
const (
	maxOrigins  = 50
	maxEdges    = 200
	maxRead     = 2000 // endpoints; of sources and apps the newest 200 have names
	readAtOnce  = 200
	nodeHeight  = 30 // in units of the drawing, as what follows
	drawnWidth  = 900
	nodeWidth   = 300
	nodeLetters = 34
)

// origin is where events come in, as it is drawn.
type origin struct {
	id   kapsel.OriginID
	name string
	kind string // source, ingest of an endpoint, or published
	path string // of its page; "": it has none
	y    int
}

// destination is an endpoint, as it is drawn.
type destination struct {
	*kapsel.Endpoint
	y int
}

// edge leads from an origin to an endpoint that gets its events.
type edge struct {
	from *origin
	to   *destination
	what string // which events, in words
	own  bool   // what comes in at the endpoint's own ingest
}

// graph is who subscribes to what.
type graph struct {
	origins      []*origin
	destinations []*destination
	edges        []edge
	left         int  // edges that are left out
	more         bool // there are endpoints that were not read
}

func (d *Dashboard) readGraph(p *page) (*graph, error) {
	var endpoints []kapsel.Endpoint
	for before := (kapsel.EndpointID{}); len(endpoints) < maxRead; {
		list, err := d.Manage.ListEndpoints(p.ctx, p.caller, p.tenant, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Before: before, Limit: readAtOnce})
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, list...)
		if len(list) < readAtOnce {
			break
		}
		before = list[len(list)-1].ID
	}
	sources, err := d.Manage.ListSources(p.ctx, p.caller, p.tenant, store.Page[kapsel.SourceID]{Limit: readAtOnce})
	if err != nil {
		return nil, err
	}
	apps, err := d.Manage.ListApps(p.ctx, p.caller, p.tenant, store.Page[kapsel.AppID]{Limit: readAtOnce})
	if err != nil {
		return nil, err
	}
	return drawn(endpoints, sources, apps), nil
}

// drawn returns the drawing of endpoints: those that others' events lead to first, then those that get only
// their own.
func drawn(endpoints []kapsel.Endpoint, sources []manage.Source, apps []kapsel.App) *graph {
	g := &graph{more: len(endpoints) >= maxRead}
	known := map[kapsel.OriginID]*origin{}
	for i := range endpoints {
		if e := &endpoints[i]; e.Ingests() {
			known[kapsel.OriginID(e.ID)] = &origin{kapsel.OriginID(e.ID), e.Name, "ingest", "/endpoints/" + e.ID.String(), -1}
		}
	}
	for i := range sources {
		s := &sources[i]
		known[kapsel.OriginID(s.ID)] = &origin{kapsel.OriginID(s.ID), s.Name, "source", "/sources/" + s.ID.String(), -1}
	}
	for i := range apps {
		known[kapsel.OriginID(apps[i].ID)] = &origin{kapsel.OriginID(apps[i].ID), apps[i].Name, "published to the app", "", -1}
	}
	var all []edge
	reached := map[kapsel.OriginID]bool{} // to others than themselves
	for i := range endpoints {
		to := &destination{&endpoints[i], -1}
		if to.Ingests() {
			all = append(all, edge{known[kapsel.OriginID(to.ID)], to, "everything", true})
		}
		for k := range to.Subscriptions {
			s := &to.Subscriptions[k]
			id := s.Origin(to.Publisher())
			from := known[id]
			if from == nil {
				from = &origin{id, s.Source, "source", "", -1}
				if s.Source == kapsel.Publish {
					from.name, from.kind = "without an app", "published"
					if !to.AppID.IsZero() {
						from.name, from.kind = to.AppID.String(), "published to the app"
					}
				}
				known[id] = from
			}
			reached[id] = true
			all = append(all, edge{from, to, subscribed(s), false})
		}
	}
	shared := func(e edge) int {
		if reached[e.from.id] || len(e.to.Subscriptions) > 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b edge) int { return shared(a) - shared(b) })
	for _, e := range all {
		if len(g.edges) == maxEdges || e.from.y < 0 && len(g.origins) == maxOrigins {
			g.left++
			continue
		}
		if e.from.y < 0 {
			e.from.y = len(g.origins) * nodeHeight
			g.origins = append(g.origins, e.from)
		}
		g.edges = append(g.edges, e)
	}
	g.place()
	return g
}

// place orders the endpoints by the origins that lead to them, so that fewer lines cross.
func (g *graph) place() {
	slices.SortStableFunc(g.edges, func(a, b edge) int { return a.from.y - b.from.y })
	for _, e := range g.edges {
		if e.to.y < 0 {
			e.to.y = len(g.destinations) * nodeHeight
			g.destinations = append(g.destinations, e.to)
		}
	}
}

// subscribed returns in words which events a subscription lets through.
func subscribed(s *kapsel.Subscription) string {
	text := "everything"
	if len(s.EventTypes) > 0 {
		text = strings.Join(s.EventTypes, ", ")
	}
	if len(s.Channels) > 0 {
		text += " in " + strings.Join(s.Channels, ", ")
	}
	return text
}

// height returns how high the drawing is.
func (g *graph) height() int { return max(len(g.origins), len(g.destinations)) * nodeHeight }

// viewBox and the other attributes are those of SVG.
func (g *graph) viewBox() string { return fmt.Sprintf("0 0 %d %d", drawnWidth, g.height()) }

// line returns the path of an edge.
func (e *edge) line() string {
	x1, x2 := nodeWidth, drawnWidth-nodeWidth
	y1, y2, middle := e.from.y+nodeHeight/2, e.to.y+nodeHeight/2, (x1+x2)/2
	return fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, middle, y1, middle, y2, x2, y2)
}

// label returns a name as it is drawn.
func label(name string) string {
	text := []rune(strings.NewReplacer("\n", " ", "\t", " ").Replace(visible(name)))
	if len(text) > nodeLetters {
		text = append(text[:nodeLetters-1], '…')
	}
	return string(text)
}

// stopped reports whether an endpoint sends nothing.
func (d *destination) stopped() bool { return d.State != kapsel.EndpointActive }
