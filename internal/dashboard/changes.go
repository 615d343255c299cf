package dashboard

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/access"
	"github.com/kapsel-hq/kapsel/internal/store"
)

func (d *Dashboard) changes() {
	d.get("/changes", access.Read, func(p *page) (result, error) {
		f, err := changeFilter(p)
		if err != nil {
			return result{}, err
		}
		before, err := cursor(p, kapsel.ParseChangeID)
		if err != nil {
			return result{}, err
		}
		list, err := d.Manage.ListChanges(p.ctx, p.caller, p.tenant, f, store.Page[kapsel.ChangeID]{Before: before, Limit: perPage + 1})
		if err != nil {
			return result{}, err
		}
		list, next := more(list, func(c kapsel.Change) string { return c.ID.String() })
		return p.show("/changes", "Changes", changesPage(p, list, next))
	})
}

// changeFilter returns the filter that a page's parameters say.
func changeFilter(p *page) (f store.ChangeFilter, err error) {
	f.Subject, f.Kind, f.Verb = strings.TrimSpace(p.query.Get("object")), p.query.Get("kind"), strings.TrimSpace(p.query.Get("verb"))
	if f.KeyID, err = filter(p, "key", kapsel.ParseKeyID); err != nil {
		return f, err
	}
	if f.Since, err = when(p, "since"); err != nil {
		return f, err
	}
	f.Until, err = when(p, "until")
	return f, err
}

// changedKinds and changeVerbs are what the filter of changes offers.
var (
	changedKinds = []string{kapsel.KindEndpoint, kapsel.KindSource, kapsel.KindApp, kapsel.KindEventType, kapsel.KindEvent, kapsel.KindDelivery, kapsel.KindReplay,
		kapsel.KindPortalLink, kapsel.KindPortalLogo, kapsel.KindKey, kapsel.KindSession, kapsel.KindTenant, kapsel.KindInstance}
	changeVerbs = []string{"create", "update", "delete", "pause", "resume", "test", "replay", "retry", "cancel", "rotate_secret", "reset_circuit", "keep_ingest", "revoke", "leave", "sign_in", "sign_out", "end", "rotate_key", "rotate_audit_key"}
)

// withAsked returns what a filter offers, with what was asked for if that is not among it.
func withAsked(offered []string, asked string) []string {
	if asked == "" || slices.Contains(offered, asked) {
		return offered
	}
	return append(slices.Clip(offered), asked)
}

// actorText returns who made a change, in words.
func actorText(a *kapsel.Actor) string {
	key := a.Prefix + "…"
	if a.Prefix == "" {
		key = short(a.KeyID.String())
	}
	if a.Name != "" {
		return visible(a.Name)
	}
	switch a.Kind {
	case kapsel.ActorAdmin:
		return "the admin key"
	case kapsel.ActorCLI:
		return "a command on the database"
	case kapsel.ActorPortal:
		return "a customer in the portal"
	case kapsel.ActorKey:
		return "the key " + key
	case kapsel.ActorSession:
		if a.Operator {
			return "the operator, in the dashboard"
		}
		return "the key " + key + " in the dashboard"
	}
	return "an unknown caller"
}

// subjectLink returns the page of the object of a change, "" if it has none.
func (p *page) subjectLink(c *kapsel.Change) templ.SafeURL {
	paths := map[string]string{kapsel.KindEndpoint: "/endpoints/", kapsel.KindSource: "/sources/", kapsel.KindEvent: "/events/", kapsel.KindReplay: "/replays/"}
	if at, ok := paths[c.Subject.Kind]; ok && c.After != nil {
		return p.link(at + c.Subject.ID)
	}
	return ""
}

// fieldChange is a field that differs between two states of an object, as a page shows it.
type fieldChange struct{ name, before, after string }

// Bounds of what a page shows of one change.
const (
	shownFields = 200
	openFields  = 6    // of an object that was changed; more are folded
	shownValue  = 2000 // bytes
)

// fieldChanges returns the fields of a change, and whether some are left out.
func fieldChanges(before, after json.RawMessage) (list []fieldChange, whole bool) {
	was, is := flat(before), flat(after)
	for i := range was {
		f := fieldChange{name: was[i].name, before: was[i].value, after: "–"}
		if at := slices.IndexFunc(is, func(o pair) bool { return o.name == was[i].name }); at >= 0 {
			f.after = is[at].value
		}
		list = append(list, f)
	}
	for _, o := range is {
		if !slices.ContainsFunc(was, func(w pair) bool { return w.name == o.name }) {
			list = append(list, fieldChange{o.name, "–", o.value})
		}
	}
	return list[:min(len(list), shownFields)], len(was) < shownFields && len(is) < shownFields && len(list) <= shownFields
}

// flat returns the fields of a JSON object, those of objects in it under their path. It returns at most
// shownFields.
func flat(object json.RawMessage) (list []pair) {
	if len(object) == 0 {
		return nil
	}
	root, _ := tree(object)
	var add func(path string, n *node)
	add = func(path string, n *node) {
		if len(list) == shownFields {
			return
		}
		if n.brace == "{" && len(n.inside) > 0 {
			for i := range n.inside {
				name := n.inside[i].key
				if path != "" {
					name = path + "." + name
				}
				add(name, &n.inside[i])
			}
			return
		}
		if path != "" {
			list = append(list, pair{visible(path), cut(n.line(), shownValue)})
		}
	}
	add("", &root)
	return list
}

// line returns a value of a JSON document in one line.
func (n *node) line() string {
	switch {
	case n.brace == "":
		return n.value
	case n.brace == "{":
		return "{" + n.list(func(c *node) string { return visible(c.key) + ": " + c.line() }) + "}"
	}
	return "[" + n.list((*node).line) + "]"
}

func (n *node) list(of func(*node) string) string {
	var b bytes.Buffer
	for i := range n.inside {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(of(&n.inside[i]))
		if b.Len() > shownValue {
			break
		}
	}
	if n.more > 0 {
		b.WriteString(", …")
	}
	return b.String()
}

// fieldNames returns the names of the first fields of a change.
func fieldNames(list []fieldChange) string {
	const most = 4
	var names []string
	for i := range list[:min(len(list), most)] {
		names = append(names, list[i].name)
	}
	text := strings.Join(names, ", ")
	if more := len(list) - most; more > 0 {
		text += " and " + count(more) + " more"
	}
	return text
}

// changeSummary returns what the details of a change hold.
func changeSummary(c *kapsel.Change, list []fieldChange) string {
	switch {
	case c.Before == nil:
		return "As it was made: " + plural(len(list), "field")
	case c.After == nil:
		return "As it was: " + plural(len(list), "field")
	}
	return fieldNames(list)
}

// subjectName returns what the object of a change is called.
func subjectName(s *kapsel.Subject) string {
	switch {
	case s.Name != "" && utf8.ValidString(s.Name):
		return s.Name
	case s.ID != "":
		return short(s.ID)
	}
	return "the instance"
}
