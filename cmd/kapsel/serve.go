package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/api"
	"github.com/kapsel-hq/kapsel/internal/audit"
	"github.com/kapsel-hq/kapsel/internal/budget"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/dashboard"
	"github.com/kapsel-hq/kapsel/internal/delivery"
	"github.com/kapsel-hq/kapsel/internal/egress"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/ingest"
	"github.com/kapsel-hq/kapsel/internal/mail"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/telemetry"
	"github.com/kapsel-hq/kapsel/internal/upkeep"
)

// A stop takes at most stopTime from the signal, whatever does not answer. Exchanges that run at the signal have
// exchangeGrace to end.
const (
	stopTime      = 25 * time.Second
	exchangeGrace = 20 * time.Second
	auditGrace    = time.Second             // to publish the audit log
	closeGrace    = 1500 * time.Millisecond // of a store that does not answer
)

type serveCmd struct{ serveSettings }

// Run serves until ctx ends. It then stops in two steps: first it takes no new work, then it finishes the
// work that it has.
func (c *serveCmd) Run(ctx context.Context, io streams) error {
	if err := c.check(); err != nil {
		return err
	}
	hangups := hangups()
	stackOnQuit(io.err)
	out := c.output(io)
	defer out.end()
	c.useMemory(out.log)
	s, err := c.start(ctx, io, out)
	if err != nil {
		if ctx.Err() != nil { // stopped while it waited for the database
			return nil
		}
		return err
	}
	s.hangups = hangups
	return s.run(ctx)
}

// server holds the parts of a running process that run and close need.
type server struct {
	*serveSettings
	log       *slog.Logger
	console   io.Writer // for what --dev prints
	db        store.Store
	clock     *clock.Clock
	settings  *settings.Cache
	engine    *delivery.Engine
	ingest    *ingest.Handler
	health    *telemetry.Health
	janitor   *upkeep.Janitor
	replayer  *upkeep.Replayer
	expander  *upkeep.Expander
	replanner *upkeep.Replanner
	notifier  *upkeep.Notifier
	audit     *audit.Writer
	witnesses *audit.Witnesses // nil: none
	feed      *feed.Feed
	pages     *dashboard.Dashboard
	public    *http.Server
	metrics   *http.Server
	failed    chan error // receives the error that ended a listener
	trace     func(context.Context) error
	push      func(context.Context) error // exports the last metrics
	ln, mln   net.Listener
	cert      *certificate // nil: plain HTTP
	hangups   <-chan os.Signal
	greeting  func() // what --dev prints once it serves

	adminKeyAt string // where the admin key is, for what --dev prints

	background sync.WaitGroup // goroutines that use the store, without those of requests and the engine
}

// start opens and connects all parts of the process. If it fails, it leaves nothing open.
func (c *serveCmd) start(ctx context.Context, io streams, out *output) (_ *server, err error) {
	s := &server{serveSettings: &c.serveSettings, log: out.log, console: out.console, failed: make(chan error, 2)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	noCoreDumps(s.log)
	if len(c.unknown) > 0 {
		s.log.Warn("variables that begin with KAPSEL_ and are no settings are passed over", "variables", strings.Join(c.unknown, ", "))
	}
	if s.ln, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, unusable("KAPSEL_LISTEN (--listen)", err)
	}
	if c.MetricsListen != "" {
		if s.mln, err = net.Listen("tcp", c.MetricsListen); err != nil {
			return nil, unusable("KAPSEL_METRICS_LISTEN (--metrics-listen)", err)
		}
	}
	if c.TLSCert != "" {
		if s.cert, err = loadCertificate(c.TLSCert, c.TLSKey, s.log); err != nil {
			return nil, unusable("KAPSEL_TLS_CERT (--tls-cert), KAPSEL_TLS_KEY (--tls-key)", err)
		}
	}
	if c.PublicURL == "" {
		scheme := "http://"
		if s.cert != nil {
			scheme = "https://"
		}
		c.PublicURL = scheme + dialable(s.ln.Addr().String())
	}
	// Requests for the health are answered from here on, also while start waits for the database.
	s.health = telemetry.NewHealth(s.log)
	routes := &router{health: s.health}
	s.public = newServer(hardened(routes, strings.HasPrefix(c.PublicURL, "https:")), s.log)
	if s.cert != nil {
		s.public.TLSConfig = s.cert.config()
	}
	go s.serve(s.public, newCappedListener(s.ln, maxConnections, s.proxies))

	s.adminKeyAt = "KAPSEL_ADMIN_KEY"
	if path := c.sqlitePath(); path != "" && c.AdminKey.IsZero() {
		s.adminKeyAt = filepath.Join(filepath.Dir(path), "admin.key")
	}
	commits, wait := store.NewMetrics(), &patience{log: s.log}
	c.ledger = c.Ledger
	if s.db, err = c.open(ctx, commits.Observe, s.log, wait); err != nil {
		return nil, err
	}
	var keyring *secret.Keyring
	var instance kapsel.InstanceID
	err = wait.try(ctx, func() (err error) {
		if err = wholeCopy(ctx, s.db); err != nil {
			return err
		}
		if keyring, err = c.keys(ctx, s.db, io, s.log); err != nil {
			return err
		}
		if instance, err = instanceOf(ctx, s.db); err != nil {
			return err
		}
		if err = s.db.KeepBooks(ctx, c.Ledger == "on"); err != nil {
			return err
		}
		s.clock, err = clock.New(ctx, s.db)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.trace, err = telemetry.StartTracing(ctx, buildVersion()); err != nil {
		return nil, settingError("OTEL_*: %v", err)
	}
	s.settings = settings.NewCache(s.db)
	s.feed = feed.New(s.db, s.clock, s.log)
	s.settings.OnChange(s.feed.Changed)
	keys := settings.NewKeys(s.db)
	s.settings.OnChange(keys.Changed)
	duties := kapsel.NewNodeID(s.clock.Now()) // under which this process holds leases of duties
	s.replanner = upkeep.NewReplanner(s.db, s.clock, duties, s.log)
	s.settings.OnChange(s.replanner.Changed)
	var shown traffic // what --dev prints
	var recorded func(*kapsel.Attempt, *kapsel.Delivery)
	if c.Dev {
		shown.out, shown.settings, recorded = s.console, s.settings, shown.went
		s.settings.OnChange(shown.changed)
		s.log = slog.New(told{s.log.Handler()})
	}
	vault := secret.NewVault(keyring)
	s.settings.OnChange(func(changed store.Settings) {
		for _, id := range changed.Deleted().Tenants {
			vault.Forget(id)
		}
	})
	bodies := budget.New(c.memory.Bodies)
	guard := c.guard(s.addresses())
	s.engine = delivery.New(delivery.Config{
		Store: s.db, Settings: s.settings, Clock: s.clock, Vault: vault, Transport: egress.New(guard),
		Budget: bodies, Workers: c.Workers, Lease: c.NodeLease, Version: buildVersion(), Instance: instance, Log: s.log, Recorded: recorded,
	})
	if err = wait.try(ctx, func() error { return s.settings.Load(ctx) }); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	for _, t := range s.settings.Tenants() { // the check value proves one key; tenants' data keys may need others
		if err = keyring.CanUnwrap(t.DataKey); err != nil {
			return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): tenant %s: %v", t.ID, err)
		}
	}
	if err = wait.try(ctx, func() error { return s.engine.Join(ctx) }); err != nil {
		return nil, fmt.Errorf("join the other nodes: %w", err)
	}
	// Load the changes made before this node joined: their requests did not wait for this node.
	if err = wait.try(ctx, func() error { return s.settings.Load(ctx) }); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	directory := settings.NewObeyed(s.db, s.settings)
	in := ingest.Config{
		Store: s.db, Counters: s.db, Settings: s.settings, Clock: s.clock, Engine: s.engine, Vault: vault, Budget: bodies,
		PublicURL: c.PublicURL, Capacity: c.Capacity, MaxBody: c.maxBody, Proxies: c.proxies, Log: s.log,
		Remote: signature.NewRemote(egress.NewFetcher(guard)), Endpoints: directory, Sources: directory,
	}
	if c.Dev {
		in.Wait = func(ctx context.Context, id kapsel.EventID) string {
			stored(ctx)
			return s.wait(ctx, id)
		}
	}
	s.expander = upkeep.NewExpander(s.db, s.clock, duties, s.log, s.engine.DueAnywhere)
	in.Opened = s.expander.Opened
	s.ingest = ingest.New(in)
	s.janitor = &upkeep.Janitor{
		Store: s.db, Settings: s.settings, Clock: s.clock, Node: duties, Every: time.Minute, Log: s.log,
	}
	s.notifier = &upkeep.Notifier{
		Store: s.db, Settings: s.settings, Clock: s.clock, Node: duties, Every: 15 * time.Second, Log: s.log, Operator: c.notices, Due: s.engine.Due,
	}
	if len(c.mailTo) > 0 {
		private := egress.Config{AllowAllPrivate: true} // the operator names the server, not a tenant
		sender := mail.New(c.smtp, c.NoticesFrom, c.mailTo, egress.NewStream(private), s.log)
		s.notifier.Mail = func(ctx context.Context, to []string, subject, text string) (later []string, err error) {
			if later, err = sender.Send(ctx, to, subject, text); errors.Is(err, mail.ErrLetter) {
				err = fmt.Errorf("%w: %w", upkeep.ErrLetter, err)
			}
			return later, err
		}
	}
	replaying := make(chan struct{}, 1)
	s.replayer = &upkeep.Replayer{
		Store: s.db, Clock: s.clock, Node: duties, Log: s.log, Wake: replaying, Made: s.engine.DueAnywhere,
	}
	s.witnesses = c.askWitnesses(s.db, s.clock.Now, s.settings, s.log)
	if s.audit, err = c.auditWriter(s.db, instance, s.clock.Now, duties, keyring, s.witnesses, s.log); err != nil {
		return nil, err
	}
	if c.AcceptRollback {
		if err = wait.try(ctx, func() error { return s.audit.EndLogs(ctx) }); err != nil {
			return nil, err
		}
	}
	s.health.Add("store", s.db.Ping)
	s.health.Add("audit", s.audit.Refused)
	s.health.Add("clock", s.clockSane)

	var people dashboard.SingleSignOn
	var peopleBy [32]byte
	if provider := c.provider(s.clock.Now, s.log); provider != nil {
		people, peopleBy = provider, provider.Settings()
	}
	callers := access.New(access.Config{
		Keys: keys, AdminKey: c.AdminKey, Sessions: s.db, Portals: s.db, People: peopleBy, Clock: s.clock.Now, Log: s.log,
		Client: func(r *http.Request) netip.Addr { return access.ClientOf(r, c.proxies) },
		SessionsBy: func(by kapsel.Actor, verb string) access.Sessions {
			return s.db.By(store.Author{Actor: by, Verb: verb, At: s.clock.Now(), Show: api.Show})
		},
	})
	wanted := 0
	if s.witnesses != nil {
		wanted = c.Wanted
	}
	manager := manage.New(manage.Config{
		Store: directory, Vault: vault, Keyring: keyring, PublicURL: c.PublicURL, Dev: c.Dev, Ledger: c.Ledger == "on", Clock: s.clock.Now, Feed: s.feed, Show: api.Show,
		Known: s.settings, WitnessesWanted: wanted, Bodies: bodies,
		CheckURL:          func(raw string) error { return egress.CheckURL(raw, guard) },
		CheckVerification: signature.Check, Changed: s.settings.Settle, PortalToken: callers.NewPortalToken,
		WaitsFor: s.engine.Why, RateAllows: s.engine.RateAllows, Due: s.engine.Due, Refused: s.ingest.Refusals, Arrivals: s.ingest.Arrivals,
		Replaying: func() {
			select {
			case replaying <- struct{}{}:
			default:
			}
		},
	})
	management := api.New(api.Config{
		Manage: manager, Guard: callers, Publisher: s.ingest, Rates: s.ingest, Answers: s.db, Tenants: directory, Vault: vault,
		AdminKey: c.AdminKey, PublicURL: c.PublicURL, Clock: s.clock.Now, Version: buildVersion(), Log: s.log,
	})
	s.pages = dashboard.New(dashboard.Config{
		Manage: manager, Guard: callers, People: people, PublicURL: c.PublicURL, Clock: s.clock.Now, Log: s.log, HTTPS: strings.HasPrefix(c.PublicURL, "https:"), Dev: c.Dev, Version: buildVersion(),
	})
	rest := &services{ingest: s.ingest, api: management, dashboard: s.pages}
	if c.Dev {
		rest.inbox, rest.ingest, rest.api = &inbox{}, shown.watch(s.ingest), shown.watchPublished(management)
		shown.began.Store(true)
		if err = s.develop(ctx, vault, keyring); err != nil {
			return nil, fmt.Errorf("make the demo endpoint: %w", err)
		}
	}
	registry := telemetry.NewRegistry()
	registry.MustRegister(commits.Collectors()...)
	registry.MustRegister(s.engine.Collectors()...)
	registry.MustRegister(s.ingest.Collectors()...)
	registry.MustRegister(s.audit.Collectors()...)
	registry.MustRegister(s.witnesses.Collectors()...)
	if own, ok := s.db.(interface{ Collectors() []prometheus.Collector }); ok {
		registry.MustRegister(own.Collectors()...)
	}
	registry.MustRegister(&delivery.Gauges{Store: s.db, Settings: s.settings, Clock: s.clock})
	if s.push, err = telemetry.PushMetrics(ctx, buildVersion(), registry); err != nil {
		return nil, settingError("OTEL_*: %v", err)
	}
	if s.mln != nil {
		s.metrics = newServer(telemetry.Handler(registry), s.log)
		s.metrics.WriteTimeout = 2 * time.Minute // profiles take a while
	}
	routes.rest.Store(rest)
	return s, nil
}

// serve serves a listener until the server is shut down. Another error goes to s.failed.
func (s *server) serve(srv *http.Server, ln net.Listener) {
	run := srv.Serve
	if srv.TLSConfig != nil {
		run = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
	}
	if err := run(ln); !errors.Is(err, http.ErrServerClosed) {
		s.failed <- err
	}
}

// newServer returns an HTTP server with limits on everything that a slow client could prolong.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       ingest.ReadTime(0),
		WriteTimeout:      ingest.ReadTime(0) + ingest.AnswerTime,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 100}, // with TLS
		ErrorLog:          telemetry.LibraryLog(log, slog.LevelDebug),
	}
}

// run serves until ctx ends or a listener fails, then stops.
func (s *server) run(ctx context.Context) error {
	defer s.close()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx)) // ends with the store
	defer stopWork()
	taking, stopTaking := context.WithCancel(work) // ends at the signal
	defer stopTaking()

	auditing, stopAuditing := context.WithCancel(work) // ends when all attempts are recorded
	defer stopAuditing()

	var engine, auditor sync.WaitGroup
	auditor.Go(func() { s.audit.Run(auditing) })
	s.background.Go(func() { s.settings.Run(work, s.log) })
	s.background.Go(func() { s.clock.Run(work) })
	s.background.Go(func() { s.janitor.Run(work) })
	s.background.Go(func() { s.ingest.CountArrivals(work) })
	s.background.Go(func() { s.feed.Run(work) })
	s.background.Go(func() { s.replayer.Run(taking) })
	s.background.Go(func() { s.expander.Run(taking) })
	s.background.Go(func() { s.reload(work) })
	s.background.Go(func() { s.replanner.Run(taking) })
	s.background.Go(func() { s.notifier.Run(taking) })
	s.background.Go(func() { s.witnesses.Run(taking) })
	engine.Go(func() { s.engine.Run(taking, exchangeGrace) })

	if s.metrics != nil {
		go s.serve(s.metrics, s.mln)
	}
	s.health.SetStarted()
	s.log.Info("serving", "version", buildVersion(), "listen", s.ln.Addr().String(), "public_url", s.PublicURL, "egress_allow", s.EgressAllow, "body_memory", s.memory.Bodies)
	if s.greeting != nil {
		s.greeting()
	}

	var err error
	select {
	case <-ctx.Done():
		s.log.Info("stopping: no new exchange starts; ingest goes on for the drain delay", "drain_delay", s.DrainDelay.String())
	case err = <-s.failed:
		s.log.Error("a listener failed; stopping", "error", err)
	}
	// First take no new work: readiness fails at once, and ingest goes on until load balancers have noticed.
	ending, cancelEnding := context.WithTimeout(work, stopTime-closeGrace)
	defer cancelEnding()
	s.health.SetStopping()
	stopTaking()
	if err == nil {
		time.Sleep(s.DrainDelay)
	}
	s.ingest.Stop()
	s.pages.Stop()
	s.feed.Stop() // followers can read what was accepted so far from another node, or later
	// Then finish: exchanges are recorded, requests answered, and the store is closed.
	engine.Wait()
	stopAuditing()
	last, cancelLast := context.WithTimeout(ending, auditGrace)
	defer cancelLast()
	published := make(chan struct{})
	s.background.Go(func() {
		defer close(published)
		auditor.Wait()
		s.audit.Finish(last)
	})
	select {
	case <-published:
	case <-last.Done(): // the store does not answer; the next start publishes the rest
	}
	answers, cancel := context.WithTimeout(ending, 2*time.Second)
	defer cancel()
	if e := s.public.Shutdown(answers); e != nil {
		s.public.Close()
	}
	if s.metrics != nil {
		s.metrics.Close()
	}
	if e := s.push(answers); e != nil {
		s.log.Warn("the last metrics could not be sent", "error", e)
	}
	if e := s.trace(answers); e != nil {
		s.log.Warn("the last traces could not be sent", "error", e)
	}
	s.log.Info("stopped")
	return err
}

// close releases what start opened.
func (s *server) close() {
	if s.public != nil {
		s.public.Close()
	}
	for _, ln := range []net.Listener{s.ln, s.mln} {
		if ln != nil {
			ln.Close()
		}
	}
	if s.db == nil {
		return
	}
	closed := make(chan error, 1)
	go func() {
		s.background.Wait()
		closed <- s.db.Close()
	}()
	select {
	case err := <-closed:
		if err != nil {
			s.log.Error("the store could not be closed cleanly", "error", err)
		}
	case <-time.After(closeGrace): // nothing is lost: no event was acknowledged before its commit
		s.log.Error("the store does not answer; leaving without it")
	}
}

// instanceOf returns the instance's ID, which the database holds. It makes one if there is none.
func instanceOf(ctx context.Context, db store.Directory) (id kapsel.InstanceID, err error) {
	const name = "instance_id"
	value, err := db.Meta(ctx, name)
	if kapsel.CodeOf(err) == kapsel.NotFound {
		made := kapsel.NewInstanceID()
		value, err = db.SetMeta(ctx, name, made[:])
	}
	copy(id[:], value)
	return id, err
}

// keys loads or makes the encryption keys, and the admin key if none is given. If the database remembers an
// encryption key and that key is not among the keys, keys fails, because no other key can open the secrets
// in the database.
func (s *serveSettings) keys(ctx context.Context, db store.Directory, io streams, log *slog.Logger) (*secret.Keyring, error) {
	check, err := db.Meta(ctx, keyCheck)
	if err != nil && kapsel.CodeOf(err) != kapsel.NotFound {
		return nil, err
	}
	text := s.EncryptionKey.Reveal()
	dir := ""
	if path := s.sqlitePath(); path != "" {
		dir = filepath.Dir(path)
	}
	if text == "" {
		file := filepath.Join(dir, "encryption.key")
		if _, err := os.Stat(file); check != nil && errors.Is(err, os.ErrNotExist) {
			return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): the database was made with a key that is missing: restore encryption.key beside it, or set the variable")
		}
		value, _, err := secret.LoadOrCreateKeyFile(file, func() []byte { return encodeKey(secret.NewKey()) })
		if err != nil {
			return nil, unusable("KAPSEL_ENCRYPTION_KEY (--encryption-key)", err)
		}
		text = strings.TrimSpace(string(value))
	}
	keyring, err := newKeyring(text)
	if err != nil {
		return nil, err
	}
	if check == nil {
		if check, err = db.SetMeta(ctx, keyCheck, keyring.Check()); err != nil {
			return nil, err
		}
	}
	if err := keyring.Verify(check); err != nil {
		return nil, settingError("KAPSEL_ENCRYPTION_KEY (--encryption-key): %v", err)
	}
	if s.AdminKey.IsZero() {
		file := filepath.Join(dir, "admin.key")
		value, created, err := secret.LoadOrCreateKeyFile(file, newAdminKey)
		if err != nil {
			return nil, unusable("KAPSEL_ADMIN_KEY (--admin-key)", err)
		}
		s.AdminKey = secret.NewText(strings.TrimSpace(string(value)))
		if err := s.checkKeys(); err != nil {
			return nil, err
		}
		if created && !telemetry.LastWords(io.out, fmt.Sprintf("admin key (shown once, kept in %s): %s\n", file, s.AdminKey.Reveal())) {
			log.Warn("the new admin key could not be printed; it is in its file", "file", file)
		}
	}
	return keyring, nil
}

// guard returns where deliveries may go: to public addresses, to those in KAPSEL_EGRESS_ALLOW and, with --dev,
// to private ones; but never to this process's own listeners, except the inbox of --dev.
func (s *serveSettings) guard(listeners []net.Addr) egress.Config {
	cfg := egress.Config{Allow: s.allow, AllowAllPrivate: s.Dev, Self: egress.Listeners(listeners...), SelfURL: s.PublicURL + kapsel.IngestPath}
	if s.Dev {
		cfg.SelfPath = inboxPath
	}
	return cfg
}

// clockSane fails if this machine's clock and the store's time differ by more than clock.MaxSkew.
func (s *server) clockSane(context.Context) error {
	if skew := s.clock.Skew(); skew > clock.MaxSkew || skew < -clock.MaxSkew {
		return kapsel.Errorf(kapsel.DatabaseUnavailable, "the machine's clock and the store's time differ by %v", skew.Round(time.Second))
	}
	return nil
}

// addresses returns the addresses of this process's listeners, which deliveries may not reach.
func (s *server) addresses() (own []net.Addr) {
	for _, ln := range []net.Listener{s.ln, s.mln} {
		if ln != nil {
			own = append(own, ln.Addr())
		}
	}
	return own
}

// dialable returns an address at which a listener can be reached from this machine.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
