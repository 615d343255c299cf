package schema

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kapsel-hq/kapsel"
)

// Bounds of an example.
const (
	maxExampleDepth  = 8
	maxExampleValues = 300
	maxExampleText   = 200 // characters of a string that a schema wants long
)

// Example returns a body that fits a schema of an event type, indented. It takes the schema's own examples,
// defaults and constants where there are any. It returns nil if it finds none that fits, as for a schema
// with a pattern of its own.
func Example(t *kapsel.EventTypeConfig, version string) []byte {
	v, err := compileWith(t.Schemas[version], true)
	if err != nil {
		return nil
	}
	m := maker{}
	var text bytes.Buffer
	writer := json.NewEncoder(&text)
	writer.SetEscapeHTML(false)
	writer.SetIndent("", "  ")
	if writer.Encode(m.value(v.Schema, 0)) != nil {
		return nil
	}
	made, err := jsonschema.UnmarshalJSON(bytes.NewReader(text.Bytes()))
	if err != nil {
		return nil
	}
	values, err := measure(made, 0)
	if err != nil || values > maxChecks/v.cost || v.Validate(made) != nil {
		return nil
	}
	return bytes.TrimSpace(text.Bytes())
}

// maker makes an example, and counts its values.
type maker struct{ values int }

// full reports whether the example has as much as it may have, at a depth. Optional parts are left out then.
func (m *maker) full(depth int) bool { return depth >= maxExampleDepth || m.values >= maxExampleValues }

// value returns a value that is likely to fit a schema.
func (m *maker) value(s *jsonschema.Schema, depth int) any {
	m.values++
	switch {
	case s == nil || m.values > 2*maxExampleValues || depth > 2*maxExampleDepth:
		return nil
	case s.Const != nil:
		return *s.Const
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Default != nil:
		return *s.Default
	case s.Enum != nil && len(s.Enum.Values) > 0:
		return s.Enum.Values[0]
	}
	// Of what is said in parts each has something to add to an object; of other values the last part that
	// says something counts.
	var whole any
	add := func(v any) {
		was, both := whole.(map[string]any)
		next, is := v.(map[string]any)
		if !both || !is {
			if v != nil {
				whole = v
			}
			return
		}
		for name, inner := range next {
			was[name] = inner
		}
	}
	for _, part := range m.parts(s) {
		add(m.value(part, depth+1))
	}
	if kind := kindOf(s); kind != "" {
		add(m.ofKind(s, kind, depth))
	}
	return whole
}

// parts returns the schemas that a value must fit beside s: of alternatives the first.
func (m *maker) parts(s *jsonschema.Schema) []*jsonschema.Schema {
	var parts []*jsonschema.Schema
	if s.Ref != nil {
		parts = append(parts, s.Ref)
	}
	parts = append(parts, s.AllOf...)
	for _, list := range [][]*jsonschema.Schema{s.AnyOf, s.OneOf} {
		if len(list) > 0 {
			parts = append(parts, list[0])
		}
	}
	return parts
}

// kindOf returns the type of the values that a schema describes, "" if it does not say.
func kindOf(s *jsonschema.Schema) string {
	if s.Types != nil {
		if names := s.Types.ToStrings(); len(names) > 0 {
			if i := slices.IndexFunc(names, func(n string) bool { return n != "null" }); i >= 0 {
				return names[i]
			}
			return names[0]
		}
	}
	switch {
	case len(s.Properties) > 0 || len(s.Required) > 0:
		return "object"
	case s.Items != nil || s.Items2020 != nil || len(s.PrefixItems) > 0:
		return "array"
	case s.Format != nil || s.MinLength != nil || s.MaxLength != nil || s.Pattern != nil:
		return "string"
	case s.Minimum != nil || s.Maximum != nil || s.ExclusiveMinimum != nil || s.ExclusiveMaximum != nil || s.MultipleOf != nil:
		return "number"
	}
	return ""
}

func (m *maker) ofKind(s *jsonschema.Schema, kind string, depth int) any {
	switch kind {
	case "object":
		return m.object(s, depth)
	case "array":
		return m.array(s, depth)
	case "string":
		return words(s)
	case "integer", "number":
		return number(s, kind == "integer")
	case "boolean":
		return true
	}
	return nil
}

func (m *maker) object(s *jsonschema.Schema, depth int) any {
	made := map[string]any{}
	names := slices.Clone(s.Required)
	for name := range s.Properties {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		below := s.Properties[name]
		needed := slices.Contains(s.Required, name)
		if !needed && (m.full(depth) || below == nil || below.Bool != nil && !*below.Bool) {
			continue
		}
		if below == nil {
			if below = asSchema(s.AdditionalProperties); below == nil {
				made[name] = "text"
				continue
			}
		}
		v := m.value(below, depth+1)
		if v == nil && kindOf(below) == "" && below.Const == nil {
			v = "text" // anything fits a schema that says nothing
		}
		made[name] = v
	}
	return made
}

func (m *maker) array(s *jsonschema.Schema, depth int) any {
	made := []any{}
	each := s.Items2020
	if each == nil {
		each = asSchema(s.Items)
	}
	first := s.PrefixItems
	if list, ok := s.Items.([]*jsonschema.Schema); ok {
		first = list
	}
	for _, item := range first {
		made = append(made, m.value(item, depth+1))
	}
	least := 1
	if s.MinItems != nil {
		least = *s.MinItems
	}
	for each != nil && len(made) < max(least, 1) && (len(made) < least || !m.full(depth)) && m.values < maxExampleValues {
		made = append(made, m.value(each, depth+1))
	}
	if s.MaxItems != nil && len(made) > *s.MaxItems {
		made = made[:*s.MaxItems]
	}
	return made
}

// formats are texts of some formats.
var formats = map[string]string{
	"date-time": "2026-01-31T12:00:00Z", "date": "2026-01-31", "time": "12:00:00Z", "duration": "PT1H", "email": "ada@example.com", "idn-email": "ada@example.com",
	"hostname": "example.com", "idn-hostname": "example.com", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "uri": "https://example.com/", "iri": "https://example.com/",
	"uri-reference": "/a", "iri-reference": "/a", "uuid": "0190b6f0-7c3a-7000-8000-000000000001", "json-pointer": "/a", "regex": "a+",
}

// words returns a text of the length and format that a schema wants.
func words(s *jsonschema.Schema) string {
	if s.Format != nil && formats[s.Format.Name] != "" {
		return formats[s.Format.Name]
	}
	made := "text"
	if s.MinLength != nil && len(made) < *s.MinLength {
		made += strings.Repeat("x", min(*s.MinLength, maxExampleText)-len(made))
	}
	if s.MaxLength != nil && len(made) > *s.MaxLength {
		made = made[:max(*s.MaxLength, 0)]
	}
	return made
}

// number returns a number in the range that a schema wants: 1 where that fits.
func number(s *jsonschema.Schema, whole bool) any {
	one := big.NewRat(1, 1)
	n := new(big.Rat).Set(one)
	step := one
	if s.MultipleOf != nil && s.MultipleOf.Sign() > 0 {
		step = s.MultipleOf
		n.Set(step)
	}
	if low := s.Minimum; low != nil && n.Cmp(low) < 0 {
		n = upTo(low, step)
	}
	if low := s.ExclusiveMinimum; low != nil && n.Cmp(low) <= 0 {
		if n = upTo(low, step); n.Cmp(low) == 0 {
			n.Add(n, step)
		}
	}
	if high := s.Maximum; high != nil && n.Cmp(high) > 0 {
		n = downTo(high, step)
	}
	if high := s.ExclusiveMaximum; high != nil && n.Cmp(high) >= 0 {
		if n = downTo(high, step); n.Cmp(high) == 0 {
			n.Sub(n, step)
		}
		if low := firstOf(s.Minimum, s.ExclusiveMinimum); !whole && s.MultipleOf == nil && low != nil && n.Cmp(low) <= 0 { // between two bounds
			n = new(big.Rat).Quo(new(big.Rat).Add(low, high), big.NewRat(2, 1))
		}
	}
	if n.IsInt() {
		return json.Number(n.Num().String())
	}
	return json.Number(strings.TrimRight(n.FloatString(6), "0"))
}

// firstOf returns the first of two numbers that is there.
func firstOf(a, b *big.Rat) *big.Rat {
	if a != nil {
		return a
	}
	return b
}

// upTo and downTo return the multiple of a step that is next to a number.
func upTo(n, step *big.Rat) *big.Rat {
	q := new(big.Rat).Quo(n, step)
	k := new(big.Int).Quo(q.Num(), q.Denom())
	r := new(big.Rat).Mul(new(big.Rat).SetInt(k), step)
	if r.Cmp(n) < 0 {
		r.Add(r, step)
	}
	return r
}

func downTo(n, step *big.Rat) *big.Rat {
	r := upTo(n, step)
	if r.Cmp(n) > 0 {
		r.Sub(r, step)
	}
	return r
}
