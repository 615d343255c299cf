package schema

import (
	"encoding/json"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestExample checks that an example fits its schema, takes what the schema has as examples, and that there is
// none where nothing is found that fits.
func TestExample(t *testing.T) {
	for schema, want := range map[string]string{
		`{}`: `null`, `true`: `null`,
		`{"type":"object","required":["id","amount"],"properties":{"id":{"type":"string","examples":["in_1"]},"amount":{"type":"integer","minimum":100},"paid":{"type":"boolean"}}}`: `{"amount":100,"id":"in_1","paid":true}`,
		`{"type":"string","format":"date-time"}`:                                                 `"2026-01-31T12:00:00Z"`,
		`{"type":"string","minLength":6}`:                                                        `"textxx"`,
		`{"type":"string","maxLength":2}`:                                                        `"te"`,
		`{"type":"string","pattern":"^[0-9]{4}$"}`:                                               ``,
		`{"type":"string","pattern":"^[0-9]{4}$","default":"2026"}`:                              `"2026"`,
		`{"enum":["eur","usd"]}`:                                                                 `"eur"`,
		`{"const":{"a":1}}`:                                                                      `{"a":1}`,
		`{"type":"array","items":{"type":"number","exclusiveMinimum":2,"multipleOf":0.5}}`:       `[2.5]`,
		`{"type":"array","minItems":3,"items":{"type":"null"}}`:                                  `[null,null,null]`,
		`{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1}`:                            `0.5`,
		`{"type":"integer","maximum":-5}`:                                                        `-5`,
		`{"type":["null","integer"],"minimum":7}`:                                                `7`,
		`{"allOf":[{"required":["a"]},{"properties":{"b":{"type":"integer"}}}]}`:                 `{"a":"text","b":1}`,
		`{"oneOf":[{"type":"string"},{"type":"integer"}]}`:                                       `"text"`,
		`{"$ref":"#/$defs/x","$defs":{"x":{"type":"object","properties":{"n":{"const":null}}}}}`: `{"n":null}`,
		`{"not":{}}`: ``,
		`{"type":"array","prefixItems":[{"const":1},{"const":"b"}],"items":false}`: `[1,"b"]`,
		`{`: ``,
	} {
		config := kapsel.EventTypeConfig{Schemas: map[string]json.RawMessage{"1": json.RawMessage(schema)}}
		made := Example(&config, "1")
		var compact string
		if made != nil {
			var v any
			if err := json.Unmarshal(made, &v); err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(v) // texts always encode
			compact = string(text)
			checker, wrong := New(&config)
			if wrong != nil {
				t.Fatal(wrong)
			}
			if faults := check(t, checker, string(made)); faults != nil {
				t.Errorf("%s: %s does not fit: %v", schema, made, faults)
			}
		}
		if compact != want {
			t.Errorf("the example of %s is %s, want %s", schema, compact, want)
		}
	}
	// A schema that is its own part has an example that ends, and is not longer than it may be.
	deep := kapsel.EventTypeConfig{Schemas: map[string]json.RawMessage{"1": json.RawMessage(
		`{"type":"object","properties":{"a":{"$ref":"#"},"b":{"$ref":"#"},"c":{"$ref":"#"},"name":{"type":"string"}}}`)}}
	if made := Example(&deep, "1"); made == nil || len(made) > 200_000 {
		t.Errorf("a schema that is its own part has an example of %d bytes", len(made))
	}
}
