package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
)

// TestSigningKeys_S9 checks that an endpoint's public keys can be read without a key, follow
// the rotation of its secrets and differ from any other endpoint's.
func TestSigningKeys_S9(t *testing.T) {
	w := newWorld(t)
	one, two := w.newHouse("one"), w.newHouse("two")
	keys := func(endpoint string) (ids, public []string) {
		t.Helper()
		for _, k := range w.want(200, "GET", "/v1/signing-keys?endpoint_id="+endpoint, "", nil).list("data") {
			if k.text("scheme") != "v1a" || k.text("endpoint_id") != endpoint || !strings.HasPrefix(k.text("public_key"), "whpk_") {
				t.Errorf("key %v", k)
			}
			ids, public = append(ids, k.text("id")), append(public, k.text("public_key"))
		}
		return ids, public
	}
	ids, before := keys(one.endpoint)
	if len(before) != 1 || ids[0] != w.stored(one.endpoint).Signing.Secrets[0].ID.String() {
		t.Fatalf("keys %v of secrets %v", before, ids)
	}
	if _, others := keys(two.endpoint); slices.Contains(others, before[0]) {
		t.Error("two endpoints have one key")
	}
	w.want(200, "POST", "/v1/endpoints/"+one.endpoint+"/secrets/rotate", one.write, nil)
	if _, during := keys(one.endpoint); len(during) != 2 || during[1] != before[0] || during[0] == before[0] {
		t.Errorf("keys during the overlap: %v, before it %v", during, before)
	}
	w.now = w.now.Add(24 * time.Hour)
	if _, after := keys(one.endpoint); len(after) != 1 || after[0] == before[0] {
		t.Errorf("keys after the overlap: %v", after)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"endpoint_id"}, "GET", "/v1/signing-keys", "", nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/signing-keys?endpoint_id="+kapsel.NewEndpointID(w.now).String(), "", nil)
}
