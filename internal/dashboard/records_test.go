package dashboard

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// records returns the pages that show what was done and counted, for TestPages, and does what they show.
func (w *world) records(s *seeded, tenant string) []struct{ name, path string } {
	w.t.Helper()
	admin := w.admin
	admin.Actor = kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true, Client: netip.MustParseAddr("192.0.2.7")}
	_, err := w.manage.UpdateEndpoint(w.ctx, admin, s.stranger.ID, manage.EndpointChange{Edit: func(e *manage.EndpointSettings) error {
		e.Config.Description, e.Config.Retry.MaxAttempts = strings.Join(hostile[:7], " "), 7
		return nil
	}})
	w.must(err)
	return []struct{ name, path string }{
		{"changes", "/changes" + tenant},
		{"changes-filtered", "/changes" + tenant + "&verb=update&kind=endpoint&object=" + s.stranger.ID.String()},
	}
}

// TestChanges_Page checks that a change shows with who made it, what it was before and is now, that filters
// narrow the page, and that a tenant's key sees its own changes only, without the operator's address.
func TestChanges_Page(t *testing.T) {
	w := newWorld(t)
	mine, key := w.tenant("acme", kapsel.ScopeRead)
	theirs, _ := w.tenant("other", kapsel.ScopeRead)
	operator := w.admin
	operator.Actor = kapsel.Actor{Kind: kapsel.ActorAdmin, Operator: true, Client: netip.MustParseAddr("192.0.2.7")}
	made := func(tenant kapsel.TenantID, name string) manage.Endpoint {
		settings := manage.DefaultEndpoint()
		settings.Config.Name, settings.Config.URL = name, "https://example.com/"+name
		e, err := w.manage.CreateEndpoint(w.ctx, operator, tenant, kapsel.EndpointID{}, settings)
		w.must(err)
		return e
	}
	e := made(mine.ID, "billing")
	made(theirs.ID, "secretive")
	_, err := w.manage.UpdateEndpoint(w.ctx, operator, e.ID, manage.EndpointChange{Edit: func(s *manage.EndpointSettings) error {
		s.Config.URL = "https://example.com/moved"
		return nil
	}})
	w.must(err)
	admin, reader := w.signIn(adminKey), w.signIn(key)
	for _, c := range []struct {
		who, query string
		has, not   []string
	}{
		{admin, "", []string{"<b>create</b>", "billing", "secretive", "the admin key", "192.0.2.7"}, nil},
		{admin, "?tenant=" + theirs.ID.String(), []string{"secretive"}, []string{"billing"}},
		{admin, "?verb=update&kind=endpoint&object=" + e.ID.String() + "&since=1h", []string{"<b>update</b>", "https://example.com/billing", "https://example.com/moved", "<th scope=\"col\">Before</th>"}, []string{"<b>create</b>", "secretive"}},
		{admin, "?until=1h", []string{"No change passes"}, []string{"billing"}},
		{reader, "", []string{"billing", "the admin key"}, []string{"secretive", "192.0.2.7"}},
		{reader, "?tenant=" + theirs.ID.String(), []string{"billing"}, []string{"secretive"}},
	} {
		rec := w.ask(http.MethodGet, "/changes"+c.query, c.who, nil, nil)
		body := rec.Body.String()
		for _, text := range c.has {
			if rec.Code != http.StatusOK || !strings.Contains(body, text) {
				t.Errorf("%q is answered %d without %q: %s", c.query, rec.Code, text, body)
			}
		}
		for _, text := range c.not {
			if strings.Contains(body, text) {
				t.Errorf("%q shows %q", c.query, text)
			}
		}
	}
	for _, query := range []string{"?key=x", "?since=x", "?before=x"} {
		if rec := w.ask(http.MethodGet, "/changes"+query, admin, nil, nil); rec.Code != http.StatusBadRequest && rec.Code != http.StatusNotFound {
			t.Errorf("%q is answered %d", query, rec.Code)
		}
	}
}

// TestFieldChanges checks which fields of a change a page shows, those of objects in objects by their path,
// and that of very many it shows a bounded part.
func TestFieldChanges(t *testing.T) {
	got, whole := fieldChanges([]byte(`{"a":1,"b":{"c":"x","gone":true},"list":[1,{"k":null}]}`), []byte(`{"a":2,"b":{"c":"y"},"new":{}}`))
	want := []fieldChange{{"a", "1", "2"}, {"b.c", `"x"`, `"y"`}, {"b.gone", "true", "–"}, {"list", "[1, {k: null}]", "–"}, {"new", "–", "{}"}}
	if !slices.Equal(got, want) || !whole {
		t.Errorf("the fields are %q, want %q (whole %t)", got, want, whole)
	}
	big := `{"x":0`
	for i := range 2 * shownFields {
		big += fmt.Sprintf(`,"f%d":%d`, i, i)
	}
	if got, whole := fieldChanges(nil, []byte(big+"}")); len(got) != shownFields || whole {
		t.Errorf("%d fields of a large object (whole %t)", len(got), whole)
	}
}
