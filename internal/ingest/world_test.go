package ingest_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/schematest"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
	"github.com/kapsel-hq/kapsel/internal/store/storetest"
)

// bodyMemory is the budget of a world.
const bodyMemory = 64 << 20

// world is the handler behind a real HTTP server on loopback, with a real store and a real
// engine, whose exchanges end in wire. Requests are written to the socket byte by byte.
type world struct {
	t        *testing.T
	db       store.Store // without faults
	vault    *secret.Vault
	ring     *secret.Keyring
	handler  *ingest.Handler
	settings *settings.Cache
	budget   *budget.Budget
	wire     *wire
	tenant   kapsel.Tenant
	addr     string
	plan     atomic.Pointer[func(method string) storetest.Fault]

	mu     sync.Mutex      // guards what follows
	atWork int             // requests that the handler is at
	idle   *sync.Cond      // atWork is 0
	latest context.Context // of the request that came last
	log    bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, budget: budget.New(bodyMemory), wire: &wire{sent: make(chan *http.Request, 1000)}}
	w.idle = sync.NewCond(&w.mu)
	db, err := sqlite.Open(ctx, schematest.SQLite(t), sqlite.Options{})
	w.must(err)
	t.Cleanup(func() { db.Close() })
	w.db = db
	w.ring, err = secret.NewKeyring(secret.NewKey())
	w.must(err)
	w.vault = secret.NewVault(w.ring)
	faulty := storetest.Faulty(db, func(method string) storetest.Fault {
		if plan := w.plan.Load(); plan != nil {
			return (*plan)(method)
		}
		return storetest.NoFault
	})
	clock, err := clock.New(ctx, db)
	w.must(err)
	w.settings = settings.NewCache(faulty)
	log := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	engine := delivery.New(delivery.Config{
		Store: faulty, Settings: w.settings, Clock: clock, Vault: w.vault, Transport: w.wire, Budget: w.budget,
		Workers: 10, Lease: 10 * time.Second, Version: "1.2.3", Log: log,
	})
	w.must(engine.Join(ctx))
	w.handler = ingest.New(ingest.Config{
		Store: faulty, Counters: faulty, Settings: w.settings, Clock: clock, Engine: engine, Vault: w.vault, Budget: w.budget,
		PublicURL: "https://in.example", Capacity: 1000, Log: log, Endpoints: faulty, Sources: faulty,
		Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")},
	})
	run, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { engine.Run(run, time.Second) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	w.tenant = w.newTenant(kapsel.Limits{})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.addr = l.Addr().String()
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			w.latest = r.Context()
			w.mu.Unlock()
			w.count(1)
			defer w.count(-1)
			w.handler.ServeHTTP(rw, r)
		}),
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	running.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		w.atRest()
		if t.Failed() {
			log := w.logged()
			t.Logf("end of the log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return w
}

// run runs a subtest that the world's failures count for.
func (w *world) run(name string, test func(t *testing.T)) {
	outer := w.t
	defer func() { w.t = outer }()
	outer.Run(name, func(t *testing.T) {
		w.t = t
		test(t)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.atWork += n; w.atWork == 0 {
		w.idle.Broadcast()
	}
}

// handled waits until the handler is at no request.
func (w *world) handled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.atWork > 0 {
		w.idle.Wait()
	}
}

// hungUp waits until the server has seen the client of the latest request hang up.
func (w *world) hungUp() {
	w.mu.Lock()
	latest := w.latest
	w.mu.Unlock()
	<-latest.Done()
}

// Write takes a line of the log.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(line)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// fault makes calls of the store go wrong, until healed by nil.
func (w *world) fault(plan func(method string) storetest.Fault) {
	if plan == nil {
		w.plan.Store(nil)
		return
	}
	w.plan.Store(&plan)
}

// failing returns a plan by which every call of some methods fails in one way.
func failing(fault storetest.Fault, methods ...string) func(string) storetest.Fault {
	return func(method string) storetest.Fault {
		for _, m := range methods {
			if m == method {
				return fault
			}
		}
		return storetest.NoFault
	}
}

func (w *world) newTenant(limits kapsel.Limits) kapsel.Tenant {
	w.t.Helper()
	now := time.Now()
	t := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "acme", Plan: kapsel.DefaultPlan, Limits: limits, CreatedAt: now, UpdatedAt: now}
	key, err := w.ring.NewDataKey(t.ID)
	w.must(err)
	t.DataKey = key
	w.must(w.db.CreateTenant(context.Background(), t))
	return t
}

// endpoint makes a paused endpoint, so that what it accepts waits in the store.
func (w *world) endpoint(change func(*kapsel.Endpoint)) *kapsel.Endpoint {
	w.t.Helper()
	now := time.Now()
	ep := &kapsel.Endpoint{
		ID: kapsel.NewEndpointID(now), TenantID: w.tenant.ID, State: kapsel.EndpointPaused,
		CreatedAt: now, UpdatedAt: now, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint(),
	}
	ep.Part = kapsel.PartOf(ep.ID)
	ep.Name, ep.URL = "target", "http://shop.example/hook"
	ep.Signing.Enabled = false
	if change != nil {
		change(ep)
	}
	w.must(w.db.CreateEndpoint(context.Background(), *ep, 0))
	return ep
}

// active makes an endpoint that deliveries go out of.
func active(ep *kapsel.Endpoint) { ep.State = kapsel.EndpointActive }

// signedBy makes a change that has webhooks verified with a secret.
func (w *world) signedBy(provider, plain string) func(*kapsel.Endpoint) {
	return func(ep *kapsel.Endpoint) {
		tenant, err := w.db.Tenant(context.Background(), ep.TenantID)
		w.must(err)
		s, err := w.vault.Seal(&tenant, ep.ID.String(), []byte(plain), time.Now())
		w.must(err)
		ep.Verification = kapsel.Verification{Provider: provider, Secrets: []kapsel.Secret{s}}
	}
}

// keyed makes a change of the idempotency settings.
func keyed(strategy, header, path string) func(*kapsel.Endpoint) {
	return func(ep *kapsel.Endpoint) {
		ep.Idempotency.Strategy, ep.Idempotency.Header, ep.Idempotency.Path = strategy, header, path
	}
}

// sign returns the value of X-Webhook-Signature for a body.
func sign(plain, body string) string {
	mac := hmac.New(sha256.New, []byte(plain))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &problem)
	return problem.Code
}

// event returns the id of the accepted event.
func (a answer) event() kapsel.EventID {
	id, _ := kapsel.ParseEventID(a.header.Get("X-Kapsel-Event-Id"))
	return id
}

func (a answer) String() string { return fmt.Sprintf("%d %s %v", a.status, a.body, a.header) }

// conn is a connection to the server.
type conn struct {
	*net.TCPConn
	w *world
	r *bufio.Reader
}

func (w *world) dial() *conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	w.must(c.SetDeadline(time.Now().Add(5 * time.Minute)))
	return &conn{c.(*net.TCPConn), w, bufio.NewReader(c)}
}

func (c *conn) write(text string) {
	c.w.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.w.t.Fatalf("write the request: %v", err)
	}
}

// read reads an answer to a request of a method, and waits until the handler is done.
func (c *conn) read(method string) (answer, error) {
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(resp.Body)
	c.w.handled()
	// The HTTP server's own answers, before any handler, have no date, but for 417.
	ours := resp.Header.Get("Date") != "" && resp.StatusCode != http.StatusExpectationFailed
	if h := resp.Header; ours && h.Get("X-Content-Type-Options") != "nosniff" || ours && h.Get("Content-Security-Policy") != "sandbox; default-src 'none'" {
		c.w.t.Errorf("a browser may run the answer: %d %v", resp.StatusCode, h)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// raw sends text on a connection of its own, ends the sending, and reads the first answer.
func (w *world) raw(text string) answer {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	c.write(text)
	w.must(c.CloseWrite())
	a, err := c.read(http.MethodPost)
	if err != nil {
		w.t.Fatalf("read the answer to %.200q: %v", text, err)
	}
	return a
}

// request returns the text of a request with a body of known length.
func request(method, target, body string, header ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: in.example\r\n" + lines(header) +
		fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body
}

// chunked returns the text of a request whose body is sent as it is, chunk sizes included.
func chunked(target, chunks string, header ...string) string {
	return "POST " + target + " HTTP/1.1\r\nHost: in.example\r\n" + lines(header) + "Transfer-Encoding: chunked\r\n\r\n" + chunks
}

// chunks cuts a body into chunks of a size.
func chunks(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

func lines(header []string) string {
	var b strings.Builder
	for _, line := range header {
		b.WriteString(line + "\r\n")
	}
	return b.String()
}

func path(ep *kapsel.Endpoint) string { return "/ingest/" + ep.ID.String() }

// post sends a webhook.
func (w *world) post(ep *kapsel.Endpoint, body string, header ...string) answer {
	w.t.Helper()
	return w.raw(request("POST", path(ep), body, header...))
}

// accepted posts a webhook that must be answered 200, and returns the stored event.
func (w *world) accepted(ep *kapsel.Endpoint, body string, header ...string) store.EventRecord {
	w.t.Helper()
	a := w.post(ep, body, header...)
	if a.status != http.StatusOK {
		w.t.Fatalf("answered %v", a)
	}
	return w.event(a.event())
}

// refused posts a webhook that must be answered with a status and a code, and checks that nothing is stored.
func (w *world) refused(status int, code kapsel.Code, ep *kapsel.Endpoint, body string, header ...string) answer {
	w.t.Helper()
	before := w.stored()
	a := w.post(ep, body, header...)
	w.is(a, status, code)
	if after := w.stored(); after != before {
		w.t.Errorf("%d events were stored of what was refused", after-before)
	}
	return a
}

// is checks an answer that is an error, with all that such an answer has.
func (w *world) is(a answer, status int, code kapsel.Code) {
	w.t.Helper()
	if a.status != status || a.code() != string(code) {
		w.t.Errorf("answered %v, want %d %s", a, status, code)
		return
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		w.t.Errorf("the content type of an error is %q", got)
	}
	if after := a.header.Get("Retry-After"); (status == 503 || status == 429) != (after != "") {
		w.t.Errorf("%d with Retry-After %q", status, after)
	}
	if a.header.Get("X-Kapsel-Event-Id") != "" || a.header.Get("Idempotent-Replayed") != "" {
		w.t.Errorf("an error tells of an event: %v", a)
	}
}

// event reads an event that must be there.
func (w *world) event(id kapsel.EventID) store.EventRecord {
	w.t.Helper()
	e, err := w.db.Event(context.Background(), kapsel.TenantID{}, id)
	if err != nil {
		w.t.Fatalf("read event %v: %v", id, err)
	}
	return e
}

// stored returns how many events are stored.
func (w *world) stored() int {
	w.t.Helper()
	w.handled()
	all, _, err := w.db.ListEvents(context.Background(), kapsel.TenantID{}, store.EventFilter{}, store.Page[kapsel.EventID]{Limit: 100_000})
	w.must(err)
	return len(all)
}

// atRest waits until the handler is at no request, and checks that nothing is held then.
func (w *world) atRest() {
	w.t.Helper()
	w.handled()
	if n := w.handler.Waiting(); n != 0 {
		w.t.Errorf("%d requests hold a place, and none is under way", n)
	}
	// A delivery gives its memory back when its outcome is recorded.
	for deadline := time.Now().Add(5 * time.Minute); w.budget.Used() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Errorf("%d bytes of bodies are held, and no request is under way", w.budget.Used())
			return
		}
	}
}

// wire is where exchanges end: every request is answered with the status, 200 if it is 0.
type wire struct {
	sent   chan *http.Request
	status atomic.Int64
}

func (x *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	body := []byte{}
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	seen := r.Clone(context.Background())
	seen.Body = io.NopCloser(bytes.NewReader(body))
	x.sent <- seen
	return &http.Response{StatusCode: cmp.Or(int(x.status.Load()), 200), Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// delivered waits for the next request on the wire.
func (w *world) delivered() *http.Request {
	w.t.Helper()
	select {
	case r := <-w.wire.sent:
		return r
	case <-time.After(5 * time.Minute):
		w.t.Fatal("nothing was delivered")
		return nil
	}
}
