package dashboard

import (
	"slices"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
	"github.com/kapsel-hq/kapsel/internal/signature"
)

// sourceForms registers the pages on which sources are made, changed and deleted.
func (d *Dashboard) sourceForms() {
	d.get("/sources/new", access.Write, func(p *page) (result, error) { return showSourceForm(p, nil, nil) })
	d.post("/sources/new", access.Write, d.createSource)
	d.get("/sources/{id}/edit", access.Write, func(p *page) (result, error) {
		s, err := d.sourceOf(p)
		if err != nil {
			return result{}, err
		}
		return showSourceForm(p, &s, nil)
	})
	d.post("/sources/{id}/edit", access.Write, d.editSource)
	d.get("/sources/{id}/delete", access.Write, func(p *page) (result, error) {
		s, err := d.sourceOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/sources", "Delete "+s.Name, deletion(p, "source", s.Name,
			"What is posted to its ingest URL is answered 404 from then on. Its events stay readable until their retention ends. While endpoints subscribe to it, it is not deleted.", "/sources/"+s.ID.String()))
	})
	d.post("/sources/{id}/delete", access.Write, func(p *page) (result, error) {
		id, err := kapsel.ParseSourceID(p.params("id"))
		if err != nil {
			return result{}, errNoPage
		}
		return result{goTo: string(p.link("/sources"))}, d.Manage.DeleteSource(p.ctx, p.caller, id)
	})
}

// sourceOf returns the source that the path names.
func (d *Dashboard) sourceOf(p *page) (manage.Source, error) {
	id, err := kapsel.ParseSourceID(p.params("id"))
	if err != nil {
		return manage.Source{}, errNoPage
	}
	return d.Manage.Source(p.ctx, p.caller, id)
}

// sourceGroups are the inputs of a source's settings; s is nil for a new one.
func sourceGroups(p *page, s *manage.Source) []group {
	c, state := kapsel.DefaultSource(), kapsel.SourceActive
	if s != nil {
		c, state = s.SourceConfig, s.State
	} else if asked := p.query.Get("provider"); slices.Contains(signature.Providers(), asked) {
		c.Verification.Provider = asked
	}
	main := group{fields: append([]input{{name: "name", label: "Name", is: c.Name, needed: true, wide: true}}, intakeMain(p, &c.Intake)...)}
	if s != nil {
		main.fields = append(main.fields, input{name: "state", label: "State", kind: choice, is: string(state), choices: []option{{string(kapsel.SourceActive), "active"}, {string(kapsel.SourceDisabled), "disabled: its ingest URL answers 404"}}})
	}
	types := group{title: "Types of its events", about: "Subscriptions choose by the type of an event. A provider has it in a header or in the body.", fields: []input{
		{name: "type.from", label: "Where the type is", is: c.Type.From, standard: "nowhere", hint: "header:X-GitHub-Event, path:$.type, or const"},
		{name: "type.value", label: "The type of all", is: c.Type.Value, hint: "With const."},
	}}
	return append([]group{main, types}, intakeGroups(&c.Intake)...)
}

// source reads a source's settings into s. was is the source as it was shown, nil for a new one.
func (r *reading) source(was *manage.Source, s *manage.SourceSettings) {
	s.Name = r.text("name")
	shown := kapsel.DefaultIntake()
	if was != nil {
		shown = was.Intake
		s.State = kapsel.SourceState(r.text("state"))
	}
	s.Type = nil
	if rule := (kapsel.TypeRule{From: r.text("type.from"), Value: r.text("type.value")}); rule != (kapsel.TypeRule{}) {
		s.Type = &rule
	}
	s.Secrets = r.intake(&shown, &s.Intake)
}

func showSourceForm(p *page, s *manage.Source, sent *reading) (result, error) {
	f, title := &form{groups: sourceGroups(p, s)}, "New source"
	if s != nil {
		title = "Edit " + s.Name
	}
	return p.showForm("/sources", title, f, sent, sourceFormPage(p, f, s))
}

func (d *Dashboard) createSource(p *page) (result, error) {
	r, s := read(p.form, sourceGroups(p, nil)), manage.DefaultSource()
	r.source(nil, &s)
	var made manage.Source
	if err := r.do(func() (err error) {
		made, err = d.Manage.CreateSource(p.ctx, p.caller, p.tenant, kapsel.SourceID{}, s)
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showSourceForm(p, nil, r)
	}
	return result{goTo: string(p.link("/sources/" + made.ID.String()))}, nil
}

func (d *Dashboard) editSource(p *page) (result, error) {
	s, err := d.sourceOf(p)
	if err != nil {
		return result{}, err
	}
	r := read(p.form, sourceGroups(p, &s))
	r.source(&s, &manage.SourceSettings{})
	if err := r.do(func() error {
		if err := r.unchanged(s.Revision); err != nil {
			return err
		}
		_, err := d.Manage.UpdateSource(p.ctx, p.caller, s.ID, func(next *manage.SourceSettings) error {
			r.wrong = nil
			r.source(&s, next)
			return nil
		})
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showSourceForm(p, &s, r)
	}
	return result{goTo: string(p.link("/sources/" + s.ID.String()))}, nil
}

// sourceSettings returns all settings of a source, with their defaults.
func sourceSettings(s *manage.Source) []setting {
	rule := "none"
	if s.Type.From != "" {
		rule = strings.TrimSpace(s.Type.From + " " + s.Type.Value)
	}
	return append([]setting{{"type", rule, "none"}}, intakeSettings(&s.Intake)...)
}
