//go:build history

package e2e

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// oldRelease is the last commit whose program knows one endpoint an event: no sources, subscriptions,
// apps and published events. Its program cannot read a database of now.
const oldRelease = "267fd388e627971a6615f54eee9c645aa10de962"

// oldProgram builds the program of oldRelease from the repository's history.
func oldProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run := func(in []byte, name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stdin, cmd.Env = dir, bytes.NewReader(in), append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				out = failed.Stderr
			}
			t.Fatalf("%s %s, which needs the whole history (git fetch --unshallow): %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return out
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(here, "..", "..")
	run(run(nil, "git", "-C", root, "archive", oldRelease), "tar", "-x")
	bin := filepath.Join(dir, "kapsel-old")
	run(nil, "go", "build", "-o", bin, "./cmd/kapsel")
	return bin
}

// TestUpgrade_OldNodeBeside checks that a node of an older release that still runs beside a node of now
// loses nothing, also if it is killed; that what only nodes of now understand is refused until the old
// node is gone; and that the old program does not start on the database any more.
func TestUpgrade_OldNodeBeside(t *testing.T) {
	w := newWorldOf(t, oldProgram(t), pgtest.New(t))
	w.sink.Record(true)
	w.sink.Script(flaky)
	before, both, origin := w.endpoint("before", gentle), w.endpoint("both", gentle), w.endpoint("origin", gentle)
	atOld := w.send(8, before, 20*time.Millisecond)
	atOld.load()

	w.bin = program(t)
	w.node() // migrates the database under the old node
	old, node := w.nodes[0], w.nodes[1]
	w.nodes[0], w.nodes[1] = node, old
	atOld.load()
	atOld.end()
	atBoth := w.send(8, both, 20*time.Millisecond)
	atBoth.load()

	source := func() error {
		return node.API(w.ctx, http.MethodPost, "/v1/sources?tenant_id="+w.tenant, map[string]any{"name": "source"}, nil)
	}
	subscription := func() error {
		_, err := node.CreateEndpoint(w.ctx, w.tenant, map[string]any{
			"name": "subscriber", "url": w.sink.URL(99), "subscriptions": []any{map[string]any{"source": origin.ID}},
		})
		return err
	}
	for name, make := range map[string]func() error{"a source": source, "a subscription": subscription} {
		var refused *harness.APIError
		if err := make(); !errors.As(err, &refused) || refused.Code != string(kapsel.Conflict) {
			t.Errorf("beside a node of an older release %s is made: %v", name, err)
		}
	}
	atBoth.load()
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a subscription is made once the old node's lease is over", patience, func() bool { return subscription() == nil })
	if err := source(); err != nil {
		t.Error(err)
	}

	started := old.Start(w.ctx)
	var exit *exec.ExitError
	if ended := old.Ended(); started == nil || !errors.As(ended, &exit) || exit.ExitCode() != 2 {
		t.Errorf("the old program starts on the database of now: %v, %v", started, ended)
	}

	atBoth.load()
	atBoth.end()
	w.quiet()
	duplicates := atOld.judge(before)
	duplicates += atBoth.judge(both)
	resp, err := client.Post(node.URL+"/ingest/"+origin.ID, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "the subscriber gets an event", patience, func() bool {
		return slices.ContainsFunc(w.sink.Requests(), func(r harness.SinkRequest) bool { return "http://"+r.To.String()+"/hook" == w.sink.URL(99) })
	})
	t.Logf("%d and %d acknowledged, %d duplicates", atOld.acked(), atBoth.acked(), duplicates)
}
