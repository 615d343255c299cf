package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/rules"
)

// Event returns an event and its deliveries; see store.Archive.
func (s *Store) Event(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID) (rec store.EventRecord, err error) {
	return s.eventRecord(ctx, tenantID, eventID, eventColumns, callTimeout+s.from.bodyTime)
}

// EventHead implements store.Archive.
func (s *Store) EventHead(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID) (rec store.EventRecord, err error) {
	return s.eventRecord(ctx, tenantID, eventID, bodylessEventColumns, callTimeout)
}

// eventRecord reads columns of an event, and returns it with its deliveries.
func (s *Store) eventRecord(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, columns string, within time.Duration) (rec store.EventRecord, err error) {
	err = s.readWithin(ctx, within, viewOf(tenantID), func(ctx context.Context, q querier) error {
		var ok bool
		rec.Event, ok, err = first(ctx, q, scanEvent, `
			SELECT `+columns+` FROM events e
			WHERE e.part = $1 AND e.id = $2 AND ($3::uuid IS NULL OR e.tenant_id = $3)`,
			part(eventID), id(eventID), id(tenantID))
		if err != nil {
			return err
		}
		if !ok {
			return store.NotFound("event")
		}
		// In this order: what is expanding now may have all deliveries in a moment, and not the other way
		// round.
		if err := addExpansions(ctx, q, [][16]byte{eventID}, func(kapsel.EventID) *store.EventRecord { return &rec }); err != nil {
			return err
		}
		rec.Deliveries, err = deliveriesOf(ctx, q, eventID, "")
		return err
	})
	if err != nil {
		return store.EventRecord{}, err
	}
	return rec, nil
}

// deliveriesOf returns an event's deliveries, oldest first. lock must be "" or a locking clause.
func deliveriesOf(ctx context.Context, q querier, eventID kapsel.EventID, lock string) ([]kapsel.Delivery, error) {
	all, err := collect(ctx, q, scanDelivery, "SELECT "+deliveryColumns+" FROM deliveries d WHERE d.part = $1 AND d.event_id = $2"+lock, part(eventID), id(eventID))
	slices.SortFunc(all, func(a, b kapsel.Delivery) int { return byPart(&a, &b) })
	return all, err
}

// newest holds, for each status of an event, the condition on the deliveries d that give the event
// this status, out of the newest deliveries to their endpoints: d has the state, and no other
// newest delivery of the event has a state that comes before it (see kapsel.StatusOfEvent). Until
// a delivery was tried the event is "received".
var newest = map[kapsel.EventStatus]string{
	kapsel.EventReceived:                           "d.status <= 1 AND " + untried,
	kapsel.EventStatus(kapsel.Delivering.String()): inState(kapsel.Delivering) + " AND (d.attempts > 0 OR " + another(tried) + ")",
	kapsel.EventStatus(kapsel.Pending.String()):    inState(kapsel.Pending) + " AND (d.attempts > 0 OR " + another(tried) + ") AND NOT " + another("o.status = 1"),
	kapsel.EventStatus(kapsel.DeadLetter.String()): inState(kapsel.DeadLetter) + " AND NOT " + another("o.status <= 1"),
	kapsel.EventStatus(kapsel.Failed.String()):     inState(kapsel.Failed) + " AND NOT " + another("o.status IN (0, 1, 4)"),
	kapsel.EventStatus(kapsel.Canceled.String()):   inState(kapsel.Canceled) + " AND NOT " + another("o.status IN (0, 1, 3, 4)"),
	kapsel.EventStatus(kapsel.Delivered.String()):  inState(kapsel.Delivered) + " AND NOT " + another("o.status <> 2"),
}

// tried says of a delivery o that it was attempted or has ended.
const tried = "(o.status >= 2 OR o.attempts > 0)"

// untried says of a delivery d that neither it nor another delivery of its event was attempted.
var untried = "d.attempts = 0 AND NOT " + another(tried)

// fence ends a subquery that must be planned by itself. Deliveries that a node holds are few, and their
// index is not in the order of ids: without the fence the planner may walk an index of all deliveries in
// that order, until it has met a page of held ones. It may also turn a look at an event's few
// deliveries into a join, or into a walk of an index that it thinks nearly empty. Either plan is
// quick on a small table, and on a large one takes longer than a statement may. EXISTS beside an OR
// needs a fence, too: without it the planner may read all rows that the subquery could find into a
// hash table.
const fence = " OFFSET 0"

// ofEvent returns a table of the deliveries of an event, found by the event. part and event are
// expressions of the event's part and id.
func ofEvent(part, event string) string {
	return "(SELECT * FROM deliveries WHERE part = " + part + " AND event_id = " + event + fence + ")"
}

// another returns the condition that the event of d has another newest delivery o with a property.
func another(property string) string {
	return "EXISTS (SELECT 1 FROM " + ofEvent("d.part", "d.event_id") + " o WHERE o.id <> d.id AND o.replayed_as IS NULL AND " + property + ")"
}

// inState returns the condition that deliveries d are in a state, in the words of the index that
// has the deliveries of that state.
func inState(state kapsel.DeliveryStatus) string {
	switch state {
	case kapsel.Pending:
		return "d.status + 0 = 0"
	case kapsel.Delivering:
		return "d.status <= 1 AND d.due_at IS NULL"
	case kapsel.Delivered:
		return "d.status = 2"
	default:
		return fmt.Sprintf("d.status IN (3, 4, 5) AND d.status = %d", state)
	}
}

// selection is what a list asks for. Its parameters are a tenant $1 and an endpoint or an app $2, each null
// for all, the least id $3, the id before which the page starts $4, and the page's length $5.
type selection struct {
	// source selects part and id of the rows of one endpoint, scope.id.
	source string
	// ordered: an index has the source's rows in the order of their ids.
	ordered bool
	// endpoint: the list is of one endpoint.
	endpoint bool
	// over is the table of the scope, such as apps or origins; "" is endpoints.
	over string
	// walked holds queries for the ids that source goes through, each in the order of an index. They bound how
	// far source may go when few of these rows pass. Without them nothing bounds it.
	walked []string
	// atSource: the scope is the source $9.
	atSource bool
}

// atSource is the condition that an event e came in at a source; see kapsel.Event.Extra.
const atSource = `(e.extra IS NOT NULL AND CAST(e.extra AS json) ->> 'source' IS NOT NULL)`

// origins selects everything at which events came in and which the session may see, deleted or
// not: endpoints, sources, and the tenants for published events. An endpoint and the source that
// goes on with its ingest have one id, which is there twice.
const origins = `(SELECT id, tenant_id FROM endpoints
		UNION ALL SELECT id, tenant_id FROM sources
		UNION ALL SELECT id, id FROM tenants) origins`

// tenants selects the tenants that the session may see, deleted or not.
const tenants = "(SELECT id, id AS tenant_id FROM tenants) tenants"

// page returns the query of part and id of the newest rows, over the whole scope that is asked
// for, deleted endpoints too. An event that several endpoints have is one row. If a look at an
// endpoint's newest row is cheap, the query takes the page from the endpoints whose newest rows
// are among the newest: no other endpoint can have a row in the page.
func (s selection) page() string {
	scope := s.scope()
	if !s.atSource && s.ordered && !s.endpoint {
		scope = `
		WITH heads AS (
			SELECT scope.id, newest.id AS newest FROM (` + scope + `) scope
			CROSS JOIN LATERAL (` + s.source + ` ORDER BY id DESC LIMIT 1) newest
		)
		SELECT id FROM heads WHERE newest IN (SELECT DISTINCT newest FROM heads ORDER BY newest DESC LIMIT $5)`
	}
	return `
		SELECT DISTINCT found.part, found.id FROM (` + scope + `) scope
		CROSS JOIN LATERAL (` + s.source + ` ORDER BY id DESC LIMIT $5) found
		ORDER BY found.id DESC LIMIT $5`
}

// scope returns the query of the scope's ids.
func (s selection) scope() string {
	scope := `
		SELECT id FROM ` + cmp.Or(s.over, "endpoints") + ` WHERE ($1::uuid IS NULL OR tenant_id = $1)`
	switch {
	case s.atSource:
		scope += ` AND id = $9`
	case s.over != tenants:
		scope += ` AND ($2::uuid IS NULL OR id = $2)`
	}
	return scope
}

// reach returns a query, without its WITH, for the id down to which the page's query may look. Above that id,
// walked has about $12 rows, fewer where the scope has many ids. The query finds no id if walked has fewer rows.
// reach returns "" if walked is empty.
func (s selection) reach() string {
	var each []string
	for _, ids := range s.walked {
		each = append(each, `(SELECT nth.id FROM scope
			CROSS JOIN LATERAL (`+ids+` ORDER BY id DESC LIMIT 1 OFFSET (SELECT greatest($12 / greatest(count(*), 1), least($12, 25)) - 1 FROM scope)) nth
			ORDER BY nth.id DESC LIMIT 1)`)
	}
	if each == nil {
		return ""
	}
	return "scope AS MATERIALIZED (" + s.scope() + ") SELECT ends.id FROM (" + strings.Join(each, " UNION ALL ") + ") ends ORDER BY ends.id DESC LIMIT 1"
}

// withState returns the condition that one of the newest deliveries of events e gives them a
// status; see newest.
func withState(state string) string {
	return ` AND EXISTS (SELECT 1 FROM ` + ofEvent("e.part", "e.id") + ` d WHERE d.replayed_as IS NULL AND ` + state + `)`
}

// newestOf returns the query of columns of the events e that the newest rows of any source have.
// Each source is a FROM clause with its conditions.
func newestOf(columns string, sources []string) string {
	if len(sources) == 1 {
		return "SELECT " + columns + " " + sources[0]
	}
	var each []string
	for _, from := range sources {
		each = append(each, "(SELECT "+columns+" "+from+" ORDER BY e.id DESC LIMIT $5)")
	}
	// Each event must come once: a page that counts an event twice would be too short.
	return "SELECT part, id FROM (" + strings.Join(each, " UNION ") + ") e"
}

// ListEvents returns events; see store.Archive. It finds events of a status other than delivered
// by their deliveries, because an index has the few deliveries that matter.
func (s *Store) ListEvents(ctx context.Context, tenantID kapsel.TenantID, f store.EventFilter, p store.Page[kapsel.EventID]) (records []store.EventRecord, reached kapsel.EventID, err error) {
	// An event's id is made in the request that received it, so a span of times is also a span of ids,
	// with room for the difference.
	const room = time.Minute
	from, to := [16]byte{}, before(p.Before)
	if !f.Since.IsZero() {
		from = idAt(f.Since.Add(-room))
	}
	if !f.Until.IsZero() {
		if end := idAt(f.Until.Add(room)); bytes.Compare(end[:], to[:]) < 0 {
			to = end
		}
	}
	one := id(f.EndpointID)
	if ofApp(f) {
		one = id(f.AppID)
	}
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		from, expanding := from, false // what one run finds is not the next one's
		if f.Status != "" {
			var err error
			if _, expanding, err = first(ctx, q, (*row).id, "SELECT event_id FROM expansions LIMIT 1"); err != nil {
				return err
			}
		}
		args := func() []any {
			return []any{id(tenantID), one, from, to, p.Limit, at(f.Since), at(f.Until), f.IdempotencyKey, id(f.SourceID), id(f.AppID), f.Type, p.Looks()}
		}
		// Of several ways to the events the one that comes further is taken.
		var chosen eventPlan
		for i, plan := range eventPlans(f, expanding) {
			floor := kapsel.EventID{}
			if plan.reach != "" {
				end, ok, err := first(ctx, q, (*row).id, plan.reach, args()...)
				if err != nil {
					return err
				}
				if ok {
					floor = end
				}
			}
			if i == 0 || bytes.Compare(floor[:], reached[:]) < 0 {
				chosen, reached = plan, floor
			}
		}
		if bytes.Compare(from[:], reached[:]) < 0 {
			from = reached
		}
		var events []kapsel.Event
		for _, sql := range chosen.queries {
			some, err := collect(ctx, q, scanEvent, sql, args()...)
			if err != nil {
				return err
			}
			events = append(events, some...)
		}
		slices.SortFunc(events, func(a, b kapsel.Event) int { return bytes.Compare(b.ID[:], a.ID[:]) })
		events = slices.CompactFunc(events, func(a, b kapsel.Event) bool { return a.ID == b.ID })
		if events = events[:min(len(events), p.Limit)]; len(events) == p.Limit {
			reached = kapsel.EventID{}
		}
		records = make([]store.EventRecord, len(events))
		index := make(map[kapsel.EventID]int, len(events))
		ids := make([][16]byte, len(events))
		for i, e := range events {
			records[i].Event, index[e.ID], ids[i] = e, i, e.ID
		}
		return addDeliveries(ctx, q, ids, func(id kapsel.EventID) *store.EventRecord { return &records[index[id]] })
	})
	return records, reached, err
}

// ofApp reports whether a list is of all events of an app, which an index of the app has.
func ofApp(f store.EventFilter) bool { return !f.AppID.IsZero() && f.EndpointID.IsZero() }

// eventPlan is a way to a page of events. Parameters are those of selection, the times $6 and $7 between which an
// event was received, its key $8, the source $9 that it came in at, the app $10 that it was published to, its
// type $11, and how many rows to look at $12.
type eventPlan struct {
	queries []string // each finds some of the page, newest first
	reach   string   // see selection.reach
}

// sifts reports whether few of the events that an index has may pass a filter, so that a page must look at many.
// Then it looks at a bounded number.
func sifts(f store.EventFilter) bool {
	n := 0
	for _, is := range []bool{!f.EndpointID.IsZero(), !f.SourceID.IsZero(), !f.AppID.IsZero(), f.Type != "", f.Status != ""} {
		if is {
			n++
		}
	}
	return n > 1 && f.IdempotencyKey == nil
}

// An eventIndex is what a plan walks.
type eventIndex int

const (
	byOthers eventIndex = iota // the indexes of the conditions that are not named below, or of all events
	byType                     // the events of the filter's type
	bySource                   // the events that came in at the filter's source
)

// eventPlans returns the ways to a page of events; none if the filter lets no event through. expanding says that
// there are open expansions.
func eventPlans(f store.EventFilter, expanding bool) (plans []eventPlan) {
	switch _, ok := newest[f.Status]; {
	case f.Status == "" || ok:
	case f.Status != kapsel.EventUnmatched || !f.EndpointID.IsZero(): // an event that goes to an endpoint is not unmatched
		return nil
	}
	// Most events are delivered, so that this status has no index.
	others := f.Status != "" && f.Status != kapsel.EventStatus(kapsel.Delivered.String()) || !f.EndpointID.IsZero() || !f.AppID.IsZero()
	switch {
	case f.IdempotencyKey != nil: // a key has few events
		return []eventPlan{eventPlanBy(byOthers, f, expanding)}
	case f.Type != "":
		plans = append(plans, eventPlanBy(byType, f, expanding))
	}
	if !f.SourceID.IsZero() && f.EndpointID.IsZero() && f.AppID.IsZero() {
		plans = append(plans, eventPlanBy(bySource, f, expanding))
	}
	if others || plans == nil {
		plans = append(plans, eventPlanBy(byOthers, f, expanding))
	}
	return plans
}

// eventPlanBy returns the way to a page of events that walks an index.
func eventPlanBy(by eventIndex, f store.EventFilter, expanding bool) (plan eventPlan) {
	var conditions string
	if !f.Since.IsZero() {
		conditions += " AND e.received_at >= $6"
	}
	if !f.Until.IsZero() {
		conditions += " AND e.received_at < $7"
	}
	if f.IdempotencyKey != nil {
		conditions += " AND e.idempotency_key = $8"
	}
	if !f.SourceID.IsZero() {
		conditions += " AND e.endpoint_id = $9 AND " + atSource
	}
	if !f.AppID.IsZero() {
		conditions += " AND e.app_id = $10"
	}
	if f.Type != "" {
		conditions += " AND e.type = $11"
	}
	ofApp := ofApp(f)
	// A query names each parameter, so that all have a type whatever the conditions.
	const parameters = `
		WITH named AS (SELECT $2::uuid, $5::bigint, $6::timestamptz, $7::timestamptz, $8::bytea, $9::uuid, $10::uuid, $11::text, $12::bigint)`
	const named = parameters + ` SELECT ` + shortEventColumns
	to := `($2::uuid IS NULL OR e.endpoint_id = $2 OR EXISTS (
					SELECT 1 FROM deliveries d WHERE d.part = e.part AND d.endpoint_id = $2 AND d.first_of = e.id` + fence + `))`
	if ofApp {
		to = "e.app_id = $2"
	}
	// An event whose expansion is open is delivering or received, whatever states its deliveries have.
	switch {
	case !expanding || f.Status == kapsel.EventReceived:
	case f.Status == kapsel.EventStatus(kapsel.Delivering.String()):
		plan.queries = append(plan.queries, named+`
			FROM expansions x JOIN events e ON e.part = x.part AND e.id = x.event_id
			WHERE ($1::uuid IS NULL OR x.tenant_id = $1) AND e.id >= $3 AND e.id < $4`+conditions+`
				AND `+to+`
				AND EXISTS (SELECT 1 FROM `+ofEvent("e.part", "e.id")+` o WHERE o.replayed_as IS NULL AND `+tried+`)
			ORDER BY e.id DESC LIMIT $5`)
	default:
		conditions += " AND NOT EXISTS (SELECT 1 FROM expansions x WHERE x.part = e.part AND x.event_id = e.id" + fence + ")"
	}
	ids := func(column string) string {
		return "SELECT e.id FROM events e WHERE e." + column + " = scope.id AND e.id >= $3 AND e.id < $4"
	}
	eventsBy := func(column string) string {
		return "FROM events e WHERE e." + column + " = scope.id AND e.id >= $3 AND e.id < $4" + conditions
	}
	own, walked := eventsBy("endpoint_id"), ids("endpoint_id")
	switch {
	case by == byType:
		own, walked = eventsBy("tenant_id"), ids("tenant_id")+" AND e.type = $11"
		if !f.EndpointID.IsZero() {
			own += ` AND (e.endpoint_id = $2 AND NOT ` + atSource + ` OR EXISTS (
				SELECT 1 FROM deliveries d WHERE d.part = e.part AND d.endpoint_id = $2 AND d.first_of = e.id` + fence + `))`
		}
	case ofApp:
		own, walked = eventsBy("app_id"), ids("app_id")
	case !f.EndpointID.IsZero():
		own += " AND NOT " + atSource
	}
	sources := []string{own}
	events := selection{ordered: true, endpoint: !f.EndpointID.IsZero() || ofApp, walked: []string{walked}}
	if !f.EndpointID.IsZero() && by != byType { // events that came in elsewhere, too
		sources = append(sources, `FROM deliveries f JOIN events e ON e.part = f.part AND e.id = f.first_of
			WHERE f.endpoint_id = scope.id AND f.first_of IS NOT NULL AND f.first_of >= $3 AND f.first_of < $4`+conditions)
		events.walked = append(events.walked, "SELECT f.first_of AS id FROM deliveries f WHERE f.endpoint_id = scope.id AND f.first_of IS NOT NULL AND f.first_of >= $3 AND f.first_of < $4")
	}
	switch {
	case by == byType:
		events.over, events.endpoint = tenants, false
	case ofApp:
		events.over = "apps"
	case f.EndpointID.IsZero():
		events.over = origins
	}
	switch state := newest[f.Status]; {
	case f.Status == "":
		events.source = newestOf("e.part, e.id", sources)
	case f.Status == kapsel.EventUnmatched:
		if !ofApp && by == byOthers {
			events.over, events.walked = tenants, []string{ids("tenant_id") + " AND e.unmatched"}
			own = eventsBy("tenant_id")
		}
		events.source = "SELECT e.part, e.id " + own + " AND e.unmatched" +
			" AND NOT EXISTS (SELECT 1 FROM " + ofEvent("e.part", "e.id") + " d)"
	case f.Status == kapsel.EventStatus(kapsel.Delivered.String()), f.IdempotencyKey != nil, ofApp, by != byOthers:
		for i := range sources {
			sources[i] += withState(state)
		}
		events.source = newestOf("e.part, e.id", sources)
	default:
		events.over = "" // the endpoints of the deliveries
		status, err := kapsel.ParseDeliveryStatus(string(f.Status))
		events.ordered = err == nil && status.Terminal()
		own := func(state string, held bool) string {
			from := `FROM (SELECT d.part, d.event_id AS id FROM deliveries d WHERE d.endpoint_id = scope.id AND d.replayed_as IS NULL AND ` + state
			if conditions != "" {
				from += ` AND EXISTS (SELECT 1 FROM events e WHERE e.part = d.part AND e.id = d.event_id` + conditions + fence + `)`
			}
			if held {
				from += fence
			}
			return from + ") e WHERE e.id >= $3 AND e.id < $4"
		}
		elsewhere := events.walked[1:]
		if events.walked = nil; f.Shared {
			events.walked = []string{walked}
		}
		events.walked = append(events.walked, elsewhere...)
		each := []string{own(state, status == kapsel.Delivering)}
		if f.Status == kapsel.EventReceived {
			status = kapsel.Pending // most of them
			each = []string{own(inState(kapsel.Pending)+" AND "+untried, false), own(inState(kapsel.Delivering)+" AND "+untried, true)}
		}
		if status != kapsel.Delivering {
			events.walked = append(events.walked, "SELECT d.event_id AS id FROM deliveries d WHERE d.endpoint_id = scope.id AND d.replayed_as IS NULL AND "+
				inState(status)+" AND d.event_id >= $3 AND d.event_id < $4")
		}
		// A delivery to another endpoint can give an event its status if it came in elsewhere,
		// or if the ingest is shared.
		for _, from := range sources[1:] {
			each = append(each, from+withState(state))
		}
		if f.Shared {
			each = append(each, sources[0]+withState(state))
		}
		events.source = newestOf("e.part, e.id", each)
	}
	events.atSource = events.over == origins && !f.SourceID.IsZero()
	if sifts(f) {
		if reach := events.reach(); reach != "" {
			plan.reach = parameters + ", " + reach
		}
	}
	plan.queries = append(plan.queries, named+` FROM (`+events.page()+`) page
		JOIN events e ON e.part = page.part AND e.id = page.id
		ORDER BY e.id DESC`)
	return plan
}

// addDeliveries adds to the records of events whether they are expanding, and then their deliveries,
// oldest first, or the digests of these. record returns nil for an event that is not meant.
func addDeliveries(ctx context.Context, q querier, events [][16]byte, record func(kapsel.EventID) *store.EventRecord) error {
	if err := addExpansions(ctx, q, events, record); err != nil {
		return err
	}
	scan := func(row *row) (none struct{}) { // rows are not gathered: there may be 10,000 of each event
		d := scanDelivery(row)
		if r := record(d.EventID); r != nil {
			if r.Deliveries = append(r.Deliveries, d); len(r.Deliveries) > 2*kapsel.MaxInline {
				r.Digest()
			}
		}
		return none
	}
	_, err := collect(ctx, q, scan, `
		SELECT `+deliveryColumns+` FROM unnest($1::smallint[], $2::uuid[]) AS u (part, event_id)
		JOIN deliveries d ON d.part = u.part AND d.event_id = u.event_id ORDER BY d.id`, partsOf(events), events)
	for _, id := range events {
		if r := record(id); r != nil {
			r.Digest()
		}
	}
	return err
}

// idAt returns the first id of a millisecond.
func idAt(t time.Time) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return id
}

// delivery returns a delivery of the tenant, or of any tenant for the zero one. lock must be "" or
// a locking clause.
func delivery(ctx context.Context, q querier, tenantID kapsel.TenantID, deliveryID kapsel.DeliveryID, lock string) (kapsel.Delivery, error) {
	d, ok, err := first(ctx, q, scanDelivery, `
		SELECT `+deliveryColumns+` FROM deliveries d
		WHERE d.part = $1 AND d.id = $2 AND ($3::uuid IS NULL OR d.tenant_id = $3)`+lock,
		part(deliveryID), id(deliveryID), id(tenantID))
	if err == nil && !ok {
		err = store.NotFound("delivery")
	}
	return d, err
}

// Delivery reads a delivery; see store.Archive.
func (s *Store) Delivery(ctx context.Context, tenantID kapsel.TenantID, deliveryID kapsel.DeliveryID) (d kapsel.Delivery, err error) {
	err = s.read(ctx, viewOf(tenantID), func(ctx context.Context, q querier) error {
		d, err = delivery(ctx, q, tenantID, deliveryID, "")
		return err
	})
	return d, err
}

// ListDeliveries lists deliveries; see store.Archive.
func (s *Store) ListDeliveries(ctx context.Context, tenantID kapsel.TenantID, f store.DeliveryFilter, p store.Page[kapsel.DeliveryID]) ([]kapsel.Delivery, error) {
	deliveries := selection{ordered: true, endpoint: !f.EndpointID.IsZero()}
	all := "SELECT d.part, d.id FROM deliveries d WHERE d.endpoint_id = scope.id"
	if f.Replayed != nil && *f.Replayed {
		all += " AND d.replayed_as IS NOT NULL"
	} else if f.Replayed != nil {
		all += " AND d.replayed_as IS NULL"
	}
	if f.Status != nil {
		all += " AND " + inState(*f.Status)
		if deliveries.ordered = *f.Status != kapsel.Delivering; !deliveries.ordered { // held deliveries have no index in the order of ids
			all += fence
		}
	}
	deliveries.source = "SELECT d.part, d.id FROM (" + all + ") d WHERE d.id >= $3 AND d.id < $4"
	return list(ctx, s, viewOf(tenantID), scanDelivery, `
		SELECT `+deliveryColumns+` FROM (`+deliveries.page()+`) page
		JOIN deliveries d ON d.part = page.part AND d.id = page.id
		ORDER BY d.id DESC`, id(tenantID), id(f.EndpointID), [16]byte{}, before(p.Before), p.Limit)
}

// MoveDelivery changes a delivery as the domain says; see store.Archive.
func (s *Store) MoveDelivery(ctx context.Context, tenantID kapsel.TenantID, deliveryID kapsel.DeliveryID, t kapsel.Transition, now time.Time) (d kapsel.Delivery, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		if d, err = delivery(ctx, tx, tenantID, deliveryID, " FOR UPDATE"); err != nil {
			return err
		}
		was := s.by.See(&d)
		if d, err = d.After(t, now); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		queueDelivery(batch, d)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := s.note(ctx, tx, was, s.by.See(&d)); err != nil {
			return err
		}
		ended := s.newTally()
		ended.End(&d, now)
		return count(ctx, tx, ended)
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return d, nil
}

// Replay repeats a terminal delivery; see store.Archive. It locks the endpoint's row, so that the
// endpoint is not deleted meanwhile, and the event's row, so that retention does not remove the
// event.
func (s *Store) Replay(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, of kapsel.DeliveryID, now time.Time) (again kapsel.Delivery, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		all, err := lockDeliveries(ctx, tx, tenantID, eventID)
		if err != nil {
			return err
		}
		old, err := rules.Replayable(all, of, store.NotFound("delivery"))
		if err != nil {
			return err
		}
		if _, err := endpoint(ctx, tx, kapsel.TenantID{}, old.EndpointID, " FOR SHARE"); kapsel.CodeOf(err) == kapsel.NotFound {
			return rules.EndpointDeleted()
		} else if err != nil {
			return err
		}
		again = rules.NewReplay(&old, now)
		batch, tally := &pgx.Batch{}, s.newTally()
		queueNew(batch, tally, again, kapsel.ReplayID{})
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := s.note(ctx, tx, store.Seen{}, s.by.Made(again.TenantID, kapsel.KindEvent, eventID, "", &again)); err != nil {
			return err
		}
		return count(ctx, tx, tally)
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return again, nil
}

// Deliver makes the first delivery of an event to an endpoint; see store.Archive. It locks the
// event's row, so that retention does not remove the event, and so that the later of two calls at
// the same time finds the other's delivery. It locks the endpoint's row, so that the endpoint is
// not deleted meanwhile.
func (s *Store) Deliver(ctx context.Context, tenantID kapsel.TenantID, eventID kapsel.EventID, to kapsel.EndpointID, now time.Time) (d kapsel.Delivery, err error) {
	err = s.change(ctx, viewOf(tenantID), func(ctx context.Context, tx pgx.Tx) error {
		e, ok, err := first(ctx, tx, scanEvent, `
			SELECT `+shortEventColumns+` FROM events e
			WHERE e.part = $1 AND e.id = $2 AND ($3::uuid IS NULL OR e.tenant_id = $3) FOR UPDATE`,
			part(eventID), id(eventID), id(tenantID))
		if err == nil && !ok {
			err = store.NotFound("event")
		}
		if err != nil {
			return err
		}
		all, err := deliveriesOf(ctx, tx, eventID, "")
		if err != nil {
			return err
		}
		target, err := endpoint(ctx, tx, e.TenantID, to, " FOR SHARE")
		if err != nil {
			return err
		}
		if d, err = rules.NewDelivery(&e, all, &target, now); err != nil {
			return err
		}
		batch, tally := &pgx.Batch{}, s.newTally()
		queueNew(batch, tally, d, kapsel.ReplayID{})
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := s.note(ctx, tx, store.Seen{}, s.by.Made(d.TenantID, kapsel.KindEvent, eventID, "", &d)); err != nil {
			return err
		}
		if err := count(ctx, tx, tally); err != nil {
			return err
		}
		// This comes last because it locks the settings counter.
		own, err := endpoint(ctx, tx, e.TenantID, e.EndpointID, " FOR UPDATE")
		switch {
		case kapsel.CodeOf(err) == kapsel.NotFound: // the event came in at no endpoint, or at a deleted one
			return nil
		case err != nil || own.Shared:
			return err
		}
		from := own
		own.Shared = true
		return saveEndpoint(ctx, tx, &own, &from)
	})
	if err != nil {
		return kapsel.Delivery{}, err
	}
	return d, nil
}

// lockDeliveries locks an event and its deliveries, and returns the deliveries, oldest first. Conflict: the
// event was erased.
func lockDeliveries(ctx context.Context, tx pgx.Tx, tenantID kapsel.TenantID, eventID kapsel.EventID) ([]kapsel.Delivery, error) {
	erased, found, err := first(ctx, tx, (*row).time, `
		SELECT erased_at FROM events
		WHERE part = $1 AND id = $2 AND ($3::uuid IS NULL OR tenant_id = $3) FOR KEY SHARE`,
		part(eventID), id(eventID), id(tenantID))
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, store.NotFound("event")
	case !erased.IsZero():
		return nil, rules.Erased()
	}
	return deliveriesOf(ctx, tx, eventID, " FOR UPDATE")
}

// Redeliver repeats the deliveries of an event that were given up; see store.Inbox. Most
// duplicates are of events that need no new delivery, so Redeliver locks only the others, and
// looks at them again: the later of two transactions finds that what it would repeat was replayed.
func (s *Store) Redeliver(ctx context.Context, eventID kapsel.EventID, now time.Time) (made []kapsel.Delivery, err error) {
	var old []kapsel.Delivery
	err = s.read(ctx, engine, func(ctx context.Context, q querier) error {
		all, err := deliveriesOf(ctx, q, eventID, "")
		old = rules.Redeliveries(all, now)
		return err
	})
	if err != nil || len(old) == 0 {
		return nil, err
	}
	err = s.change(ctx, engine, func(ctx context.Context, tx pgx.Tx) error {
		made = nil
		all, err := lockDeliveries(ctx, tx, kapsel.TenantID{}, eventID)
		if code := kapsel.CodeOf(err); code == kapsel.NotFound || code == kapsel.Conflict { // retention has deleted the event, or it was erased
			return nil
		}
		if err != nil {
			return err
		}
		failed := rules.Redeliveries(all, now)
		live, err := lockEndpoints(ctx, tx, failed)
		if err != nil {
			return err
		}
		batch, tally := &pgx.Batch{}, s.newTally()
		for _, old := range failed {
			if len(made) == kapsel.MaxInline {
				break
			}
			if !live[old.EndpointID] {
				continue
			}
			d := rules.NewRedelivery(&old, now)
			queueNew(batch, tally, d, kapsel.ReplayID{})
			made = append(made, d)
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return count(ctx, tx, tally)
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// queueNew adds the writes of a new pending delivery to a batch, and counts it. The delivery is a replay, which
// belongs to the bulk replay replay if that is not zero, or else an event's first delivery to an
// endpoint at which the event did not come in.
func queueNew(batch *pgx.Batch, tally store.Tally, d kapsel.Delivery, replay kapsel.ReplayID) {
	batch.Queue(insertNew, newArgs(d, replay)...)
	tally.Made(&d)
	if !d.ReplayOf.IsZero() {
		batch.Queue("UPDATE deliveries SET replayed_as = $3 WHERE part = $1 AND id = $2", part(d.ReplayOf), id(d.ReplayOf), id(d.ID))
	}
}

// insertNew writes a new pending delivery, whose values newArgs returns.
const insertNew = `
	INSERT INTO deliveries (part, id, event_id, endpoint_id, tenant_id, status, due_at, claims, attempts, counted,
		takeovers, last_status_code, last_error_code, replay_of, size, created_at, replay_id, by_duplicate, first_of)
	VALUES ($1, $2, $3, $4, $5, 0, $6, 0, 0, 0, 0, 0, '', $7, $8, $9, $10, $11, CASE WHEN $7::uuid IS NULL THEN $3::uuid END)`

func newArgs(d kapsel.Delivery, replay kapsel.ReplayID) []any {
	return []any{
		part(d.ID), id(d.ID), id(d.EventID), id(d.EndpointID), id(d.TenantID), d.DueAt, id(d.ReplayOf), d.Size, d.CreatedAt, id(replay), d.ByDuplicate,
	}
}

// Attempt reads an attempt; see store.Archive.
func (s *Store) Attempt(ctx context.Context, tenantID kapsel.TenantID, attemptID kapsel.AttemptID) (kapsel.Attempt, error) {
	found, err := list(ctx, s, viewOf(tenantID), scanAttempt, `
		SELECT `+attemptColumns+` FROM attempts a
		WHERE a.part = $1 AND a.id = $2 AND ($3::uuid IS NULL OR a.tenant_id = $3)`, part(attemptID), id(attemptID), id(tenantID))
	if err != nil {
		return kapsel.Attempt{}, err
	}
	if len(found) == 0 {
		return kapsel.Attempt{}, store.NotFound("attempt")
	}
	return found[0], nil
}

// ListAttempts lists a delivery's attempts; see store.Archive.
func (s *Store) ListAttempts(ctx context.Context, tenantID kapsel.TenantID, deliveryID kapsel.DeliveryID, after, limit int) ([]kapsel.Attempt, error) {
	return list(ctx, s, viewOf(tenantID), scanAttempt, `
		SELECT `+attemptColumns+` FROM attempts a
		WHERE a.part = $1 AND a.delivery_id = $2 AND ($3::uuid IS NULL OR a.tenant_id = $3) AND a.number > $4
		ORDER BY a.number LIMIT $5`, part(deliveryID), id(deliveryID), id(tenantID), after, limit)
}
