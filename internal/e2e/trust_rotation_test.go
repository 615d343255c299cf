package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/harness"
)

// TestTrust_FG8_S6_RotationUnderLoad checks that whatever arrives verifies with keys that are
// good when it is sent, although an endpoint's secret is rotated 20 times under load. The keys
// are those of the latest rotation, whose answer the sender may already have, or those that
// the overlap keeps. With PostgreSQL the encryption key is rotated meanwhile, too.
func TestTrust_FG8_S6_RotationUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		old := node.Env("KAPSEL_ENCRYPTION_KEY")
		fresh := base64.StdEncoding.EncodeToString([]byte("a key of this test, 32 bytes....")[:32])
		both := append(slices.Clone(w.env), "KAPSEL_ENCRYPTION_KEY="+fresh+","+old, "KAPSEL_ADMIN_KEY="+node.AdminKey)
		if !w.sqlite { // nodes know both keys before one of them becomes the database's
			if err := node.Term(); err != nil {
				t.Fatal(err)
			}
			<-node.Done()
			w.env, w.nodes = both, nil
			node = w.node()
		}
		var ep struct {
			harness.Endpoint
			Secret string `json:"signing_secret"`
		}
		api := func(method, path string, in, out any) {
			t.Helper()
			if err := node.API(w.ctx, method, path, in, out); err != nil {
				t.Fatal(err)
			}
		}
		api("POST", "/v1/endpoints?tenant_id="+w.tenant, map[string]any{
			"name": "e", "url": w.sink.URL(1), "signing": map[string]any{"v1a": true}, "retry": fastRetry,
		}, &ep)
		public := func() string {
			t.Helper()
			var p page[struct {
				PublicKey string `json:"public_key"`
			}]
			api("GET", "/v1/signing-keys?endpoint_id="+ep.ID, nil, &p)
			return p.Data[0].PublicKey
		}

		type pair struct{ hmac, ed25519 string }
		keys := []pair{{ep.Secret, public()}} // by how many rotations had been answered
		var answered atomic.Int64
		type arrival struct {
			r    harness.SinkRequest
			most int64 // rotations answered when it arrived
		}
		var mu sync.Mutex
		var arrivals []arrival
		w.sink.Watch(func(m harness.Moment, r harness.SinkRequest) {
			if m == harness.BodyRead {
				mu.Lock()
				defer mu.Unlock()
				arrivals = append(arrivals, arrival{r, answered.Load()})
			}
		})
		ctx, stop := context.WithCancel(w.ctx)
		defer stop()
		var senders sync.WaitGroup
		var acked atomic.Int64
		for range 8 {
			senders.Go(func() {
				for ctx.Err() == nil {
					least := answered.Load()
					status, code, _ := post(t, node.URL+"/ingest/"+ep.ID, nil, strings.NewReader(fmt.Sprintf(`{"after":%d}`, least)))
					if status != 200 {
						t.Errorf("ingest answered %d %s", status, code)
						return
					}
					acked.Add(1)
				}
			})
		}
		rewrapped := make(chan error, 1)
		for i := range 20 {
			for before := acked.Load(); acked.Load() < before+10 && !t.Failed(); { // much is under way at each rotation
				time.Sleep(time.Millisecond)
			}
			var rotated struct {
				Secret string `json:"signing_secret"`
			}
			api("POST", "/v1/endpoints/"+ep.ID+"/secrets/rotate", map[string]string{"overlap": "1h"}, &rotated)
			answered.Store(int64(i + 1)) // from here on nothing is signed without it
			keys = append(keys, pair{rotated.Secret, public()})
			if i != 10 {
				continue
			}
			go func() {
				if w.sqlite { // one process has the file
					rewrapped <- nil
					return
				}
				cmd := exec.Command(program(t), "rotate-key")
				cmd.Env = append(os.Environ(), both...)
				out, err := cmd.CombinedOutput()
				if err != nil {
					err = fmt.Errorf("rotate-key: %w: %s", err, out)
				}
				rewrapped <- err
			}()
		}
		if err := <-rewrapped; err != nil {
			t.Error(err)
		}
		stop()
		senders.Wait()
		w.quiet()
		mu.Lock()
		defer mu.Unlock()
		events, wrong := map[string]int{}, 0
		for _, a := range arrivals {
			events[a.r.EventID]++
			var body struct{ After int64 }
			if err := json.Unmarshal(a.r.Body, &body); err != nil {
				t.Fatal(err)
			}
			// It was signed after the answer that its sender knew of, and before the next that
			// had not come when it arrived: one of these pairs was the newest.
			if !slices.ContainsFunc(keys[body.After:min(int64(len(keys)), a.most+2)], func(k pair) bool {
				return signed(a.r, k.hmac) == nil && signed(a.r, k.ed25519) == nil
			}) {
				if wrong++; wrong < 5 {
					t.Errorf("a delivery of after %d to %d rotations verifies with no pair of that time: %q", body.After, a.most, a.r.Get("webhook-signature"))
				}
			}
		}
		if len(events) != int(acked.Load()) || len(arrivals) != len(events) || wrong != 0 {
			t.Errorf("%d acknowledged, %d delivered in %d requests, %d of them do not verify", acked.Load(), len(events), len(arrivals), wrong)
		}
		t.Logf("%d deliveries over %d rotations", len(arrivals), len(keys)-1)

	})
}
