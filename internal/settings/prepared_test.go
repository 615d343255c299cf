package settings_test

import (
	"context"
	"testing"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/settings"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func TestPrepared(t *testing.T) {
	now := time.Now()
	tenant, endpoint, source := kapsel.NewTenantID(now), kapsel.NewEndpointID(now), kapsel.NewSourceID(now)
	c := &changes{}
	cache := settings.NewCache(c)
	prepared := settings.NewPrepared[string](cache)
	revision := int64(0)
	change := func(s store.Settings) {
		t.Helper()
		revision++
		s.Revision = revision
		for i := range s.Endpoints {
			s.Endpoints[i].ID, s.Endpoints[i].TenantID, s.Endpoints[i].Revision = endpoint, tenant, revision
		}
		for i := range s.Sources {
			s.Sources[i].ID, s.Sources[i].TenantID, s.Sources[i].Revision = source, tenant, revision
		}
		c.next = s
		if err := cache.Load(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	held := func(what string, id [16]byte, revision int64, at time.Time, want string) {
		t.Helper()
		got, ok := prepared.Get(kapsel.OriginID(id), revision, at)
		if got != want || ok != (want != "") {
			t.Errorf("%s: %q is held, want %q", what, got, want)
		}
	}

	change(store.Settings{Endpoints: make([]kapsel.Endpoint, 1), Sources: make([]kapsel.Source, 1)})
	held("at first", endpoint, 1, now, "")
	prepared.Keep(kapsel.OriginID(endpoint), 1, now.Add(time.Minute), "endpoint 1")
	prepared.Keep(kapsel.OriginID(source), 1, time.Time{}, "source 1")
	held("kept", endpoint, 1, now, "endpoint 1")
	held("kept", source, 1, now.Add(time.Hour), "source 1")
	held("a secret has expired", endpoint, 1, now.Add(time.Minute), "")
	held("of other settings", endpoint, 2, now, "")

	change(store.Settings{Endpoints: make([]kapsel.Endpoint, 1)})
	prepared.Keep(kapsel.OriginID(endpoint), 1, time.Time{}, "endpoint 1, late")
	held("its endpoint has changed", endpoint, 1, now, "")
	prepared.Keep(kapsel.OriginID(endpoint), 2, time.Time{}, "endpoint 2")
	held("kept anew", endpoint, 2, now, "endpoint 2")

	change(store.Settings{Endpoints: []kapsel.Endpoint{{DeletedAt: now}}, Sources: []kapsel.Source{{DeletedAt: now}}})
	prepared.Keep(kapsel.OriginID(endpoint), 3, time.Time{}, "endpoint 3")
	prepared.Keep(kapsel.OriginID(kapsel.NewEndpointID(now)), 3, time.Time{}, "a stranger")
	if n := prepared.Len(); n != 0 {
		t.Errorf("%d values are held after all was deleted", n)
	}
}
