package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/receipt"
)

// TestAuditLog follows attempts of an endpoint into the log, and verifies what the routes answer with
// package receipt.
func TestAuditLog(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("mine")
	empty := w.want(200, "GET", "/v1/attestation", h.read, nil)
	if empty["log"] != nil || empty["head"] != nil || empty.text("lag") != "0s" {
		t.Errorf("before the first attempt the log is %v", empty)
	}
	var attempts []kapsel.Attempt
	try := func(n int) {
		for range n {
			w.receive(h.endpoint, nil)
			attempts = append(attempts, w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil))
		}
	}
	try(1)
	path := func(i int) string { return "/v1/attempts/" + attempts[i].ID.String() }
	w.refused(kapsel.Conflict, 409, nil, "GET", path(0)+"/proof", h.read, nil)
	w.now = w.now.Add(2 * time.Minute)
	if late := w.want(409, "GET", path(0)+"/proof", h.read, nil).text("detail"); !strings.Contains(late, "/health/ready") {
		t.Errorf("when no heads are signed the answer is %q", late)
	}
	if got := w.want(200, "GET", path(0), h.read, nil); got["leaf_index"] != nil {
		t.Errorf("before it is published an attempt has the leaf %v", got["leaf_index"])
	}
	w.publishLogs()
	first := w.want(200, "GET", "/v1/attestation", h.read, nil)
	log := first.text("log")
	firstSize := int64(first["size"].(float64))
	id, err := kapsel.ParseLogID(log)
	if err != nil {
		t.Fatal(err)
	}
	fault := func(reason string) {
		l, err := w.store.Log(t.Context(), id)
		if err == nil {
			err = w.store.ReplaceFault(t.Context(), id, l.Fault, reason)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fault("made up")
	try(1)
	if told := w.want(409, "GET", path(1)+"/proof", h.read, nil).text("detail"); !strings.Contains(told, "kapsel fsck") {
		t.Errorf("when the log does not fit together the answer is %q", told)
	}
	if got := w.want(200, "GET", "/v1/attestation", h.read, nil); got.text("fault") != "made up" {
		t.Errorf("the log with a fault is %v", got)
	}
	fault("")
	try(299) // more than a tile
	w.publishLogs()

	keys := w.want(200, "GET", "/attestation/"+log+"/keys", "", nil).list("data")
	if len(keys) != 1 {
		t.Fatalf("the log has the keys %v", keys)
	}
	key, err := receipt.ParseKey(keys[0].text("vkey"))
	if err != nil || key.Name != "kapsel/"+log || keys[0].text("key_id") != fmt.Sprintf("%08x", key.ID()) {
		t.Fatalf("the key %v: %v", keys[0], err)
	}
	checkpoint := w.do("GET", "/attestation/"+log+"/checkpoint", "", nil)
	head, err := receipt.OpenCheckpoint(string(checkpoint.body), key)
	if err != nil || checkpoint.header.Get("Content-Type") != "text/plain; charset=utf-8" || head.Size < 301 {
		t.Fatalf("the checkpoint %s: %v", checkpoint.body, err)
	}
	sth := w.want(200, "GET", "/attestation/"+log+"/sth", "", nil)
	if sth.text("checkpoint") != string(checkpoint.body) || sth["tree_size"] != float64(head.Size) || sth.text("root_hash") != head.Root.String() ||
		sth.text("public_key") != base64.StdEncoding.EncodeToString(key.Public) || sth.text("key_id") != fmt.Sprintf("%08x", key.ID()) || sth["witnessed"] != false {
		t.Errorf("the head is %v", sth)
	}
	size := head.Size

	// Each attempt has one leaf, and a package that verifies in both forms.
	leaves := map[int64]string{}
	for i := range attempts {
		if i%50 != 0 && i != len(attempts)-1 {
			continue
		}
		index := int64(w.want(200, "GET", path(i), h.read, nil)["leaf_index"].(float64))
		a := w.do("GET", path(i)+"/proof", h.read, nil)
		p, err := receipt.ParsePackage(a.body)
		if err != nil || a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		proven, err := p.Verify(key)
		if err != nil || proven.Index != index {
			t.Fatalf("leaf %d: %+v, %v", index, proven, err)
		}
		leaf, ok := proven.Leaf.(*receipt.Attempt)
		if !ok || leaf.AttemptID != attempts[i].ID.String() || leaf.DeliveryID != attempts[i].DeliveryID.String() || leaf.StatusCode != 200 || leaves[index] != "" {
			t.Errorf("leaf %d is %s", index, p.Leaf)
		}
		leaves[index] = p.Leaf
		text := w.do("GET", path(i)+"/proof", h.read, nil, func(r *http.Request) { r.Header.Set("Accept", "text/plain, */*;q=0.1") })
		if text.header.Get("Content-Type") != "text/plain; charset=utf-8" || string(text.body) != p.Text() {
			t.Errorf("as text it is %s: %s", text.header.Get("Content-Type"), text.body)
		}
		for _, of := range []int64{index + 1, size} {
			in := w.want(200, "GET", fmt.Sprintf("/attestation/%s/proof/%d?tree_size=%d", log, index, of), "", nil)
			proof := receipt.InclusionProof{LeafIndex: int64(in["leaf_index"].(float64)), TreeSize: int64(in["tree_size"].(float64))}
			readHash(t, &proof.LeafHash, in.text("leaf_hash"))
			readHash(t, &proof.RootHash, in.text("root_hash"))
			proof.ProofHashes = hashesOf(t, in["proof_hashes"])
			if err := proof.Check(); err != nil || proof.LeafHash != receipt.LeafHash([]byte(p.Leaf)) || of == size && proof.RootHash != head.Root {
				t.Errorf("leaf %d of %d: %v", index, of, err)
			}
		}
	}
	// In a list, too.
	listed := w.want(200, "GET", "/v1/deliveries/"+attempts[0].DeliveryID.String()+"/attempts", h.read, nil).list("data")
	if len(listed) != 1 || leaves[int64(listed[0]["leaf_index"].(float64))] == "" {
		t.Errorf("listed it is %v", listed)
	}

	c := w.want(200, "GET", fmt.Sprintf("/attestation/%s/consistency?from=%d", log, firstSize), "", nil)
	consistency := receipt.ConsistencyProof{From: firstSize, To: size, ProofHashes: hashesOf(t, c["proof_hashes"])}
	var firstRoot receipt.Hash
	readHash(t, &firstRoot, first["head"].(map[string]any)["root_hash"].(string))
	if err := consistency.Check(firstRoot, head.Root); err != nil {
		t.Errorf("from %d to %d: %v", firstSize, size, err)
	}

	tile := w.do("GET", "/attestation/"+log+"/tile/0/000", "", nil)
	partial := w.do("GET", fmt.Sprintf("/attestation/%s/tile/0/001.p/%d", log, size-256), "", nil)
	if len(tile.body) != 256*32 || len(partial.body) != int(size-256)*32 || tile.header.Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("the tiles have %d and %d bytes: %s", len(tile.body), len(partial.body), partial.body)
	}
	for index, leaf := range leaves {
		all := append(tile.body[:len(tile.body):len(tile.body)], partial.body...)
		if receipt.Hash(all[32*index:]) != receipt.LeafHash([]byte(leaf)) {
			t.Errorf("the tiles do not have leaf %d", index)
		}
	}
}

func readHash(t *testing.T, h *receipt.Hash, text string) {
	t.Helper()
	if err := h.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hashesOf(t *testing.T, v any) []receipt.Hash {
	t.Helper()
	list := v.([]any)
	all := make([]receipt.Hash, len(list))
	for i := range list {
		readHash(t, &all[i], list[i].(string))
	}
	return all
}

// TestAuditLog_Refused asks for what a log does not have.
func TestAuditLog_Refused(t *testing.T) {
	w := newWorld(t)
	e := w.newEstate("mine")
	size := int64(w.want(200, "GET", "/attestation/"+e.log+"/sth", "", nil)["tree_size"].(float64))
	for path, field := range map[string]string{
		fmt.Sprintf("/proof/%d", size):                   "index",
		"/proof/-1":                                      "index",
		"/proof/9223372036854775808":                     "index",
		"/proof/0?tree_size=99999999999999999999":        "tree_size",
		"/consistency?from=0&to=99999999999999999999":    "to",
		"/proof/9223372036854775807":                     "index",
		fmt.Sprintf("/proof/0?tree_size=%d", size+1):     "tree_size",
		"/proof/0?tree_size=-1":                          "tree_size",
		"/proof/0?tree_size=0":                           "tree_size",
		"/consistency?from=2&to=0":                       "from",
		fmt.Sprintf("/consistency?from=%d", size+1):      "from",
		"/consistency?from=-1":                           "from",
		fmt.Sprintf("/consistency?from=0&to=%d", size+1): "to",
		"/consistency?from=0&to=-1":                      "to",
	} {
		w.refused(kapsel.InvalidRequest, 422, []string{field}, "GET", "/attestation/"+e.log+path, "", nil)
	}
	for _, path := range []string{"/tile/0/000", "/tile/0/001", "/tile/0/000.p/0", "/tile/0/000.p/256", fmt.Sprintf("/tile/0/000.p/%d", size+1), "/tile/0/0", "/tile/0/x000/000", "/tile/64/000", "/tile/-1/000",
		"/tile/00/000", "/tile/0/000.p/01", "/tile/0/x001", "/tile/0/x999/x999/x999/x999/x999/x999/999", "/tile/entries/000", "/tile/0/"} {
		w.refused(kapsel.NotFound, 404, nil, "GET", "/attestation/"+e.log+path, "", nil)
	}
	for _, path := range []string{"/sth", "/checkpoint", "/keys", "/proof/0", "/consistency?from=0", "/tile/0/000"} {
		for _, log := range []string{kapsel.NewLogID().String(), strings.ToUpper(e.log[:31]) + "A", e.log[:31], e.tenant} {
			w.refused(kapsel.NotFound, 404, nil, "GET", "/attestation/"+log+path, "", nil)
		}
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"tenant_id"}, "GET", "/v1/attestation", adminKey, nil)
	w.refused(kapsel.NotFound, 404, nil, "GET", "/v1/attempts/"+kapsel.NewAttemptID(w.now, 1).String()+"/proof", e.read, nil)

	// Who invents logs is held back, and not answered that there are none; a log that is known is served.
	limited := func(otherwise int, path func() string) (n int) {
		t.Helper()
		for range 1200 {
			a := w.do("GET", path(), "", nil)
			if a.status == 429 && a.header.Get("Retry-After") != "" {
				n++
			} else if a.status != otherwise {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		return n
	}
	if limited(404, func() string { return "/attestation/" + kapsel.NewLogID().String() + "/checkpoint" }) == 0 {
		t.Error("1,200 unknown logs were looked up at once")
	}
	w.want(200, "GET", "/attestation/"+e.log+"/sth", "", nil)
	other := w.newEstate("other") // whose tenant has asked for its log with a key
	w.want(200, "GET", "/attestation/"+other.log+"/sth", "", nil)

	// So is who reads one log without end. Who has a key is served.
	if n := limited(200, func() string { return "/attestation/" + e.log + "/tile/0/000.p/1" }); n == 0 || n > 300 {
		t.Errorf("of 1,200 reads of a log at once %d were refused", n)
	}
	for _, path := range []string{"/sth", "/checkpoint", "/keys", "/proof/0", "/consistency?from=0", "/tile/0/000.p/1"} {
		w.refused(kapsel.RateLimited, 429, nil, "GET", "/attestation/"+e.log+path, "", nil)
		w.want(200, "GET", "/v1/attestation", e.read, nil)
		if a := w.do("GET", "/attestation/"+e.log+path, e.read, nil); a.status != 200 {
			t.Errorf("with a key, %s answers %d while strangers use up the log's limit: %s", path, a.status, a.body)
		}
	}
	w.want(200, "GET", "/v1/attestation", e.read, nil)
	w.want(200, "GET", "/v1/attempts/"+e.attempt+"/proof", e.read, nil)
}

func TestWantsText(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "text/plain": true, "Text/Plain; charset=utf-8": true,
		"application/json, text/plain": false, "text/plain, */*": true, "text/html, text/plain;q=0.9": true, "text/html,*/*,text/plain": false,
	} {
		if got := wantsText([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// TestAuditLog_Closed checks that a tenant's closed log looks like none to everybody but the tenant's own
// callers and the admin, and that the tenant's setting says so.
func TestAuditLog_Closed(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.newHouse("mine"), w.newHouse("theirs")
	w.receive(mine.endpoint, nil)
	w.attempt(mine.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
	w.publishLogs()
	log := w.want(200, "GET", "/v1/attestation", mine.read, nil).text("log")
	unknown := strings.Repeat("0", 32)
	routes := []string{"/checkpoint", "/sth", "/keys", "/proof/0", "/consistency?from=0", "/tile/0/000.p/1"}
	tenant := "/v1/tenants/" + mine.tenant
	for _, public := range []bool{true, false, true} {
		set := w.want(200, "PATCH", tenant, adminKey, map[string]any{"audit": map[string]any{"public": public}})
		if audit, ok := set["audit"].(map[string]any); !ok || audit["public"] != public || audit["witnesses"] != nil {
			t.Errorf("the tenant is set to %v", set)
		}
		if shown := w.want(200, "GET", "/v1/attestation", mine.read, nil)["public"]; shown != public {
			t.Errorf("/v1/attestation says that the log is public: %v", shown)
		}
		for _, route := range routes {
			no := w.do("GET", "/attestation/"+unknown+route, "", nil)
			for key, sees := range map[string]bool{"": public, mine.read: true, mine.write: true, adminKey: true, theirs.read: public, "kap_wrong": public} {
				a := w.do("GET", "/attestation/"+log+route, key, nil)
				if sees && a.status != 200 || !sees && (a.status != 404 || withoutID(a.body) != withoutID(no.body)) {
					t.Errorf("public %v, %s with %q: %d %s", public, route, key, a.status, a.body)
				}
			}
		}
	}
	w.want(200, "PATCH", tenant, adminKey, map[string]any{"audit": map[string]any{"witnesses": 2}})
	if set := w.want(200, "PATCH", tenant, adminKey, map[string]any{"audit": map[string]any{"public": false}}); set["audit"].(map[string]any)["witnesses"] != 2.0 {
		t.Errorf("a member that was left out changed: %v", set)
	}
	if set := w.want(200, "PATCH", tenant, adminKey, map[string]any{"audit": map[string]any{"public": nil}}); set["audit"].(map[string]any)["public"] != true || set["audit"].(map[string]any)["witnesses"] != 2.0 {
		t.Errorf("null does not return to the default of one member: %v", set)
	}
	if made := w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"open","audit":{"public":null}}`); made["audit"].(map[string]any)["public"] != true {
		t.Errorf("null is not the default of a new tenant: %v", made)
	}
	if set := w.want(200, "PATCH", tenant, adminKey, map[string]any{"audit": nil}); set["audit"].(map[string]any)["public"] != true || set["audit"].(map[string]any)["witnesses"] != nil {
		t.Errorf("null does not return to the defaults: %v", set)
	}
	w.refused(kapsel.InvalidRequest, 422, []string{"audit.witnesses"}, "PATCH", tenant, adminKey, map[string]any{"audit": map[string]any{"witnesses": 21}})
}

// withoutID returns a problem without what differs in each.
func withoutID(body []byte) string {
	before, _, _ := strings.Cut(string(body), `"request_id"`)
	return before
}

// TestAuditLog_Ended checks that attempts of a log that was ended keep their leaves and proofs.
func TestAuditLog_Ended(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("mine")
	try := func() (string, receipt.Package) {
		w.receive(h.endpoint, nil)
		path := "/v1/attempts/" + w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil).ID.String()
		w.audit.Finish(t.Context()) // which may find that the log that it holds was ended
		w.publishLogs()
		p, err := receipt.ParsePackage(w.do("GET", path+"/proof", h.read, nil).body)
		if err != nil {
			t.Fatal(err)
		}
		return path, *p
	}
	path, before := try()
	id, err := kapsel.ParseLogID(w.want(200, "GET", "/v1/attestation", h.read, nil).text("log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.CloseLog(t.Context(), id, w.now); err != nil {
		t.Fatal(err)
	}
	later, after := try()
	again, err := receipt.ParsePackage(w.do("GET", path+"/proof", h.read, nil).body)
	if err != nil || again.Checkpoint != before.Checkpoint || again.Leaf != before.Leaf || again.Checkpoint == after.Checkpoint {
		t.Errorf("the proof in the ended log is %+v, %v", again, err)
	}
	for _, p := range []string{path, later} {
		if index := w.want(200, "GET", p, h.read, nil)["leaf_index"]; index != 0.0 {
			t.Errorf("%s is leaf %v of its log", p, index)
		}
	}
}

// TestAuditLog_LastCheck checks what a tenant sees of the last run of fsck.
func TestAuditLog_LastCheck(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.newHouse("mine"), w.newHouse("theirs")
	var logs []kapsel.LogID
	for _, h := range []house{mine, theirs} {
		w.receive(h.endpoint, nil)
		w.attempt(h.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil)
		w.publishLogs()
		shown := w.want(200, "GET", "/v1/attestation", h.read, nil)
		if shown["last_fsck"] != nil {
			t.Errorf("before the first check it is %v", shown["last_fsck"])
		}
		id, err := kapsel.ParseLogID(shown.text("log"))
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, id)
	}
	at := w.now.Add(time.Minute)
	for _, c := range []audit.LastCheck{{At: w.now.Add(-24 * time.Hour)}, {At: at, Findings: map[kapsel.LogID]string{logs[1]: "leaf 0: it was changed"}}} {
		if err := c.Remember(t.Context(), w.store); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range []house{mine, theirs} {
		check, ok := w.want(200, "GET", "/v1/attestation", h.read, nil)["last_fsck"].(map[string]any)
		if finding := []any{nil, "leaf 0: it was changed"}[i]; !ok || check["finding"] != finding || check["at"] == nil {
			t.Errorf("tenant %d sees the check %v", i, check)
		}
	}
}
