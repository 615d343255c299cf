package dashboard

import (
	"maps"
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// appForms registers the pages of one app, and those on which apps are made, changed and deleted.
func (d *Dashboard) appForms() {
	d.get("/apps/new", access.Write, func(p *page) (result, error) { return showAppForm(p, nil, nil) })
	d.post("/apps/new", access.Write, d.createApp)
	d.get("/apps/{id}", access.Read, func(p *page) (result, error) {
		app, err := d.appOf(p)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListEndpoints(p.ctx, p.caller, app.TenantID, app.ID, store.Page[kapsel.EndpointID]{Limit: perPage})
		if err != nil {
			return result{}, err
		}
		return p.show("/apps", app.Name, appPage(p, &app, list))
	})
	d.get("/apps/{id}/edit", access.Write, func(p *page) (result, error) {
		app, err := d.appOf(p)
		if err != nil {
			return result{}, err
		}
		return showAppForm(p, &app, nil)
	})
	d.post("/apps/{id}/edit", access.Write, d.editApp)
	d.get("/apps/{id}/delete", access.Write, func(p *page) (result, error) {
		app, err := d.appOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/apps", "Delete "+app.Name, deletion(p, "app", app.Name,
			"Its uid is free again. Its events stay readable until their retention ends. While it has endpoints, it is not deleted.", "/apps/"+app.ID.String()))
	})
	d.post("/apps/{id}/delete", access.Write, func(p *page) (result, error) {
		return result{goTo: string(p.link("/apps"))}, d.Manage.DeleteApp(p.ctx, p.caller, manage.AppRef{Tenant: p.tenant, Ref: p.params("id")})
	})
}

// appOf returns the app that the path names.
func (d *Dashboard) appOf(p *page) (kapsel.App, error) {
	return d.Manage.App(p.ctx, p.caller, manage.AppRef{Tenant: p.tenant, Ref: p.params("id")})
}

// The inputs of an object's metadata, a pair each.
const (
	metadataName = "metadata.name"
	metadataText = "metadata.text"
)

// textPair is a name with a text.
type textPair struct{ name, text string }

// appForm is the form of an app's settings. app is nil for a new one.
type appForm struct {
	form
	app *kapsel.App
}

// metadata returns the pairs of the object's metadata that the form shows, and empty ones behind.
func (f *form) metadata(is map[string]string) []textPair {
	list := sortedPairs(is)
	if f.sent != nil {
		list = pairsOf(f.sent[metadataName], f.sent[metadataText])
	}
	return append(list, make([]textPair, spareRows)...)
}

// pairsOf returns the pairs of the rows of a form. A row in which nothing stands is none.
func pairsOf(names, texts []string) (list []textPair) {
	for i, name := range names {
		x := textPair{name: strings.TrimSpace(name)}
		if i < len(texts) {
			x.text = strings.ReplaceAll(texts[i], "\r\n", "\n")
		}
		if x != (textPair{}) {
			list = append(list, x)
		}
	}
	return list
}

// appGroups are the inputs of an app's settings; app is nil for a new one.
func appGroups(app *kapsel.App) []group {
	if app == nil {
		app = &kapsel.App{}
	}
	return []group{{fields: append([]input{
		{name: "name", label: "Name", is: app.Name, needed: true},
		{name: "uid", label: "uid", is: app.UID, hint: "Your own id of this customer, unique. It stands wherever the app's id does."},
	}, rateFields(app.RateLimit, "Events")...)}}
}

// app reads an app's settings.
func (r *reading) app() manage.AppSettings {
	return manage.AppSettings{UID: r.uid(), AppConfig: kapsel.AppConfig{Name: r.text("name"), Metadata: r.metadata(), RateLimit: r.rate()}}
}

// uid reads an object's uid, nil for none.
func (r *reading) uid() *string {
	if uid := r.text("uid"); uid != "" {
		return &uid
	}
	return nil
}

// metadata reads an object's metadata, nil for none.
func (r *reading) metadata() (texts map[string]string) {
	for _, x := range pairsOf(r.form[metadataName], r.form[metadataText]) {
		if _, twice := texts[x.name]; twice {
			x.name = "" // the name of nothing
			r.fail("metadata", "has a name twice")
		}
		if texts == nil {
			texts = map[string]string{}
		}
		texts[x.name] = x.text
	}
	return texts
}

// metadata returns the texts of the app that is changed, nil for a new one.
func (f *appForm) metadata() map[string]string {
	if f.app == nil {
		return nil
	}
	return f.app.Metadata
}

func showAppForm(p *page, app *kapsel.App, sent *reading) (result, error) {
	f, title := &appForm{form: form{groups: appGroups(app), extra: []string{"metadata"}}, app: app}, "New app"
	if app != nil {
		title = "Edit " + app.Name
	}
	return p.showForm("/apps", title, &f.form, sent, appFormPage(p, f))
}

func (d *Dashboard) createApp(p *page) (result, error) {
	r := read(p.form, appGroups(nil))
	var made kapsel.App
	s := r.app()
	if err := r.do(func() (err error) {
		made, err = d.Manage.CreateApp(p.ctx, p.caller, p.tenant, kapsel.AppID{}, s)
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showAppForm(p, nil, r)
	}
	return result{goTo: string(p.link("/apps/" + made.ID.String()))}, nil
}

func (d *Dashboard) editApp(p *page) (result, error) {
	app, err := d.appOf(p)
	if err != nil {
		return result{}, err
	}
	r := read(p.form, appGroups(&app))
	next := r.app()
	if err := r.do(func() error {
		if err := r.unchanged(app.Revision); err != nil {
			return err
		}
		_, err := d.Manage.UpdateApp(p.ctx, p.caller, manage.AppRef{Tenant: app.TenantID, Ref: app.ID.String()}, func(s *manage.AppSettings) error {
			*s = next
			return nil
		})
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showAppForm(p, &app, r)
	}
	return result{goTo: string(p.link("/apps/" + app.ID.String()))}, nil
}

// sortedPairs returns texts by their names, in order.
func sortedPairs(texts map[string]string) (list []textPair) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		list = append(list, textPair{name, texts[name]})
	}
	return list
}
