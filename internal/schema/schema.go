// Package schema checks what is published against the JSON Schemas of its type. A schema may be
// anybody's: nothing that it refers to is loaded, and what a check may cost is bounded before it
// begins.
package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/kapsel-hq/kapsel"
)

// Bounds of schemas and of checks.
const (
	maxBody   = 1 << 20   // bytes of a body
	maxChecks = 2_000_000 // comparisons of a value with a schema, in one check of a body
	maxDigits = 400       // characters of a number, and its largest exponent
	maxDepth  = 200       // levels of arrays and objects
	maxFaults = 50        // that a check returns
	maxSought = 20_000    // comparisons of which each may be a fault, in one check that says what is wrong
	maxHeld   = 96 << 20  // bytes that a check may take beside the body

	perString = 64  // bytes of a string that count as one value
	perValue  = 128 // bytes that the check of a value may take
	perOther  = 128 // bytes that the library keeps of an alternative that does not fit
	perFault  = 512 // bytes that a fault may take
)

// memory returns how many bytes reading a body may take beside the body.
func memory(body int) int { return 8 * body }

// Checker holds the schemas of an event type. It is safe for concurrent use.
type Checker struct {
	versions []version // newest first
}

type version struct {
	*jsonschema.Schema
	unfit *jsonschema.Schema // fits what the schema does not fit, and says nothing of faults
	bounds
}

// bounds are the most that one value in a body takes.
type bounds struct {
	cost   int // comparisons, of which large ones count as several
	faults int // faults: each comparison may be one, and each member that is needed
	others int // comparisons where there are alternatives: the library keeps something of each that does not fit
}

// New compiles the schemas of an event type. It returns what is wrong with them, by the fields'
// paths in the API.
func New(t *kapsel.EventTypeConfig) (*Checker, []kapsel.FieldError) {
	c := &Checker{}
	var wrong []kapsel.FieldError
	for _, name := range t.Versions() {
		v, err := compile(t.Schemas[name])
		if err != nil {
			wrong = append(wrong, kapsel.FieldError{Field: kapsel.SchemaField(name), Detail: err.Error()})
			continue
		}
		c.versions = append(c.versions, v)
	}
	return c, wrong
}

// Check returns what is wrong with a body, each fault by its JSON pointer (RFC 6901) in the
// publication, whose member data the body is. It returns nil if the body fits any of the schemas, or
// if there is none; otherwise it returns what the newest schema finds. Check calls reserve for the memory
// that it takes, and fails if reserve does.
func (c *Checker) Check(body []byte, reserve func(bytes int) error) (faults []kapsel.FieldError, err error) {
	if len(c.versions) == 0 {
		return nil, nil
	}
	if len(body) > maxBody {
		return fault(fmt.Sprintf("has %d bytes; at most %d can be checked against the schema of its type", len(body), maxBody)), nil
	}
	if err := reserve(memory(len(body))); err != nil {
		return nil, err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fault("is not JSON, which the schema of its type describes"), nil
	}
	values, err := measure(value, 0)
	if err != nil {
		return fault(err.Error()), nil
	}
	others := 0
	for _, v := range c.versions {
		others = max(others, v.others)
	}
	held := values * (perValue + perOther*others)
	if held > maxHeld {
		return fault(fmt.Sprintf("has %d values, more than can be checked against the alternatives in the schema of its type", values)), nil
	}
	if err := reserve(held); err != nil {
		return nil, err
	}
	for _, v := range c.versions {
		if values > maxChecks/v.cost {
			return fault(fmt.Sprintf("has %d values (%d bytes of a string count as one), more than can be checked against the schema of its type: it may have %d",
				values, perString, maxChecks/v.cost)), nil
		}
		if v.unfit.Validate(value) != nil { // it fits
			return nil, nil
		}
	}
	newest := c.versions[0]
	sought := values * newest.faults
	if sought > maxSought {
		return fault("does not fit the schema of its type; it has too many values to say where"), nil
	}
	if err := reserve(perFault * sought); err != nil {
		return nil, err
	}
	return newest.find(value), nil
}

// find returns what is wrong with a value that does not fit. The library collects every fault of every value
// before any can be looked at, so callers must ask only where they cannot be many.
func (v *version) find(value any) []kapsel.FieldError {
	var invalid *jsonschema.ValidationError
	if !errors.As(v.Validate(value), &invalid) {
		return fault("does not fit the schema of its type")
	}
	return describe(invalid)
}

// dataField is the JSON pointer of a published event's body.
const dataField = "/data"

// fault returns the error for a body that is wrong as a whole.
func fault(detail string) []kapsel.FieldError {
	return []kapsel.FieldError{{Field: dataField, Detail: detail}}
}

// escape escapes a name in a JSON pointer.
var escape = strings.NewReplacer("~", "~0", "/", "~1")

// describe lists the faults that a check found, one for each JSON pointer.
func describe(err *jsonschema.ValidationError) (faults []kapsel.FieldError) {
	add := func(path []string, detail string) {
		pointer := dataField
		for _, name := range path {
			pointer += "/" + escape.Replace(name)
		}
		i := slices.IndexFunc(faults, func(f kapsel.FieldError) bool { return f.Field == pointer })
		switch {
		case i < 0 && len(faults) < maxFaults:
			faults = append(faults, kapsel.FieldError{Field: pointer, Detail: detail})
		case i >= 0 && !strings.Contains(faults[i].Detail, detail) && len(faults[i].Detail) < 200:
			faults[i].Detail += "; " + detail
		}
	}
	var walk func(*jsonschema.ValidationError)
	walk = func(err *jsonschema.ValidationError) {
		below := func(name string) []string { return append(slices.Clone(err.InstanceLocation), name) }
		switch k := err.ErrorKind.(type) {
		case *kind.Required:
			for _, name := range k.Missing {
				add(below(name), "is needed")
			}
		case *kind.AdditionalProperties:
			for _, name := range slices.Sorted(slices.Values(k.Properties)) {
				add(below(name), "is not a member that the schema knows")
			}
		case *kind.Format: // the library's text has the value
			if k.Want == "regex" { // of a schema
				add(err.InstanceLocation, fmt.Sprintf("is no regular expression that can be used: it may have %d bytes, and must not repeat much", maxPattern))
				break
			}
			add(err.InstanceLocation, "is not a valid "+k.Want)
		default:
			if len(err.Causes) == 0 {
				add(err.InstanceLocation, text(err))
			}
		}
		for _, cause := range err.Causes {
			walk(cause)
		}
	}
	walk(err)
	slices.SortStableFunc(faults, func(a, b kapsel.FieldError) int { return strings.Compare(a.Field, b.Field) })
	return faults
}

// text returns the library's text of one fault, without its place.
func text(err *jsonschema.ValidationError) string {
	alone := *err
	alone.InstanceLocation = nil
	return strings.TrimPrefix(alone.Error(), "at '': ")
}

// base is the URL of every schema. Nothing is ever loaded from it.
const base = "https://schema.invalid/"

// nothing loads no schema.
type nothing struct{}

func (nothing) Load(string) (any, error) { return nil, errors.New("not loaded") }

// compile compiles one schema. The error is for its author.
func compile(text []byte) (version, error) { return compileWith(text, false) }

// compileWith compiles one schema. formats says that a format must fit, and not only be named.
func compileWith(text []byte, formats bool) (version, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return version{}, errors.New("is not JSON")
	}
	if _, err := measure(doc, 0); err != nil {
		return version{}, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nothing{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseRegexpEngine(compilePattern)
	if formats {
		c.AssertFormat()
	}
	if err := c.AddResource(base, doc); err != nil {
		return version{}, reason(err)
	}
	s, err := c.Compile(base)
	if err != nil {
		return version{}, reason(err)
	}
	most, err := costOf(s)
	if err != nil {
		return version{}, err
	}
	if err := c.AddResource(base+"unfit", map[string]any{"not": map[string]any{"$ref": base}}); err != nil {
		return version{}, reason(err)
	}
	unfit, err := c.Compile(base + "unfit")
	if err != nil {
		return version{}, reason(err)
	}
	return version{s, unfit, most}, nil
}

// Bounds of a pattern.
const (
	maxPattern = 1 << 10 // bytes
	maxProgram = 4000    // steps of the program that it is compiled to
)

// pattern is a regular expression of a schema.
type pattern struct {
	*regexp.Regexp
	program int // how many steps its program has; each character of a text may take as many
}

// compilePattern compiles a regular expression.
func compilePattern(text string) (jsonschema.Regexp, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("a pattern has %d bytes; it may have %d", len(text), maxPattern)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(program.Inst) > maxProgram {
		return nil, fmt.Errorf("the pattern %q repeats more than can be matched; let it repeat less often", text)
	}
	compiled, err := regexp.Compile(text)
	return pattern{compiled, len(program.Inst)}, err
}

// program returns how many steps the program of a schema's pattern has; 0 if there is none.
func program(r jsonschema.Regexp) int {
	p, _ := r.(pattern)
	return p.program
}

// reason returns the error of the compiler for the author of the schema.
func reason(err error) error {
	var load *jsonschema.LoadURLError
	var invalid *jsonschema.ValidationError
	var unfit *jsonschema.SchemaValidationError // does not unwrap
	if errors.As(err, &unfit) {
		err = unfit.Err
	}
	switch {
	case errors.As(err, &load):
		return fmt.Errorf("refers to %s; nothing is loaded: a schema may refer to itself alone", strings.TrimPrefix(load.URL, base))
	case errors.As(err, &invalid):
		var all []string
		for _, f := range describe(invalid) {
			at := strings.TrimPrefix(f.Field, dataField)
			if at == "" {
				at = "the top"
			}
			all = append(all, "at "+at+" "+f.Detail)
		}
		return fmt.Errorf("is not a JSON Schema: %s", strings.Join(all[:min(len(all), 5)], ", "))
	}
	return fmt.Errorf("is not a JSON Schema: %s", strings.ReplaceAll(err.Error(), base, ""))
}

// measure returns how many values a JSON value at a depth has, itself included; a long string counts as
// several. It fails for a number that would take more than its due, because the library computes with exact
// fractions, and for what is nested too deep, because the library looks at some values once for each level.
func measure(v any, depth int) (values int, err error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("is nested deeper than %d levels", maxDepth)
	}
	values = 1
	below := func(inner any) {
		n, wrong := measure(inner, depth+1)
		values += n
		if wrong != nil {
			err = wrong
		}
	}
	switch v := v.(type) {
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(string(v)), "e")
		e, bad := strconv.Atoi(exponent)
		if len(v) > maxDigits || exponent != "" && (bad != nil || max(e, -e) > maxDigits) {
			err = fmt.Errorf("has a number with more than %d digits", maxDigits)
		}
	case string:
		values += len(v) / perString
	case []any:
		for _, inner := range v {
			below(inner)
		}
	case map[string]any:
		for name, inner := range v {
			values += len(name) / perString
			below(inner)
		}
	}
	return values, err
}

// Bounds of what costOf looks at.
const (
	maxCost  = 1000    // comparisons that one value may take
	maxSteps = 500_000 // of the walk over a schema
)

var (
	errCost    = fmt.Errorf("takes more than %d comparisons of one value; use fewer alternatives, or let it refer to itself less often", maxCost)
	errDynamic = errors.New("has $dynamicRef or $recursiveRef, which are not supported; use $ref")
)

// together holds the schemas that one value is compared with, and how often with each.
type together map[*jsonschema.Schema]int

// costOf returns the most comparisons that any one value of any body takes. Many subschemas may lead
// to one value, also to a value at any depth where a schema refers to itself, so costOf follows each
// way into a body, with all the schemas that meet there, until it has been everywhere.
func costOf(root *jsonschema.Schema) (bounds, error) {
	w := walk{seen: map[string]bool{}}
	w.next(func(meet func(*jsonschema.Schema, int)) { meet(root, 1) })
	for len(w.todo) > 0 && w.err == nil {
		at := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		w.below(at)
	}
	w.most.cost = max(1, w.most.cost)
	return w.most, w.err
}

type walk struct {
	todo  []together
	seen  map[string]bool
	most  bounds
	steps int
	err   error
}

// next adds the place in a body at which some schemas meet.
func (w *walk) next(schemas func(meet func(s *jsonschema.Schema, times int))) {
	at, total, faults, choice := together{}, 0, 0, false
	var meet func(s *jsonschema.Schema, times int)
	meet = func(s *jsonschema.Schema, times int) {
		if s == nil || w.err != nil {
			return
		}
		if w.steps++; w.steps > maxSteps {
			w.err = errCost
			return
		}
		if s.DynamicRef != nil || s.RecursiveRef != nil {
			w.err = errDynamic
			return
		}
		at[s] += times
		faults += times * (1 + needed(s))
		choice = choice || len(s.AnyOf)+len(s.OneOf) > 0 || s.Contains != nil || s.PropertyNames != nil
		weight := 1 + needed(s)/16 + program(s.Pattern)/4
		for p := range s.PatternProperties {
			weight += 1 + program(p)/16
		}
		if s.Format != nil && s.Format.Name == "regex" { // each text is compiled
			weight += 500
		}
		if s.Enum != nil {
			weight += weightOf(s.Enum.Values) / 16
		}
		if total += times * weight; total > maxCost { // also of a schema that is its own part
			w.err = errCost
			return
		}
		for _, part := range inPlace(s) {
			meet(part, times)
		}
	}
	schemas(meet)
	w.most.cost, w.most.faults = max(w.most.cost, total), max(w.most.faults, faults)
	if choice {
		w.most.others = max(w.most.others, faults)
	}
	if len(at) == 0 {
		return
	}
	var key []string
	for s, times := range at {
		key = append(key, fmt.Sprintf("%s %p %d", s.Location, s, times))
	}
	slices.Sort(key)
	if k := strings.Join(key, "\n"); !w.seen[k] {
		w.seen[k] = true
		w.todo = append(w.todo, at)
	}
}

// needed returns how many names of members a schema has that an object may need.
func needed(s *jsonschema.Schema) int {
	n := len(s.Required)
	for _, names := range s.DependentRequired {
		n += len(names)
	}
	for _, d := range s.Dependencies {
		names, _ := d.([]string)
		n += len(names)
	}
	return n
}

// weightOf returns how much it takes to compare a value with those of an enum: a string is soon compared, and
// a number is not.
func weightOf(values []any) (weight int) {
	for _, v := range values {
		if _, isText := v.(string); isText {
			weight++
		} else {
			weight += 8
		}
	}
	return weight
}

// inPlace returns the schemas that a value is compared with because it is compared with s.
func inPlace(s *jsonschema.Schema) []*jsonschema.Schema {
	parts := slices.Concat([]*jsonschema.Schema{s.Ref, s.Not, s.If, s.Then, s.Else}, s.AllOf, s.AnyOf, s.OneOf)
	parts = slices.AppendSeq(parts, maps.Values(s.DependentSchemas))
	for _, d := range s.Dependencies {
		parts = append(parts, asSchema(d))
	}
	return parts
}

// asSchema returns what the library keeps in a field of several types, if it is a schema, else nil.
func asSchema(v any) *jsonschema.Schema {
	s, _ := v.(*jsonschema.Schema)
	return s
}

// below adds the places that a value has below it: its members by their names, and its items.
func (w *walk) below(at together) {
	names, items := map[string]bool{}, 0
	for s := range at {
		for name := range s.Properties {
			names[name] = true
		}
		list, _ := s.Items.([]*jsonschema.Schema)
		items = max(items, len(s.PrefixItems), len(list))
	}
	for name := range names {
		w.next(func(meet func(*jsonschema.Schema, int)) {
			for s, times := range at {
				member(s, name, func(below *jsonschema.Schema) { meet(below, times) })
			}
		})
	}
	// A member of any other name, which may fit every pattern.
	w.next(func(meet func(*jsonschema.Schema, int)) {
		for s, times := range at {
			for _, below := range s.PatternProperties {
				meet(below, times)
			}
			meet(asSchema(s.AdditionalProperties), times)
			meet(s.UnevaluatedProperties, times)
		}
	})
	w.next(func(meet func(*jsonschema.Schema, int)) {
		for s, times := range at {
			meet(s.PropertyNames, times)
		}
	})
	for i := range items + 1 {
		w.next(func(meet func(*jsonschema.Schema, int)) {
			for s, times := range at {
				list, _ := s.Items.([]*jsonschema.Schema)
				switch {
				case i < len(s.PrefixItems):
					meet(s.PrefixItems[i], times)
				case i < len(list):
					meet(list[i], times)
				default:
					meet(s.Items2020, times)
					meet(asSchema(s.Items), times)
					meet(asSchema(s.AdditionalItems), times)
				}
				meet(s.Contains, times)
				meet(s.UnevaluatedItems, times)
			}
		})
	}
}

// member calls meet with the schemas that s has for a member with a name.
func member(s *jsonschema.Schema, name string, meet func(*jsonschema.Schema)) {
	known := false
	if below := s.Properties[name]; below != nil {
		known = true
		meet(below)
	}
	for pattern, below := range s.PatternProperties {
		if pattern.MatchString(name) {
			known = true
			meet(below)
		}
	}
	if !known {
		meet(asSchema(s.AdditionalProperties))
	}
	meet(s.UnevaluatedProperties)
}
