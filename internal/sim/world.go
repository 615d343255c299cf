// Package sim is a simulated world for tests of the whole path of an event: the real ingest
// handler, engine and SQLite store, a real http.Transport, and destinations that answer as
// they are told. It runs in a testing/synctest bubble, where hours pass in milliseconds.
//
// A World can start processes, freeze and kill them, and go on with the file that a dead one
// left. Judge compares what was acknowledged, what was on the wire and what is stored.
package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// Options change what a world is made of. The zero Options are the product's defaults.
type Options struct {
	Workers int           // 0: 100
	Lease   time.Duration // 0: 10 s
	Memory  int64         // for bodies; 0: 256 MiB
	Grace   time.Duration // for running exchanges at a stop; 0: 20 s
	// Wrap puts something between a process and its store, such as faults; nil: nothing.
	Wrap func(p *Process, s store.Store) store.Store
	// Transport puts something between a process and the network; nil: nothing.
	Transport func(http.RoundTripper) http.RoundTripper
	// Fetch gets what providers publish, such as a signing certificate; nil: nothing is fetched.
	Fetch signature.Fetch
	// Level is from where on the processes' log is shown; 0: warnings.
	Level slog.Level
}

// World is a database file, a network, and the processes that work with them. Its methods
// are for the bubble's own goroutine and end the test when what must work does not.
type World struct {
	testing.TB
	Options
	Net    *Network
	Vault  *secret.Vault
	Ring   *secret.Keyring
	Tenant kapsel.Tenant
	path   string
	db     *sqlite.Store
	starts int

	mu    sync.Mutex // guards what follows
	acked []Acked
	other map[int]int // answers other than 200
}

// Acked is what ingest has answered with 200.
type Acked struct {
	Event     kapsel.EventID
	Endpoint  kapsel.EndpointID
	Duplicate bool
	At        time.Time
}

// New makes a world with one tenant and no process. It must be called in a bubble.
func New(t testing.TB, o Options) *World {
	t.Helper()
	if o.Workers == 0 {
		o.Workers = 100
	}
	if o.Lease == 0 {
		o.Lease = 10 * time.Second
	}
	if o.Memory == 0 {
		o.Memory = 256 << 20
	}
	if o.Level == 0 {
		o.Level = slog.LevelWarn
	}
	if o.Grace == 0 {
		o.Grace = 20 * time.Second
	}
	w := &World{TB: t, Options: o, Net: NewNetwork(), path: filepath.Join(t.TempDir(), "kapsel.db"), other: map[int]int{}}
	ring, err := secret.NewKeyring(make([]byte, secret.KeySize))
	w.must(err)
	w.Ring, w.Vault = ring, secret.NewVault(ring)
	w.open()
	w.Tenant = w.NewTenant("acme", nil)
	t.Cleanup(func() {
		w.db.Close()
		w.Net.conns.Wait() // the processes have hung up
	})
	return w
}

func (w *World) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *World) open() {
	w.Helper()
	db, err := sqlite.Open(context.Background(), w.path, sqlite.Options{Migrate: true, Log: w.log("store", w.Level)})
	w.must(err)
	w.db = db
}

// Store is the store itself, without what Options.Wrap adds.
func (w *World) Store() store.Store { return w.db }

func (w *World) log(name string, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w.Output(), &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				a.Value = slog.StringValue(a.Value.Time().UTC().Format("02T15:04:05.000"))
			}
			return a
		},
	})).With("process", name)
}

// NewTenant makes a tenant.
func (w *World) NewTenant(name string, change func(*kapsel.Tenant)) kapsel.Tenant {
	w.Helper()
	now := time.Now()
	t := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: name, Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	key, err := w.Ring.NewDataKey(t.ID)
	w.must(err)
	t.DataKey = key
	if change != nil {
		change(&t)
	}
	w.must(w.db.CreateTenant(context.Background(), t))
	return t
}

// NewEndpoint makes an endpoint of the world's tenant that leads to a destination, with the
// default policy and no signature, but for what change says. Processes learn of it by asking.
func (w *World) NewEndpoint(d *Destination, change func(*kapsel.Endpoint)) *kapsel.Endpoint {
	w.Helper()
	now := time.Now()
	ep := &kapsel.Endpoint{
		ID: kapsel.NewEndpointID(now), TenantID: w.Tenant.ID, State: kapsel.EndpointActive,
		CreatedAt: now, UpdatedAt: now, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint(),
	}
	ep.Part = kapsel.PartOf(ep.ID)
	ep.Name, ep.URL = d.Host, d.URL()
	ep.Idempotency.Strategy = kapsel.KeyFromHeader
	ep.Signing.Enabled = false
	if change != nil {
		change(ep)
	}
	w.must(w.db.CreateEndpoint(context.Background(), *ep, 0))
	return ep
}

// Pending stores an event behind the back of all processes, as another node would: its
// delivery waits and is due.
func (w *World) Pending(ep *kapsel.Endpoint, body string) kapsel.EventID {
	w.Helper()
	now := time.Now()
	ev := kapsel.Event{
		ID: kapsel.NewEventID(now, ep.Part), TenantID: ep.TenantID, EndpointID: ep.ID, ReceivedAt: now,
		ContentType: "text/plain", Body: []byte(body), Size: len(body), Signature: kapsel.SignatureVerdict{Scheme: "none"},
	}
	d := kapsel.Delivery{
		ID: kapsel.NewDeliveryID(now, ep.Part), EventID: ev.ID, EndpointID: ep.ID, TenantID: ep.TenantID,
		Status: kapsel.Pending, DueAt: now, Size: ev.Size, CreatedAt: now,
	}
	_, err := w.db.Accept(context.Background(), store.Acceptance{Event: ev, Deliveries: []kapsel.Delivery{d}, Window: time.Hour})
	w.must(err)
	return ev.ID
}

// Patch changes an endpoint, as a management call does.
func (w *World) Patch(ep *kapsel.Endpoint, change func(*kapsel.Endpoint)) {
	w.Helper()
	_, err := w.db.UpdateEndpoint(context.Background(), kapsel.TenantID{}, ep.ID, func(e *kapsel.Endpoint) error {
		change(e)
		return nil
	})
	w.must(err)
}

// Delete deletes an endpoint, as a management call does.
func (w *World) Delete(ep *kapsel.Endpoint) {
	w.Helper()
	w.must(w.db.DeleteEndpoint(context.Background(), kapsel.TenantID{}, ep.ID, time.Now()))
}

// Endpoint is an endpoint as stored.
func (w *World) Endpoint(ep *kapsel.Endpoint) kapsel.Endpoint {
	w.Helper()
	got, err := w.db.Endpoint(context.Background(), kapsel.TenantID{}, ep.ID)
	w.must(err)
	return got
}

// Seal makes a secret of the world's tenant for an endpoint.
func (w *World) Seal(ep *kapsel.Endpoint, plain string) kapsel.Secret {
	w.Helper()
	s, err := w.Vault.Seal(&w.Tenant, ep.ID.String(), []byte(plain), time.Now())
	w.must(err)
	return s
}

// Process is one running Kapsel.
type Process struct {
	*World
	Name     string
	Engine   *delivery.Engine
	Ingest   *ingest.Handler
	Settings *store.Cache
	Clock    *store.Clock
	Budget   *budget.Budget
	Uplink   *Uplink
	// Dead is closed when the process is killed.
	Dead   chan struct{}
	level  slog.LevelVar
	stop   context.CancelFunc // of the engine
	end    context.CancelFunc // of the rest
	engine sync.WaitGroup
	rest   sync.WaitGroup
	gone   bool
}

// Start starts a process on the world's file. A second one beside the first counts, to the
// store, as its successor: the first is declared dead.
func (w *World) Start() *Process {
	w.Helper()
	p, err := w.TryStart()
	w.must(err)
	return p
}

// TryStart is Start, for worlds whose store may fail.
func (w *World) TryStart() (*Process, error) {
	w.starts++
	p := &Process{World: w, Name: fmt.Sprint("p", w.starts), Budget: budget.New(w.Memory), Dead: make(chan struct{})}
	var db store.Store = w.db
	if w.Wrap != nil {
		db = w.Wrap(p, db)
	}
	ctx := context.Background()
	var err error
	if p.Clock, err = store.NewClock(ctx, db); err != nil {
		return nil, err
	}
	p.Settings = store.NewCache(db)
	replanner := store.NewReplanner(db, p.Clock, kapsel.NewNodeID(p.Clock.Now()), w.log(p.Name, &p.level))
	p.Settings.OnChange(replanner.Changed)
	p.Uplink = w.Net.Uplink(p.Name)
	var out http.RoundTripper = p.Uplink
	if w.Transport != nil {
		out = w.Transport(out)
	}
	p.level.Set(w.Level)
	log := w.log(p.Name, &p.level)
	p.Engine = delivery.New(delivery.Config{
		Store: db, Settings: p.Settings, Clock: p.Clock, Vault: w.Vault, Transport: out, Budget: p.Budget,
		Workers: w.Workers, Lease: w.Lease, Version: "1.2.3", Log: log,
	})
	if err := p.Settings.Load(ctx); err != nil {
		return nil, err
	}
	if err := p.Engine.Join(ctx); err != nil {
		return nil, err
	}
	var remote *signature.Remote
	if w.Fetch != nil {
		remote = signature.NewRemote(w.Fetch)
	}
	p.Ingest = ingest.New(ingest.Config{
		Store: db, Counters: db, Settings: p.Settings, Clock: p.Clock, Engine: p.Engine, Vault: w.Vault, Budget: p.Budget,
		Remote: remote, PublicURL: "http://kapsel.example", Capacity: 10000, Log: log,
	})
	run, stop := context.WithCancel(ctx)
	rest, end := context.WithCancel(ctx)
	p.stop, p.end = stop, end
	p.engine.Go(func() { p.Engine.Run(run, w.Grace) })
	p.rest.Go(func() { p.Settings.Run(rest, log) })
	p.rest.Go(func() { p.Clock.Run(rest) })
	p.rest.Go(func() { replanner.Run(rest) })
	w.Cleanup(p.Stop)
	return p, nil
}

// Stop stops the process as SIGTERM does, but for the drain delay, and waits for its end.
func (p *Process) Stop() {
	if p.gone {
		return
	}
	p.gone = true
	p.stop()
	p.Ingest.Stop()
	p.engine.Wait()
	p.end()
	p.rest.Wait()
	p.Uplink.Cut()
}

// Kill ends the process at once, as SIGKILL does: nothing it has begun goes on, nothing is
// closed. The world goes on with a copy of the file as it is at this moment. Calls of the
// store that Options.Wrap holds back are lost.
func (p *Process) Kill() {
	p.Helper()
	w := p.World
	p.gone = true
	synctest.Wait() // no write is under way when all goroutines wait
	next := filepath.Join(w.TempDir(), "kapsel.db")
	for _, suffix := range []string{"", "-wal"} {
		w.must(copyFile(next+suffix, w.path+suffix))
	}
	p.level.Set(slog.LevelError + 1)
	p.Uplink.Cut()
	old := w.db
	w.path = next
	w.open()
	// What is left of it works on the old file and ends by itself, seen by nobody.
	close(p.Dead)
	p.stop()
	p.end()
	w.Cleanup(func() {
		p.engine.Wait()
		p.rest.Wait()
		old.Close()
	})
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// Reopen closes the store when all processes have stopped, and opens it again.
func (w *World) Reopen() {
	w.Helper()
	w.must(w.db.Close())
	w.open()
}

// Post sends a webhook to the process and is what came back. Acknowledged events are remembered.
func (p *Process) Post(ep *kapsel.Endpoint, body string, header ...string) (status int, id kapsel.EventID) {
	r := httptest.NewRequest(http.MethodPost, ingest.Path+ep.ID.String(), strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	p.Ingest.ServeHTTP(rec, r)
	id, _ = kapsel.ParseEventID(rec.Header().Get("X-Kapsel-Event-Id"))
	w := p.World
	w.mu.Lock()
	defer w.mu.Unlock()
	if rec.Code == http.StatusOK {
		w.acked = append(w.acked, Acked{Event: id, Endpoint: ep.ID, Duplicate: rec.Header().Get("Idempotent-Replayed") != "", At: time.Now()})
	} else {
		w.other[rec.Code]++
	}
	return rec.Code, id
}

// Event is Post for what must be accepted.
func (p *Process) Event(ep *kapsel.Endpoint, body string, header ...string) kapsel.EventID {
	p.Helper()
	status, id := p.Post(ep, body, header...)
	if status != http.StatusOK {
		p.Fatalf("the event was answered %d, want 200", status)
	}
	return id
}
