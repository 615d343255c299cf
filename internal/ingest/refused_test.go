package ingest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestRefusedWebhooks checks that every refusal of an existing endpoint is remembered as its sender
// was answered, without anything that the sender sent.
func TestRefusedWebhooks(t *testing.T) {
	w := newWorld(t)
	ep, quiet := w.endpoint(w.signedBy("hmac", "the key")), w.endpoint(nil)
	w.accepted(ep, "x", "X-Webhook-Signature: "+sign("the key", "x"))
	w.accepted(quiet, "x")
	forged := w.refused(401, kapsel.InvalidSignature, ep, "hunter2", "X-Webhook-Signature: "+sign("another", "hunter2"))
	w.refused(401, kapsel.InvalidSignature, ep, "hunter2")
	w.is(w.raw("GET /ingest/"+ep.ID.String()+" HTTP/1.1\r\nHost: x\r\n\r\n"), 405, kapsel.InvalidRequest)
	w.is(w.raw("POST /ingest/"+kapsel.NewEndpointID(time.Now()).String()+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 404, kapsel.InvalidEndpoint)

	got := w.handler.Refusals(ep.ID)
	if len(got.Last) != 3 || got.Counts[kapsel.InvalidSignature] != 2 || got.Counts[kapsel.InvalidRequest] != 1 {
		t.Fatalf("remembered %+v", got)
	}
	if r := got.Last[2]; r.Status != 401 || r.Code != kapsel.InvalidSignature || !strings.Contains(string(forged.body), r.Detail) || r.At.Before(got.Since) {
		t.Errorf("the first is %+v, and its sender was told %s", r, forged.body)
	}
	for _, r := range got.Last {
		if strings.Contains(r.Detail, "hunter2") {
			t.Errorf("%+v holds what was sent", r)
		}
	}
	if got := w.handler.Refusals(quiet.ID); len(got.Last) != 0 {
		t.Errorf("another endpoint's: %+v", got)
	}
}
