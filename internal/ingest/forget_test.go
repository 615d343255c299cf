package ingest_test

import (
	"context"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestForgets checks that everything kept of endpoints and tenants, secrets in the clear included,
// is dropped when they are deleted, and a changed endpoint's verifier at once instead of with its
// next webhook.
func TestForgets(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	kept := func(what string, verifiers, quotas, refused int) {
		t.Helper()
		w.must(w.settings.Load(ctx))
		if v, q, r := w.handler.Kept(); v != verifiers || q != quotas || r != refused {
			t.Errorf("%s: kept are %d verifiers, %d quotas and %d endpoints' refusals, want %d, %d and %d", what, v, q, r, verifiers, quotas, refused)
		}
	}
	tenant := w.newTenant(kapsel.Limits{EventsPerMonth: new(int64(1000))})
	var endpoints []*kapsel.Endpoint
	for range 5 {
		ep := w.endpoint(func(e *kapsel.Endpoint) { e.TenantID = tenant.ID; w.signedBy("hmac", "secret")(e) })
		endpoints = append(endpoints, ep)
		w.accepted(ep, "x", "X-Webhook-Signature: "+sign("secret", "x"))
		w.refused(401, kapsel.InvalidSignature, ep, "x", "X-Webhook-Signature: "+sign("wrong", "x"))
	}
	kept("in use", 5, 1, 5)
	_, err := w.db.UpdateEndpoint(ctx, kapsel.TenantID{}, endpoints[0].ID, func(e *kapsel.Endpoint) error { w.signedBy("hmac", "other")(e); return nil })
	w.must(err)
	kept("one has changed", 4, 1, 5)
	for i, ep := range endpoints {
		w.must(w.db.DeleteEndpoint(ctx, kapsel.TenantID{}, ep.ID, time.Now()))
		kept("deleted", min(4, 4-i), 1, 4-i)
	}
	w.must(w.db.DeleteTenant(ctx, tenant.ID, time.Now()))
	kept("its tenant deleted", 0, 0, 0)
}
