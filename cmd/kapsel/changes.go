package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// shownAbove holds the fields that the cards of endpoints and sources show in their own words.
var shownAbove = []string{
	"id", "uid", "tenant_id", "name", "url", "description", "state", "disabled_reason", "ingest_url", "backlog", "oldest_waiting_at", "warnings",
	"created_at", "updated_at", "circuit.state", "circuit.changed_at", "circuit.retry_at", "verification.provider", "verification.secrets",
	"signing.secrets", "signing_secret", "throttled_until", "app", "subscriptions", "type.from", "type.value",
}

// changedCard prints the settings of an endpoint or a source that differ from the defaults.
func changedCard(w io.Writer, object []byte, defaults any) {
	changed := changes(object, defaults)
	if len(changed) == 0 {
		fmt.Fprintln(w, "\nAll settings are the defaults.")
		return
	}
	fmt.Fprintln(w, "\nSettings that are not the defaults")
	for i := range changed {
		changed[i].name = "  " + changed[i].name
	}
	card(w, changed...)
}

// changes returns the settings of an object that differ from the defaults, by the paths of their fields.
// They include fields that this version of the program does not know.
func changes(object []byte, defaults any) (facts []fact) {
	b, err := json.Marshal(defaults)
	if err != nil {
		panic(err) // an object of the API always encodes
	}
	is, usual := flat(object), flat(b)
	paths := slices.AppendSeq(slices.Collect(maps.Keys(is)), maps.Keys(usual))
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		if is[path] != usual[path] && !slices.Contains(shownAbove, path) && !strings.HasPrefix(path, "metadata.") {
			facts = append(facts, fact{path, cmp.Or(is[path], "none")})
		}
	}
	return facts
}

// flat returns the values of a JSON object by their paths, in the form in which people read them. It leaves
// out values that are null or empty.
func flat(object []byte) map[string]string {
	var root any
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	if d.Decode(&root) != nil {
		return nil
	}
	all := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case nil:
		case map[string]any:
			for name, inner := range v {
				walk(strings.TrimPrefix(path+"."+name, "."), inner)
			}
		case []any:
			var items []string
			for _, item := range v {
				if object, ok := item.(map[string]any); ok {
					item = object["id"]
				}
				items = append(items, fmt.Sprint(item))
			}
			if items != nil {
				all[path] = strings.Join(items, ", ")
			}
		default:
			if text := fmt.Sprint(v); text != "" {
				all[path] = text
			}
		}
	}
	walk("", root)
	return all
}
