package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/client"
)

// Every argument and flag that takes an ID also takes a name. A text that has the form of an ID is never
// looked up as a name.

// isAdmin reports whether the key is the admin key, which has no tenant.
func (s *session) isAdmin() bool { return !strings.HasPrefix(s.key, "kap_") }

// ofTenant is the flag by which a command with the admin key shows only one tenant's objects.
type ofTenant struct {
	Tenant string `complete:"tenant" placeholder:"TENANT" help:"With the admin key: only this tenant's; its id or name."`
}

// tenantNamed returns the ID of the tenant that ref names by ID or name. It returns "", for all tenants, for
// "". It fails if no tenant or several tenants have the name.
func (s *session) tenantNamed(ctx context.Context, ref string) (string, error) {
	if _, err := kapsel.ParseTenantID(ref); err == nil || ref == "" {
		return ref, nil
	}
	if !s.isAdmin() {
		own, err := s.ownTenant(ctx)
		if err != nil {
			return "", err
		}
		if own.Name != ref {
			return "", fmt.Errorf("--tenant: %q is not the name of the tenant that the key belongs to", ref)
		}
		return own.ID, nil
	}
	return named(ref, "tenant", s.ListTenants(ctx), func(t client.Tenant) (id, name string) { return t.ID, t.Name })
}

// theTenant returns the ID of the tenant that a command is about: the one that ref names, the one that the
// key belongs to, or the only tenant. It fails if ref is "", the key is the admin key and there is no tenant
// or more than one.
func (s *session) theTenant(ctx context.Context, ref string) (string, error) {
	if ref != "" {
		return s.tenantNamed(ctx, ref)
	}
	if !s.isAdmin() {
		own, err := s.ownTenant(ctx)
		return own.ID, err
	}
	var names choices
	only := ""
	for t, err := range s.ListTenants(ctx) {
		if err != nil {
			return "", err
		}
		names, only = append(names, t.Name), t.ID
		if len(names) > maxChoices {
			break
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("there is no tenant yet; kapsel tenants create --name NAME makes one")
	case 1:
		return only, nil
	}
	return "", settingError("--tenant: is needed, as there is more than one: %s", names)
}

// newOwner returns the tenant_id to send with a request that makes an object: "" with a tenant's key and no
// --tenant, because the key says whose the object is, and otherwise that of theTenant.
func (s *session) newOwner(ctx context.Context, ref string) (string, error) {
	if ref == "" && !s.isAdmin() {
		return "", nil
	}
	return s.theTenant(ctx, ref)
}

// ownedBy returns the path of a request about an object of a tenant; "" stands for the tenant of the key.
func ownedBy(tenant, path string) string {
	if tenant == "" {
		return path
	}
	return path + "?tenant_id=" + url.QueryEscape(tenant)
}

// ownTenant returns the tenant that a tenant's key belongs to.
func (s *session) ownTenant(ctx context.Context) (client.Tenant, error) {
	usage, err := s.GetUsage(ctx, client.GetUsageFilter{}) // the only route that tells a key's tenant
	if err != nil {
		return client.Tenant{}, err
	}
	if usage.TenantID == nil {
		return client.Tenant{}, settingError("--tenant: is needed")
	}
	return s.GetTenant(ctx, *usage.TenantID)
}

// endpointNamed returns the ID of the endpoint that ref names by ID, uid or name, of one tenant or, if tenant
// is "", of all. It returns "" for "". It fails if no endpoint or several endpoints have the name.
func (s *session) endpointNamed(ctx context.Context, ref, tenant string) (string, error) {
	if _, err := kapsel.ParseEndpointID(ref); err == nil || ref == "" {
		return ref, nil
	}
	tenant, err := s.tenantNamed(ctx, tenant)
	if err != nil {
		return "", err
	}
	return uidOrNamed(ref, "endpoint", s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: tenant}),
		func(e client.Endpoint) (id, uid, name string) { return e.ID, there(e.UID), e.Name })
}

// sourceNamed is endpointNamed for a source.
func (s *session) sourceNamed(ctx context.Context, ref, tenant string) (string, error) {
	if _, err := kapsel.ParseSourceID(ref); err == nil || ref == "" {
		return ref, nil
	}
	tenant, err := s.tenantNamed(ctx, tenant)
	if err != nil {
		return "", err
	}
	return named(ref, "source", s.ListSources(ctx, client.ListSourcesFilter{TenantID: tenant}),
		func(v client.Source) (id, name string) { return v.ID, v.Name })
}

// plainName reports whether a source can be named in --subscribe by its name, without quotes.
func plainName(name string) bool {
	return oneWord(name) && name != "none" && name != kapsel.Publish
}

// originNamed returns the source of a subscription: kapsel.Publish, or the ID of the source or of the endpoint
// with an ingest URL that ref names. It does not check that an ID exists. It fails if no object or several
// ones have the name.
func (s *session) originNamed(ctx context.Context, ref, tenant string) (string, error) {
	_, noSource := kapsel.ParseSourceID(ref)
	_, noEndpoint := kapsel.ParseEndpointID(ref)
	if noSource == nil || noEndpoint == nil || ref == kapsel.Publish {
		return ref, nil
	}
	tenant, err := s.tenantNamed(ctx, tenant)
	if err != nil {
		return "", err
	}
	var ids, names choices
	for o, err := range s.origins(ctx, tenant) {
		if err != nil {
			return "", err
		}
		if o.name == ref {
			ids = append(ids, o.id)
		}
		names = append(names, o.name)
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("--subscribe: no source, and no endpoint with an ingest URL, has the id or name %q; there are: %s", ref, append(choices{kapsel.Publish + " (what you publish)"}, names...))
	case 1:
		return ids[0], nil
	}
	return "", settingError("--subscribe: %d sources and endpoints have the name %q; use an id: %s", len(ids), ref, ids)
}

// origin is a source or an endpoint with an ingest URL, to which endpoints can subscribe.
type origin struct{ id, name string }

// origins lists the sources and then the endpoints with an ingest URL, of one tenant or, if tenant is "", of
// all.
func (s *session) origins(ctx context.Context, tenant string) iter.Seq2[origin, error] {
	return func(yield func(origin, error) bool) {
		for v, err := range s.ListSources(ctx, client.ListSourcesFilter{TenantID: tenant}) {
			if !yield(origin{v.ID, v.Name}, err) || err != nil {
				return
			}
		}
		for e, err := range s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: tenant}) {
			if (err != nil || e.IngestURL != nil) && !yield(origin{e.ID, e.Name}, err) || err != nil {
				return
			}
		}
	}
}

// choices is a list of IDs or names in an error, from which the user can choose.
type choices []string

// maxChoices is how many choices an error shows.
const maxChoices = 10

// String lists the first maxChoices choices.
func (c choices) String() string {
	if len(c) > maxChoices {
		c = append(slices.Clone(c[:maxChoices]), "…")
	}
	return clean(strings.Join(c, ", "))
}

// keyNamed returns the ID of the tenant's key that ref names by ID or name. A revoked key is found by its ID
// only.
func (s *session) keyNamed(ctx context.Context, ref, tenant string) (string, error) {
	if _, err := kapsel.ParseKeyID(ref); err == nil {
		return ref, nil
	}
	return named(ref, "key", s.ListKeys(ctx, tenant), func(k client.Key) (id, name string) {
		if k.RevokedAt != nil {
			return k.ID, ""
		}
		return k.ID, k.Name
	})
}

// named returns the ID of the object with a name. It fails if no object or several ones have the name.
func named[T any](name, kind string, objects iter.Seq2[T, error], of func(T) (id, name string)) (string, error) {
	var ids choices
	for v, err := range objects {
		if err != nil {
			return "", err
		}
		if id, n := of(v); n == name {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("no %s has the id or name %q", kind, name)
	case 1:
		return ids[0], nil
	}
	return "", settingError("%d %ss have the name %q; use an id: %s", len(ids), kind, name, ids)
}

// uidOrNamed is named for objects that also have a uid, which counts before a name.
func uidOrNamed[T any](ref, kind string, objects iter.Seq2[T, error], of func(T) (id, uid, name string)) (string, error) {
	var byUID, byName choices
	for v, err := range objects {
		if err != nil {
			return "", err
		}
		switch id, uid, name := of(v); ref {
		case uid:
			byUID = append(byUID, id)
		case name:
			byName = append(byName, id)
		}
	}
	ids, has := byUID, "uid"
	if ids == nil {
		ids, has = byName, "name"
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("no %s has the id, uid or name %q", kind, ref)
	case 1:
		return ids[0], nil
	}
	return "", settingError("%d %ss have the %s %q; use an id: %s", len(ids), kind, has, ref, ids)
}

// devEndpoint returns the endpoint with a name on a development server. It makes the endpoint, with the inbox
// as its destination, if there is none; otherwise it changes the given settings, if any. It fails if the
// server does not run with --dev.
func (s *session) devEndpoint(ctx context.Context, tenant, name string, settings map[string]any) (client.Endpoint, error) {
	var none client.Endpoint
	var page []byte
	if err := s.Do(ctx, http.MethodGet, inboxPath, nil, &page); err != nil {
		if kapselCode(err) == string(kapsel.NotFound) {
			return none, settingError("--endpoint: is needed; only a server that runs with --dev has one made")
		}
		return none, err
	}
	owner, err := s.devTenant(ctx, tenant)
	if err != nil {
		return none, err
	}
	id := ""
	for e, err := range s.ListEndpoints(ctx, client.ListEndpointsFilter{TenantID: owner}) {
		if err != nil {
			return none, err
		}
		if e.Name == name {
			id = e.ID
		}
	}
	if id != "" && settings == nil {
		return s.GetEndpoint(ctx, id)
	}
	if id != "" {
		err = s.Do(ctx, http.MethodPatch, "/v1/endpoints/"+id, settings, &none)
		return none, err
	}
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]any{}
	}
	settings["name"], settings["url"] = name, strings.TrimRight(s.Server, "/")+inboxPath
	err = s.Do(ctx, http.MethodPost, ownedBy(owner, "/v1/endpoints"), settings, &none)
	return none, err
}

// devTenant returns the ID of the tenant in which devEndpoint makes endpoints: the one that ref names, the
// one of the key or, with the admin key, the tenant dev.
func (s *session) devTenant(ctx context.Context, ref string) (string, error) {
	if ref != "" || !s.isAdmin() {
		return s.newOwner(ctx, ref)
	}
	id, err := s.tenantNamed(ctx, "dev")
	if err != nil {
		return s.theTenant(ctx, "")
	}
	return id, nil
}
