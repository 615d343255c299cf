// Package store defines the contract between Kapsel and its database, which is the only source of
// truth for what was received and what is due. Packages sqlite and postgres implement the contract;
// package storetest checks both.
//
// Rules for every method:
//   - When a method returns nil, what it wrote is durable (synced). The writes of one call are
//     atomic: after a crash either all of them are there or none.
//   - All methods may be called by many goroutines at once.
//   - Times and tenants are parameters. No SQL calls a clock.
//   - Errors that callers act on are kapsel.Errors, such as NotFound and Conflict. A method returns
//     DatabaseUnavailable if the store itself fails, also if it is not known whether the method
//     wrote. Repeating a call with the same IDs
//     does no harm.
//   - Callers may reuse the memory that they passed to a method once the method returns.
package store

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// Store is the whole contract. Each of its parts is what one kind of caller needs.
type Store interface {
	Inbox
	Queue
	Directory
	Archive
	Stream
	Expansions
	Replays
	Replans
	Counters
	Answers
	Housekeeping

	// Time returns the store's time, which all nodes share. On SQLite that is the process's clock.
	Time(ctx context.Context) (time.Time, error)
	// Ping returns nil only if Accept could store an event now.
	Ping(ctx context.Context) error
	// Close waits for writes in progress and releases the database.
	Close() error
}

// UsualBody is the size, in bytes, of the largest body for which the usual time limits are enough.
const UsualBody = 10 << 20

// BodyTime returns the time that writing or reading a body of n bytes may take beyond the usual
// limit: 1 s for each MiB, or part of one, above UsualBody.
func BodyTime(n int64) time.Duration {
	return time.Duration(max(0, n-UsualBody+1<<20-1)>>20) * time.Second
}

// Inbox is what ingest needs.
type Inbox interface {
	// Accept stores an event and its first deliveries, all or none of them. Calls at the same time
	// share a group commit. If the key is remembered in its scope (Event.KeyScope) and its window
	// is not over, Accept stores nothing and returns the first event's ID with Duplicate set. If
	// several calls have the same key at the same time, one stores its event and the others are
	// duplicates of that event.
	//
	// The same holds for a guard, which takes precedence over a key: a call whose guard is
	// remembered is a duplicate of the guard's event and leaves its own key free for other events.
	// If a call is a duplicate by its key alone, its guard is remembered for the key's event.
	//
	// The commit continues if ctx ends. If Accept returns DatabaseUnavailable, the event may be
	// stored. A row that violates a constraint fails only its own call.
	Accept(ctx context.Context, in Acceptance) (Accepted, error)
	// Remembered returns the event that an event's key stands for, if it is remembered in its scope
	// and its window is not over. It changes nothing.
	Remembered(ctx context.Context, e *kapsel.Event) (first kapsel.EventID, ok bool, err error)
	// Current returns a Conflict while a node is alive whose release knows only the events of
	// endpoints' ingests; see rules.OlderNodes. Once Current has returned nil it never returns a
	// Conflict again, because such a release does not start on this release's schema.
	Current(ctx context.Context, now time.Time) error
	// Redeliver makes new deliveries of an event after a duplicate of the event came in. They are
	// pending, due now and ByDuplicate, and made as Archive.Replay makes them: one for each endpoint
	// whose newest delivery of the event was given up (failed or dead_letter), within the bounds of
	// rules.Redeliveries, at most kapsel.MaxInline; if it made as many, there may be more to make.
	// Redeliver returns the deliveries that it made, usually none. If several calls for one event
	// come at the same time, one of them makes the deliveries.
	Redeliver(ctx context.Context, event kapsel.EventID, now time.Time) ([]kapsel.Delivery, error)
}

// Acceptance is an event to store with its first deliveries, at most one for each endpoint. A
// delivery is either pending, or delivering with a node and a token if this node will send the
// delivery itself. An event without deliveries is unmatched.
type Acceptance struct {
	Event      kapsel.Event // IdempotencyKey nil: none
	Deliveries []kapsel.Delivery
	Window     time.Duration // how long the key is remembered, from Event.ReceivedAt

	// ExpandAfter says that the event also goes to endpoints with IDs above this one; zero: it
	// does not. Accept then opens an expansion of the event, which makes those deliveries.
	ExpandAfter kapsel.EndpointID

	// Guard identifies what the sender signed, whatever the key says; nil: none. It is
	// remembered for the event's origin, for GuardWindow from Event.ReceivedAt.
	Guard       []byte
	GuardWindow time.Duration
}

// Rehearsal returns an acceptance of an event that belongs to nobody. A store writes it and rolls
// it back to find out whether Accept would succeed.
func Rehearsal() Acceptance {
	now := time.Now().UTC().Truncate(time.Millisecond) // the precision of IDs
	endpoint := kapsel.NewEndpointID(now)
	part := kapsel.PartOf(endpoint)
	e := kapsel.Event{
		ID: kapsel.NewEventID(now, part), TenantID: kapsel.NewTenantID(now), EndpointID: endpoint,
		ReceivedAt: now, IdempotencyKey: []byte("rehearsal"),
	}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, part), EventID: e.ID, EndpointID: endpoint, TenantID: e.TenantID,
		DueAt: now, CreatedAt: now,
	}
	return Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}, Window: time.Minute}
}

// Accepted names the event that Accept stored or, if Duplicate is set, the event that an earlier
// call stored.
type Accepted struct {
	EventID   kapsel.EventID
	Duplicate bool
}

// Queue is what the delivery engine needs.
type Queue interface {
	// Join makes a node known, alive until now+lease. On SQLite, whose file has one process,
	// it also marks all other nodes dead; elsewhere it adds one to the settings counter, so
	// that the others soon know.
	Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	// Renew extends the node's lease, on a connection of its own. It returns a Conflict if the node
	// was marked dead; the node must then stop all work and join again under a new ID.
	Renew(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error
	// Leave ends the node's lease at once; what it still holds is taken over by others.
	Leave(ctx context.Context, node kapsel.NodeID) error
	// Nodes returns the nodes alive at now, in the order of their IDs.
	Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error)
	// Demands tells what a node demands of shared limits, in place of what it told before, and
	// returns what each node alive at now has told, in the order of their ids. What is told
	// goes with the node's lease, and nothing is told for a node that is dead. At most
	// MaxDemands are kept. The row of the node itself may be what it told before.
	Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []Demand) ([]NodeDemands, error)
	// TakeOver marks nodes whose lease ended before now as dead (compare-and-set), and moves
	// up to limit of the deliveries that dead nodes hold: each gets an attempt row
	// OutcomeUnknown under its claim token and goes to where Lost{Takeover: true} leads.
	// Circuits whose probe a dead node held are free to probe again. It returns how many
	// deliveries it moved; below limit, no more are held by nodes dead at now.
	TakeOver(ctx context.Context, now time.Time, limit int) (moved int, err error)

	// Backlog lists the endpoints that have pending deliveries, each with the due time of its
	// oldest one, due or not. It reads one index entry an endpoint, however long the backlog.
	Backlog(ctx context.Context) ([]Waiting, error)
	// Claim takes due pending deliveries for a node, the oldest of each endpoint first, up to
	// each want's limit and until their bodies reach maxBytes together (one always fits).
	// Each comes back as delivering, with a new token, and with its event. Deliveries that
	// another claim is taking are passed over, not waited for.
	Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []Want, maxBytes int) ([]Claimed, error)
	// Complete records an attempt and moves its delivery, in one group commit with the
	// other calls of the moment, but only while the delivery is still delivering under the
	// attempt's id. Otherwise (it was taken over) nothing changes and the error is Conflict.
	// A repeated call whose first was written returns nil.
	Complete(ctx context.Context, done Completion) error
	// GiveBack gives back deliveries that the node holds and has not sent. They are pending again,
	// due at their DueAt, with no attempt. GiveBack skips those no longer held under their token.
	GiveBack(ctx context.Context, held []kapsel.Delivery) error
	// Held lists the deliveries that a node holds in the store, for the engine to find
	// those that it does not know of (an acceptance whose commit was not confirmed).
	Held(ctx context.Context, node kapsel.NodeID) ([]kapsel.Delivery, error)

	// SaveCircuit writes a circuit whose Version is the one that the caller read (0: no row
	// yet), adds one to the version and stamps the settings counter. Conflict: the row has
	// another version; read it again.
	SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error)
	// Circuit returns an endpoint's circuit. If there is no row, it returns a zero Circuit with the
	// endpoint's ID.
	Circuit(ctx context.Context, id kapsel.EndpointID) (kapsel.Circuit, error)
	// DisableGone disables an active or paused endpoint after the destination with this number
	// answered 410. It does nothing if the endpoint has another destination by now.
	DisableGone(ctx context.Context, id kapsel.EndpointID, destination int, now time.Time) error
}

// Waiting is an endpoint with pending deliveries. DueAt is when the oldest of them is due.
type Waiting struct {
	EndpointID kapsel.EndpointID
	DueAt      time.Time
}

// Want asks Claim for at most Limit deliveries of an endpoint.
type Want struct {
	EndpointID kapsel.EndpointID
	Limit      int
}

// Claimed is a delivery that this node now holds, with its event. DueSince is when the delivery
// was due.
type Claimed struct {
	Delivery kapsel.Delivery
	Event    kapsel.Event
	DueSince time.Time
}

// Completion is the end of an attempt: the attempt's row, and the delivery as it is after the
// attempt.
type Completion struct {
	Attempt  kapsel.Attempt
	Delivery kapsel.Delivery
}

// Directory is what people set: tenants, keys, endpoints, sources, apps and event types. Every change adds one to the
// settings counter and stamps the changed row with it, in one transaction. Creating what has
// an id that is there already is a Conflict, before any limit is looked at, and changes
// nothing; a caller that repeats a create learns by it that the first one was written.
type Directory interface {
	// Settings are the rows changed since a value of the counter (0: all that are not
	// deleted), deleted ones included, with the counter's value now. A caller that saw
	// Revision passes it next time.
	Settings(ctx context.Context, since int64) (Settings, error)

	// Follow tells the other nodes that a node works by all changes of what is matched up to
	// a revision. Nothing is told for a node that is dead.
	Follow(ctx context.Context, node kapsel.NodeID, revision int64) error
	// Behind returns how many nodes alive at now, the node itself aside, have not told that they
	// work by a revision or a later one. On SQLite, whose file has one process, there are none.
	Behind(ctx context.Context, node kapsel.NodeID, now time.Time, revision int64) (int, error)

	// Meta reads and sets a value of the instance, such as the check value of its key.
	// SetMeta keeps the first value set for a name and returns it. ReplaceMeta sets a value in
	// place of the one that the caller read. Conflict: the name has another value, or none.
	Meta(ctx context.Context, name string) ([]byte, error) // NotFound
	SetMeta(ctx context.Context, name string, value []byte) ([]byte, error)
	ReplaceMeta(ctx context.Context, name string, old, value []byte) error

	CreateTenant(ctx context.Context, t kapsel.Tenant) error
	Tenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error)
	// UpdateTenant changes a tenant by a function of its current row, in one transaction.
	// An error of the function is returned as it is and nothing changes.
	UpdateTenant(ctx context.Context, id kapsel.TenantID, change func(*kapsel.Tenant) error) (kapsel.Tenant, error)
	// DeleteTenant is a Conflict while the tenant has endpoints, sources or apps. Its keys are revoked.
	DeleteTenant(ctx context.Context, id kapsel.TenantID, now time.Time) error
	ListTenants(ctx context.Context, p Page[kapsel.TenantID]) ([]kapsel.Tenant, error)

	CreateKey(ctx context.Context, k kapsel.Key) error
	// Key reads a key, of any tenant when tenant is zero; so do RevokeKey and ListKeys.
	Key(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID) (kapsel.Key, error)
	// KeyByHash finds a key, valid or not, by the SHA-256 of its secret.
	KeyByHash(ctx context.Context, hash [32]byte) (kapsel.Key, error)
	RevokeKey(ctx context.Context, tenant kapsel.TenantID, id kapsel.KeyID, now time.Time) error
	ListKeys(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.KeyID]) ([]kapsel.Key, error)
	// TouchKeys records when keys were last used; it is not durable on return and not counted
	// as a change of settings.
	TouchKeys(ctx context.Context, used map[kapsel.KeyID]time.Time) error

	// CreateEndpoint is QuotaExceeded when the tenant already has max endpoints (0: no limit), and
	// InvalidRequest when its app is not there, or when it subscribes to what it cannot; so is
	// UpdateEndpoint. See rules.Subscribe. Both set Shared on the endpoints that others subscribe to.
	CreateEndpoint(ctx context.Context, e kapsel.Endpoint, max int) error
	// Endpoint reads an endpoint that is not deleted, of any tenant when tenant is zero.
	Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error)
	// UpdateEndpoint changes an endpoint as UpdateTenant does a tenant, and completes the change
	// by Endpoint.Follow.
	UpdateEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, change func(*kapsel.Endpoint) error) (kapsel.Endpoint, error)
	// DeleteEndpoint hides the endpoint; its waiting deliveries are canceled by CancelWaiting. It is
	// a Conflict while others subscribe to the endpoint.
	DeleteEndpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time) error
	// KeepIngest deletes an endpoint as DeleteEndpoint does, also while others subscribe to it, and
	// makes the source that goes on with its ingest, in one transaction. The source is what
	// rules.KeptIngest returns, changed by a function; an error of the function is returned as it is
	// and nothing changes. It is a Conflict while a node of a release that knows no such sources is
	// alive.
	KeepIngest(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID, now time.Time, change func(*kapsel.Source) error) (kapsel.Source, error)
	// ListEndpoints lists the endpoints of an app, or those of every app and of none if app is zero.
	ListEndpoints(ctx context.Context, tenant kapsel.TenantID, app kapsel.AppID, p Page[kapsel.EndpointID]) ([]kapsel.Endpoint, error)

	// CreateSource is a Conflict while a node of a release that knows no sources is alive; so is
	// every new subscription to a source or to published events.
	CreateSource(ctx context.Context, s kapsel.Source) error
	// Source reads a source that is not deleted, of any tenant when tenant is zero.
	Source(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID) (kapsel.Source, error)
	// UpdateSource changes a source as UpdateTenant does a tenant.
	UpdateSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, change func(*kapsel.Source) error) (kapsel.Source, error)
	// DeleteSource hides the source. It is a Conflict while endpoints subscribe to it.
	DeleteSource(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID, now time.Time) error
	ListSources(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.SourceID]) ([]kapsel.Source, error)

	// CreateApp is a Conflict when another app of the tenant has the uid; so is UpdateApp. It is a
	// Conflict, too, while a node of a release that knows no apps is alive.
	CreateApp(ctx context.Context, a kapsel.App) error
	// App reads an app that is not deleted, of any tenant when tenant is zero.
	App(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID) (kapsel.App, error)
	// AppByUID reads the app of a tenant that has a uid and is not deleted.
	AppByUID(ctx context.Context, tenant kapsel.TenantID, uid string) (kapsel.App, error)
	// UpdateApp changes an app as UpdateTenant does a tenant.
	UpdateApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, change func(*kapsel.App) error) (kapsel.App, error)
	// DeleteApp hides the app and frees its uid. It is a Conflict while endpoints belong to the app.
	DeleteApp(ctx context.Context, tenant kapsel.TenantID, id kapsel.AppID, now time.Time) error
	ListApps(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.AppID]) ([]kapsel.App, error)

	// CreateEventType is a Conflict when the tenant has a type of the name, and while a node of a
	// release that knows no event types is alive, and QuotaExceeded when the tenant has
	// kapsel.MaxEventTypes.
	CreateEventType(ctx context.Context, t kapsel.EventType) error
	// EventType reads a tenant's event type that is not deleted.
	EventType(ctx context.Context, tenant kapsel.TenantID, name string) (kapsel.EventType, error)
	// UpdateEventType changes an event type as UpdateTenant does a tenant. Its name stays.
	UpdateEventType(ctx context.Context, tenant kapsel.TenantID, name string, change func(*kapsel.EventType) error) (kapsel.EventType, error)
	// DeleteEventType hides the event type and frees its name.
	DeleteEventType(ctx context.Context, tenant kapsel.TenantID, name string, now time.Time) error
	ListEventTypes(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.EventTypeID]) ([]kapsel.EventType, error)
}

// FindApp reads an app by its ID or by its uid. For a uid the tenant must not be zero.
func FindApp(ctx context.Context, d Directory, tenant kapsel.TenantID, ref string) (kapsel.App, error) {
	if id, err := kapsel.ParseAppID(ref); err == nil {
		return d.App(ctx, tenant, id)
	}
	return d.AppByUID(ctx, tenant, ref)
}

// Settings are changed rows of the directory; Revision is the counter when they were read.
type Settings struct {
	Revision  int64
	Tenants   []kapsel.Tenant
	Keys      []kapsel.Key
	Endpoints []kapsel.Endpoint
	Sources   []kapsel.Source
	Apps      []kapsel.App
	Types     []kapsel.EventType
	Circuits  []kapsel.Circuit
}

// Deleted names rows of the directory that are deleted.
type Deleted struct {
	Endpoints []kapsel.EndpointID
	Sources   []kapsel.SourceID
	Apps      []kapsel.AppID
	Types     []kapsel.EventType
	Tenants   []kapsel.TenantID
}

// Deleted returns which of the rows are deleted.
func (s *Settings) Deleted() (d Deleted) {
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; !e.DeletedAt.IsZero() {
			d.Endpoints = append(d.Endpoints, e.ID)
		}
	}
	for i := range s.Sources {
		if src := &s.Sources[i]; !src.DeletedAt.IsZero() {
			d.Sources = append(d.Sources, src.ID)
		}
	}
	for i := range s.Apps {
		if a := &s.Apps[i]; !a.DeletedAt.IsZero() {
			d.Apps = append(d.Apps, a.ID)
		}
	}
	for i := range s.Types {
		if t := &s.Types[i]; !t.DeletedAt.IsZero() {
			d.Types = append(d.Types, *t)
		}
	}
	for i := range s.Tenants {
		if t := &s.Tenants[i]; !t.DeletedAt.IsZero() {
			d.Tenants = append(d.Tenants, t.ID)
		}
	}
	return d
}

// Page asks for up to Limit rows with ids below Before (zero: from the newest), newest first.
type Page[ID any] struct {
	Before ID
	Limit  int
}

// Archive is what people read of events, and do to single deliveries. A zero tenant means
// every tenant. Rows of another tenant are NotFound or left out.
type Archive interface {
	// Event reads an event with its body and its deliveries, oldest first.
	Event(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (EventRecord, error)
	// ListEvents lists events without bodies, headers and queries, each with its deliveries, of
	// which EventRecord.Digest may have left out some.
	ListEvents(ctx context.Context, tenant kapsel.TenantID, f EventFilter, p Page[kapsel.EventID]) ([]EventRecord, error)
	Delivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID) (kapsel.Delivery, error)
	ListDeliveries(ctx context.Context, tenant kapsel.TenantID, f DeliveryFilter, p Page[kapsel.DeliveryID]) ([]kapsel.Delivery, error)
	// MoveDelivery changes a delivery by Delivery.After(h, now), for Retry and Cancel.
	MoveDelivery(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, h kapsel.Happening, now time.Time) (kapsel.Delivery, error)
	// CancelEvent cancels an event's pending deliveries, only those to one endpoint unless that is
	// zero, as MoveDelivery does, and returns how many. For the zero endpoint it first ends the
	// event's expansion; ended says that there was one. It takes several transactions, and a
	// delivery that starts meanwhile goes on.
	CancelEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (canceled int, ended bool, err error)
	// Replay makes a new pending delivery, due now, that repeats a terminal one: the newest
	// of the event when of is zero. Conflict: it is not terminal, already replayed, or its
	// endpoint is deleted.
	Replay(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, of kapsel.DeliveryID, now time.Time) (kapsel.Delivery, error)
	// Deliver makes the first delivery of an event to an endpoint, pending and due now. Conflict:
	// the event has a delivery to it. NotFound: there is no such event, or the event's tenant
	// has no such endpoint. InvalidRequest: the endpoint belongs to another app than the event.
	Deliver(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (kapsel.Delivery, error)
	Attempt(ctx context.Context, tenant kapsel.TenantID, id kapsel.AttemptID) (kapsel.Attempt, error)
	// ListAttempts lists a delivery's attempts by number.
	ListAttempts(ctx context.Context, tenant kapsel.TenantID, id kapsel.DeliveryID, after int, limit int) ([]kapsel.Attempt, error)
}

// EventRecord is an event with what became of it.
type EventRecord struct {
	Event      kapsel.Event
	Deliveries []kapsel.Delivery // oldest first
	Expanding  bool              // others are still being made; see Expansions
	// Left names the endpoints of the deliveries that Digest has left out.
	Left []kapsel.EndpointID
}

// Status returns the event's status.
func (r *EventRecord) Status() kapsel.EventStatus {
	return kapsel.StatusOfEvent(r.Newest(), r.Expanding)
}

// Newest returns the event's newest delivery to each endpoint: those that no other repeats.
func (r *EventRecord) Newest() []kapsel.Delivery {
	newest := make([]kapsel.Delivery, 0, len(r.Deliveries))
	for _, d := range r.Deliveries {
		if d.ReplayedAs.IsZero() {
			newest = append(newest, d)
		}
	}
	return newest
}

// Digest leaves out deliveries of an event that has more than kapsel.MaxInline, for lists of such
// events. What is left gives the event the same status and the same first delivery.
func (r *EventRecord) Digest() {
	if len(r.Deliveries) <= kapsel.MaxInline {
		return
	}
	type kind struct {
		status kapsel.DeliveryStatus
		tried  bool
	}
	first := -1 // to be delivered
	seen := map[kind]bool{}
	var kept []kapsel.Delivery
	for i, d := range r.Deliveries {
		if d.Status == kapsel.Delivered && (first < 0 || d.FinishedAt.Before(r.Deliveries[first].FinishedAt)) {
			first = i
		}
	}
	for i, d := range r.Deliveries {
		k := kind{d.Status, d.Attempts > 0}
		if newest := d.ReplayedAs.IsZero() && !seen[k]; newest || i == first {
			seen[k] = seen[k] || newest
			kept = append(kept, d)
		} else {
			r.Left = append(r.Left, d.EndpointID)
		}
	}
	r.Deliveries = kept
}

// To reports whether the event has a delivery to an endpoint.
func (r *EventRecord) To(endpoint kapsel.EndpointID) bool {
	return slices.ContainsFunc(r.Deliveries, func(d kapsel.Delivery) bool { return d.EndpointID == endpoint }) || slices.Contains(r.Left, endpoint)
}

// EventFilter narrows ListEvents; zero fields do not. Since and Until compare ReceivedAt, half-open.
type EventFilter struct {
	EndpointID kapsel.EndpointID // events that have a delivery to it
	SourceID   kapsel.SourceID   // events that came in at it
	AppID      kapsel.AppID      // events that were published to it
	// Shared says that other endpoints get events of EndpointID's ingest, so that a status may
	// come from their deliveries; a list of a status then looks at all events of the ingest.
	Shared         bool
	Status         kapsel.EventStatus
	Since, Until   time.Time
	IdempotencyKey []byte
}

// DeliveryFilter narrows ListDeliveries; zero fields do not.
type DeliveryFilter struct {
	EndpointID kapsel.EndpointID
	Status     *kapsel.DeliveryStatus
	Replayed   *bool // whether ReplayedAs is set
}

// Stream reads events in the order in which they become visible to readers, which is one for
// all readers, lasts, and is nearly that of their receipt: who goes on behind what it has read
// gets each event once and misses none, whatever was committed meanwhile and in which order.
type Stream interface {
	// StreamEvents looks at up to limit events behind a position and returns those that the
	// filter lets through, as ListEvents shows them, and the position behind all that it looked
	// at, to go on from. more is whether there may be more to look at now. What retention
	// deleted is passed over. Conflict: the position is ahead of all that was ever stored, so
	// it is of another database, or of this one before an old copy of it was restored.
	StreamEvents(ctx context.Context, f StreamFilter, after Position, now time.Time, limit int) (events []Streamed, next Position, more bool, err error)
	// StreamEnd is the position behind all that is visible now.
	StreamEnd(ctx context.Context, now time.Time) (Position, error)
	// StreamPosition is the position behind an event that is there, of any tenant when tenant
	// is zero.
	StreamPosition(ctx context.Context, tenant kapsel.TenantID, id kapsel.EventID) (Position, error)
}

// StreamFilter narrows StreamEvents; zero fields do not.
type StreamFilter struct {
	Tenants    []kapsel.TenantID
	EndpointID kapsel.EndpointID // events that have a delivery to it, or whose open expansion may make one
	SourceID   kapsel.SourceID   // events that came in at it
}

// Streamed is an event of the stream and the position behind it.
type Streamed struct {
	EventRecord
	At Position
}

// Position is a place in the stream. The zero Position is before all events.
type Position struct {
	Seq int64          // grows in the order of the stream; several events may share one …
	ID  kapsel.EventID // … and are ordered by their ids. EndOfSeq: behind all of them
}

// EndOfSeq is above every event's id.
var EndOfSeq = kapsel.EventID(bytes.Repeat([]byte{0xff}, 16))

// Compare is negative when p is before q, and positive when it is behind.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Seq, q.Seq), bytes.Compare(p.ID[:], q.ID[:]))
}

// Later is the position that is behind the other.
func (p Position) Later(q Position) Position {
	if p.Compare(q) < 0 {
		return q
	}
	return p
}

// Expansions make the deliveries of events that go to more endpoints than one commit should hold.
// Accept stores the event, its first deliveries and an expansion in one commit. From then on Expand
// makes the others in steps, and keeps a cursor with the expansion, so that a crash loses nothing
// and repeats nothing. While its expansion is open an event is not deleted.
type Expansions interface {
	// OpenExpansions lists up to limit events with an open expansion, oldest first.
	OpenExpansions(ctx context.Context, limit int) ([]kapsel.EventID, error)
	// Expand goes on with an event's expansion. It looks at the endpoints behind the cursor, in the
	// order of their IDs, and makes a first delivery, pending, to each that gets the event by
	// rules.Expanded and has none. The deliveries, at most limit and fewer if they take long, and
	// the cursor are one transaction, which matches by its own settings. more is whether the
	// expansion is still open. If it is not open, Expand does nothing and returns no error.
	Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (made int, more bool, err error)
}

// Replays makes many deliveries again, at a rate, whatever happens to the process.
//
// The set of a replay is fixed by its fields, and Replay.Has, HasWaiting and Lacks say what is in
// it; the store walks it in an order of its own with a cursor that it keeps with the replay. As
// only what is older than the replay is in the set, and what was replayed, moved or delivered leaves
// it, a step that is repeated makes nothing twice.
type Replays interface {
	// CountReplay counts the set of a replay that need not be stored, at most about atMost,
	// and gives up to sample of its deliveries; those of a replay of what is missing have no ID
	// yet. Deleted endpoints have none. It is many short reads: what changes meanwhile is counted
	// or not.
	CountReplay(ctx context.Context, r kapsel.Replay, atMost, sample int) (count int, some []kapsel.Delivery, err error)
	// CreateReplay stores a replay. Conflict: its id is there already, or it is of what is missing
	// or waits, and a node of a release that knows no such replays is alive.
	CreateReplay(ctx context.Context, r kapsel.Replay) error
	// ReadReplay reads a replay with its counts, which retention does not change.
	ReadReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID) (kapsel.Replay, error)
	ListReplays(ctx context.Context, tenant kapsel.TenantID, p Page[kapsel.ReplayID]) ([]kapsel.Replay, error)
	// MoveReplay changes a replay by Replay.Move(to, now).
	MoveReplay(ctx context.Context, tenant kapsel.TenantID, id kapsel.ReplayID, to kapsel.ReplayStatus, now time.Time) (kapsel.Replay, error)
	// RunningReplays lists up to limit replays that are running, oldest first, without what
	// became of their deliveries.
	RunningReplays(ctx context.Context, limit int) ([]kapsel.Replay, error)
	// StepReplay goes on with a running replay: of the next candidates, up to limit that are
	// still in the set get a new pending delivery, due now, as Archive.Replay or, for a replay of
	// what is missing, Archive.Deliver makes one; those of a replay of what waits are due now.
	// The deliveries, the replay's count and its cursor are one transaction. An event has at most
	// one first delivery to an endpoint: what another call has made is passed over and not
	// counted. more is whether
	// there may be more to make. At the end of the set the replay is done once all that was
	// made has ended, and its counts stay as they are then. One that is not running is left
	// as it is, with no error.
	StepReplay(ctx context.Context, id kapsel.ReplayID, now time.Time, limit int) (made int, more bool, err error)
}

// Replans reschedules what waits for an endpoint after its retry policy or its destination has
// changed. UpdateEndpoint leaves the mark for it, Endpoint.Replan, in its own transaction.
type Replans interface {
	// Replanning lists up to limit endpoints that are marked and not deleted.
	Replanning(ctx context.Context, limit int) ([]kapsel.Endpoint, error)
	// Replan moves those of an endpoint's deliveries that wait past now to where
	// Delivery.After(kapsel.Replan{…}) leads, by the endpoint as it is in the same transaction.
	// It looks at up to limit of them, in the order of Due, behind after; next is the last one
	// that it looked at, and more whether others may follow. A deleted endpoint has none.
	// Deliveries that another call is changing may be passed over.
	Replan(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, after Due, limit int) (next Due, more bool, err error)
	// Replanned takes the mark away, unless a later change has set it again.
	Replanned(ctx context.Context, endpoint kapsel.EndpointID, mark int64) error
}

// Due is a place among an endpoint's pending deliveries. The zero Due is before all of them.
type Due struct {
	At time.Time
	ID kapsel.DeliveryID
}

// Counters are what was counted of events, attempts and deliveries. What counts is counted in
// the transaction that writes it, so the counters are exact: a duplicate, a call that is
// repeated, a commit that is run again and a completion that is refused count nothing.
//
//   - Accept counts an event and the size of its body, in the usage of the day of ReceivedAt.
//   - Complete counts an attempt and, where it ended the delivery, that, in the hour and the
//     day of the attempt's end. TakeOver does so at now.
//   - MoveDelivery and CancelWaiting count a delivery that they cancel, at now.
//
// Deleting events changes no counter; see DeleteOldCounters for how long they are kept.
type Counters interface {
	// EndpointStats are the stats of an endpoint's hours that begin in [since, until), oldest
	// first, without those in which nothing was counted. Of another tenant's there are none.
	EndpointStats(ctx context.Context, tenant kapsel.TenantID, endpoint kapsel.EndpointID, since, until time.Time) ([]StatsOfHour, error)
	// Usage is what a tenant used on the days (of UTC) that begin in [since, until), oldest
	// first, without those on which nothing was counted. A zero tenant is all of them together.
	Usage(ctx context.Context, tenant kapsel.TenantID, since, until time.Time) ([]UsageOfDay, error)
	// CountArrivals adds to Stats.Refused and Stats.Unkeyed of endpoints, by the hour. It is
	// called seldom, for many requests together. It alone is not exact: after an error it is not
	// known whether the counts were added.
	CountArrivals(ctx context.Context, counts map[StatsKey]Arrivals) error
}

// Arrivals count webhooks of an endpoint: refused ones, and accepted ones without a key where
// the endpoint says where they have one.
type Arrivals struct{ Refused, Unkeyed int64 }

// Plus returns the sum of two counts.
func (a Arrivals) Plus(b Arrivals) Arrivals {
	return Arrivals{a.Refused + b.Refused, a.Unkeyed + b.Unkeyed}
}

// StatsOfHour are an endpoint's stats of the hour that begins at Hour.
type StatsOfHour struct {
	Hour time.Time
	kapsel.Stats
}

// UsageOfDay is what was used on the day that begins at Day.
type UsageOfDay struct {
	Day time.Time
	kapsel.Usage
}

// How long counters are kept after the end of their hour or day.
const (
	StatsKept = 90 * 24 * time.Hour
	UsageKept = 400 * 24 * time.Hour
)

// Answers remembers what POSTs with an Idempotency-Key were answered.
type Answers interface {
	// Reserve stores r, unless its owner used the key before and that row has not expired at
	// now. It returns the row that is there then, which has r's Seed when it is r. Of calls
	// with one key at the same time, one stores and the others get its row.
	Reserve(ctx context.Context, r Reservation, now time.Time) (Reservation, error)
	// Settle stores the answer of the row with r's owner, key and seed; without one it does
	// nothing.
	Settle(ctx context.Context, r Reservation) error
	// Forget deletes the row with r's owner, key and seed, if there is one.
	Forget(ctx context.Context, r Reservation) error
}

// Reservation is the use of an Idempotency-Key, and what it was answered.
type Reservation struct {
	Owner     kapsel.TenantID // who used it; zero: the admin
	Key       string          // printable ASCII
	Request   [32]byte        // SHA-256 of what was asked for
	Seed      [16]byte        // a UUIDv7: the id of what the request makes
	CreatedAt time.Time
	ExpiresAt time.Time
	Status    int    // of the answer; 0: none yet. From 500 on it is not known what was done
	Made      string // the id of what was made, "" when nothing was
	Body      []byte // of the answer
	Sealed    bool   // Body has a secret and is a kapsel.Secret, in JSON
}

// SecretKept is how long an answer with a secret can be repeated.
const SecretKept = 10 * time.Minute

// Housekeeping is what background duties need. Each call is one short transaction.
type Housekeeping interface {
	// CancelWaiting cancels up to limit pending deliveries of a deleted endpoint.
	CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (canceled int, err error)
	// DeletedTenants lists up to limit deleted tenants that still have events, with ids above
	// after, in the order of their ids.
	DeletedTenants(ctx context.Context, after kapsel.TenantID, limit int) ([]kapsel.Tenant, error)
	// DeleteFinished deletes up to limit events of a tenant received before a time whose
	// deliveries are all terminal and made, with their deliveries and attempts.
	DeleteFinished(ctx context.Context, tenant kapsel.TenantID, before time.Time, limit int) (deleted int, err error)
	// DeleteExpiredKeys forgets up to limit idempotency keys whose window is over at now.
	DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteExpiredGuards forgets up to limit guards whose window is over at now.
	DeleteExpiredGuards(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// DeleteExpiredAnswers deletes up to limit reservations that have expired at now, and
	// clears the bodies of up to limit sealed ones made SecretKept ago or earlier. It returns
	// how many rows it changed in all.
	DeleteExpiredAnswers(ctx context.Context, now time.Time, limit int) (changed int, err error)
	// DeleteOldCounters deletes up to limit rows of stats and of usage that at now are older
	// than StatsKept and UsageKept. It returns how many rows it deleted in all.
	DeleteOldCounters(ctx context.Context, now time.Time, limit int) (deleted int, err error)
	// Lead makes the node leader of a duty until now+lease and reports whether it is.
	Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error)
	// QueueDepth counts deliveries by state for metrics, at most atMost an endpoint; due is
	// how many of the pending ones are due at now, oldest the due time of the oldest. Those that
	// are scheduled at now (Delivery.Scheduled) do not count.
	QueueDepth(ctx context.Context, now time.Time, atMost int) (QueueDepth, error)
	// BacklogOf counts an endpoint's pending deliveries, at most atMost, and its oldest due time.
	// Those that are scheduled at now do not count.
	BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (count int, oldest time.Time, err error)
}

// QueueDepth are counts of deliveries that are not terminal.
type QueueDepth struct {
	Pending, Due, Delivering int
	Oldest                   time.Time // zero: none is due
}

// CommitObserver is told of every group commit of the hot path, also of one that failed: how
// many calls it held and how long it took, the sync included. The writer calls it; it must not
// block.
type CommitObserver func(calls int, took time.Duration)
