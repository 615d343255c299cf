package main

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/secret"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// inboxPath is the path of the built-in destination of --dev. Deliveries may reach no other path of
// Kapsel's own listener.
const inboxPath = "/dev/inbox"

// inboxKeeps is how many requests the inbox keeps.
const inboxKeeps = 100

// inbox is a destination that shows the latest requests delivered to it.
type inbox struct {
	mu   sync.Mutex
	last []string // newest last
}

// ServeHTTP keeps a POST request, and answers other requests with a page of those that are kept.
func (b *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(io.LimitReader(r.Body, 10<<20))
		if err != nil {
			http.Error(w, "the body could not be read", http.StatusBadRequest)
			return
		}
		var text strings.Builder
		fmt.Fprintf(&text, "%s  %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), r.Method, r.URL.RequestURI())
		r.Header.Write(&text)
		fmt.Fprintf(&text, "\n%s\n", inboxBody(body))
		b.mu.Lock()
		b.last = append(b.last, text.String())
		b.last = b.last[max(0, len(b.last)-inboxKeeps):]
		b.mu.Unlock()
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintf(w, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\"><title>Kapsel inbox</title><style>body{font-family:system-ui;margin:2rem;max-width:60rem}pre{background:#f4f4f4;padding:1rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}</style><h1>Inbox</h1><p>Deliveries so far: %d, newest first; the last %d are kept. The page reads them again every 2 seconds.</p>", len(b.last), inboxKeeps)
	for i := len(b.last) - 1; i >= 0; i-- {
		fmt.Fprintf(w, "<pre>%s</pre>", html.EscapeString(b.last[i]))
	}
}

// inboxShows is how many bytes of a body the inbox shows.
const inboxShows = 16 << 10

// inboxBody returns a body for the inbox's page: text with its control characters escaped, or the size of a
// body that is not text.
func inboxBody(body []byte) string {
	if !utf8.Valid(body) {
		return fmt.Sprintf("(%s that are not text)", size(int64(len(body))))
	}
	var text strings.Builder
	for i, line := range strings.Split(shortened(string(body), inboxShows), "\n") {
		if i > 0 {
			text.WriteByte('\n')
		}
		for j, part := range strings.Split(strings.TrimSuffix(line, "\r"), "\t") {
			if j > 0 {
				text.WriteByte('\t')
			}
			text.WriteString(clean(part))
		}
	}
	return text.String()
}

func (s *server) inboxURL() string { return "http://" + dialable(s.ln.Addr().String()) + inboxPath }

// develop makes the tenant dev and the endpoint demo if they do not exist, and sets the greeting.
func (s *server) develop(ctx context.Context, vault *secret.Vault, keyring *secret.Keyring) error {
	now := s.clock.Now()
	var tenant *kapsel.Tenant
	for _, t := range s.settings.Tenants() {
		if t.Name == "dev" {
			tenant = t
		}
	}
	if tenant == nil {
		tenant = &kapsel.Tenant{ID: kapsel.NewTenantID(now), Name: "dev", Plan: kapsel.DefaultPlan, CreatedAt: now, UpdatedAt: now}
		var err error
		if tenant.DataKey, err = keyring.NewDataKey(tenant.ID); err != nil {
			return err
		}
		if err := s.db.CreateTenant(ctx, *tenant); err != nil {
			return err
		}
	}
	demo, err := s.demo(ctx, tenant, vault, now)
	if err != nil {
		return err
	}
	s.greeting = func() {
		fmt.Fprintf(s.console, "\nKapsel is ready. Send it a webhook:\n\n  curl -sS -d '{\"hello\":\"kapsel\"}' '%s/ingest/%s?wait=5s'\n\nand see it arrive: %s\nThe dashboard: %s/ (sign in with the admin key, in %s)\n\n",
			s.PublicURL, demo, s.inboxURL(), s.PublicURL, s.adminKeyAt)
	}
	return nil
}

// demo finds or makes the endpoint demo, and sets its destination to the inbox at the present listen address.
func (s *server) demo(ctx context.Context, tenant *kapsel.Tenant, vault *secret.Vault, now time.Time) (id kapsel.EndpointID, err error) {
	list, err := s.db.ListEndpoints(ctx, tenant.ID, kapsel.AppID{}, store.Page[kapsel.EndpointID]{Limit: 200})
	if err != nil {
		return id, err
	}
	for _, e := range list {
		if e.Name == "demo" {
			_, err := s.db.UpdateEndpoint(ctx, tenant.ID, e.ID, func(e *kapsel.Endpoint) error {
				e.URL = s.inboxURL()
				return nil
			})
			return e.ID, err
		}
	}
	e := kapsel.Endpoint{
		ID: kapsel.NewEndpointID(now), TenantID: tenant.ID, State: kapsel.EndpointActive,
		CreatedAt: now, UpdatedAt: now, Destination: 1, EndpointConfig: kapsel.DefaultEndpoint(),
	}
	e.Part = kapsel.PartOf(e.ID)
	e.Name, e.URL = "demo", s.inboxURL()
	_, key := secret.NewSigningSecret()
	sealed, err := vault.Seal(tenant, e.ID.String(), key, now)
	if err != nil {
		return id, err
	}
	e.Signing.Secrets = []kapsel.Secret{sealed}
	return e.ID, s.db.CreateEndpoint(ctx, e, 0)
}

// wait blocks until an event's deliveries have ended or ctx has, and returns the event's status.
func (s *server) wait(ctx context.Context, id kapsel.EventID) string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	status := string(kapsel.EventReceived)
	for {
		if rec, err := s.db.Event(context.WithoutCancel(ctx), kapsel.TenantID{}, id); err == nil {
			status = string(rec.Status())
			if !rec.Expanding && !slices.ContainsFunc(rec.Deliveries, func(d kapsel.Delivery) bool { return !d.Status.Terminal() }) {
				return status
			}
		}
		select {
		case <-ctx.Done():
			return status
		case <-tick.C:
		}
	}
}
