// Package sim is a simulated world for tests of the whole path of an event: the real ingest
// handler, engine and SQLite store, the real transport, and destinations that follow a script. It
// runs in a testing/synctest bubble, where hours pass in milliseconds.
//
// A World can start, freeze and kill processes, and continue with the database file that a killed
// one left. Judge compares the acknowledged events, the requests on the wire and the stored rows.
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
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// Options configures a world. The zero Options are the product's defaults.
type Options struct {
	Workers int           // 0: 100
	Lease   time.Duration // 0: 10 s
	Memory  int64         // budget for bodies, in bytes; 0: 256 MiB
	Grace   time.Duration // time for running exchanges when a process stops; 0: 20 s
	// Wrap wraps a process's store, for example to inject faults; nil: no wrapping.
	Wrap func(p *Process, s store.Store) store.Store
	// Transport wraps a process's transport; nil: no wrapping.
	Transport func(http.RoundTripper) http.RoundTripper
	// Fetch returns documents that providers publish, such as signing certificates; nil: fetching
	// fails.
	Fetch signature.Fetch
	// Level is the least level of log lines that are shown; 0: warnings.
	Level slog.Level
}

// World is a database file, a network, and the processes that use them. Its methods must be called
// in the bubble by the test's goroutine. They end the test on unexpected errors.
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
	other map[int]int // number of answers other than 200, by status
}

// Acked is an event that ingest answered with 200.
type Acked struct {
	Event     kapsel.EventID
	Endpoint  kapsel.EndpointID
	Duplicate bool
	At        time.Time
}

// New returns a world with one tenant and no processes. It must be called in a bubble.
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
	w := &World{TB: t, Options: o, Net: NewNetwork(), path: schematest.SQLite(t), other: map[int]int{}}
	ring, err := secret.NewKeyring(make([]byte, secret.KeySize))
	w.must(err)
	w.Ring, w.Vault = ring, secret.NewVault(ring)
	w.open()
	w.Tenant = w.NewTenant("acme", nil)
	t.Cleanup(func() {
		w.db.Close()
		w.Net.conns.Wait() // all processes have closed their connections
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
	db, err := sqlite.Open(context.Background(), w.path, sqlite.Options{Log: w.log("store", w.Level)})
	w.must(err)
	w.db = db
}

// Store returns the store, not wrapped by Options.Wrap.
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

// NewTenant creates a tenant. change, unless nil, changes it before.
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

// NewEndpoint creates an endpoint of the world's tenant for a destination, with the default
// policies and without signing. change, unless nil, changes it before. Processes find it in the
// store.
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

// Pending stores an event with a delivery that is due, unnoticed by all processes, as another node
// would.
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

// Patch changes an endpoint, as the management API does.
func (w *World) Patch(ep *kapsel.Endpoint, change func(*kapsel.Endpoint)) {
	w.Helper()
	_, err := w.db.UpdateEndpoint(context.Background(), kapsel.TenantID{}, ep.ID, func(e *kapsel.Endpoint) error {
		change(e)
		return nil
	})
	w.must(err)
}

// Delete deletes an endpoint, as the management API does.
func (w *World) Delete(ep *kapsel.Endpoint) {
	w.Helper()
	w.must(w.db.DeleteEndpoint(context.Background(), kapsel.TenantID{}, ep.ID, time.Now()))
}

// Endpoint returns an endpoint as stored.
func (w *World) Endpoint(ep *kapsel.Endpoint) kapsel.Endpoint {
	w.Helper()
	got, err := w.db.Endpoint(context.Background(), kapsel.TenantID{}, ep.ID)
	w.must(err)
	return got
}

// Seal returns a secret of the world's tenant, sealed for an endpoint.
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
	Settings *settings.Cache
	Clock    *clock.Clock
	Budget   *budget.Budget
	Uplink   *Uplink
	// Dead is closed when the process has ended, killed or stopped.
	Dead   chan struct{}
	level  slog.LevelVar
	stop   context.CancelFunc // stops the engine
	end    context.CancelFunc // ends everything else
	engine sync.WaitGroup
	rest   sync.WaitGroup
	gone   bool
}

// Start starts a process on the world's file. If another process runs already, the store takes the
// new one for its successor and declares the first one dead.
func (w *World) Start() *Process {
	w.Helper()
	p, err := w.TryStart()
	w.must(err)
	return p
}

// TryStart is Start for worlds whose store may fail.
func (w *World) TryStart() (*Process, error) {
	w.starts++
	p := &Process{World: w, Name: fmt.Sprint("p", w.starts), Budget: budget.New(w.Memory), Dead: make(chan struct{})}
	var db store.Store = w.db
	if w.Wrap != nil {
		db = w.Wrap(p, db)
	}
	ctx := context.Background()
	var err error
	if p.Clock, err = clock.New(ctx, db); err != nil {
		return nil, err
	}
	p.Settings = settings.NewCache(db)
	replanner := upkeep.NewReplanner(db, p.Clock, kapsel.NewNodeID(p.Clock.Now()), w.log(p.Name, &p.level))
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
	expander := upkeep.NewExpander(db, p.Clock, kapsel.NewNodeID(p.Clock.Now()), log, p.Engine.DueAnywhere)
	p.Ingest = ingest.New(ingest.Config{
		Opened: expander.Opened,
		Store:  db, Counters: db, Settings: p.Settings, Clock: p.Clock, Engine: p.Engine, Vault: w.Vault, Budget: p.Budget,
		Remote: remote, PublicURL: "http://kapsel.example", Capacity: 10000, Log: log,
	})
	run, stop := context.WithCancel(ctx)
	rest, end := context.WithCancel(ctx)
	p.stop, p.end = stop, end
	p.engine.Go(func() { p.Engine.Run(run, w.Grace) })
	p.rest.Go(func() { p.Settings.Run(rest, log) })
	p.rest.Go(func() { p.Clock.Run(rest) })
	p.rest.Go(func() { replanner.Run(rest) })
	p.rest.Go(func() { expander.Run(rest) })
	w.Cleanup(p.Stop)
	return p, nil
}

// Stop stops the process as SIGTERM does, without the drain delay, and waits until it has ended. Calls
// that Options.Wrap still holds back then are lost.
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
	close(p.Dead)
	p.Uplink.Cut()
}

// Kill ends the process at once, as SIGKILL does: nothing that it has begun continues, and nothing
// is closed. The world continues with a copy of the file as it is at that moment. Calls that
// Options.Wrap holds back are lost.
func (p *Process) Kill() {
	p.Helper()
	w := p.World
	p.gone = true
	synctest.Wait() // no write is under way when all goroutines wait
	dir, err := os.MkdirTemp(filepath.Dir(w.path), "after-kill-*")
	w.must(err)
	next := filepath.Join(dir, "kapsel.db")
	for _, suffix := range []string{"", "-wal"} {
		w.must(copyFile(next+suffix, w.path+suffix))
	}
	p.level.Set(slog.LevelError + 1)
	p.Uplink.Cut()
	old := w.db
	w.path = next
	w.open()
	// The rest of the process uses the old file, and ends unobserved.
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

// Reopen closes the store and opens it again. All processes must have stopped.
func (w *World) Reopen() {
	w.Helper()
	w.must(w.db.Close())
	w.open()
}

// Post sends a webhook to the process and returns the answer's status and event ID. It records
// acknowledged events for Acked.
func (p *Process) Post(ep *kapsel.Endpoint, body string, header ...string) (status int, id kapsel.EventID) {
	r := httptest.NewRequest(http.MethodPost, kapsel.IngestPath+ep.ID.String(), strings.NewReader(body))
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

// Publish publishes an event of the world's tenant, which must be stored, and returns its ID.
func (p *Process) Publish(event kapsel.Publication) kapsel.EventID {
	p.Helper()
	event.ContentType = "text/plain"
	r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader("{}"))
	all, err := p.Ingest.Publish(httptest.NewRecorder(), r, p.Tenant.ID, func([]byte, func(int) error) ([]kapsel.Publication, error) {
		return []kapsel.Publication{event}, nil
	})
	if err == nil {
		err = all[0].Err
	}
	p.must(err)
	return all[0].Event.ID
}

// Event is Post for webhooks that must be accepted; otherwise it ends the test.
func (p *Process) Event(ep *kapsel.Endpoint, body string, header ...string) kapsel.EventID {
	p.Helper()
	status, id := p.Post(ep, body, header...)
	if status != http.StatusOK {
		p.Fatalf("the event was answered %d, want 200", status)
	}
	return id
}
