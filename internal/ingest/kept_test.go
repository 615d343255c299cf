package ingest_test

import (
	"context"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// TestKeptIngest checks that the URL of an endpoint which was deleted without its ingest goes on,
// as that of the source does: events are verified by the same secrets, keys of before hold, and
// who subscribed to the endpoint gets them.
func TestKeptIngest(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ep := w.endpoint(w.signedBy("hmac", "secret"))
	src := &kapsel.Source{ID: kapsel.SourceID(ep.ID)}
	subscriber := w.endpoint(func(e *kapsel.Endpoint) {
		e.Subscriptions, e.NoIngest = []kapsel.Subscription{{Source: ep.ID.String()}}, true
	})
	w.must(w.settings.Load(ctx))
	post := func(id, body, key string) answer {
		t.Helper()
		return w.raw(request("POST", "/ingest/"+id, body, "X-Webhook-Signature: "+sign("secret", body), "Idempotency-Key: "+key))
	}
	before := post(ep.ID.String(), "1", "before")
	if got := w.event(before.event()); before.status != 200 || len(got.Deliveries) != 2 {
		t.Fatalf("before: %v, %+v", before, got)
	}
	w.is(post(src.ID.String(), "1", "x"), 404, kapsel.InvalidEndpoint)

	// Sealed as the management API does it.
	directory := settings.NewObeyed(w.db, w.settings)
	_, err := directory.KeepIngest(ctx, w.tenant.ID, ep.ID, time.Now(), func(src *kapsel.Source) (err error) {
		v := &src.Verification
		v.Secrets[0], err = w.vault.Move(&w.tenant, ep.ID.String(), src.ID.String(), v.Secrets[0])
		return err
	})
	w.must(err)
	check := func(when string) {
		t.Helper()
		for _, id := range []string{ep.ID.String(), src.ID.String()} {
			if again := post(id, "1", "before"); again.event() != before.event() || again.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("%s: a duplicate of before at %s: %v", when, id, again)
			}
			w.is(w.raw(request("POST", "/ingest/"+id, "2", "X-Webhook-Signature: "+sign("other", "2"))), 401, kapsel.InvalidSignature)
			a := post(id, "2", when+id)
			if a.status != 200 {
				t.Fatalf("%s: at %s: %v", when, id, a)
			}
			got := w.event(a.event())
			if got.Event.SourceID != src.ID || !got.Event.EndpointID.IsZero() || got.Event.ID.Part() != before.event().Part() ||
				len(got.Deliveries) != 1 || !got.To(subscriber.ID) || !got.Event.Signature.Valid {
				t.Errorf("%s: at %s: %+v", when, id, got)
			}
		}
	}
	check("at once")
	w.must(w.settings.Load(ctx))
	check("read")

	// A node that has never known the endpoint, and one that knows neither yet.
	w.fault(failing(storetest.NotPersisted, "Source"))
	w.is(w.raw(request("POST", "/ingest/"+kapsel.NewEndpointID(time.Now()).String(), "2")), 503, kapsel.DatabaseUnavailable)
	w.fault(nil)

	_, err = w.db.UpdateSource(ctx, w.tenant.ID, src.ID, func(s *kapsel.Source) error { s.State = kapsel.SourceDisabled; return nil })
	w.must(err)
	w.must(w.settings.Load(ctx))
	w.is(post(ep.ID.String(), "3", "c"), 404, kapsel.InvalidEndpoint)
}

// TestKeptIngest_OtherNodes checks that a node which has not known the endpoint finds its ingest, as
// one does that starts after the endpoint was deleted.
func TestKeptIngest_OtherNodes(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	known, unknown := w.endpoint(nil), w.endpoint(nil)
	for _, ep := range []*kapsel.Endpoint{known, unknown} {
		_, err := w.db.KeepIngest(ctx, w.tenant.ID, ep.ID, time.Now(), func(*kapsel.Source) error { return nil })
		w.must(err)
		if a := w.raw(request("POST", "/ingest/"+ep.ID.String(), "{}")); a.status != 200 {
			t.Errorf("before the settings are read: %v", a)
		}
		w.must(w.settings.Load(ctx))
		if a := w.raw(request("POST", "/ingest/"+ep.ID.String(), "{}")); a.status != 200 {
			t.Errorf("after it: %v", a)
		}
	}
}

// TestSecretObeyedUnread checks that webhooks are verified by an endpoint's new secret, and no more
// by its former one, although the settings cannot be read after the change.
func TestSecretObeyedUnread(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ep := w.endpoint(w.signedBy("hmac", "former"))
	w.must(w.settings.Load(ctx))
	post := func(secret string) answer {
		return w.raw(request("POST", "/ingest/"+ep.ID.String(), "{}", "X-Webhook-Signature: "+sign(secret, "{}")))
	}
	if a := post("former"); a.status != 200 {
		t.Fatalf("before: %v", a)
	}
	w.fault(failing(storetest.NotPersisted, "Settings"))
	directory := settings.NewObeyed(w.db, w.settings)
	_, err := directory.UpdateEndpoint(ctx, w.tenant.ID, ep.ID, func(e *kapsel.Endpoint) error { w.signedBy("hmac", "new")(e); return nil })
	w.must(err)
	w.is(post("former"), 401, kapsel.InvalidSignature)
	if a := post("new"); a.status != 200 {
		t.Errorf("by the new secret: %v", a)
	}
	w.must(directory.DeleteEndpoint(ctx, w.tenant.ID, ep.ID, time.Now()))
	w.is(post("new"), 404, kapsel.InvalidEndpoint)
}
