package ingest

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/problem"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// Limits of refusals. Anybody can have webhooks refused, so the cost of a refusal is bounded, and
// no refusal writes to the store by itself.
const (
	refusalsKept      = 50   // refusals of one endpoint
	refusalsEndpoints = 1000 // endpoints, those with the latest refusals
	refusalDetail     = 512  // bytes of a refusal's detail
)

// refusals remembers the refused webhooks of the endpoints with the latest refusals.
type refusals struct {
	since time.Time // when the node began

	mu        sync.Mutex // guards what follows
	endpoints map[kapsel.EndpointID]*list.Element
	order     list.List // of *refused, the latest refusal first
	forgot    time.Time // when an endpoint was last forgotten to make room for another
}

type refused struct {
	endpoint kapsel.EndpointID
	since    time.Time
	counts   map[kapsel.Code]int64
	last     []kapsel.Refusal // a ring of up to refusalsKept refusals
	next     int              // index in last of the oldest refusal, once the ring is full
}

// noteRefusal remembers and counts that a webhook was refused with err. It does nothing if err is
// nil.
func (h *Handler) noteRefusal(id kapsel.EndpointID, err error, now time.Time) {
	if err == nil {
		return
	}
	h.refusals.note(id, err, now)
	h.arrivals.add(id, now, store.Arrivals{Refused: 1})
}

// note remembers that a webhook was refused with err.
func (m *refusals) note(id kapsel.EndpointID, err error, now time.Time) {
	d := problem.New(context.Background(), err)
	for _, f := range d.Errors {
		d.Detail += "; " + f.Field + " " + f.Detail
	}
	if len(d.Detail) > refusalDetail {
		d.Detail = strings.ToValidUTF8(d.Detail[:refusalDetail-len("…")], "") + "…"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(id, now).add(kapsel.Refusal{At: now, Status: d.Status, Code: d.Code, Detail: d.Detail})
}

// of returns an endpoint's entry and moves it to the front. If the endpoint has no entry, of makes
// one and, if there are too many, removes the one whose latest refusal is the oldest. The caller
// holds mu.
func (m *refusals) of(id kapsel.EndpointID, now time.Time) *refused {
	if at := m.endpoints[id]; at != nil {
		m.order.MoveToFront(at)
		return at.Value.(*refused)
	}
	r := &refused{endpoint: id, since: m.since, counts: map[kapsel.Code]int64{}}
	if !m.forgot.IsZero() { // perhaps this endpoint was forgotten
		r.since = now
	}
	if m.endpoints == nil {
		m.endpoints = map[kapsel.EndpointID]*list.Element{}
	}
	m.endpoints[id] = m.order.PushFront(r)
	if m.order.Len() > refusalsEndpoints {
		oldest := m.order.Remove(m.order.Back()).(*refused)
		delete(m.endpoints, oldest.endpoint)
		m.forgot = now
	}
	return r
}

// drop forgets deleted endpoints.
func (m *refusals) drop(deleted []kapsel.EndpointID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range deleted {
		if at := m.endpoints[id]; at != nil {
			m.order.Remove(at)
			delete(m.endpoints, id)
		}
	}
}

func (r *refused) add(one kapsel.Refusal) {
	r.counts[one.Code]++
	if len(r.last) < refusalsKept {
		r.last = append(r.last, one)
		return
	}
	r.last[r.next] = one
	r.next = (r.next + 1) % refusalsKept
}

// Refusals returns what this node remembers of an endpoint's refused webhooks. Each node remembers
// only the webhooks that it refused itself.
func (h *Handler) Refusals(id kapsel.EndpointID) kapsel.Refused {
	m := &h.refusals
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.endpoints[id]
	if at == nil {
		since := m.since
		if m.forgot.After(since) {
			since = m.forgot
		}
		return kapsel.Refused{Since: since, Counts: map[kapsel.Code]int64{}}
	}
	r := at.Value.(*refused)
	last := append(slices.Clone(r.last[r.next:]), r.last[:r.next]...)
	slices.Reverse(last)
	return kapsel.Refused{Since: r.since, Counts: maps.Clone(r.counts), Last: last}
}
