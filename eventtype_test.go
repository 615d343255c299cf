package kapsel_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

func TestEventType_Check(t *testing.T) {
	schemas := func(versions ...string) map[string]json.RawMessage {
		all := map[string]json.RawMessage{}
		for _, v := range versions {
			all[v] = json.RawMessage("{}")
		}
		return all
	}
	for _, tt := range []struct {
		what   string
		change func(*kapsel.EventType)
		want   string
	}{
		{"a type", func(*kapsel.EventType) {}, ""},
		{"no name", func(e *kapsel.EventType) { e.Name = "" }, "name"},
		{"a slash", func(e *kapsel.EventType) { e.Name = "a/b" }, "name"},
		{"dots", func(e *kapsel.EventType) { e.Name = ".." }, "name"},
		{"a long name", func(e *kapsel.EventType) { e.Name = strings.Repeat("a", 129) }, "name"},
		{"all at once", func(e *kapsel.EventType) {
			e.Description, e.Group, e.Validate = strings.Repeat("a", 2001), "a\x00", "strict"
		}, "description group validate"},
		{"versions", func(e *kapsel.EventType) { e.Schemas = schemas("1", "2026-01-31", "v2.1") }, ""},
		{"a bad version", func(e *kapsel.EventType) { e.Schemas = schemas("a b") }, "schemas"},
		{"many versions", func(e *kapsel.EventType) {
			e.Schemas = schemas("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
		}, "schemas"},
		{"a long schema", func(e *kapsel.EventType) {
			e.Schemas = map[string]json.RawMessage{"1": json.RawMessage(strings.Repeat(" ", kapsel.MaxSchema) + "1")}
		}, "schemas.1"},
	} {
		e := kapsel.EventType{Name: "invoice.paid", EventTypeConfig: kapsel.EventTypeConfig{Validate: kapsel.ValidateOff}}
		tt.change(&e)
		var got []string
		for _, f := range e.Check() {
			got = append(got, f.Field)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: wrong is %q, want %q", tt.what, s, tt.want)
		}
	}
	c := kapsel.EventTypeConfig{Schemas: schemas("9", "10", "v1.10", "v1.9", "2026-01-31", "2026-02-01")}
	if got := fmt.Sprint(c.Versions()); got != "[v1.10 v1.9 2026-02-01 2026-01-31 10 9]" {
		t.Errorf("versions are %s", got)
	}
}
