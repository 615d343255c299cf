package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel"
)

// TestSecretsAreAdded: a list of secrets may name those that are there and stay, so that nobody
// needs to know the former one to add another.
func TestSecretsAreAdded(t *testing.T) {
	w := newWorld(t)
	h := w.newHouse("a")
	create := func(secrets string) object {
		return w.want(201, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"github","secrets":[`+secrets+`]}}`)
	}
	made, another := create(`"one"`), create(`"other"`)
	path := "/v1/endpoints/" + made.text("id")
	ids := func(e object) (ids []string) {
		for _, s := range object(e.object("verification")).list("secrets") {
			ids = append(ids, s.text("id"))
		}
		return ids
	}
	secrets := func() (texts []string) {
		e := w.stored(made.text("id"))
		for _, s := range e.Verification.Secrets {
			texts = append(texts, w.opened(e, s))
		}
		return texts
	}
	patch := func(list string) string { return `{"verification":{"secrets":[` + list + `]}}` }
	keep := func(id string) string { return fmt.Sprintf(`{"id":%q}`, id) }
	first := ids(made)[0]

	added := w.want(200, "PATCH", path, h.write, patch(keep(first)+`,"two"`))
	if got := strings.Join(secrets(), " "); got != "one two" || ids(added)[0] != first || len(ids(added)) != 2 {
		t.Errorf("after adding: %s, %v", got, ids(added))
	}
	second := ids(added)[1]
	if w.want(200, "PATCH", path, h.write, patch(`"three",`+keep(second))); strings.Join(secrets(), " ") != "three two" {
		t.Errorf("after replacing the first: %v", secrets())
	}
	w.want(200, "PATCH", path, h.write, `{"verification":{"provider":"github","secrets":[`+keep(second)+`]}}`)
	if got := strings.Join(secrets(), " "); got != "two" {
		t.Errorf("after taking one out: %s", got)
	}

	for _, tt := range []struct {
		list   string
		status int
		field  string
	}{
		{keep(first), 422, "verification.secrets[0].id"}, // is not there any more
		{`"x",` + keep(ids(another)[0]), 422, "verification.secrets[1].id"},
		{keep(second) + "," + keep(second), 422, "verification.secrets[1].id"},
		{`{}`, 422, "verification.secrets[0].id"},
		{`null`, 422, "verification.secrets[0].id"},
		{`{"id":null}`, 422, "verification.secrets[0].id"},
		{`{"id":"ep_x"}`, 400, "verification.secrets[0].id"},
		{`{"id":5}`, 400, "verification.secrets[0].id"},
		{`{"id":"` + second + `","text":"x"}`, 400, "verification.secrets[0].text"},
		{`["x"]`, 400, "verification.secrets[0]"},
		{`5`, 400, "verification.secrets[0]"},
		{keep(second) + `,""`, 422, "verification.secrets[1]"},
	} {
		w.refused(kapsel.InvalidRequest, tt.status, []string{tt.field}, "PATCH", path, h.write, patch(tt.list))
	}
	// Another provider's secret is none of this one's.
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets[0].id"}, "PATCH", path, h.write, `{"verification":{"provider":"gitea","secrets":[`+keep(second)+`]}}`)
	w.refused(kapsel.InvalidRequest, 422, []string{"verification.secrets[0].id"}, "POST", "/v1/endpoints", h.write, `{"name":"a","url":"https://example.com","verification":{"provider":"github","secrets":[`+keep(second)+`]}}`)
	if got := strings.Join(secrets(), " "); got != "two" {
		t.Errorf("refused patches left %s", got)
	}
}
