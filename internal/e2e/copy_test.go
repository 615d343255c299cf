package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// TestCopy moves a database of one kind to the other while the copy is killed again and again.
// The API answers the same from both, what waited is delivered once, by the new one, and
// senders' URLs and receivers' secrets are what they were.
func TestCopy(t *testing.T) {
	for _, from := range []string{"sqlite", "postgres"} {
		t.Run("from "+from, func(t *testing.T) {
			file, server := "sqlite:"+t.TempDir()+"/kapsel.db", pgtest.New(t)
			source, target := file, server
			if from == "postgres" {
				source, target = server, file
			}
			w := newWorld(t, source)
			node := w.nodes[0]
			w.sink.Record(true)
			open := w.endpoint("open", nil)
			shut := w.endpoint("shut", nil)
			fan(w, open, 1)
			if err := node.API(w.ctx, http.MethodPost, "/v1/endpoints/"+shut.ID+"/pause", nil, nil); err != nil {
				t.Fatal(err)
			}
			events := count(40, 100_000)
			postMany(w, open, events/2)
			postMany(w, shut, events-events/2)
			eventually(t, "what is open has got its events", patience, func() bool {
				return len(list[delivery](w, "/v1/deliveries", url.Values{"tenant_id": {w.tenant}, "status": {"delivered"}})) == events/2*2
			})
			before := answers(w)
			if err := node.Term(); err != nil {
				t.Fatal(err)
			}
			requests := len(w.sink.Requests())

			copying := func() *exec.Cmd {
				c := exec.CommandContext(w.ctx, w.bin, "copy", "--from", source, "--to", target)
				c.Env = []string{"KAPSEL_ENCRYPTION_KEY=" + node.Env("KAPSEL_ENCRYPTION_KEY"), "HOME=" + t.TempDir()}
				return c
			}
			for range count(2, 5) {
				c := copying()
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(rand.Int64N(int64(count(50, 2000)))) * time.Millisecond)
				c.Process.Kill()
				c.Wait()
			}
			if out, err := copying().CombinedOutput(); err != nil {
				t.Fatalf("copy: %v\n%s", err, out)
			}

			moved, err := harness.StartKapsel(w.ctx, t.TempDir(), w.bin, append(slices.Clone(w.env), "DATABASE_URL="+target,
				"KAPSEL_ADMIN_KEY="+node.AdminKey, "KAPSEL_ENCRYPTION_KEY="+node.Env("KAPSEL_ENCRYPTION_KEY"),
				"KAPSEL_LISTEN="+node.Env("KAPSEL_LISTEN"))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { moved.Kill() })
			w.nodes[0] = moved
			after := answers(w)
			for path, want := range before {
				if diff := cmp.Diff(want, after[path]); diff != "" {
					t.Errorf("GET %s (-before +after):\n%.3000s", path, diff)
				}
			}
			if err := moved.API(w.ctx, http.MethodPost, "/v1/endpoints/"+shut.ID+"/resume", nil, nil); err != nil {
				t.Fatal(err)
			}
			w.quiet()
			got := map[string]int{}
			for _, r := range w.sink.Requests()[requests:] {
				got[r.EventID]++
				if !signedWith(t, shut.SigningSecret, r) {
					t.Errorf("event %s is not signed with the secret that its receiver has", r.EventID)
				}
			}
			if len(got) != events-events/2 || len(w.sink.Requests()) != requests+len(got) {
				t.Errorf("%d events in %d requests after the copy, want the %d that waited, once each", len(got), len(w.sink.Requests())-requests, events-events/2)
			}
			resp, err := client.Post(open.IngestURL, "application/json", strings.NewReader(`{"after":"the copy"}`))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
			w.quiet()
		})
	}
}

// signedWith reports whether a request has the signature of Standard Webhooks by a secret.
func signedWith(t *testing.T, secret string, r harness.SinkRequest) bool {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		t.Fatalf("a secret of %d bytes: %v", len(key), err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Get("webhook-id"), r.Get("webhook-timestamp"), r.Body)
	return r.Get("webhook-signature") == "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// postMany posts n events to an endpoint.
func postMany(w *world, ep harness.Endpoint, n int) {
	w.t.Helper()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := i; k < n; k += 8 {
				resp, err := client.Post(ep.IngestURL, "application/json", strings.NewReader(fmt.Sprintf(`{"n":%d}`, k)))
				if err != nil {
					w.t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					w.t.Errorf("event %d is answered %d", k, resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
}

// answers returns all pages of the API's answers about the tenant.
func answers(w *world) map[string]any {
	all := map[string]any{}
	for _, path := range []string{"/v1/endpoints", "/v1/events", "/v1/deliveries", "/v1/replays"} {
		all[path] = list[any](w, path, url.Values{"tenant_id": {w.tenant}})
	}
	for _, path := range []string{"/v1/tenants/" + w.tenant, "/v1/tenants/" + w.tenant + "/keys", "/v1/usage?tenant_id=" + w.tenant} {
		var answer any
		w.get(path, &answer)
		all[path] = answer
	}
	return all
}
