//go:build interop

package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/bench"
)

// javascript gives tasks to interop/interop.mjs and returns its answers.
func javascript(t *testing.T, tasks []map[string]any) (answers []map[string]any) {
	t.Helper()
	in, err := json.Marshal(tasks)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "interop.mjs")
	cmd.Dir = "../../interop"
	cmd.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node interop.mjs: %v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(tasks) {
		t.Fatalf("%d answers of %d: %v", len(answers), len(tasks), err)
	}
	return answers
}

// TestInterop_B68_Rotation gives what Kapsel sends before, during and after a rotation to the
// libraries standardwebhooks and svix (v1) and to Node's crypto (v1a), with every key there
// was: they accept it with those that are good at the time, and no other body with any.
func TestInterop_B68_Rotation(t *testing.T) {
	w := newWorld(t, "")
	w.sink.Record(true)
	node := w.nodes[0]
	var made struct {
		ID     string `json:"id"`
		URL    string `json:"ingest_url"`
		Secret string `json:"signing_secret"`
	}
	api := func(method, path string, in, out any) {
		t.Helper()
		if err := node.API(w.ctx, method, path, in, out); err != nil {
			t.Fatal(err)
		}
	}
	api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{"name": "e", "url": w.sink.URL(1), "signing": map[string]any{"v1a": true}}, &made)
	newest := func() string {
		t.Helper()
		var p page[struct {
			PublicKey string `json:"public_key"`
		}]
		api("GET", "/v1/signing-keys?endpoint_id="+made.ID, nil, &p)
		return p.Data[0].PublicKey
	}
	rotate := func(overlap string) string {
		t.Helper()
		api("POST", "/v1/endpoints/"+made.ID+"/secrets/rotate", map[string]string{"overlap": overlap}, &made)
		return made.Secret
	}
	body := `{"name":"Grüße","n":1.10e1}`
	send := func() bench.SinkRequest {
		t.Helper()
		status, code, event := post(t, made.URL, map[string]string{"Content-Type": "application/json"}, strings.NewReader(body))
		if status != 200 {
			t.Fatalf("answered %d %s", status, code)
		}
		return w.arrived(event)
	}
	keys := []string{made.Secret, newest()} // v1 and v1a of each generation
	before := send()
	keys = append(keys, rotate("1h"), newest())
	during := send()
	keys = append(keys, rotate("0s"), newest())
	after := send()

	var tasks []map[string]any
	var want []bool
	for _, c := range []struct {
		r    bench.SinkRequest
		good [3]bool // with the keys of each generation
	}{{before, [3]bool{true, false, false}}, {during, [3]bool{true, true, false}}, {after, [3]bool{false, false, true}}} {
		headers := map[string]string{}
		for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			headers[name] = c.r.Get(name)
		}
		for i, key := range keys {
			tasks = append(tasks,
				map[string]any{"verify": map[string]any{"headers": headers, "body": string(c.r.Body), "key": key}},
				map[string]any{"verify": map[string]any{"headers": headers, "body": string(c.r.Body) + " ", "key": key}})
			want = append(want, c.good[i/2], false)
		}
	}
	for i, got := range javascript(t, tasks) {
		for library, verified := range got {
			if verified != want[i] {
				t.Errorf("%s: %v, want %v of %v", library, verified, want[i], tasks[i])
			}
		}
	}
}

// TestInterop_B71_StandardWebhooks accepts what the library standardwebhooks signs.
func TestInterop_B71_StandardWebhooks(t *testing.T) {
	w := newWorld(t, "")
	const key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	ep := w.endpoint("e", map[string]any{"verification": map[string]any{"provider": "standard-webhooks", "secrets": []string{key}}})
	now := time.Now().Unix()
	body := `{"name":"Grüße"}`
	signature := javascript(t, []map[string]any{{"sign": map[string]any{"id": "msg_1", "time": now, "body": body, "key": key}}})[0]["signature"].(string)
	header := map[string]string{"webhook-id": "msg_1", "webhook-timestamp": strconv.FormatInt(now, 10), "webhook-signature": signature}
	if status, code, _ := post(t, ep.IngestURL, header, strings.NewReader(body)); status != 200 {
		t.Errorf("answered %d %s", status, code)
	}
	if status, code, _ := post(t, ep.IngestURL, header, strings.NewReader(body+" ")); status != 401 || code != "E1001" {
		t.Errorf("another body: answered %d %s", status, code)
	}
}

// TestInterop_B71_Providers sends webhooks of each provider that has a library in JavaScript:
// what the library accepts, Kapsel accepts, and what the library refuses after a change, Kapsel
// answers 401 E1001.
func TestInterop_B71_Providers(t *testing.T) {
	w := newWorld(t, "")
	type trial struct {
		provider, what, url string
		r                   request
	}
	var trials []trial
	var tasks []map[string]any
	for name, s := range schemes(t, "a secret of this test") {
		provider := providerOf(name)
		verification := map[string]any{"provider": provider, "secrets": []string{s.secret}}
		maps.Copy(verification, s.settings)
		ep := w.endpoint(name, map[string]any{"verification": verification, "idempotency": map[string]any{"strategy": "none"}})
		add := func(what string, r request) {
			header := map[string]string{}
			for k, v := range r.header {
				header[strings.ToLower(k)] = v
			}
			trials = append(trials, trial{provider, what, ep.IngestURL, r})
			tasks = append(tasks, map[string]any{"accepts": map[string]any{"provider": provider, "url": ep.IngestURL, "header": header, "body": r.body, "secret": s.secret}})
		}
		at := time.Now()
		if provider == "paddle" {
			at = at.Add(30 * time.Second) // its library takes none that is 5 s old
		}
		r := s.sign(at, ep.IngestURL)
		add("", r)
		if !s.bodyFree {
			add("body", request{r.header, strings.Replace(r.body, "100", "101", 1)})
		}
	}
	tried := map[string]bool{}
	for i, got := range javascript(t, tasks) {
		try := trials[i]
		if got["accepts"] == nil {
			continue
		}
		tried[try.provider] = true
		status, body, _ := try.r.send(t, try.url)
		switch {
		case try.what == "" && (got["accepts"] != true || status/100 != 2):
			t.Errorf("%s: its library accepts it: %v; Kapsel answered %d %s", try.provider, got["accepts"], status, body)
		case try.what != "" && (got["accepts"] != false || status != 401 || !bytes.Contains(body, []byte(`"E1001"`))):
			t.Errorf("%s, after a change of the %s: its library accepts it: %v; Kapsel answered %d %s", try.provider, try.what, got["accepts"], status, body)
		}
	}
	if len(tried) < 23 {
		t.Errorf("%d providers were tried: %v", len(tried), slices.Sorted(maps.Keys(tried)))
	}
}
