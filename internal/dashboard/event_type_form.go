package dashboard

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/manage"
)

// eventTypeForms registers the page of one event type, and those on which event types are made, changed and
// deleted. A type is named by its tenant, so the pages of one are below /event-type: no name is taken there.
func (d *Dashboard) eventTypeForms() {
	d.get("/event-types/new", access.Write, func(p *page) (result, error) { return showEventTypeForm(p, nil, nil) })
	d.post("/event-types/new", access.Write, d.createEventType)
	d.get("/event-type/{name}", access.Read, func(p *page) (result, error) {
		t, err := d.eventTypeOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/event-types", t.Name, eventTypePage(p, &t))
	})
	d.get("/event-type/{name}/edit", access.Write, func(p *page) (result, error) {
		t, err := d.eventTypeOf(p)
		if err != nil {
			return result{}, err
		}
		return showEventTypeForm(p, &t, nil)
	})
	d.post("/event-type/{name}/edit", access.Write, d.editEventType)
	d.get("/event-type/{name}/delete", access.Write, func(p *page) (result, error) {
		t, err := d.eventTypeOf(p)
		if err != nil {
			return result{}, err
		}
		return p.show("/event-types", "Delete "+t.Name, deletion(p, "event type", t.Name,
			"What is published is not checked against it any more. Subscriptions that name the type stay.", eventTypePath(t.Name)))
	})
	d.post("/event-type/{name}/delete", access.Write, func(p *page) (result, error) {
		return result{goTo: string(p.link("/event-types"))}, d.Manage.DeleteEventType(p.ctx, p.caller, eventTypeRef(p))
	})
}

// eventTypeRef is the event type that the path names.
func eventTypeRef(p *page) manage.EventTypeRef {
	return manage.EventTypeRef{Tenant: p.tenant, Name: p.params("name")}
}

func (d *Dashboard) eventTypeOf(p *page) (kapsel.EventType, error) {
	return d.Manage.EventType(p.ctx, p.caller, eventTypeRef(p))
}

// eventTypePath returns where the page of an event type is.
func eventTypePath(name string) string { return "/event-type/" + name } // names have no character to escape

// The inputs of an event type's schemas, a pair each.
const (
	schemaVersion = "schemas.version"
	schemaText    = "schemas.text"
)

// eventTypeForm is the form of an event type's settings. eventType is nil for a new one.
type eventTypeForm struct {
	form
	eventType *kapsel.EventType
}

// schemas returns the schemas that the form shows by their versions, and an empty one behind.
func (f *eventTypeForm) schemas() (list []textPair) {
	if f.sent != nil {
		list = pairsOf(f.sent[schemaVersion], f.sent[schemaText])
	} else if f.eventType != nil {
		list = schemasOf(f.eventType)
	}
	return append(list, textPair{})
}

// schemasOf returns an event type's schemas, the newest first, indented.
func schemasOf(t *kapsel.EventType) (list []textPair) {
	for _, version := range t.Versions() {
		var b bytes.Buffer
		if json.Indent(&b, t.Schemas[version], "", "  ") != nil {
			b.Reset()
			b.Write(t.Schemas[version]) // a schema that is stored is JSON
		}
		list = append(list, textPair{version, b.String()})
	}
	return list
}

// validations say what happens to an event that fits no schema of its type.
var validations = []option{
	{string(kapsel.ValidateOff), "off: nothing is checked"}, {string(kapsel.ValidateWarn), "warn: it is published, and the answer says what is wrong"},
	{string(kapsel.ValidateRefuse), "refuse: it is not published"},
}

// labelOf returns the label of what can be chosen.
func labelOf(list []option, name string) string {
	i := slices.IndexFunc(list, func(o option) bool { return o.name == name })
	if i < 0 {
		return name
	}
	return list[i].label
}

// eventTypeGroups are the inputs of an event type's settings; t is nil for a new one.
func eventTypeGroups(t *kapsel.EventType) []group {
	main := group{}
	if t == nil {
		t = &kapsel.EventType{EventTypeConfig: kapsel.EventTypeConfig{Validate: kapsel.ValidateOff}}
		main.fields = append(main.fields, input{name: "name", label: "Type", needed: true, hint: "Such as invoice.paid. It cannot be changed later."})
	}
	main.fields = append(main.fields,
		input{name: "group", label: "Group", is: t.Group, hint: "Under which the catalogue shows it."},
		input{name: "description", label: "Description", kind: area, is: t.Description},
		input{name: "validate", label: "An event that fits no schema", kind: choice, is: string(t.Validate), standard: string(kapsel.ValidateOff),
			choices: validations},
		input{name: "deprecated", label: "Deprecated", kind: flag, is: strconv.FormatBool(t.Deprecated), standard: "no", hint: "It is shown as such, and still published."},
		input{name: "archived", label: "Archived", kind: flag, is: strconv.FormatBool(t.Archived), standard: "no", hint: "It is out of the catalogue; where that is closed, it is published no more."},
	)
	return []group{main}
}

// eventType reads an event type's settings.
func (r *reading) eventType() (c kapsel.EventTypeConfig) {
	c.Description, c.Group, c.Validate = strings.TrimSpace(r.long("description")), r.text("group"), kapsel.Validation(r.text("validate"))
	c.Archived, c.Deprecated = r.flag("archived"), r.flag("deprecated")
	for _, x := range pairsOf(r.form[schemaVersion], r.form[schemaText]) {
		text := strings.TrimSpace(x.text)
		if text == "" && x.name != "" {
			r.fail(kapsel.SchemaField(x.name), "is empty; take its version away, too, if there is to be none")
			text = "{" // which is no schema
		}
		if _, twice := c.Schemas[x.name]; twice {
			r.fail(kapsel.SchemaField(x.name), "is there twice")
			text = "{"
		}
		if c.Schemas == nil {
			c.Schemas = map[string]json.RawMessage{}
		}
		c.Schemas[x.name] = json.RawMessage(text)
	}
	return c
}

func showEventTypeForm(p *page, t *kapsel.EventType, sent *reading) (result, error) {
	f, title := &eventTypeForm{form: form{groups: eventTypeGroups(t), extra: []string{"schemas"}}, eventType: t}, "New event type"
	if t != nil {
		title = "Edit " + t.Name
	}
	return p.showForm("/event-types", title, &f.form, sent, eventTypeFormPage(p, f))
}

func (d *Dashboard) createEventType(p *page) (result, error) {
	r := read(p.form, eventTypeGroups(nil))
	config, name := r.eventType(), r.text("name")
	if err := r.do(func() error {
		_, err := d.Manage.CreateEventType(p.ctx, p.caller, p.tenant, kapsel.EventTypeID{}, name, config)
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showEventTypeForm(p, nil, r)
	}
	return result{goTo: string(p.link(eventTypePath(name)))}, nil
}

func (d *Dashboard) editEventType(p *page) (result, error) {
	t, err := d.eventTypeOf(p)
	if err != nil {
		return result{}, err
	}
	r := read(p.form, eventTypeGroups(&t))
	next := r.eventType()
	if err := r.do(func() error {
		if err := r.unchanged(t.Revision); err != nil {
			return err
		}
		_, err := d.Manage.UpdateEventType(p.ctx, p.caller, eventTypeRef(p), func(c *kapsel.EventTypeConfig) error {
			*c = next
			return nil
		})
		return err
	}); err != nil {
		return result{}, err
	}
	if r.wrong != nil {
		return showEventTypeForm(p, &t, r)
	}
	return result{goTo: string(p.link(eventTypePath(t.Name)))}, nil
}

// rowsOf returns how high the input of a text is.
func rowsOf(text string) string { return strconv.Itoa(min(max(strings.Count(text, "\n")+2, 4), 24)) }
