package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// TestCrash_FA9_AuditLog checks that every attempt is exactly one leaf, and that all heads of the audit
// log fit together, however often the process is killed while it makes leaves and signs heads.
func TestCrash_FA9_AuditLog(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(4, ep, 50*time.Millisecond)
		for range count(3, 40) {
			time.Sleep(time.Second + time.Duration(rand.Int64N(int64(4*time.Second)))) // a node leads 6 s after its predecessor at the latest
			if err := node.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := node.Start(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
		s.end()
		w.quiet()
		w.logged()
	})
}

// TestCluster_FA9_FrozenSigner checks that every attempt is exactly one leaf, and that all heads fit together,
// when the node that makes leaves and signs heads is frozen past its lease and thawed while another does.
func TestCluster_FA9_FrozenSigner(t *testing.T) {
	w := newWorld(t, schematest.Postgres(t))
	w.node()
	w.sink.Script(flaky)
	ep := w.endpoint("target", gentle)
	s := w.send(4, ep, 50*time.Millisecond)
	for i := range count(2, 20) {
		node := w.nodes[i%2]
		time.Sleep(time.Second + time.Duration(rand.Int64N(int64(2*time.Second))))
		freeze(t, node)
		time.Sleep(8 * time.Second) // the other leads 6 s after at the latest
		if err := node.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	s.end()
	w.quiet()
	w.logged()
}

// logged waits until all attempts are leaves, and checks the logs by fsck. A killed writer's lease is over
// soon; then the rest of the outbox becomes leaves. On SQLite it stops the node for each fsck.
func (w *world) logged() {
	t, node := w.t, w.nodes[0]
	t.Helper()
	attempts := 0
	for _, d := range list[delivery](w, "/v1/deliveries", url.Values{}) {
		attempts += d.Attempts
	}
	leaves := regexp.MustCompile(`leaves: (\d+),`)
	var out []byte
	eventually(t, fmt.Sprintf("%d attempts are leaves", attempts), within(30*time.Second), func() bool {
		time.Sleep(time.Second)
		if w.sqlite {
			if err := node.Term(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := node.Start(w.ctx); err != nil {
					t.Fatal(err)
				}
			}()
		}
		cmd := exec.CommandContext(w.ctx, w.bin, "fsck")
		cmd.Env = append(os.Environ(), "DATABASE_URL="+node.Env("DATABASE_URL"), "LOG_LEVEL=error")
		var err error
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("fsck: %v\n%s", err, out)
		}
		found := leaves.FindSubmatch(out)
		return found != nil && string(found[1]) == fmt.Sprint(attempts)
	})
	t.Logf("%s", out)
}
