package client_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/api"
	"github.com/kapsel-hq/kapsel/internal/clock"
	"github.com/kapsel-hq/kapsel/internal/feed"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/signature"
	"github.com/kapsel-hq/kapsel/internal/store"
	"github.com/kapsel-hq/kapsel/internal/store/sqlite"
)

// server is the real API over a store of its own, for the examples.
type server struct {
	url, key string
	stop     func()
	store    store.Store
	tenant   kapsel.TenantID
}

func startKapsel() *server {
	ctx, cancel := context.WithCancel(context.Background())
	folder := must(os.MkdirTemp("", "kapsel"))
	db := must(sqlite.Open(ctx, filepath.Join(folder, "kapsel.db"), sqlite.Options{Migrate: true}))
	keyring := must(secret.NewKeyring(secret.NewKey()))
	clock := must(clock.New(ctx, db))
	settings := settings.NewCache(db)
	feed := feed.New(db, clock, slog.New(slog.DiscardHandler))
	settings.OnChange(feed.Changed)
	var running sync.WaitGroup
	running.Go(func() { feed.Run(ctx) })

	s := &server{store: db}
	now := clock.Now()
	tenant := kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "acme", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
	tenant.DataKey = must(keyring.NewDataKey(tenant.ID))
	check(db.CreateTenant(ctx, tenant))
	text, hash, prefix := secret.NewAPIKey()
	check(db.CreateKey(ctx, kapsel.Key{ID: kapsel.NewKeyID(now), TenantID: tenant.ID, Name: "example", Scope: kapsel.ScopeWrite, Hash: hash, Prefix: prefix, CreatedAt: now}))
	s.tenant, s.key = tenant.ID, text.Reveal()

	http := httptest.NewUnstartedServer(nil)
	s.url = "http://" + http.Listener.Addr().String()
	vault, adminKey, log := secret.NewVault(keyring), secret.NewText(strings.Repeat("a", 32)), slog.New(slog.DiscardHandler)
	http.Config.Handler = api.New(api.Config{
		Manage: manage.New(manage.Config{
			Store: db, Vault: vault, Keyring: keyring, PublicURL: s.url, Clock: clock.Now, Feed: feed,
			CheckURL: func(string) error { return nil }, CheckVerification: signature.Check, Changed: func() { check(settings.Load(ctx)) },
			Show: api.Show,
		}),
		Guard:    access.New(access.Config{Keys: db, AdminKey: adminKey, Clock: clock.Now, Log: log}),
		AdminKey: adminKey, PublicURL: s.url, Clock: clock.Now, Log: log,
	})
	http.Start()
	s.stop = func() {
		http.CloseClientConnections()
		http.Close()
		cancel()
		running.Wait()
		check(db.Close())
		check(os.RemoveAll(folder))
	}
	return s
}

// giveUp has n events received, with bodies of 1, 2, … bytes. None can be delivered.
func (s *server) giveUp(n int) {
	ctx, now := context.Background(), time.Now().UTC()
	ep := kapsel.Endpoint{ID: kapsel.NewEndpointID(now), TenantID: s.tenant, State: kapsel.EndpointActive, CreatedAt: now, UpdatedAt: now, EndpointConfig: kapsel.DefaultEndpoint()}
	ep.Part, ep.Name, ep.URL = kapsel.PartOf(ep.ID), "down", "https://down.example"
	check(s.store.CreateEndpoint(ctx, ep, 0))
	node := kapsel.NewNodeID(now)
	check(s.store.Join(ctx, node, now, time.Hour))
	for i := range n {
		body := []byte(strings.Repeat("x", i+1))
		at := now.Add(time.Duration(i-n) * 10 * time.Millisecond)
		e := kapsel.Event{ID: kapsel.NewEventID(at, ep.Part), TenantID: s.tenant, EndpointID: ep.ID, ReceivedAt: at, ContentType: "text/plain", Body: body, Size: len(body)}
		e.Signature.Scheme = signature.None
		d := kapsel.Delivery{ID: kapsel.NewDeliveryID(at, ep.Part), EventID: e.ID, EndpointID: ep.ID, TenantID: s.tenant, DueAt: at, CreatedAt: at, Size: len(body)}
		must(s.store.Accept(ctx, store.Acceptance{Event: e, Deliveries: []kapsel.Delivery{d}}))
	}
	claimed, _, err := s.store.Claim(ctx, node, now, []store.Want{{EndpointID: ep.ID, Limit: n}}, 1<<20)
	check(err)
	for _, c := range claimed {
		d := must(c.Delivery.After(kapsel.Answer{Code: kapsel.ConnectionRefused, Retry: true, MaxAttempts: 1}, now))
		check(s.store.Complete(ctx, store.Completion{Delivery: d, Attempt: kapsel.Attempt{
			ID: c.Delivery.Token, DeliveryID: d.ID, EventID: d.EventID, EndpointID: d.EndpointID, TenantID: d.TenantID, Number: d.Attempts, StartedAt: now, ErrorCode: kapsel.ConnectionRefused,
		}}))
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
