package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
)

// anonymous takes out of an answer what differs from one to the next.
func anonymous(a answered) string {
	body := regexp.MustCompile(`req_[0-9a-z]{26}`).ReplaceAll(a.body, []byte("req_"))
	return fmt.Sprintf("%d %v %s", a.status, a.header, body)
}

// TestBadInput_B60_Keys checks that a missing, wrong, revoked, expired or misplaced API key
// gets the same 401 answer in every case, is logged and is never shown in the log.
func TestBadInput_B60_Keys(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	path := "/v1/tenants/" + h.tenant + "/keys"
	revoked := w.want(201, "POST", path, h.write, `{"name":"a","scope":"read"}`)
	w.want(204, "DELETE", path+"/"+revoked.text("id"), h.write, nil)
	expired := w.want(201, "POST", path, h.write, object{"name": "a", "scope": "read", "expires_at": w.now.Add(1e9)}).text("secret")
	w.now = w.now.Add(1e9)

	header := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = values }
	}
	flip := func(key string) string { return key[:len(key)-1] + string(key[len(key)-1]^1) }
	tests := map[string]func(*http.Request){
		"missing":             header(),
		"empty":               header(""),
		"scheme alone":        header("Bearer"),
		"no key":              header("Bearer "),
		"no scheme":           header(h.write),
		"basic":               header("Basic " + h.write),
		"random":              header("Bearer kap_" + strings.Repeat("A", 49)),
		"right prefix":        header("Bearer " + h.write[:8] + strings.Repeat("A", 45)),
		"wrong tail":          header("Bearer " + flip(h.write)),
		"lower case":          header("Bearer " + strings.ToLower(h.write)),
		"revoked":             header("Bearer " + revoked.text("secret")),
		"expired":             header("Bearer " + expired),
		"10 KiB":              header("Bearer " + strings.Repeat("k", 10<<10)),
		"two spaces":          header("Bearer  " + h.write),
		"space after":         header("Bearer " + h.write + " "),
		"twice":               header("Bearer "+h.write, "Bearer "+h.write),
		"twice in one":        header("Bearer " + h.write + ", Bearer " + h.write),
		"admin, cut":          header("Bearer " + adminKey[:len(adminKey)-1]),
		"admin, longer":       header("Bearer " + adminKey + "x"),
		"admin, other case":   header("Bearer " + strings.ToUpper(adminKey)),
		"in the query":        func(r *http.Request) { r.URL.RawQuery = "api_key=" + h.write + "&access_token=" + h.write },
		"in a cookie":         func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "Authorization", Value: "Bearer " + h.write}) },
		"in another header":   func(r *http.Request) { r.Header.Set("X-Api-Key", h.write) },
		"not UTF-8":           header("Bearer \xff\xfe"),
		"the hash of a key":   header("Bearer " + fmt.Sprintf("%x", 1)),
		"proxy's":             func(r *http.Request) { r.Header.Set("Proxy-Authorization", "Bearer "+h.write) },
		"with a body to read": func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
	}
	var first string
	for name, option := range tests {
		a := w.do("GET", "/v1/endpoints", "", nil, option)
		if a.status != 401 || !bytes.Contains(a.body, []byte(`"E1007"`)) || a.header.Get("Www-Authenticate") != "Bearer" {
			t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
		if first == "" {
			first = anonymous(a)
		} else if diff := cmp.Diff(first, anonymous(a)); diff != "" {
			t.Errorf("%s: the answer differs:\n%s", name, diff)
		}
	}
	if n := strings.Count(w.log.String(), `"api: request refused"`); n != len(tests) {
		t.Errorf("%d of %d refused keys are in the log (S-23)", n, len(tests))
	}
	if strings.Contains(w.log.String(), h.write) || strings.Contains(w.log.String(), expired) {
		t.Error("the log has a key")
	}
	for _, scheme := range []string{"Bearer", "bearer", "BEARER"} {
		if a := w.do("GET", "/v1/endpoints", "", nil, header(scheme+" "+h.read)); a.status != 200 {
			t.Errorf("%s: %d", scheme, a.status)
		}
	}
}

// TestBadInput_B61_Scopes checks that a key with scope read gets 403 from every operation that
// writes.
func TestBadInput_B61_Scopes(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	for path, operations := range w.doc.Paths {
		for method, op := range operations {
			if op.Access != "write" {
				continue
			}
			a := w.do(strings.ToUpper(method), strings.NewReplacer("{id}", h.endpoint, "{key_id}", "x").Replace(path), h.read, nil)
			if a.status != 403 || !bytes.Contains(a.body, []byte(`"E1008"`)) {
				t.Errorf("%s with a key of scope read: %d %s", op.OperationID, a.status, a.body)
			}
		}
	}
}

func TestAccessFollowsTheVerb(t *testing.T) {
	w := newWorld(t)
	admin := []string{"create-tenant", "list-tenants", "update-tenant", "delete-tenant", "create-instance-key", "list-instance-keys", "revoke-instance-key"}
	ledger := []string{"list-ledger-entries", "acknowledge-ledger-entries", "report-books", "list-books"}
	for _, operations := range w.doc.Paths {
		for method, op := range operations {
			want := "write"
			switch {
			case slices.Contains(admin, op.OperationID):
				want = "admin"
			case slices.Contains(ledger, op.OperationID):
				want = "ledger"
			case op.OperationID == "list-providers", op.OperationID == "list-signing-keys", matrix[op.OperationID].public:
				want = "anyone"
			case method == "get":
				want = "read"
			}
			if op.Access != want {
				t.Errorf("%s: access %q, want %q", op.OperationID, op.Access, want)
			}
		}
	}
}

// row is what the isolation matrix needs to know of an operation.
type row struct {
	body   string
	status int  // when it succeeds
	tenant bool // the admin key needs tenant_id
	makes  bool // what is missing is made
	public bool // who knows the id sees it, whoever's it is
}

var matrix = map[string]row{
	"create-tenant":         {body: `{"name":"new"}`, status: 201},
	"list-tenants":          {status: 200},
	"get-tenant":            {status: 200},
	"update-tenant":         {body: `{"name":"new"}`, status: 200},
	"delete-tenant":         {status: 409}, // it has an endpoint
	"create-key":            {body: `{"name":"new","scope":"read"}`, status: 201},
	"list-keys":             {status: 200},
	"revoke-key":            {status: 204},
	"create-endpoint":       {body: `{"name":"new","url":"https://example.com"}`, status: 201, tenant: true},
	"list-endpoints":        {status: 200},
	"publish":               {body: `{"type":"invoice.paid","data":{}}`, status: 201, tenant: true},
	"get-endpoint":          {status: 200},
	"update-endpoint":       {body: `{"name":"new"}`, status: 200},
	"delete-endpoint":       {status: 204},
	"pause-endpoint":        {status: 200},
	"resume-endpoint":       {status: 200},
	"test-endpoint":         {status: 200},
	"reset-circuit":         {status: 200},
	"rotate-secret":         {status: 200},
	"create-source":         {body: `{"name":"new"}`, status: 201, tenant: true},
	"list-sources":          {status: 200},
	"get-source":            {status: 200},
	"update-source":         {body: `{"name":"new"}`, status: 200},
	"delete-source":         {status: 204},
	"create-app":            {body: `{"name":"new"}`, status: 201, tenant: true},
	"list-apps":             {status: 200},
	"get-app":               {status: 200},
	"put-app":               {body: `{"name":"new"}`, status: 200},
	"update-app":            {body: `{"name":"new"}`, status: 200},
	"delete-app":            {status: 204},
	"create-event-type":     {body: `{"name":"new.#"}`, status: 201, tenant: true},
	"list-event-types":      {status: 200},
	"get-event-type":        {status: 200, tenant: true},
	"put-event-type":        {body: `{}`, status: 200, tenant: true, makes: true},
	"update-event-type":     {body: `{"group":"new"}`, status: 200, tenant: true},
	"delete-event-type":     {status: 204, tenant: true},
	"list-events":           {status: 200},
	"stream-events":         {status: 200},
	"get-event":             {status: 200},
	"get-payload":           {status: 200},
	"replay-event":          {status: 200},
	"cancel-event":          {status: 200},
	"erase-event":           {status: 200},
	"get-why":               {status: 200},
	"list-deliveries":       {status: 200},
	"get-delivery":          {status: 200},
	"list-attempts":         {status: 200},
	"cancel-delivery":       {status: 200},
	"retry-delivery":        {status: 200},
	"get-attempt":           {status: 200},
	"get-proof":             {status: 200},
	"get-audit-log":         {status: 200, tenant: true},
	"get-ledger":            {status: 200},
	"list-ledger-conflicts": {status: 200},
	"list-ledger-entries":   {status: 200},
	"list-books":            {status: 200},
	"create-instance-key":   {body: `{"name":"new","scope":"ledger"}`, status: 201},
	"list-instance-keys":    {status: 200},
	"revoke-instance-key":   {status: 204},
	"report-books":          {body: `{"accounts":[]}`, status: 204},
	"get-head":              {status: 200, public: true},
	"list-log-keys":         {status: 200, public: true},
	"get-inclusion-proof":   {status: 200, public: true},
	"get-consistency-proof": {status: 200, public: true},
	"list-providers":        {status: 200},

	"acknowledge-ledger-entries": {body: `{"ids":[]}`, status: 204},

	"create-replay": {body: `{"since":"2026-01-01T00:00:00Z"}`, status: 202, tenant: true},
	"list-replays":  {status: 200},
	"get-replay":    {status: 200},
	"pause-replay":  {status: 200},
	"resume-replay": {status: 200},
	"cancel-replay": {status: 200},

	"create-portal-link": {body: `{"mode":"manage","sites":["https://app.example"]}`, status: 201, tenant: true},
	"list-portal-links":  {status: 200},
	"get-portal-link":    {status: 200},
	"revoke-portal-link": {status: 204},
	"get-portal-logo":    {status: 200},
	"put-portal-logo":    {body: `{"image_base64":"` + tinyLogo + `","alt":"Acme"}`, status: 200},
	"delete-portal-logo": {status: 204},

	"list-changes":       {status: 200},
	"get-endpoint-stats": {status: 200},
	"get-refusals":       {status: 200},
	"get-usage":          {status: 200},

	"list-signing-keys": {status: 422}, // without endpoint_id
}

// estate is a house with one of each object.
type estate struct {
	house
	key, event, delivery, attempt, replay string
	source, app, eventType, portalLink    string
	instanceKey                           string
	log                                   string
	tried                                 struct{ event, delivery string } // finished, for what needs that
}

func (w *world) newEstate(name string) estate {
	w.t.Helper()
	e := estate{house: w.newHouse(name)}
	e.key = w.want(200, "GET", "/v1/tenants/"+e.tenant+"/keys?limit=1", adminKey, nil).list("data")[0].text("id")
	e.instanceKey = w.want(201, "POST", "/v1/keys", adminKey, `{"name":"booker","scope":"ledger"}`).text("id")
	ev, d := w.receive(e.endpoint, nil)
	e.tried.event, e.tried.delivery = ev.ID.String(), d.ID.String()
	e.attempt = w.attempt(e.endpoint, kapsel.Answer{Status: 200, MaxAttempts: 1}, nil).ID.String()
	ev, d = w.receive(e.endpoint, nil)
	e.event, e.delivery = ev.ID.String(), d.ID.String()
	e.source = w.want(201, "POST", "/v1/sources", e.write, `{"name":"shop"}`).text("id")
	e.app = w.want(201, "POST", "/v1/apps", e.write, `{"name":"customer"}`).text("id")
	e.eventType = name + ".made"
	w.want(201, "POST", "/v1/event-types", e.write, `{"name":"`+e.eventType+`"}`)
	e.portalLink = w.want(201, "POST", "/v1/portal-links", e.write, `{"mode":"read"}`).text("id")
	w.want(200, "PUT", "/v1/tenants/"+e.tenant+"/portal-logo", e.write, `{"image_base64":"`+tinyLogo+`","alt":"First"}`)
	w.publishLogs()
	e.log = w.want(200, "GET", "/v1/attestation", e.read, nil).text("log")
	e.replay = w.want(202, "POST", "/v1/replays", e.write, `{"since":"2026-01-01T00:00:00Z"}`).text("id")
	return e
}

// path puts an estate's ids into a path of the document.
func (e estate) path(op, template string) string {
	ids := map[string]string{"tenants": e.tenant, "endpoints": e.endpoint, "sources": e.source, "apps": e.app, "events": e.event, "deliveries": e.delivery, "attempts": e.attempt, "replays": e.replay, "portal-links": e.portalLink, "keys": e.instanceKey}
	if op == "replay-event" || op == "list-attempts" || op == "erase-event" {
		ids["events"], ids["deliveries"] = e.tried.event, e.tried.delivery
	}
	return strings.NewReplacer("{id}", ids[strings.Split(template, "/")[2]], "{log}", e.log, "{index}", "0", "{key_id}", e.key, "{name}", e.eventType).Replace(template)
}

// otherIDs are what a path may have in place of ids that exist.
func otherIDs(w *world, template string, malformed bool) (paths []string) {
	random := strings.NewReplacer("{id}", map[string]string{
		"tenants": kapsel.NewTenantID(w.now).String(), "endpoints": kapsel.NewEndpointID(w.now).String(), "sources": kapsel.NewSourceID(w.now).String(), "apps": kapsel.NewAppID(w.now).String(), "events": kapsel.NewEventID(w.now, 1).String(),
		"deliveries": kapsel.NewDeliveryID(w.now, 1).String(), "attempts": kapsel.NewAttemptID(w.now, 1).String(), "replays": kapsel.NewReplayID(w.now).String(), "portal-links": kapsel.NewPortalLinkID(w.now).String(), "keys": kapsel.NewKeyID(w.now).String(),
	}[strings.Split(template, "/")[2]], "{log}", kapsel.NewLogID().String(), "{index}", "0", "{key_id}", kapsel.NewKeyID(w.now).String(), "{name}", "no.such."+kapsel.NewAppID(w.now).String()).Replace(template)
	if !malformed {
		return []string{random}
	}
	for _, bad := range []string{"x", "%27%3B--", "ten_", strings.Repeat("a", 300), "evt_zzzzzzzzzzzzzzzzzzzzzzzzzz", "EP_01h455vb4pex5vsknk084sn02q", "%00"} {
		if strings.HasPrefix(template, "/v1/apps/") && kapsel.ValidUID(bad) {
			continue // a uid may stand there
		}
		if strings.HasPrefix(template, "/v1/event-types/") && kapsel.ValidEventType(bad) {
			continue
		}
		paths = append(paths, strings.NewReplacer("{id}", bad, "{log}", bad, "{index}", "0", "{key_id}", bad, "{name}", bad).Replace(template))
	}
	return paths
}

// TestIsolation_B76_Matrix checks that every operation answers every kind of caller and id as
// it should, and another tenant's id exactly as one that does not exist. It fails when the
// OpenAPI document has an operation that the matrix lacks.
func TestIsolation_B76_Matrix(t *testing.T) {
	w := newWorld(t)
	mine, theirs, gone := w.newEstate("mine"), w.newEstate("theirs"), w.newEstate("gone")
	w.want(204, "DELETE", "/v1/endpoints/"+gone.endpoint, gone.write, nil)
	w.want(204, "DELETE", "/v1/sources/"+gone.source, gone.write, nil)
	w.want(204, "DELETE", "/v1/apps/"+gone.app, gone.write, nil)
	closed := estate{house: house{tenant: w.want(201, "POST", "/v1/tenants", adminKey, `{"name":"closed"}`).text("id")}, key: mine.key}
	w.want(204, "DELETE", "/v1/tenants/"+closed.tenant, adminKey, nil)
	deleted := map[string]estate{"tenants": closed, "endpoints": gone, "sources": gone, "apps": gone} // what else is deleted goes with retention
	callers := map[string]struct {
		key    string
		access access.Right // what it may do at most
	}{
		"no key":    {"", ""},
		"tenant":    {mine.write, access.Write},
		"stranger":  {gone.write, access.Write},
		"read-only": {mine.read, access.Read},
		"admin":     {adminKey, access.Operate},
		"booker":    {w.want(201, "POST", "/v1/keys", adminKey, `{"name":"booker","scope":"ledger"}`).text("secret"), access.Book},
	}
	level := map[access.Right]int{"": 0, access.Anyone: 0, access.Read: 1, access.Write: 2, access.Operate: 3}
	seen := map[string]bool{}
	for template, operations := range w.doc.Paths {
		for method, op := range operations {
			r, ok := matrix[op.OperationID]
			if !ok {
				t.Errorf("%s has no row in the matrix", op.OperationID)
				continue
			}
			seen[op.OperationID] = true
			var body any
			if r.body != "" {
				body = r.body
			}
			owner, made := mine.tenant, 0
			call := func(path, key string) answered {
				if r.tenant && key == adminKey {
					path += "?tenant_id=" + owner
				}
				if text, ok := body.(string); ok { // a name that is one's only in a tenant
					made++
					return w.do(strings.ToUpper(method), path, key, strings.ReplaceAll(text, "#", fmt.Sprint(made)))
				}
				return w.do(strings.ToUpper(method), path, key, body)
			}
			for name, caller := range callers {
				t.Run(op.OperationID+"/"+name, func(t *testing.T) {
					w.t = t
					refused := 0
					may := level[caller.access] >= level[access.Right(op.Access)]
					if need := access.Right(op.Access); need == access.Book {
						may = caller.access == access.Book || caller.access == access.Operate
					} else if caller.access == access.Book {
						may = need == access.Anyone
					}
					if !may {
						refused = 403
					}
					if caller.key == "" && op.Access != string(access.Anyone) {
						refused = 401
					}
					expect := func(kind string, want int, a answered) {
						t.Helper()
						if refused != 0 {
							want = refused
						}
						if a.status != want {
							t.Errorf("%s: %d, want %d: %s", kind, a.status, want, a.body)
						}
					}
					if !strings.Contains(template, "{") {
						a := call(template, caller.key)
						expect("no id", r.status, a)
						if name == "tenant" || name == "read-only" {
							for _, foreign := range []string{theirs.tenant, theirs.endpoint, theirs.event, theirs.delivery, theirs.attempt, theirs.key, theirs.replay, theirs.source, theirs.app, theirs.eventType} {
								if bytes.Contains(a.body, []byte(foreign)) {
									t.Errorf("the answer shows %s of another tenant", foreign)
								}
							}
						}
						return
					}
					if r.makes && name == "stranger" {
						return
					}
					random := call(otherIDs(w, template, false)[0], caller.key)
					if !r.makes {
						expect("random", 404, random)
					}
					malformed := 404
					if method == "put" && !strings.HasPrefix(template, "/v1/tenants/") { // it would make what is missing, but not with such a name
						malformed = 422
					}
					for _, path := range otherIDs(w, template, true) {
						expect("malformed "+path, malformed, call(path, caller.key))
					}
					if caller.access != access.Operate && !r.makes && !r.public {
						a := call(theirs.path(op.OperationID, template), caller.key)
						expect("other's", 404, a)
						if diff := cmp.Diff(anonymous(random), anonymous(a)); diff != "" {
							t.Errorf("another tenant's is told from a missing one:\n%s", diff)
						}
					}
					if was, ok := deleted[strings.Split(template, "/")[2]]; ok {
						a := call(was.path(op.OperationID, template), caller.key)
						expect("deleted", 404, a)
						if diff := cmp.Diff(anonymous(random), anonymous(a)); diff != "" {
							t.Errorf("a deleted one is told from a missing one:\n%s", diff)
						}
					}
					own := mine
					if refused == 0 && name != "stranger" && method != "get" {
						own = w.newEstate("own") // what changes an object gets one of its own
						key := map[string]string{"tenant": own.write, "read-only": own.read, "admin": adminKey, "booker": caller.key}[name]
						owner = own.tenant
						defer func() { owner = mine.tenant }()
						expect("own", r.status, call(own.path(op.OperationID, template), key))
						return
					}
					want := r.status
					if name == "stranger" && !r.public {
						want = 404
					}
					expect("own", want, call(own.path(op.OperationID, template), caller.key))
				})
			}
		}
	}
	w.t = t
	for id := range matrix {
		if !seen[id] {
			t.Errorf("%s is in the matrix and not in the document", id)
		}
	}
}

// TestIsolation_B77_B78_ForeignAndReadOnlyFields checks that a body cannot set read-only
// fields or name another tenant, and a filter or key that belongs to another tenant finds
// nothing.
func TestIsolation_B77_B78_ForeignAndReadOnlyFields(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.newEstate("mine"), w.newEstate("theirs")
	fields := map[string]any{
		"tenant_id": theirs.tenant, "id": theirs.endpoint, "state": "active", "status": "delivered", "created_at": "2026-01-01T00:00:00Z", "updated_at": nil,
		"circuit_state": "closed", "ingest_url": "x", "backlog": 0, "warnings": []string{}, "signing_secret": "x", "disabled_reason": nil, "part": 1, "revision": 1,
	}
	for name, v := range fields {
		body := object{"name": "a", "url": "https://example.com", name: v}
		w.refused(kapsel.InvalidRequest, 400, []string{name}, "POST", "/v1/endpoints", mine.write, body)
		if name != "state" {
			w.refused(kapsel.InvalidRequest, 400, []string{name}, "PATCH", "/v1/endpoints/"+mine.endpoint, mine.write, object{name: v})
		}
	}
	w.refused(kapsel.InvalidRequest, 400, []string{"circuit.state"}, "PATCH", "/v1/endpoints/"+mine.endpoint, mine.write, `{"circuit":{"state":"open"}}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"signing.secrets"}, "PATCH", "/v1/endpoints/"+mine.endpoint, mine.write, `{"signing":{"secrets":[]}}`)
	w.refused(kapsel.InvalidRequest, 400, []string{"scope_", "hash"}, "POST", "/v1/tenants/"+mine.tenant+"/keys", mine.write, `{"name":"a","scope":"read","scope_":1,"hash":"x"}`)
	w.refused(kapsel.Forbidden, 403, nil, "PATCH", "/v1/endpoints/"+mine.endpoint, mine.write, `{"state":"disabled"}`)

	// A filter that names a foreign endpoint finds nothing.
	for _, path := range []string{"/v1/events", "/v1/deliveries"} {
		if got := w.want(200, "GET", path+"?endpoint_id="+theirs.endpoint, mine.read, nil).list("data"); len(got) != 0 {
			t.Errorf("%s shows %v of another tenant", path, got)
		}
	}
	// A foreign key below the own tenant is missing.
	a := w.do("DELETE", "/v1/tenants/"+mine.tenant+"/keys/"+theirs.key, mine.write, nil)
	b := w.do("DELETE", "/v1/tenants/"+mine.tenant+"/keys/"+kapsel.NewKeyID(w.now).String(), mine.write, nil)
	if a.status != 404 || anonymous(a) != anonymous(b) {
		t.Errorf("another tenant's key: %s, want %s", anonymous(a), anonymous(b))
	}
	w.want(200, "GET", "/v1/endpoints", theirs.write, nil)
}

// TestIsolation_B79_NothingOfOthers checks that no answer to one tenant has an id or a name of
// another.
func TestIsolation_B79_NothingOfOthers(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.newEstate("mine"), w.newEstate("theirs-and-only-theirs")
	marks := []string{theirs.tenant, theirs.endpoint, theirs.event, theirs.delivery, theirs.attempt, theirs.key, theirs.replay, theirs.source, theirs.app, theirs.eventType, theirs.tried.event, "theirs-and-only-theirs"}
	for template, operations := range w.doc.Paths {
		op := operations["get"]
		if op == nil || op.Access == "admin" || op.Access == "ledger" {
			continue
		}
		a := w.do("GET", mine.path(op.OperationID, template), mine.read, nil)
		if a.status != matrix[op.OperationID].status {
			t.Errorf("%s: %d", op.OperationID, a.status)
		}
		for _, mark := range marks {
			if bytes.Contains(a.body, []byte(mark)) {
				t.Errorf("%s shows %s", op.OperationID, mark)
			}
		}
	}
	if all := w.want(200, "GET", "/v1/events", adminKey, nil).list("data"); len(all) != 4 {
		t.Errorf("the admin sees %d events, want all 4", len(all))
	}
	if some := w.want(200, "GET", "/v1/events?tenant_id="+theirs.tenant, adminKey, nil).list("data"); len(some) != 2 {
		t.Errorf("the admin sees %d events of a tenant, want 2", len(some))
	}
	b, _ := json.Marshal(w.want(200, "GET", "/v1/tenants", adminKey, nil))
	if !bytes.Contains(b, []byte(theirs.tenant)) {
		t.Error("the admin does not see a tenant")
	}
}

// TestRates checks that every answer to a key of a limited tenant, of whatever status, tells what is left of the
// tenant's rate and uses nothing up, and that no other answer does.
func TestRates(t *testing.T) {
	w := newWorld(t)
	h, free := w.newHouse("limited"), w.newHouse("free")
	w.want(200, "PATCH", "/v1/tenants/"+h.tenant, adminKey, `{"limits":{"ingest_per_second":0.001,"ingest_burst":7}}`)
	told := func(a answered) string {
		return fmt.Sprint(a.header.Get("X-RateLimit-Limit"), " ", a.header.Get("X-RateLimit-Remaining"), " ", a.header.Get("X-RateLimit-Reset"))
	}
	asks := []struct {
		method, path string
		body         any
		status       int
	}{
		{"GET", "/v1/endpoints", nil, 200}, {"GET", "/v1/events?limit=0", nil, 400}, {"GET", "/v1/tenants", nil, 403},
		{"GET", "/v1/endpoints/" + free.endpoint, nil, 404}, {"POST", "/v1/endpoints", "{}", 422}, {"DELETE", "/v1/endpoints/" + h.endpoint, nil, 204},
	}
	for range 3 {
		for _, ask := range asks[:5] {
			if a := w.do(ask.method, ask.path, h.write, ask.body); a.status != ask.status || told(a) != "7 7 0" {
				t.Errorf("%s %s is answered %d and told %q", ask.method, ask.path, a.status, told(a))
			}
		}
	}
	w.want(201, "POST", "/v1/events", h.write, `{"type":"a","data":1}`)
	if a := w.do(asks[5].method, asks[5].path, h.write, nil); a.status != 204 || !strings.HasPrefix(told(a), "7 6 ") || strings.HasSuffix(told(a), " 0") {
		t.Errorf("after one event it is told %q (%d)", told(a), a.status)
	}
	for key, status := range map[string]int{free.write: 200, adminKey: 200, "kap_wrong": 401} {
		if a := w.do("GET", "/v1/endpoints", key, nil); a.status != status || told(a) != "  " {
			t.Errorf("answered %d, and told %q", a.status, told(a))
		}
	}
}
