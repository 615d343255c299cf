package dashboard

import (
	"strings"
	"time"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// catalogue registers the pages of what events come from and what they are.
func (d *Dashboard) catalogue() {
	d.get("/sources", access.Read, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseSourceID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListSources(p.ctx, p.caller, p.tenant, store.Page[kapsel.SourceID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(s manage.Source) string { return s.ID.String() })
		return p.show("/sources", "Sources", sourcesPage(p, list, next))
	})
	d.get("/sources/{id}", access.Read, func(p *page) (result, error) {
		s, err := d.sourceOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/sources", s.Name, sourcePage(p, &s))
	})
	d.get("/event-types", access.Read, func(p *page) (result, error) {
		list, err := d.Manage.ListEventTypes(p.ctx, p.caller, p.tenant, store.Page[kapsel.EventTypeID]{Limit: chosen})
		if err != nil {
			return result{}, err
		}
		return p.show("/event-types", "Event types", eventTypesPage(p, list))
	})
	d.get("/apps", access.Read, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseAppID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListApps(p.ctx, p.caller, p.tenant, store.Page[kapsel.AppID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(a kapsel.App) string { return a.ID.String() })
		return p.show("/apps", "Apps", appsPage(p, list, next))
	})
}

// administration registers the pages of tenants and keys.
func (d *Dashboard) administration() {
	d.get("/tenants", access.Operate, func(p *page) (result, error) {
		before, err := cursor(p, kapsel.ParseTenantID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListTenants(p.ctx, p.caller, store.Page[kapsel.TenantID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(t kapsel.Tenant) string { return t.ID.String() })
		return p.show("/tenants", "Tenants", tenantsPage(p, list, next))
	})
	d.post("/tenants", access.Operate, func(p *page) (result, error) {
		t, err := d.Manage.CreateTenant(p.ctx, p.caller, kapsel.TenantID{}, func(s *manage.TenantSettings) error {
			s.Name = strings.TrimSpace(p.form.Get("name"))
			return nil
		})
		p.tenant = t.ID
		return result{goTo: string(p.link("/"))}, err
	})
	d.get("/keys", access.Read, func(p *page) (result, error) {
		if p.tenant.IsZero() {
			return p.show("/keys", "Keys", keysPage(p, nil, ""))
		}
		before, err := cursor(p, kapsel.ParseKeyID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListKeys(p.ctx, p.caller, p.tenant, store.Page[kapsel.KeyID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(k kapsel.Key) string { return k.ID.String() })
		return p.show("/keys", "Keys", keysPage(p, list, next))
	})
	d.post("/keys", access.Write, func(p *page) (result, error) {
		k, text, err := d.Manage.CreateKey(p.ctx, p.caller, p.tenant, kapsel.KeyID{}, manage.KeySettings{Name: strings.TrimSpace(p.form.Get("name")), Scope: kapsel.Scope(p.form.Get("scope"))})
		if err != nil {
			return result{}, err
		}
		return p.show("/keys", "New key", newKeyPage(p, &k, text))
	})
	d.post("/keys/{id}/revoke", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseKeyID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		return result{goTo: string(p.link("/keys"))}, d.Manage.RevokeKey(p.ctx, p.caller, p.tenant, id)
	})
}

// keyState returns whether a key is valid, in a word.
func keyState(k *kapsel.Key, now time.Time) string {
	switch {
	case !k.RevokedAt.IsZero():
		return "revoked"
	case !k.Valid(now):
		return "expired"
	}
	return "active"
}

// typeState returns what a catalogue says of an event type, in a word.
func typeState(t *kapsel.EventType) string {
	switch {
	case t.Archived:
		return "archived"
	case t.Deprecated:
		return "deprecated"
	}
	return "active"
}

// limitText returns a limit, or that there is none.
func limitText[N ~int | ~int64](n *N) string {
	if n == nil {
		return "no limit"
	}
	return count(*n)
}
