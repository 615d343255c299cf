package settings_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// changes is a directory whose next settings a test sets.
type changes struct {
	store.Directory
	next store.Settings
}

func (c *changes) Settings(context.Context, int64) (store.Settings, error) { return c.next, nil }

func (*changes) App(context.Context, kapsel.TenantID, kapsel.AppID) (kapsel.App, error) {
	return kapsel.App{}, store.NotFound("app")
}

func (c *changes) AppByUID(_ context.Context, tenant kapsel.TenantID, uid string) (kapsel.App, error) {
	for _, a := range c.next.Apps {
		if a.TenantID == tenant && a.UID == uid && a.DeletedAt.IsZero() {
			return a, nil
		}
	}
	return kapsel.App{}, store.NotFound("app")
}

func (*changes) Source(context.Context, kapsel.TenantID, kapsel.SourceID) (kapsel.Source, error) {
	return kapsel.Source{}, store.NotFound("source")
}

// TestRoutes checks that an event goes to the endpoints that want it now, each once and in the
// order of their IDs, however endpoints have changed.
func TestRoutes(t *testing.T) {
	now := time.Now()
	tenant, source, endpoint := kapsel.NewTenantID(now), kapsel.NewSourceID(now), kapsel.NewEndpointID(now)
	texts := []string{kapsel.Publish, source.String(), endpoint.String()}
	app := kapsel.NewAppID(now)
	origins := []kapsel.OriginID{kapsel.OriginID(tenant), kapsel.OriginID(source), kapsel.OriginID(endpoint), kapsel.OriginID(app), {1}}
	types := []string{"", "a", "a.b", "b.c"}
	rapid.Check(t, func(t *rapid.T) {
		dir := &changes{}
		c := settings.NewCache(dir)
		endpoints := make([]kapsel.Endpoint, 4)
		for i := range endpoints {
			endpoints[i] = kapsel.Endpoint{ID: kapsel.EndpointID{byte(i + 1)}, TenantID: tenant}
			if i%2 == 1 {
				endpoints[i].AppID = app
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			e := &endpoints[rapid.IntRange(0, len(endpoints)-1).Draw(t, "which")]
			dir.next.Revision++
			e.Revision, e.DeletedAt, e.Subscriptions = dir.next.Revision, time.Time{}, nil
			if rapid.IntRange(0, 4).Draw(t, "deleted") == 0 {
				e.DeletedAt = now
			}
			for range rapid.IntRange(0, 3).Draw(t, "subscriptions") {
				s := kapsel.Subscription{Source: rapid.SampledFrom(texts).Draw(t, "source")}
				if rapid.Bool().Draw(t, "typed") {
					s.EventTypes = []string{rapid.SampledFrom([]string{"a", "a.*", "b.c"}).Draw(t, "type")}
				}
				e.Subscriptions = append(e.Subscriptions, s)
			}
			if dir.next.Endpoints = append(dir.next.Endpoints, *e); rapid.Bool().Draw(t, "together with the next") {
				continue
			}
			err := c.Load(context.Background())
			if dir.next.Endpoints = nil; err != nil {
				t.Fatal(err)
			}
			for _, origin := range origins {
				for _, eventType := range types {
					var got, want []kapsel.EndpointID
					for _, e := range c.Subscribers(origin, eventType, nil) {
						got = append(got, e.ID)
					}
					for i := range endpoints {
						if e := &endpoints[i]; e.DeletedAt.IsZero() && e.Wants(origin, eventType, nil) {
							want = append(want, e.ID)
						}
					}
					if !slices.Equal(got, want) || !slices.IsSortedFunc(got, func(a, b kapsel.EndpointID) int { return bytes.Compare(a[:], b[:]) }) {
						t.Fatalf("an event of the type %q goes to %v, want %v", eventType, got, want)
					}
				}
			}
		}
	})
}

// TestCache_Source checks that the cache returns the newest version of a source, and no deleted
// one.
func TestCache_Source(t *testing.T) {
	src := kapsel.Source{ID: kapsel.NewSourceID(time.Now()), State: kapsel.SourceActive}
	dir := &changes{}
	c := settings.NewCache(dir)
	if _, err := c.Source(t.Context(), src.ID); kapsel.CodeOf(err) != kapsel.NotFound || c.KnowsSource(src.ID) {
		t.Fatalf("before it is made: %v", err)
	}
	load := func(change func()) {
		dir.next.Revision++
		src.Revision = dir.next.Revision
		change()
		dir.next.Sources = []kapsel.Source{src}
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	load(func() {})
	load(func() { src.State = kapsel.SourceDisabled })
	if got, err := c.Source(t.Context(), src.ID); err != nil || got.State != kapsel.SourceDisabled {
		t.Fatalf("%+v, %v", got, err)
	}
	load(func() { src.DeletedAt = time.Now() })
	if _, err := c.Source(t.Context(), src.ID); kapsel.CodeOf(err) != kapsel.NotFound || !c.KnowsSource(src.ID) {
		t.Fatalf("after it is deleted: %v", err)
	}
}

// TestCache_App checks that only an app's own tenant finds it, by its ID and its present uid. The
// store is asked for a former uid and for a deleted app, so that another app with the uid is found.
func TestCache_App(t *testing.T) {
	now := time.Now()
	tenant := kapsel.NewTenantID(now)
	a, next := kapsel.App{ID: kapsel.NewAppID(now), TenantID: tenant, UID: "acme"}, kapsel.App{ID: kapsel.NewAppID(now), TenantID: tenant, UID: "acme"}
	dir := &changes{}
	c := settings.NewCache(dir)
	find := func(want *kapsel.App, ref string) {
		t.Helper()
		got, err := c.App(t.Context(), tenant, ref)
		switch {
		case want == nil && kapsel.CodeOf(err) != kapsel.NotFound:
			t.Errorf("%s: %+v, %v, want none", ref, got, err)
		case want != nil && (err != nil || got.ID != want.ID):
			t.Errorf("%s: %+v, %v, want %v", ref, got, err, want.ID)
		}
	}
	load := func(apps ...kapsel.App) {
		t.Helper()
		dir.next.Revision++
		for i := range apps {
			apps[i].Revision = dir.next.Revision
		}
		dir.next.Apps = apps
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	find(nil, "acme")
	load(a)
	find(&a, "acme")
	find(&a, a.ID.String())
	if _, err := c.App(t.Context(), kapsel.NewTenantID(now), a.ID.String()); kapsel.CodeOf(err) != kapsel.NotFound {
		t.Errorf("another tenant's: %v", err)
	}
	a.UID = "former"
	load(a, next) // in one reading, whatever their order
	find(&next, "acme")
	find(&a, "former")
	next.DeletedAt = now
	load(next)
	find(nil, "acme")
	find(nil, next.ID.String())
	again := kapsel.App{ID: kapsel.NewAppID(now), TenantID: tenant, UID: "acme"}
	dir.next.Apps = []kapsel.App{again} // made on another node, and not loaded yet
	find(&again, "acme")
}
