package e2e

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestTrust_Handshakes checks that challenges of providers are answered over HTTP and not stored,
// signed ones only with a signature, and that a provider gets the answer that it wants for an
// event.
func TestTrust_Handshakes(t *testing.T) {
	w := newWorld(t, "")
	const secret = "a secret of this test"
	target := func(provider string) string {
		verification := map[string]any{"provider": provider, "secrets": []string{secret}}
		if provider == "meta" {
			verification["verify_token"] = "verify me"
		}
		return w.endpoint(provider, map[string]any{"verification": verification}).IngestURL
	}
	do := func(method, url string, header map[string]string, body string) (status int, kind, text, event string) {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: an answer without nosniff", method, url)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(b), resp.Header.Get("X-Kapsel-Event-Id")
	}
	mac := func(text string) []byte { return openssl(t, "sha256", []byte(secret), []byte(text)) }
	b64 := base64.StdEncoding.EncodeToString

	described := w.endpoint("described", map[string]any{"challenge": map[string]any{"from": "header:X-Hook-Token", "to": "header:X-Hook-Token"}, "probe": true}).IngestURL
	meta := target("meta")
	for _, c := range []struct {
		method, url string
		header      map[string]string
		body        string
		status      int
		text        string
	}{
		{"GET", meta + "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=verify+me", nil, "", 200, "1158201444"},
		{"GET", meta + "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=" + strings.ReplaceAll(secret, " ", "+"), nil, "", 403, ""},
		{"GET", meta + "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=wrong", nil, "", 403, ""},
		{"GET", meta, nil, "", 405, ""},
		{"GET", target("x") + "?crc_token=abc", nil, "", 200, `{"response_token":"sha256=` + b64(mac("abc")) + `"}`},
		{"GET", target("okta"), map[string]string{"X-Okta-Verification-Challenge": "c-1"}, "", 200, `{"verification":"c-1"}`},
		{"GET", target("stripe"), nil, "", 405, ""},
		{"HEAD", target("intercom"), nil, "", 200, ""},
		{"HEAD", target("github"), nil, "", 405, ""},
		{"POST", target("xero"), map[string]string{"X-Xero-Signature": b64(mac(`{"events":[]}`))}, `{"events":[]}`, 200, ""},
		{"POST", target("xero"), map[string]string{"X-Xero-Signature": b64(mac(`{"events":[1]}`))}, `{"events":[]}`, 401, ""},
		{"POST", target("slack"), nil, `{"type":"url_verification","challenge":"c"}`, 401, ""},
		{"DELETE", target("x") + "?crc_token=abc", nil, "", 405, ""},
		{"GET", target("dropbox") + "?challenge=c%2F1", nil, "", 200, "c/1"},
		{"GET", target("dropbox") + "?challenge=", nil, "", 405, ""},
		{"GET", target("nylas") + "?challenge=c", nil, "", 200, "c"},
		{"GET", described, nil, "", 200, ""},
		{"POST", described, map[string]string{"X-Hook-Token": "t"}, "", 200, ""},
		{"OPTIONS", described, map[string]string{"X-Hook-Token": "t"}, "", 405, ""},
		{"HEAD", target("trello"), nil, "", 200, ""},
		{"GET", target("trello"), nil, "", 405, ""},
		{"HEAD", target("mailchimp"), nil, "", 200, ""},
		{"POST", target("mailchimp"), map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, "mandrill_events=%5B%5D", 200, ""},
		{"POST", target("woocommerce"), nil, "webhook_id=12", 200, ""},
		{"POST", target("woocommerce"), nil, "webhook_id=12&x=1", 401, ""},
		{"POST", target("microsoft-graph") + "?validationToken=Validation%3A+a%2Bb", nil, "", 200, "Validation: a+b"},
		{"POST", target("microsoft-graph") + "?validationToken=a", nil, "{}", 401, ""},
		{"POST", target("microsoft-graph"), nil, "", 401, ""},
		{"OPTIONS", target("cloudevents"), map[string]string{"WebHook-Request-Origin": "events.example.com"}, "", 200, ""},
		{"OPTIONS", target("cloudevents"), nil, "", 405, ""},
		{"OPTIONS", target("github"), map[string]string{"WebHook-Request-Origin": "events.example.com"}, "", 405, ""},
		{"POST", target("azure-event-grid") + "?access_token=" + url.QueryEscape(secret), nil,
			`[{"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c-1"}}]`, 200, `{"validationResponse":"c-1"}`},
		{"POST", target("azure-event-grid"), nil, `[{"eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"c-1"}}]`, 401, ""},
		{"GET", target("websub") + "?hub.mode=subscribe&hub.topic=https://example.com&hub.challenge=c", nil, "", 200, "c"},
		{"GET", target("websub") + "?hub.mode=unsubscribe&hub.topic=https://example.com&hub.challenge=c", nil, "", 405, ""},
	} {
		status, _, text, event := do(c.method, c.url, c.header, c.body)
		if status != c.status || c.status == 200 && text != c.text || event != "" {
			t.Errorf("%s %s: answered %d %q, event %q", c.method, c.url, status, text, event)
		}
	}
	if n := len(list[delivery](w, "/v1/deliveries", url.Values{})); n != 0 {
		t.Errorf("%d deliveries came of handshakes", n)
	}

	xero := target("xero")
	body := `{"events":[{"id":1}]}`
	header := map[string]string{"X-Xero-Signature": b64(mac(body)), "Idempotency-Key": "k"}
	status, kind, text, event := do("POST", xero, header, body)
	if status != 200 || kind != "" || text != "" || !strings.HasPrefix(event, "evt_") {
		t.Errorf("an event of Xero: answered %d %q %q, event %q", status, kind, text, event)
	}
	if _, _, text, again := do("POST", xero, header, body); text != "" || again != event {
		t.Errorf("the event again: answered %q, event %q, first %q", text, again, event)
	}
	var got struct {
		Signature struct {
			Scheme string `json:"scheme"`
			Valid  bool   `json:"valid"`
			KeyID  string `json:"key_id"`
		} `json:"signature"`
	}
	w.get("/v1/events/"+event, &got)
	if s := got.Signature; s.Scheme != "xero" || !s.Valid || !strings.HasPrefix(s.KeyID, "sec_") {
		t.Errorf("the verdict that is stored: %+v", s)
	}
}

// signed verifies a delivery with one secret or public key; nil if it is good.
func signed(r harness.SinkRequest, secret string) error {
	header := http.Header{}
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		header.Set(name, r.Get(name))
	}
	if public, ok := strings.CutPrefix(secret, "whpk_"); ok {
		return signedV1a(r, public)
	}
	reference, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return err
	}
	return reference.Verify(r.Body, header)
}

// signedV1a verifies as the specification says; the reference library in Go knows v1 only.
func signedV1a(r harness.SinkRequest, public string) error {
	key, err := base64.StdEncoding.DecodeString(public)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("public key %q", public)
	}
	message := append([]byte(r.Get("webhook-id")+"."+r.Get("webhook-timestamp")+"."), r.Body...)
	for token := range strings.FieldsSeq(r.Get("webhook-signature")) {
		if text, ok := strings.CutPrefix(token, "v1a,"); ok {
			if raw, err := base64.StdEncoding.DecodeString(text); err == nil && ed25519.Verify(key, message, raw) {
				return nil
			}
		}
	}
	return fmt.Errorf("no v1a signature of %q is by %s", r.Get("webhook-signature"), public)
}

// TestTrust_B68_Rotation checks that what is sent before, during and after a rotation
// verifies, in both schemes, with the keys that are good at the time and no others. A
// destination that wants a header of its own gets it, and it is in no record.
func TestTrust_B68_Rotation(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		var made struct {
			ID     string `json:"id"`
			URL    string `json:"ingest_url"`
			Secret string `json:"signing_secret"`
		}
		node := w.nodes[0]
		api := func(method, path string, in, out any) {
			t.Helper()
			if err := node.API(w.ctx, method, path, in, out); err != nil {
				t.Fatal(err)
			}
		}
		const bearer = "Bearer s3cret-of-the-destination"
		api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{
			"name": "e", "url": w.sink.URL(1), "signing": map[string]any{"v1a": true},
			"headers": map[string]any{"set": map[string]string{"Authorization": bearer}},
		}, &made)
		publicKeys := func() (keys []string) {
			t.Helper()
			var p page[struct {
				PublicKey string `json:"public_key"`
			}]
			resp, err := client.Get(node.URL + "/v1/signing-keys?endpoint_id=" + made.ID) // no API key
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
				t.Fatal(err)
			}
			for _, k := range p.Data {
				keys = append(keys, k.PublicKey)
			}
			return keys
		}
		rotate := func(overlap string) string {
			t.Helper()
			var rotated struct {
				Secret string `json:"signing_secret"`
			}
			api("POST", "/v1/endpoints/"+made.ID+"/secrets/rotate", map[string]string{"overlap": overlap}, &rotated)
			return rotated.Secret
		}
		check := func(when string, good, bad []string) {
			t.Helper()
			status, code, event := post(t, made.URL, map[string]string{"Content-Type": "application/json"}, strings.NewReader(`{"a":"`+when+`"}`))
			if status != 200 {
				t.Fatalf("%s: answered %d %s", when, status, code)
			}
			r := w.arrived(event)
			if got := r.Get("Authorization"); got != bearer {
				t.Errorf("%s: the destination got Authorization %q", when, got)
			}
			for _, secret := range good {
				if err := signed(r, secret); err != nil {
					t.Errorf("%s: %.8s…: %v", when, secret, err)
				}
			}
			for _, secret := range bad {
				if signed(r, secret) == nil {
					t.Errorf("%s: %.8s… still verifies", when, secret)
				}
			}
			r.Body = append(slices.Clone(r.Body), ' ')
			for _, secret := range good {
				if signed(r, secret) == nil {
					t.Errorf("%s: another body verifies with %.8s…", when, secret)
				}
			}
		}
		one := append([]string{made.Secret}, publicKeys()...)
		check("before", one, nil)
		second := rotate("1h")
		both := append([]string{made.Secret, second}, publicKeys()...)
		if len(one) != 2 || len(both) != 4 {
			t.Fatalf("%d and %d keys", len(one), len(both))
		}
		check("during", both, nil)
		third := rotate("0s")
		check("after", append([]string{third}, publicKeys()...), both)
		w.quiet()
		for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
			var attempts page[json.RawMessage]
			w.get("/v1/deliveries/"+d.ID+"/attempts", &attempts)
			if bytes.Contains(attempts.Data[0], []byte("s3cret")) || !bytes.Contains(attempts.Data[0], []byte("[redacted]")) {
				t.Errorf("an attempt's record: %s", attempts.Data[0])
			}
		}
	})
}

// TestTrust_S6_NothingInClear checks that no secret is in clear in the database, the log, the
// metrics or the API's answers, before and after a rotation of the encryption key, and the
// database does not open with another key.
func TestTrust_S6_NothingInClear(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.sink.Record(true)
		node := w.nodes[0]
		var key, made, rotated struct {
			ID     string `json:"id"`
			URL    string `json:"ingest_url"`
			Secret string `json:"secret"`
			Sign   string `json:"signing_secret"`
		}
		api := func(method, path string, in, out any) {
			t.Helper()
			if err := node.API(w.ctx, method, path, in, out); err != nil {
				t.Fatal(err)
			}
		}
		marks := map[string]string{"verification secret": "mark-verification-7f3a", "header value": "mark-header-7f3a"}
		api("POST", "/v1/tenants/"+w.tenant+"/keys", map[string]string{"name": "k", "scope": "write"}, &key)
		api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{
			"name": "e", "url": w.sink.URL(1), "headers": map[string]any{"set": map[string]string{"X-Own": marks["header value"]}},
			"verification": map[string]any{"provider": "hmac", "secrets": []string{marks["verification secret"]}},
		}, &made)
		api("POST", "/v1/endpoints/"+made.ID+"/secrets/rotate", nil, &rotated)
		marks["API key"], marks["signing secret"], marks["new signing secret"] = key.Secret, made.Sign, rotated.Sign
		for name, secret := range map[string]string{"signing key": made.Sign, "new signing key": rotated.Sign} {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			if err != nil {
				t.Fatal(err)
			}
			marks[name], marks[name+" in base64"] = string(raw), strings.TrimPrefix(secret, "whsec_")
		}
		marks["admin key"], marks["encryption key"] = node.AdminKey, node.Env("KAPSEL_ENCRYPTION_KEY")

		// A provider that sends the secret itself, in a header.
		marks["shared secret"] = "mark-shared-7f3a"
		var shared struct {
			URL string `json:"ingest_url"`
		}
		api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{
			"name": "shared", "url": w.sink.URL(1), "headers": map[string]any{"keep": []string{"X-Gitlab-Token"}},
			"verification": map[string]any{"provider": "gitlab", "secrets": []string{marks["shared secret"]}},
		}, &shared)

		body := `{"a":1}`
		mac := fmt.Sprintf("%x", openssl(t, "sha256", []byte(marks["verification secret"]), []byte(body)))
		deliver := func() {
			t.Helper()
			status, code, event := post(t, made.URL, map[string]string{"X-Webhook-Signature": mac}, strings.NewReader(body))
			if status != 200 {
				t.Fatalf("answered %d %s", status, code)
			}
			if r := w.arrived(event); r.Get("X-Own") != marks["header value"] || signed(r, rotated.Sign) != nil || signed(r, made.Sign) != nil {
				t.Errorf("the delivery lacks its header or a signature")
			}
			status, code, event = post(t, shared.URL, map[string]string{"X-Gitlab-Token": marks["shared secret"]}, strings.NewReader(body))
			if status != 200 {
				t.Fatalf("answered %d %s", status, code)
			}
			if got := w.arrived(event).Get("X-Gitlab-Token"); got != "" {
				t.Errorf("the shared secret's header was sent along as %q", got)
			}
		}
		look := func(where string, text []byte) {
			t.Helper()
			for name, mark := range marks {
				if bytes.Contains(text, []byte(mark)) || bytes.Contains(text, []byte(hex.EncodeToString([]byte(mark)))) {
					t.Errorf("%s holds the %s", where, name)
				}
			}
		}
		lookAround := func() {
			t.Helper()
			for _, path := range []string{"/v1/endpoints/" + made.ID, "/v1/endpoints", "/v1/tenants", "/v1/tenants/" + w.tenant + "/keys", "/v1/events", "/v1/deliveries", "/openapi.json"} {
				var got json.RawMessage
				w.get(path, &got)
				look(path, got)
			}
			for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
				var got json.RawMessage
				w.get("/v1/deliveries/"+d.ID+"/attempts", &got)
				look("an attempt", got)
			}
			resp, err := client.Get(node.Metrics + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			metrics, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			look("/metrics", metrics)
			output, err := os.ReadFile(node.Output)
			if err != nil {
				t.Fatal(err)
			}
			look("the log", output)
			dump := w.dump()
			if !bytes.Contains(dump, []byte(body)) && !bytes.Contains(dump, []byte(hex.EncodeToString([]byte(body)))) {
				t.Error("the dump lacks what the database does hold in clear")
			}
			look("the database", dump)
		}
		deliver()
		// Errors must not repeat what was sent.
		for _, header := range []string{"X-Webhook-Signature", "Authorization"} {
			status, code, _ := post(t, made.URL, map[string]string{header: marks["verification secret"]}, strings.NewReader(body))
			if status != 401 {
				t.Errorf("answered %d %s", status, code)
			}
		}
		w.quiet()
		lookAround()

		// Another key does not open the database; the new one does after it was rotated.
		old := marks["encryption key"]
		marks["new encryption key"] = base64.StdEncoding.EncodeToString([]byte("a key of this test, 32 bytes....")[:32])
		if err := node.Term(); err != nil {
			t.Fatal(err)
		}
		<-node.Done()
		command := func(keys string, args ...string) (int, string) {
			cmd := exec.Command(program(t), args...)
			cmd.Env = append(os.Environ(), "DATABASE_URL="+node.Env("DATABASE_URL"), "KAPSEL_ENCRYPTION_KEY="+keys, "KAPSEL_ADMIN_KEY="+node.AdminKey,
				"KAPSEL_LISTEN=127.0.0.1:0", "KAPSEL_METRICS_LISTEN=")
			out, _ := cmd.CombinedOutput()
			look("the output of "+args[0], out)
			return cmd.ProcessState.ExitCode(), string(out)
		}
		fresh := marks["new encryption key"]
		if code, out := command(fresh, "serve"); code != 2 || !strings.Contains(out, "KAPSEL_ENCRYPTION_KEY") || !strings.Contains(out, "is needed") {
			t.Errorf("serve with another key: exit code %d, %s", code, out)
		}
		if code, out := command(fresh, "rotate-key"); code != 2 {
			t.Errorf("rotate-key without the old key: exit code %d, %s", code, out)
		}
		for range 2 { // again does no harm
			if code, out := command(fresh+","+old, "rotate-key"); code != 0 {
				t.Errorf("rotate-key: exit code %d, %s", code, out)
			}
		}
		if code, out := command(old, "serve"); code != 2 || !strings.Contains(out, "is needed") {
			t.Errorf("serve with the old key: exit code %d, %s", code, out)
		}
		w.env = append(w.env, "KAPSEL_ENCRYPTION_KEY="+fresh, "KAPSEL_ADMIN_KEY="+node.AdminKey, "KAPSEL_LISTEN="+node.Env("KAPSEL_LISTEN"), "DATABASE_URL="+node.Env("DATABASE_URL"))
		w.nodes = nil
		node = w.node()
		deliver()
		w.quiet()
		lookAround()
	})
}

// dump returns everything that the database holds as text. PostgreSQL writes bytes in hex.
func (w *world) dump() []byte {
	w.t.Helper()
	database := w.nodes[0].Env("DATABASE_URL")
	path, sqlite := strings.CutPrefix(database, "sqlite:")
	if !sqlite {
		out, err := exec.CommandContext(w.ctx, pgtest.Program(w.t, "pg_dump"), "--dbname="+pgtest.Superuser(database)).Output()
		if err != nil {
			w.t.Fatalf("pg_dump: %v", err)
		}
		return out
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no files %s: %v", path, err)
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// TestTrust_S24_Dumps checks that a crash of a process that holds secrets prints none of them
// and leaves no core file, even where the environment asks for one.
func TestTrust_S24_Dumps(t *testing.T) {
	w := newWorld(t, "", "GOTRACEBACK=crash")
	w.sink.Record(true)
	node := w.nodes[0]
	const verification, value = "mark-verification-5c1d", "mark-header-5c1d"
	ep := w.endpoint("e", map[string]any{
		"headers":      map[string]any{"set": map[string]string{"X-Own": value}},
		"verification": map[string]any{"provider": "hmac", "secrets": []string{verification}},
	})
	header := map[string]string{"X-Webhook-Signature": fmt.Sprintf("%x", openssl(t, "sha256", []byte(verification), []byte("{}")))}
	status, code, event := post(t, ep.IngestURL, header, strings.NewReader("{}"))
	if status != 200 {
		t.Fatalf("answered %d %s", status, code)
	}
	w.arrived(event)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", node.PID()))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err == nil && !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core files are not off:\n%s", limits)
	}
	done := node.Done()
	if err := syscall.Kill(node.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-done
	dump, err := os.ReadFile(node.Output)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(dump, []byte("goroutine ")); n < 10 {
		t.Fatalf("the dump has %d goroutines: %s", n, dump)
	}
	for name, mark := range map[string]string{
		"verification secret": verification, "header's value": value, "signing secret": strings.TrimPrefix(ep.SigningSecret, "whsec_"),
		"admin key": node.AdminKey, "encryption key": node.Env("KAPSEL_ENCRYPTION_KEY"),
	} {
		if mark == "" || bytes.Contains(dump, []byte(mark)) || bytes.Contains(dump, []byte(hex.EncodeToString([]byte(mark)))) {
			t.Errorf("the dump holds the %s", name)
		}
	}
}
