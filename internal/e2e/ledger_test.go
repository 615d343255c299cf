package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	kapselclient "github.com/kapsel-hq/kapsel/client"
	"github.com/kapsel-hq/kapsel/internal/harness"
	"github.com/kapsel-hq/kapsel/internal/ledger"
	"github.com/kapsel-hq/kapsel/internal/ledger/booker"
	"github.com/kapsel-hq/kapsel/internal/ledger/ledgertest"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
)

// newBooker makes a booker of some books, as a new process of kapsel-ledger would be.
func (w *world) newBooker(books ledger.Books) *booker.Booker {
	w.t.Helper()
	api, err := kapselclient.New(w.nodes[0].URL, w.nodes[0].AdminKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return booker.New(booker.Config{
		API: api, Name: "test", Every: 100 * time.Millisecond, Wait: time.Second, Log: slog.New(slog.DiscardHandler),
		Open: func(context.Context) (ledger.Books, error) { return books, nil },
	})
}

// bookAll books until nothing waits, and compares.
func (w *world) bookAll(books ledger.Books) {
	w.t.Helper()
	b := w.newBooker(books)
	defer b.Close()
	var err error
	eventually(w.t, "everything is booked and compared", patience, func() bool {
		var n int
		if n, err = b.Book(w.ctx, 0); err != nil || n > 0 {
			return false
		}
		if err = b.Compare(w.ctx); err != nil && !errors.Is(err, booker.ErrBehind) {
			w.t.Log(err)
		}
		return err == nil
	})
}

type ledgerTotals struct {
	Made       int64  `json:"made"`
	InFlight   *int64 `json:"in_flight"`
	Delivered  *int64 `json:"delivered"`
	Canceled   *int64 `json:"canceled"`
	Failed     *int64 `json:"failed"`
	DeadLetter *int64 `json:"dead_letter"`
}

type ledgerPage struct {
	Data []struct {
		EndpointID *string       `json:"endpoint_id"`
		Store      ledgerTotals  `json:"store"`
		Books      *ledgerTotals `json:"books"`
		Difference *ledgerTotals `json:"difference"`
	} `json:"data"`
	Complete bool `json:"complete"`
}

// balanced ends the test unless the books were compared and agree with the store, and with the number of
// deliveries that there are.
func (w *world) balanced(deliveries int) {
	w.t.Helper()
	var p ledgerPage
	eventually(w.t, "all deliveries are told", patience, func() bool { w.get("/v1/ledger", &p); return p.Complete })
	if len(p.Data) < 2 {
		w.t.Fatalf("the ledger has the accounts %+v", p.Data)
	}
	made := int64(0)
	for _, a := range p.Data {
		if a.Books == nil || *a.Difference != (ledgerTotals{}) && !zeros(a.Difference) {
			w.t.Errorf("the account %+v does not balance", a)
			continue
		}
		if a.EndpointID != nil {
			made += a.Books.Made
			if *a.Books.InFlight != 0 {
				w.t.Errorf("the account %+v has something in flight", a)
			}
		}
	}
	if made != int64(deliveries) {
		w.t.Errorf("%d deliveries are in the books, there are %d", made, deliveries)
	}
}

func zeros(t *ledgerTotals) bool {
	zero := func(n *int64) bool { return n == nil || *n == 0 }
	return t.Made == 0 && zero(t.InFlight) && zero(t.Delivered) && zero(t.Canceled) && zero(t.Failed) && zero(t.DeadLetter)
}

type ledgerConflict struct {
	Kind       string `json:"kind"`
	DeliveryID string `json:"delivery_id"`
	Answer     string `json:"answer"`
}

func (w *world) conflicts() map[ledgerConflict]bool {
	w.t.Helper()
	all := map[ledgerConflict]bool{}
	for _, c := range list[ledgerConflict](w, "/v1/ledger/conflicts", url.Values{}) {
		all[c] = true
	}
	return all
}

// TestCrash_Ledger kills the program and the booker while both work, and loses calls to the books before
// and after they are done. In the end the books have every delivery, and agree with the store.
func TestCrash_Ledger(t *testing.T) {
	test := func(t *testing.T, w *world) {
		node := w.nodes[0]
		w.sink.Script(flaky)
		ep := w.endpoint("target", gentle)
		s := w.send(4, ep, 50*time.Millisecond)
		books := ledgertest.NewFake()
		books.Lose(func() (before, after bool) { n := rand.IntN(20); return n == 0, n == 1 })
		for i := range count(3, 20) {
			ctx, kill := context.WithCancel(w.ctx)
			stopped := make(chan struct{})
			go func() { defer close(stopped); w.newBooker(books).Run(ctx) }()
			time.Sleep(time.Second + time.Duration(rand.Int64N(int64(2*time.Second))))
			if i%2 == 0 {
				if err := node.Kill(); err != nil {
					t.Error(err)
				}
				if err := node.Start(w.ctx); err != nil {
					t.Error(err)
				}
			}
			kill()
			<-stopped
		}
		s.end()
		w.quiet()
		replayed := list[delivery](w, "/v1/deliveries", url.Values{})
		for _, d := range replayed[:min(5, len(replayed))] {
			if err := node.API(w.ctx, http.MethodPost, "/v1/events/"+d.EventID+"/replay", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		w.quiet()
		books.Lose(func() (before, after bool) { return false, false })
		w.bookAll(books)
		w.balanced(len(list[delivery](w, "/v1/deliveries", url.Values{})))
		if c := w.conflicts(); len(c) > 0 {
			t.Errorf("there are conflicts: %v", c)
		}
	}
	t.Run("sqlite", func(t *testing.T) { test(t, newWorld(t, "", "KAPSEL_LEDGER=on")) })
	t.Run("postgres", func(t *testing.T) { test(t, newWorld(t, schematest.Postgres(t), "KAPSEL_LEDGER=on")) })
}

// TestLedgerTurnedOnLater checks that what was delivered before the ledger was turned on is booked, too.
func TestLedgerTurnedOnLater(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ep := w.endpoint("target", nil)
		s := w.send(2, ep, time.Millisecond)
		eventually(t, "some events are accepted", patience, func() bool { return s.acked() > 50 })
		s.end()
		node := w.nodes[0]
		var p ledgerPage
		var refused *harness.APIError
		if err := node.API(w.ctx, http.MethodGet, "/v1/ledger", nil, &p); !errors.As(err, &refused) || refused.Code != "E1009" {
			t.Errorf("the ledger is off, and answers %v", err)
		}
		if err := node.Term(); err != nil {
			t.Fatal(err)
		}
		node.Set("KAPSEL_LEDGER=on")
		if err := node.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		later := w.send(2, ep, time.Millisecond)
		eventually(t, "more events are accepted", patience, func() bool { return later.acked() > 20 })
		later.end()
		w.quiet()
		eventually(t, "the walk ends", patience, func() bool { w.get("/v1/ledger", &p); return p.Complete })
		w.bookAll(ledgertest.NewFake())
		all := list[delivery](w, "/v1/deliveries", url.Values{})
		w.balanced(len(all))

		cmd := exec.CommandContext(w.ctx, w.bin, "ledger", "--endpoint", "target")
		cmd.Env = append(os.Environ(), "KAPSEL_URL="+node.URL, "KAPSEL_API_KEY="+node.AdminKey)
		out, err := cmd.CombinedOutput()
		want := regexp.MustCompile(fmt.Sprintf(`(?m)^%s +%d +0 +%[2]d +0 +0 +0 +%[2]d +0 +\S`, ep.ID, len(all)))
		if err != nil || !want.Match(out) {
			t.Errorf("kapsel ledger: %v\n%s", err, out)
		}
	})
}

// TestLedgerTurnedOnNodeByNode turns the ledger on one node after the other, and off and on again on one of
// them, while all accept and deliver: nothing is called complete while a node runs without, and in the end
// everything is booked.
func TestLedgerTurnedOnNodeByNode(t *testing.T) {
	w := newWorld(t, schematest.Postgres(t))
	w.node()
	w.sink.Script(flaky)
	s := w.send(4, w.endpoint("target", gentle), 10*time.Millisecond)
	s.load()
	set := func(i int, value string) {
		t.Helper()
		node := w.nodes[i]
		if err := node.Term(); err != nil {
			t.Fatal(err)
		}
		node.Set("KAPSEL_LEDGER=" + value)
		if err := node.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	incomplete := func(when string) {
		t.Helper()
		for range 5 {
			s.load()
			var p ledgerPage
			if w.get("/v1/ledger", &p); p.Complete {
				t.Fatalf("%s: the ledger says that it is complete", when)
			}
		}
	}
	complete := func(when string) {
		t.Helper()
		var p ledgerPage
		eventually(t, when+": the ledger is complete", patience, func() bool { w.get("/v1/ledger", &p); return p.Complete })
	}
	set(0, "on")
	incomplete("on at one node")
	set(1, "on")
	complete("on at both nodes")
	s.load()
	set(1, "off")
	incomplete("off again at one node")
	set(1, "on")
	s.load()
	s.end()
	w.quiet()
	complete("on again at both nodes")
	w.bookAll(ledgertest.NewFake())
	w.balanced(len(list[delivery](w, "/v1/deliveries", url.Values{})))
	if c := w.conflicts(); len(c) > 0 {
		t.Errorf("there are conflicts: %v", c)
	}
}

// TestLedgerNamesRestoredStore restores a database under the books: what was booked since is named, and a
// delivery that ends another way is a conflict and does not change its first outcome.
func TestLedgerNamesRestoredStore(t *testing.T) {
	w := newWorld(t, "", "KAPSEL_LEDGER=on")
	node, books := w.nodes[0], ledgertest.NewFake()
	w.sink.Script(func(harness.SinkRequest) harness.Answer { return harness.Answer{Status: 500} })
	ep := w.endpoint("target", map[string]any{"retry": map[string]any{"strategy": "fixed", "base": "1h", "max_attempts": 5}})
	post := func() (id string) {
		t.Helper()
		req, err := http.NewRequestWithContext(w.ctx, http.MethodPost, node.URL+"/ingest/"+ep.ID, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		all := list[delivery](w, "/v1/deliveries", url.Values{})
		return all[0].ID // the newest
	}
	kept := post()
	eventually(t, "the first attempt is recorded", patience, func() bool {
		var d delivery
		w.get("/v1/deliveries/"+kept, &d)
		return d.Attempts == 1 && d.Status == "pending"
	})
	w.bookAll(books)
	database := strings.TrimPrefix(node.Env("DATABASE_URL"), "sqlite:")
	if !filepath.IsAbs(database) {
		database = filepath.Join(node.Dir, database)
	}
	if err := node.Term(); err != nil {
		t.Fatal(err)
	}
	backup := map[string][]byte{}
	for _, suffix := range []string{"", "-wal"} {
		if b, err := os.ReadFile(database + suffix); err == nil {
			backup[suffix] = b
		}
	}
	if err := node.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.sink.Script(nil)
	lost := post()
	if err := node.API(w.ctx, http.MethodPost, "/v1/deliveries/"+kept+"/retry", nil, nil); err != nil {
		t.Fatal(err)
	}
	w.quiet()
	w.bookAll(books)
	w.balanced(2)

	if err := node.Term(); err != nil {
		t.Fatal(err)
	}
	heads, err := filepath.Glob(filepath.Join(filepath.Dir(database), "audit-*.heads"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range heads { // which would say that the audit logs went back
		os.Remove(name)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(database + suffix)
		if b, ok := backup[suffix]; ok {
			if err := os.WriteFile(database+suffix, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := node.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.bookAll(books)
	named := w.conflicts()
	for _, want := range []ledgerConflict{{"accepted", lost, "not_in_store"}, {"delivered", lost, "not_in_store"}, {"delivered", kept, "not_in_store"}} {
		if !named[want] {
			t.Errorf("%v is not named: %v", want, named)
		}
	}
	if err := node.API(w.ctx, http.MethodPost, "/v1/deliveries/"+kept+"/cancel", nil, nil); err != nil {
		t.Fatal(err)
	}
	w.bookAll(books)
	if want := (ledgerConflict{"canceled", kept, "exists_with_different_credit_account_id"}); !w.conflicts()[want] {
		t.Errorf("%v is not named: %v", want, w.conflicts())
	}
	var p ledgerPage
	w.get("/v1/ledger?endpoint_id="+ep.ID, &p)
	if d := p.Data[0].Difference; d == nil || d.Made != 1 || *d.Delivered != 2 || *d.Canceled != -1 {
		t.Errorf("the difference is %+v", p.Data[0])
	}
}
