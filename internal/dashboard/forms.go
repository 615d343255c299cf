package dashboard

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/kapsel-hq/kapsel"
)

// A form has an input for each setting of an object. An input has the name that the setting has in the
// API, so what the use cases say of a field stands beside it.

// kind says how a setting is entered.
type kind int

const (
	line   kind = iota // an input of one line
	area               // several lines
	hidden             // like area; what was entered is never shown again
	choice             // one of some values
	flag               // yes or no
)

// input is a setting in a form.
type input struct {
	name     string // the setting's path in the API
	label    string
	kind     kind
	is       string // what is set now
	standard string // the default, in words; "": there is none
	hint     string
	choices  []option
	needed   bool
	wide     bool
	attrs    templ.Attributes // of the input
}

// option is what can be chosen, by the name that the API has for it.
type option struct{ name, label string }

// options returns values that are their own labels.
func options(values ...string) (list []option) {
	for _, v := range values {
		list = append(list, option{v, v})
	}
	return list
}

// optional returns options behind the choice of none of them.
func optional(none string, values ...string) []option {
	return append([]option{{"", none}}, options(values...)...)
}

// group is a part of a form. One with a title can be folded.
type group struct {
	title  string
	about  string
	fields []input
}

// form is a form, and what is wrong with what it sent.
type form struct {
	sent   url.Values // nil: nothing was sent yet
	wrong  []kapsel.FieldError
	groups []group
	extra  []string // names of inputs that the page adds to those of the groups
}

// shows returns what the input of a field shows.
func (f *form) shows(x input) string {
	if f.sent.Has(x.name) && x.kind != hidden {
		return f.sent.Get(x.name)
	}
	return x.is
}

// isOf reports whether an error at a path of the API is that of a form's field.
func isOf(path, name string) bool {
	rest, ok := strings.CutPrefix(path, name)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// faults returns what is wrong with a field. An error in a part of it says where.
func (f *form) faults(name string) (texts []string) {
	for _, w := range f.wrong {
		if isOf(w.Field, name) {
			texts = append(texts, strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(w.Field, name), ".")+" "+w.Detail))
		}
	}
	return texts
}

// names reports whether an error stands beside an input of the form.
func (f *form) names(path string) bool {
	for _, name := range f.extra {
		if isOf(path, name) {
			return true
		}
	}
	for _, g := range f.groups {
		for _, x := range g.fields {
			if isOf(path, x.name) {
				return true
			}
		}
	}
	return false
}

// apart returns the errors that stand beside no input.
func (f *form) apart() (list []kapsel.FieldError) {
	for _, w := range f.wrong {
		if !f.names(w.Field) {
			list = append(list, w)
		}
	}
	return list
}

// open reports whether a group is to be unfolded: something in it is set, or wrong.
func (f *form) open(g group) bool {
	for _, x := range g.fields {
		shown := f.shows(x)
		if len(f.faults(x.name)) > 0 || x.kind != hidden && shown != "" && shown != x.standard && !(x.kind == flag && shown == "false" && x.standard == "") {
			return true
		}
	}
	return false
}

// inputID returns the id of a field's input.
func inputID(name string) string { return strings.ReplaceAll(name, ".", "-") }

// reading reads what a form sent. What cannot be read becomes a value that no setting may have, so that the
// use case refuses the form and finds what else is wrong with it.
type reading struct {
	form  url.Values
	wrong []kapsel.FieldError
}

// read returns a form to be read. Settings of some groups that it does not mention stay as they are shown.
func read(sent url.Values, groups []group) *reading {
	r := &reading{form: maps.Clone(sent)}
	for _, g := range groups {
		for _, x := range g.fields {
			if !r.form.Has(x.name) {
				r.form.Set(x.name, x.is)
			}
		}
	}
	return r
}

func (r *reading) text(name string) string { return strings.TrimSpace(r.form.Get(name)) }

// long returns a text that may have several lines, which browsers end with a carriage return, too.
func (r *reading) long(name string) string { return strings.ReplaceAll(r.form.Get(name), "\r\n", "\n") }

func (r *reading) flag(name string) bool { return r.form.Get(name) == "true" }

func (r *reading) fail(name, detail string) {
	r.wrong = append(r.wrong, kapsel.FieldError{Field: name, Detail: detail})
}

// number returns a whole number, and none where nothing is entered.
func (r *reading) number(name string, none int) int {
	text := r.text(name)
	if text == "" {
		return none
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		r.fail(name, "must be a whole number")
		return -1
	}
	return n
}

// decimal returns a number, and none where nothing is entered.
func (r *reading) decimal(name string, none float64) float64 {
	text := r.text(name)
	if text == "" {
		return none
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		r.fail(name, "must be a number")
		return math.NaN()
	}
	return n
}

const noDuration = "must be a duration such as 500ms, 30s or 24h"

// duration returns a duration, and none where nothing is entered.
func (r *reading) duration(name string, none time.Duration) time.Duration {
	text := r.text(name)
	if text == "" {
		return none
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		r.fail(name, noDuration)
		return -1
	}
	return d
}

// list returns the words of an input, which stand between spaces, commas or line feeds.
func (r *reading) list(name string) []string { return words(r.form.Get(name)) }

func words(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' || c == '\r' || c == '\t' })
}

// lines returns the lines of an input that are not empty.
func (r *reading) lines(name string) (list []string) {
	for text := range strings.Lines(r.form.Get(name)) {
		if text = strings.TrimSpace(text); text != "" {
			list = append(list, text)
		}
	}
	return list
}

// rate returns a rate limit, nil where nothing is entered.
func (r *reading) rate() *kapsel.RateLimit {
	if r.text("rate_limit.per_second") == "" && r.text("rate_limit.burst") == "" {
		return nil
	}
	return &kapsel.RateLimit{PerSecond: r.decimal("rate_limit.per_second", math.NaN()), Burst: r.number("rate_limit.burst", -1)}
}

// rateFields are the inputs of a rate limit.
func rateFields(limit *kapsel.RateLimit, of string) []input {
	perSecond, burst := "", ""
	if limit != nil {
		perSecond, burst = strconv.FormatFloat(limit.PerSecond, 'f', -1, 64), strconv.Itoa(limit.Burst)
	}
	return []input{
		{name: "rate_limit.per_second", label: of + " a second", is: perSecond, standard: "no limit"},
		{name: "rate_limit.burst", label: of + " at once", is: burst, hint: "Needed with a limit a second"},
	}
}

// do runs a use case, and notes which fields it refuses, beside those that could not be read, or what the
// form as a whole conflicts with. It returns other errors.
func (r *reading) do(run func() error) error {
	err := run()
	wrong, ok := wrongFields(err)
	if e := (*kapsel.Error)(nil); errors.As(err, &e) && (e.Code == kapsel.Conflict || e.Code == kapsel.QuotaExceeded) {
		wrong, ok = []kapsel.FieldError{{Detail: sentence(e.Detail)}}, true
	}
	if err != nil && !ok {
		return err
	}
	for _, w := range wrong {
		if !slices.ContainsFunc(r.wrong, func(had kapsel.FieldError) bool { return isOf(w.Field, had.Field) }) {
			r.wrong = append(r.wrong, w)
		}
	}
	return nil
}

// revision is the input that says what a form's object was like when the form was shown.
const revision = "revision"

// unchanged refuses a form if somebody changed its object since it was shown. Sent again, the form counts.
func (r *reading) unchanged(now int64) error {
	is := revisionText(now)
	if was := r.form.Get(revision); was == "" || was == is {
		return nil
	}
	r.form.Set(revision, is)
	return kapsel.Errorf(kapsel.Conflict, "somebody changed the settings since you opened this form: open it anew to see them, or save again to overwrite them")
}

// revisionText is how a form notes the revision of its object.
func revisionText(revision int64) string { return strconv.FormatInt(revision, 10) }

// decimals returns a number as people write it.
func decimals(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// lasting returns a duration without zero units at its end: 24h, not 24h0m0s.
func lasting(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// lastingOrNone is lasting, but "" for zero.
func lastingOrNone(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return lasting(d)
}

// spaced returns the values of a list, between spaces.
func spaced[T any](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, " ")
}

// has reports whether a field belongs to the group.
func (g group) has(name string) bool {
	return slices.ContainsFunc(g.fields, func(x input) bool { return x.name == name })
}

// shown returns what the input of a name shows.
func (f *form) shown(name string) string {
	for _, g := range f.groups {
		for _, x := range g.fields {
			if x.name == name {
				return f.shows(x)
			}
		}
	}
	return ""
}

// marked reports whether a box was ticked in a form that was sent.
func (f *form) marked(name, box string) bool { return slices.Contains(f.sent[name], box) }

// showForm returns a result that shows a form's page: as it was sent, if it was, with what is wrong.
func (p *page) showForm(section, title string, f *form, sent *reading, c templ.Component) (result, error) {
	r, err := p.show(section, title, c)
	if sent != nil {
		f.sent, f.wrong, r.status = sent.form, sent.wrong, http.StatusUnprocessableEntity
	}
	return r, err
}
