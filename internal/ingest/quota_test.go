package ingest_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/secret"

	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// limited returns an endpoint of a new tenant with so many events a month.
func (w *world) limited(events int64, change func(*kapsel.Endpoint)) *kapsel.Endpoint {
	tenant := w.newTenant(kapsel.Limits{Own: true, EventsPerMonth: &events})
	return w.endpoint(func(ep *kapsel.Endpoint) {
		ep.TenantID = tenant.ID
		if change != nil {
			change(ep)
		}
	})
}

// TestQuota checks that everything that becomes an event counts, and nothing else does.
func TestQuota(t *testing.T) {
	w := newWorld(t)
	const text = "the secret of the quota"
	ep := w.limited(3, w.signedBy("hmac", text))
	signed := "X-Webhook-Signature: " + sign(text, "{}")
	w.accepted(ep, "{}", signed, "Idempotency-Key: k")
	for range 5 {
		w.refused(401, kapsel.InvalidSignature, ep, "{}")
		w.refused(400, kapsel.InvalidRequest, ep, "{}", signed, "Idempotency-Key: \xff")
		if a := w.post(ep, "{}", signed, "Idempotency-Key: k"); a.status != 200 || a.header.Get("Idempotent-Replayed") == "" {
			t.Errorf("a duplicate is answered %v", a)
		}
		w.fault(failing(storetest.NotPersisted, "Accept"))
		w.is(w.post(w.limited(1, nil), "{}"), 503, kapsel.DatabaseUnavailable)
		w.fault(nil)
	}
	w.accepted(ep, "{}", signed)
	w.accepted(ep, "{}", signed)
	a := w.refused(429, kapsel.QuotaExceeded, ep, "{}", signed)
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 3600 {
		t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
	}
	w.refused(429, kapsel.QuotaExceeded, ep, "{}") // also what is not signed
	w.refusedUnread(429, kapsel.QuotaExceeded, ep, someBytes)
	w.accepted(w.endpoint(nil), "{}") // of another tenant, without a limit

	// The operator raises the limit.
	_, err := w.db.UpdateTenant(context.Background(), ep.TenantID, func(t *kapsel.Tenant) error {
		*t.Limits.EventsPerMonth = 4
		return nil
	})
	w.must(err)
	w.must(w.settings.Load(context.Background()))
	w.accepted(ep, "{}", signed)
	w.refused(429, kapsel.QuotaExceeded, ep, "{}", signed)
}

// TestQuota_AtOnce checks that no more simultaneous requests become events than the quota allows,
// and that they read the counters once.
func TestQuota_AtOnce(t *testing.T) {
	w := newWorld(t)
	ep := w.limited(10, nil)
	var reads atomic.Int64
	w.fault(func(method string) storetest.Fault {
		if method == "Usage" {
			reads.Add(1)
		}
		return storetest.NoFault
	})
	var accepted, refused atomic.Int64
	var all sync.WaitGroup
	for range 60 {
		c := w.dial()
		all.Go(func() {
			defer c.Close()
			c.write(request("POST", path(ep), "{}"))
			switch a, err := c.read(http.MethodPost); {
			case err != nil:
				t.Error(err)
			case a.status == 200:
				accepted.Add(1)
			case a.code() == string(kapsel.QuotaExceeded):
				refused.Add(1)
			default:
				t.Errorf("answered %v", a)
			}
		})
	}
	all.Wait()
	if accepted.Load() != 10 || refused.Load() != 50 || w.stored() != 10 {
		t.Errorf("%d accepted, %d refused, %d stored", accepted.Load(), refused.Load(), w.stored())
	}
	if n := reads.Load(); n < 1 || n > 20 { // one, and another for each 5 s that a slow machine took
		t.Errorf("the counters were read %d times", n)
	}
}

// TestQuota_Unreadable checks that ingest answers 503 and counts nothing if the store cannot say
// how much was used.
func TestQuota_Unreadable(t *testing.T) {
	w := newWorld(t)
	ep := w.limited(1, nil)
	w.fault(failing(storetest.NotPersisted, "Usage"))
	for range 3 {
		w.refused(503, kapsel.DatabaseUnavailable, ep, "{}")
	}
	w.fault(nil)
	w.accepted(ep, "{}")
	w.refused(429, kapsel.QuotaExceeded, ep, "{}")
}

// node is a handler alone, without an engine that runs, so that months pass in a bubble at once.
type node struct {
	t       *testing.T
	handler *ingest.Handler
}

func (n node) post(ep *kapsel.Endpoint, want int) http.Header {
	n.t.Helper()
	rec := httptest.NewRecorder()
	n.handler.ServeHTTP(rec, httptest.NewRequest("POST", path(ep), strings.NewReader("{}")))
	if rec.Code != want {
		n.t.Fatalf("at %v answered %d, want %d: %s", time.Now().UTC(), rec.Code, want, rec.Body)
	}
	return rec.Header()
}

// inMonths runs a test in a bubble, with nodes that share a store, and a paused endpoint of a
// tenant with so many events a month. The bubble's time begins at midnight of 2000-01-01, UTC.
func inMonths(t *testing.T, nodes int, events int64, plan func(string) storetest.Fault, test func(nodes []node, ep *kapsel.Endpoint)) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		db, err := sqlite.Open(ctx, schematest.SQLite(t), sqlite.Options{})
		must(err)
		defer db.Close()
		s := storetest.Faulty(db, plan)
		ring, err := secret.NewKeyring(secret.NewKey())
		must(err)
		now := time.Now()
		tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "acme", Plan: kapsel.DefaultPlan, Limits: kapsel.Limits{Own: true, EventsPerMonth: &events}, CreatedAt: now, UpdatedAt: now}
		tenant.DataKey, err = ring.NewDataKey(tenant.ID)
		must(err)
		must(db.CreateTenant(ctx, tenant))
		ep := &kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointPaused, CreatedAt: now, UpdatedAt: now, EndpointConfig: kapsel.DefaultEndpoint()}
		ep.Part = kapsel.PartOf(ep.ID)
		must(db.CreateEndpoint(ctx, *ep, 0))
		var all []node
		for range nodes {
			clock, err := clock.New(ctx, s)
			must(err)
			vault, memory, settings := secret.NewVault(ring), budget.New(bodyMemory), settings.NewCache(s)
			engine := delivery.New(delivery.Config{
				Store: s, Settings: settings, Clock: clock, Vault: vault, Transport: &wire{}, Budget: memory, Workers: 1, Lease: 10 * time.Second,
				Version: "1.2.3", Log: slog.New(slog.DiscardHandler),
			})
			must(engine.Join(ctx))
			all = append(all, node{t, ingest.New(ingest.Config{
				Store: s, Counters: s, Settings: settings, Clock: clock, Engine: engine, Vault: vault, Budget: memory,
				PublicURL: "https://in.example", Capacity: 10, Log: slog.New(slog.DiscardHandler),
			})})
		}
		test(all, ep)
	})
}

// TestQuota_Month checks that the quota is for the calendar month of UTC and begins anew with each
// month.
func TestQuota_Month(t *testing.T) {
	down := false
	plan := func(method string) storetest.Fault {
		if down && method == "Usage" {
			return storetest.NotPersisted
		}
		return storetest.NoFault
	}
	inMonths(t, 1, 2, plan, func(nodes []node, ep *kapsel.Endpoint) {
		n := nodes[0]
		until := func(at string) {
			to, err := time.Parse(time.RFC3339Nano, at)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(to))
		}
		n.post(ep, 200)
		until("2000-01-31T23:59:00Z")
		n.post(ep, 200)
		if after := n.post(ep, 429).Get("Retry-After"); after != "60" {
			t.Errorf("Retry-After is %s a minute before the month ends", after)
		}
		until("2000-01-31T23:59:59.999Z")
		if after := n.post(ep, 429).Get("Retry-After"); after != "1" {
			t.Errorf("Retry-After is %s a millisecond before the month ends", after)
		}
		until("2000-02-01T00:00:00Z")
		n.post(ep, 200)
		n.post(ep, 200)
		if after := n.post(ep, 429).Get("Retry-After"); after != "3600" {
			t.Errorf("Retry-After is %s at the month's beginning", after)
		}
		until("2000-02-29T12:00:00Z") // it stays used up, also when it is read again
		n.post(ep, 429)

		// A store that does not answer stops only tenants whose counts are unknown, as in a new month.
		until("2000-03-01T00:00:00Z")
		n.post(ep, 200)
		down = true
		time.Sleep(time.Minute)
		n.post(ep, 200)
		n.post(ep, 429)
		until("2000-04-01T00:00:00Z")
		n.post(ep, 503)
		down = false
		n.post(ep, 200)
	})
}

// TestQuota_Nodes checks that several nodes exceed the limit at most by what they accept between
// two readings of the counters.
func TestQuota_Nodes(t *testing.T) {
	inMonths(t, 2, 10, storetest.Nth("", 0, storetest.NoFault), func(nodes []node, ep *kapsel.Endpoint) {
		a, b := nodes[0], nodes[1]
		for range 4 {
			a.post(ep, 200)
			b.post(ep, 200)
		}
		time.Sleep(5 * time.Second)
		a.post(ep, 200) // 9, which a knows
		b.post(ep, 200) // 10, which b knows
		b.post(ep, 429)
		a.post(ep, 200) // the one too many
		a.post(ep, 429)
		time.Sleep(5 * time.Second)
		a.post(ep, 429)
		b.post(ep, 429)
	})
}
