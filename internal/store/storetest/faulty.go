package storetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Fault is how a call of a faulty store goes wrong.
type Fault uint8

// The faults. Their error is the store's DatabaseUnavailable, with ErrInjected as its cause,
// so the caller cannot tell them apart.
const (
	NoFault      Fault = iota
	NotPersisted       // it fails, and nothing was done
	Persisted          // it is done, and fails all the same
)

// ErrInjected is the cause of every error that a faulty store adds.
var ErrInjected = errors.New("injected fault")

// Faulty wraps a store. Before each call of Inbox, Queue, Counters, Housekeeping, Settings, Endpoint,
// Source, Tenant, Expansions, CancelEvent, Replans, RunningReplays, StepReplay, Time and Ping, plan is asked by the method's name what goes wrong; it may be
// asked by many goroutines at once, and may block to hold the call back. The other methods
// are the store's own.
func Faulty(s store.Store, plan func(method string) Fault) store.Store {
	return &faulty{Store: s, plan: plan}
}

// Nth is a plan by which the n-th call (1, 2, …) of a method goes wrong, and no other.
func Nth(method string, n int, fault Fault) func(string) Fault {
	var mu sync.Mutex
	calls := 0
	return func(m string) Fault {
		if m != method {
			return NoFault
		}
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == n {
			return fault
		}
		return NoFault
	}
}

type faulty struct {
	store.Store
	plan func(string) Fault
}

// try makes a call that has a result, or what the plan makes of it.
func try[T any](f *faulty, method string, call func() (T, error)) (T, error) {
	var none T
	switch f.plan(method) {
	case NotPersisted:
		return none, store.Unavailable(ErrInjected)
	case Persisted:
		if _, err := call(); err != nil {
			return none, err
		}
		return none, store.Unavailable(ErrInjected)
	}
	return call()
}

func (f *faulty) try(method string, call func() error) error {
	_, err := try(f, method, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func (f *faulty) Accept(ctx context.Context, in store.Acceptance) (store.Accepted, error) {
	return try(f, "Accept", func() (store.Accepted, error) { return f.Store.Accept(ctx, in) })
}

func (f *faulty) Current(ctx context.Context, now time.Time) error {
	return f.try("Current", func() error { return f.Store.Current(ctx, now) })
}

func (f *faulty) Redeliver(ctx context.Context, event kapsel.EventID, now time.Time) ([]kapsel.Delivery, error) {
	return try(f, "Redeliver", func() ([]kapsel.Delivery, error) { return f.Store.Redeliver(ctx, event, now) })
}

func (f *faulty) Join(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return f.try("Join", func() error { return f.Store.Join(ctx, node, now, lease) })
}

func (f *faulty) Renew(ctx context.Context, node kapsel.NodeID, now time.Time, lease time.Duration) error {
	return f.try("Renew", func() error { return f.Store.Renew(ctx, node, now, lease) })
}

func (f *faulty) Leave(ctx context.Context, node kapsel.NodeID) error {
	return f.try("Leave", func() error { return f.Store.Leave(ctx, node) })
}

func (f *faulty) Nodes(ctx context.Context, now time.Time) ([]kapsel.NodeID, error) {
	return try(f, "Nodes", func() ([]kapsel.NodeID, error) { return f.Store.Nodes(ctx, now) })
}

func (f *faulty) Follow(ctx context.Context, node kapsel.NodeID, revision int64) error {
	return f.try("Follow", func() error { return f.Store.Follow(ctx, node, revision) })
}

func (f *faulty) Behind(ctx context.Context, node kapsel.NodeID, now time.Time, revision int64) (int, error) {
	return try(f, "Behind", func() (int, error) { return f.Store.Behind(ctx, node, now, revision) })
}

func (f *faulty) Demands(ctx context.Context, node kapsel.NodeID, now time.Time, own []store.Demand) ([]store.NodeDemands, error) {
	return try(f, "Demands", func() ([]store.NodeDemands, error) { return f.Store.Demands(ctx, node, now, own) })
}

func (f *faulty) OpenExpansions(ctx context.Context, limit int) ([]kapsel.EventID, error) {
	return try(f, "OpenExpansions", func() ([]kapsel.EventID, error) { return f.Store.OpenExpansions(ctx, limit) })
}

func (f *faulty) Expand(ctx context.Context, event kapsel.EventID, now time.Time, limit int) (made int, more bool, err error) {
	err = f.try("Expand", func() (err error) {
		made, more, err = f.Store.Expand(ctx, event, now, limit)
		return err
	})
	return made, more, err
}

func (f *faulty) CancelEvent(ctx context.Context, tenant kapsel.TenantID, event kapsel.EventID, to kapsel.EndpointID, now time.Time) (canceled int, ended bool, err error) {
	err = f.try("CancelEvent", func() (err error) {
		canceled, ended, err = f.Store.CancelEvent(ctx, tenant, event, to, now)
		return err
	})
	return canceled, ended, err
}

func (f *faulty) TakeOver(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "TakeOver", func() (int, error) { return f.Store.TakeOver(ctx, now, limit) })
}

func (f *faulty) Backlog(ctx context.Context) ([]store.Waiting, error) {
	return try(f, "Backlog", func() ([]store.Waiting, error) { return f.Store.Backlog(ctx) })
}

func (f *faulty) Claim(ctx context.Context, node kapsel.NodeID, now time.Time, wants []store.Want, maxBytes int) (claimed []store.Claimed, cut kapsel.EndpointID, err error) {
	err = f.try("Claim", func() error {
		claimed, cut, err = f.Store.Claim(ctx, node, now, wants, maxBytes)
		return err
	})
	if err != nil {
		return nil, kapsel.EndpointID{}, err
	}
	return claimed, cut, nil
}

func (f *faulty) Complete(ctx context.Context, done store.Completion) error {
	return f.try("Complete", func() error { return f.Store.Complete(ctx, done) })
}

func (f *faulty) GiveBack(ctx context.Context, held []kapsel.Delivery) error {
	return f.try("GiveBack", func() error { return f.Store.GiveBack(ctx, held) })
}

func (f *faulty) Held(ctx context.Context, node kapsel.NodeID) ([]kapsel.Delivery, error) {
	return try(f, "Held", func() ([]kapsel.Delivery, error) { return f.Store.Held(ctx, node) })
}

func (f *faulty) SaveCircuit(ctx context.Context, c kapsel.Circuit) (kapsel.Circuit, error) {
	return try(f, "SaveCircuit", func() (kapsel.Circuit, error) { return f.Store.SaveCircuit(ctx, c) })
}

func (f *faulty) Circuit(ctx context.Context, id kapsel.EndpointID) (kapsel.Circuit, error) {
	return try(f, "Circuit", func() (kapsel.Circuit, error) { return f.Store.Circuit(ctx, id) })
}

func (f *faulty) DisableGone(ctx context.Context, id kapsel.EndpointID, destination int, now time.Time) error {
	return f.try("DisableGone", func() error { return f.Store.DisableGone(ctx, id, destination, now) })
}

func (f *faulty) Settings(ctx context.Context, since int64) (store.Settings, error) {
	return try(f, "Settings", func() (store.Settings, error) { return f.Store.Settings(ctx, since) })
}

func (f *faulty) Endpoint(ctx context.Context, tenant kapsel.TenantID, id kapsel.EndpointID) (kapsel.Endpoint, error) {
	return try(f, "Endpoint", func() (kapsel.Endpoint, error) { return f.Store.Endpoint(ctx, tenant, id) })
}

func (f *faulty) Source(ctx context.Context, tenant kapsel.TenantID, id kapsel.SourceID) (kapsel.Source, error) {
	return try(f, "Source", func() (kapsel.Source, error) { return f.Store.Source(ctx, tenant, id) })
}

func (f *faulty) Tenant(ctx context.Context, id kapsel.TenantID) (kapsel.Tenant, error) {
	return try(f, "Tenant", func() (kapsel.Tenant, error) { return f.Store.Tenant(ctx, id) })
}

func (f *faulty) CancelWaiting(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, limit int) (int, error) {
	return try(f, "CancelWaiting", func() (int, error) { return f.Store.CancelWaiting(ctx, endpoint, now, limit) })
}

func (f *faulty) DeletedTenants(ctx context.Context, after kapsel.TenantID, limit int) ([]kapsel.Tenant, error) {
	return try(f, "DeletedTenants", func() ([]kapsel.Tenant, error) { return f.Store.DeletedTenants(ctx, after, limit) })
}

func (f *faulty) DeleteFinished(ctx context.Context, tenant kapsel.TenantID, before time.Time, limit int) (int, error) {
	return try(f, "DeleteFinished", func() (int, error) { return f.Store.DeleteFinished(ctx, tenant, before, limit) })
}

func (f *faulty) DeleteExpiredKeys(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteExpiredKeys", func() (int, error) { return f.Store.DeleteExpiredKeys(ctx, now, limit) })
}

func (f *faulty) DeleteExpiredGuards(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteExpiredGuards", func() (int, error) { return f.Store.DeleteExpiredGuards(ctx, now, limit) })
}

func (f *faulty) EndpointStats(ctx context.Context, tenant kapsel.TenantID, endpoints []kapsel.EndpointID, since, until time.Time) ([]store.StatsOfEndpoint, error) {
	return try(f, "EndpointStats", func() ([]store.StatsOfEndpoint, error) {
		return f.Store.EndpointStats(ctx, tenant, endpoints, since, until)
	})
}

func (f *faulty) Usage(ctx context.Context, tenant kapsel.TenantID, since, until time.Time) ([]store.UsageOfDay, error) {
	return try(f, "Usage", func() ([]store.UsageOfDay, error) { return f.Store.Usage(ctx, tenant, since, until) })
}

func (f *faulty) CountArrivals(ctx context.Context, counts map[store.StatsKey]store.Arrivals) error {
	return f.try("CountArrivals", func() error { return f.Store.CountArrivals(ctx, counts) })
}

func (f *faulty) DeleteOldCounters(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteOldCounters", func() (int, error) { return f.Store.DeleteOldCounters(ctx, now, limit) })
}

func (f *faulty) DeleteExpiredAnswers(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteExpiredAnswers", func() (int, error) { return f.Store.DeleteExpiredAnswers(ctx, now, limit) })
}

func (f *faulty) DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteExpiredSessions", func() (int, error) { return f.Store.DeleteExpiredSessions(ctx, now, limit) })
}

func (f *faulty) CreateSession(ctx context.Context, s kapsel.Session) error {
	return f.try("CreateSession", func() error { return f.Store.CreateSession(ctx, s) })
}

func (f *faulty) SessionByHash(ctx context.Context, hash [32]byte, now time.Time) (kapsel.Session, error) {
	return try(f, "SessionByHash", func() (kapsel.Session, error) { return f.Store.SessionByHash(ctx, hash, now) })
}

func (f *faulty) TouchSession(ctx context.Context, id kapsel.SessionID, seen time.Time) error {
	return f.try("TouchSession", func() error { return f.Store.TouchSession(ctx, id, seen) })
}

func (f *faulty) ListSessions(ctx context.Context, tenant kapsel.TenantID, now time.Time, p store.Page[kapsel.SessionID]) ([]kapsel.Session, error) {
	return try(f, "ListSessions", func() ([]kapsel.Session, error) { return f.Store.ListSessions(ctx, tenant, now, p) })
}

func (f *faulty) DeleteSession(ctx context.Context, tenant kapsel.TenantID, id kapsel.SessionID) error {
	return f.try("DeleteSession", func() error { return f.Store.DeleteSession(ctx, tenant, id) })
}

func (f *faulty) DeleteSessions(ctx context.Context, tenant kapsel.TenantID, key kapsel.KeyID) error {
	return f.try("DeleteSessions", func() error { return f.Store.DeleteSessions(ctx, tenant, key) })
}

func (f *faulty) DeleteSessionsOf(ctx context.Context, subject string) error {
	return f.try("DeleteSessionsOf", func() error { return f.Store.DeleteSessionsOf(ctx, subject) })
}

func (f *faulty) DeleteExpiredPortalLinks(ctx context.Context, now time.Time, limit int) (int, error) {
	return try(f, "DeleteExpiredPortalLinks", func() (int, error) { return f.Store.DeleteExpiredPortalLinks(ctx, now, limit) })
}

func (f *faulty) CreatePortalLink(ctx context.Context, l kapsel.PortalLink) error {
	return f.try("CreatePortalLink", func() error { return f.Store.CreatePortalLink(ctx, l) })
}

func (f *faulty) PortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID) (kapsel.PortalLink, error) {
	return try(f, "PortalLink", func() (kapsel.PortalLink, error) { return f.Store.PortalLink(ctx, tenant, id) })
}

func (f *faulty) OpenPortal(ctx context.Context, token, session [32]byte, now time.Time) (kapsel.PortalLink, error) {
	return try(f, "OpenPortal", func() (kapsel.PortalLink, error) { return f.Store.OpenPortal(ctx, token, session, now) })
}

func (f *faulty) PortalBySession(ctx context.Context, session [32]byte, now time.Time) (kapsel.PortalLink, error) {
	return try(f, "PortalBySession", func() (kapsel.PortalLink, error) { return f.Store.PortalBySession(ctx, session, now) })
}

func (f *faulty) ListPortalLinks(ctx context.Context, tenant kapsel.TenantID, p store.Page[kapsel.PortalLinkID]) ([]kapsel.PortalLink, error) {
	return try(f, "ListPortalLinks", func() ([]kapsel.PortalLink, error) { return f.Store.ListPortalLinks(ctx, tenant, p) })
}

func (f *faulty) SetPortalLogo(ctx context.Context, l kapsel.PortalLogo) error {
	return f.try("SetPortalLogo", func() error { return f.Store.SetPortalLogo(ctx, l) })
}

func (f *faulty) PortalLogo(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error) {
	return try(f, "PortalLogo", func() (kapsel.PortalLogo, error) { return f.Store.PortalLogo(ctx, tenant) })
}

func (f *faulty) PortalLogoHead(ctx context.Context, tenant kapsel.TenantID) (kapsel.PortalLogo, error) {
	return try(f, "PortalLogoHead", func() (kapsel.PortalLogo, error) { return f.Store.PortalLogoHead(ctx, tenant) })
}

func (f *faulty) DeletePortalLogo(ctx context.Context, tenant kapsel.TenantID) error {
	return f.try("DeletePortalLogo", func() error { return f.Store.DeletePortalLogo(ctx, tenant) })
}

func (f *faulty) RevokePortalLink(ctx context.Context, tenant kapsel.TenantID, id kapsel.PortalLinkID, now time.Time) error {
	return f.try("RevokePortalLink", func() error { return f.Store.RevokePortalLink(ctx, tenant, id, now) })
}

func (f *faulty) Lead(ctx context.Context, duty string, node kapsel.NodeID, now time.Time, lease time.Duration) (bool, error) {
	return try(f, "Lead", func() (bool, error) { return f.Store.Lead(ctx, duty, node, now, lease) })
}

func (f *faulty) QueueDepth(ctx context.Context, now time.Time, atMost int) (store.QueueDepth, error) {
	return try(f, "QueueDepth", func() (store.QueueDepth, error) { return f.Store.QueueDepth(ctx, now, atMost) })
}

func (f *faulty) BacklogOf(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, atMost int) (int, time.Time, error) {
	type backlog struct {
		count  int
		oldest time.Time
	}
	b, err := try(f, "BacklogOf", func() (b backlog, err error) {
		b.count, b.oldest, err = f.Store.BacklogOf(ctx, endpoint, now, atMost)
		return b, err
	})
	return b.count, b.oldest, err
}

func (f *faulty) RunningReplays(ctx context.Context, walked bool, after kapsel.ReplayID, limit int) ([]kapsel.Replay, error) {
	return try(f, "RunningReplays", func() ([]kapsel.Replay, error) { return f.Store.RunningReplays(ctx, walked, after, limit) })
}

func (f *faulty) StepReplay(ctx context.Context, id kapsel.ReplayID, now time.Time, limit int) (int, bool, error) {
	type step struct {
		made int
		more bool
	}
	s, err := try(f, "StepReplay", func() (s step, err error) {
		s.made, s.more, err = f.Store.StepReplay(ctx, id, now, limit)
		return s, err
	})
	return s.made, s.more, err
}

func (f *faulty) Time(ctx context.Context) (time.Time, error) {
	return try(f, "Time", func() (time.Time, error) { return f.Store.Time(ctx) })
}

func (f *faulty) Ping(ctx context.Context) error {
	return f.try("Ping", func() error { return f.Store.Ping(ctx) })
}

func (f *faulty) Replanning(ctx context.Context, limit int) ([]kapsel.Endpoint, error) {
	return try(f, "Replanning", func() ([]kapsel.Endpoint, error) { return f.Store.Replanning(ctx, limit) })
}

func (f *faulty) Replan(ctx context.Context, endpoint kapsel.EndpointID, now time.Time, after store.Due, limit int) (next store.Due, more bool, err error) {
	err = f.try("Replan", func() error {
		next, more, err = f.Store.Replan(ctx, endpoint, now, after, limit)
		return err
	})
	return next, more, err
}

func (f *faulty) Replanned(ctx context.Context, endpoint kapsel.EndpointID, mark int64) error {
	return f.try("Replanned", func() error { return f.Store.Replanned(ctx, endpoint, mark) })
}
