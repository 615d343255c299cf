package dashboard

import (
	"net/url"

	"github.com/kapsel-hq/kapsel"
	"github.com/kapsel-hq/kapsel/internal/store"
)

// perPage is how many rows a page of a list has.
const perPage = 50

// errNoPage answers a path whose id has a wrong form.
var errNoPage = kapsel.Errorf(kapsel.NotFound, "there is no such page")

// cursor returns the ID that a page of a list ends before: the parameter before, zero where it is not
// given.
func cursor[ID any](p *page, parse func(string) (ID, error)) (ID, error) {
	return idIn(p.query, "before", parse)
}

// idIn returns the ID that a parameter holds, zero where it is not given.
func idIn[ID any](query url.Values, name string, parse func(string) (ID, error)) (id ID, err error) {
	text := query.Get(name)
	if text == "" {
		return id, nil
	}
	if id, err = parse(text); err != nil {
		return id, errNoPage
	}
	return id, nil
}

// more returns the rows of a page, of which one more was read than is shown, and what the next page ends
// before: "" on the last page.
func more[T any](list []T, id func(T) string) ([]T, string) {
	if len(list) <= perPage {
		return list, ""
	}
	list = list[:perPage]
	return list, id(list[perPage-1])
}

// olderEvents is what the next page of a list of events begins before; zero: there is none.
type olderEvents struct {
	before kapsel.EventID
	early  bool // the page may have few events because only so many were looked at, and more may pass the filter
}

// moreEvents is more for events. reached is where a page ended early.
func moreEvents(list []store.EventRecord, reached kapsel.EventID) ([]store.EventRecord, olderEvents) {
	if len(list) <= perPage {
		return list, olderEvents{reached, !reached.IsZero()}
	}
	list = list[:perPage]
	return list, olderEvents{before: list[perPage-1].Event.ID}
}

// filter returns the parameter of a filter that names an object, zero where it is not given.
func filter[ID any](p *page, name string, parse func(string) (ID, error)) (id ID, err error) {
	text := p.query.Get(name)
	if text == "" {
		return id, nil
	}
	if id, err = parse(text); err != nil {
		return id, kapsel.Invalid(400, kapsel.FieldError{Field: name, Detail: "is no id of this kind"})
	}
	return id, nil
}
