package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kapsel-hq/kapsel/internal/access"
)

// document31 is as much of an OpenAPI document as the tests read.
type document31 struct {
	OpenAPI    string
	Tags       []struct{ Name string }
	Paths      map[string]map[string]*operation31
	Components struct {
		Schemas map[string]*schema31
	}
	patterns map[string]*regexp.Regexp // of the paths of requests, by the key of Paths
}

type operation31 struct {
	OperationID string
	Summary     string
	Description string
	Access      string `json:"x-access"`
	Tags        []string
	Security    []map[string][]string
	Parameters  []struct {
		Name, In    string
		Required    bool
		Description string
		Example     any
	}
	RequestBody *struct {
		Required bool
		Content  map[string]struct{ Schema *schema31 }
	}
	Responses map[string]struct {
		Description string
		Codes       []string `json:"x-codes"`
		Content     map[string]struct {
			Schema  *schema31
			Example any
		}
	}
}

type schema31 struct {
	Ref                  string `json:"$ref"`
	Description          string
	Examples             []any
	Type                 any
	Format               string
	Properties           map[string]*schema31
	Required             []string
	Items                *schema31
	AdditionalProperties any
	Enum                 []any
	OneOf                []*schema31
}

func readDocument(t *testing.T, h http.Handler) *document31 {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/openapi.json", nil))
	var d document31
	if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	d.patterns = map[string]*regexp.Regexp{}
	for template := range d.Paths {
		d.patterns[template] = regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$")
	}
	return &d
}

// parameter matches a parameter in a path whose other characters are quoted.
var parameter = regexp.MustCompile(`\\\{[a-z_]+\\\}`)

// find is the operation that a request goes to, nil without one.
func (d *document31) find(method, path string) *operation31 {
	var best *operation31
	bestPath := ""
	for template, operations := range d.Paths {
		if !d.patterns[template].MatchString(path) {
			continue
		}
		// The one with fewer parameters is what the mux takes.
		if op := operations[strings.ToLower(method)]; op != nil && (best == nil || strings.Count(template, "{") < strings.Count(bestPath, "{")) {
			best, bestPath = op, template
		}
	}
	return best
}

// check holds an answer to what the document says of it.
func (d *document31) check(t *testing.T, method, path string, a answered) {
	t.Helper()
	op := d.find(method, path)
	if op == nil || a.status == http.StatusMethodNotAllowed { // of no operation
		return
	}
	response, ok := op.Responses[fmt.Sprint(a.status)]
	if !ok {
		t.Errorf("%s: status %d is not documented", op.OperationID, a.status)
		return
	}
	media, ok := response.Content[strings.Split(a.header.Get("Content-Type"), ";")[0]]
	if !ok {
		if len(a.body) > 0 {
			t.Errorf("%s: content type %q is not documented", op.OperationID, a.header.Get("Content-Type"))
		}
		return
	}
	if !strings.HasSuffix(strings.Split(a.header.Get("Content-Type"), ";")[0], "json") {
		return
	}
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Errorf("%s: %v", op.OperationID, err)
	}
	for _, wrong := range d.mismatches("", media.Schema, v) {
		t.Errorf("%s: %s", op.OperationID, wrong)
	}
	if a.status >= 400 {
		if code, _ := v.(map[string]any)["code"].(string); !slices.Contains(response.Codes, code) {
			t.Errorf("%s: %d with %q, documented with %q", op.OperationID, a.status, code, response.Codes)
		}
	}
}

// mismatches are where a value is not what a schema says.
func (d *document31) mismatches(at string, s *schema31, v any) (wrong []string) {
	if s == nil {
		return nil
	}
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	for _, one := range s.OneOf {
		if wrong = d.mismatches(at, one, v); wrong == nil {
			return nil
		}
	}
	if types := typesOf(s); len(types) > 0 && !slices.Contains(types, kindOf(v)) && !(kindOf(v) == "integer" && slices.Contains(types, "number")) {
		return []string{fmt.Sprintf("%s is %s, documented as %v", at, kindOf(v), types)}
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v) {
		wrong = append(wrong, fmt.Sprintf("%s is %v, documented as one of %v", at, v, s.Enum))
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				wrong = append(wrong, at+"."+name+" is missing")
			}
		}
		for name, member := range v {
			if p, ok := s.Properties[name]; ok {
				wrong = append(wrong, d.mismatches(at+"."+name, p, member)...)
			} else if s.AdditionalProperties == nil || s.AdditionalProperties == false {
				wrong = append(wrong, at+"."+name+" is not documented")
			}
		}
	case []any:
		for i, e := range v {
			wrong = append(wrong, d.mismatches(fmt.Sprintf("%s[%d]", at, i), s.Items, e)...)
		}
	}
	return wrong
}

// plain reports whether a value is no object, nor a list or map of any: those have examples
// of their own fields.
func (d *document31) plain(s *schema31) bool {
	switch {
	case s.Ref != "" || s.OneOf != nil || s.Properties != nil:
		return false
	case s.Items != nil:
		return d.plain(s.Items)
	default:
		return s.AdditionalProperties == nil || s.AdditionalProperties == false
	}
}

func typesOf(s *schema31) (types []string) {
	switch t := s.Type.(type) {
	case string:
		return []string{t}
	case []any:
		for _, v := range t {
			types = append(types, v.(string))
		}
	}
	return types
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func TestDocument(t *testing.T) {
	w := newWorld(t)
	if w.doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi is %q", w.doc.OpenAPI)
	}
	seen := map[string]bool{}
	for path, operations := range w.doc.Paths {
		for method, op := range operations {
			what := method + " " + path
			if op.OperationID == "" || seen[op.OperationID] {
				t.Errorf("%s: the operation id %q is empty or there twice", what, op.OperationID)
			}
			seen[op.OperationID] = true
			if len(op.Tags) != 1 || !slices.ContainsFunc(w.doc.Tags, func(tag struct{ Name string }) bool { return tag.Name == op.Tags[0] }) {
				t.Errorf("%s: tags %v", what, op.Tags)
			}
			if (op.Access != string(access.Anyone)) != (len(op.Security) == 1) {
				t.Errorf("%s: access %q with security %v", what, op.Access, op.Security)
			}
			if op.Summary == "" || op.Description == "" {
				t.Errorf("%s: the summary is %q, the description %q", what, op.Summary, op.Description)
			}
			for _, p := range op.Parameters {
				if p.Description == "" || p.Example == nil {
					t.Errorf("%s: parameter %s is described as %q, with the example %v", what, p.Name, p.Description, p.Example)
				}
			}
			for _, status := range []string{"400", "500", "503"} {
				if _, ok := op.Responses[status]; !ok {
					t.Errorf("%s: no answer %s", what, status)
				}
			}
			for status, r := range op.Responses {
				if r.Description == "" {
					t.Errorf("%s: answer %s has no description", what, status)
				}
				if status < "400" {
					continue
				}
				problem := r.Content["application/problem+json"]
				if problem.Schema == nil || problem.Example == nil || len(r.Codes) == 0 {
					t.Errorf("%s: answer %s is %+v", what, status, r)
					continue
				}
				if wrong := w.doc.mismatches("", problem.Schema, problem.Example); wrong != nil {
					t.Errorf("%s: the example of answer %s: %v", what, status, wrong)
				}
				for _, code := range r.Codes {
					if code != "" && !strings.Contains(r.Description, code) {
						t.Errorf("%s: answer %s says %q and not %s", what, status, r.Description, code)
					}
				}
			}
			if method == "patch" {
				ref := op.RequestBody.Content["application/merge-patch+json"].Schema.Ref
				if s := w.doc.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]; len(s.Required) > 0 || !strings.HasSuffix(ref, "Patch") {
					t.Errorf("%s: %s requires %v", what, ref, s.Required)
				}
			}
			if (method == "patch" || method == "post" || method == "put") != (op.RequestBody != nil) {
				t.Errorf("%s: request body is %v", what, op.RequestBody)
			}
		}
	}
	for name, s := range w.doc.Components.Schemas {
		for field, p := range s.Properties {
			if p.Description == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
			if w.doc.plain(p) && len(p.Examples) == 0 {
				t.Errorf("%s.%s has no example", name, field)
			}
			for _, example := range p.Examples {
				if wrong := w.doc.mismatches(name+"."+field, p, example); wrong != nil {
					t.Errorf("an example does not fit: %v", wrong)
				}
			}
		}
		if name == "" || strings.HasSuffix(name, "Struct") || strings.Contains(name, "_") {
			t.Errorf("schema %s has no name of ours", name)
		}
	}
}

func TestDocsPageStandsAlone(t *testing.T) {
	w := newWorld(t)
	a := w.do("GET", "/docs", "", nil)
	page := string(a.body)
	if a.status != 200 || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", a.status, a.header)
	}
	for _, outside := range []string{"http://", "https://", "//cdn", "@import", "url(", "src="} {
		if strings.Contains(page, outside) {
			t.Errorf("the page has %q", outside)
		}
	}
	if strings.Count(page, "<script>") != 1 || strings.Count(page, "<style>") != 1 || strings.Contains(page, "innerHTML") {
		t.Error("the policy is made for one script and one style, and the script for text")
	}
	policy := a.header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	if a := w.do("GET", "/openapi.json", "", nil); a.status != 200 || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("/openapi.json: %d %v", a.status, a.header)
	}
}
