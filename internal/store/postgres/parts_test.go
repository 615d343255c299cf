package postgres

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kapsel-hq/kapsel/internal/store/pgtest"
)

// hot are the tables of the hot path, whose keys all begin with the part.
var hot = []string{"events", "deliveries", "attempts", "idempotency_keys", "guards", "expansions", "audit_outbox", "audit_packs"}

// fanOuts are the statements that look for rows of a hot table in all parts, by the function or
// variable that holds the statement and the table, each with the reason why no id gives the part.
var fanOuts = map[string]string{
	"Erasing: events":                      "lists what is being erased, which is little",
	"ListEvents: expansions":               "asks whether any event is expanding",
	"eventPlanBy: events":                  "an origin's or an app's events come in at many parts",
	"eventPlanBy: deliveries":              "an endpoint's deliveries are in the parts of their events",
	"eventPlanBy: expansions":              "lists what is expanding, which is little",
	"ListDeliveries: deliveries":           "an endpoint's deliveries are in the parts of their events",
	"OpenExpansions: expansions":           "lists what is expanding, which is little",
	"claimStatements find due: deliveries": "an endpoint's deliveries are in the parts of their events",
	"openEndpoints: deliveries":            "finds the endpoints that have open deliveries",
	"Backlog: deliveries":                  "counts for each endpoint",
	"Held: deliveries":                     "a node holds deliveries of any part",
	"TakeOver: deliveries":                 "a dead node held deliveries of any part",
	"QueueDepth: deliveries":               "counts for each endpoint",
	"waiting: deliveries":                  "counts for each endpoint, and reads what a bulk replay may move",
	"CancelWaiting: deliveries":            "an endpoint's deliveries are in the parts of their events",
	"Replan: deliveries":                   "an endpoint's deliveries are in the parts of their events",
	"missing: events":                      "reads the events of several origins",
	"replayCandidates: deliveries":         "an endpoint's deliveries are in the parts of their events",
	"countedReplays: deliveries":           "a bulk replay has deliveries of any part",
	"finishReplay: deliveries":             "a bulk replay has deliveries of any part",
	"DeletedTenants: events":               "looks for any event of a tenant",
	"old: events":                          "looks for a tenant's old events",
	"finished: events":                     "looks for a tenant's old events",
	"DeleteExpiredKeys: idempotency_keys":  "looks for old keys",
	"DeleteExpiredGuards: guards":          "looks for old guards",
	"Entries: audit_outbox":                "reads what is in the outbox, which is little",
	"Entries: audit_packs":                 "reads what is in the outbox, which is little",
	"Strays: audit_packs":                  "reads what is in the outbox, which is little",
	"erasePacked: audit_packs":             "reads what is in the outbox, which is little",
	"unpacked: audit_outbox":               "copies the outbox",
	"unpacked: audit_packs":                "copies the outbox",
	"Strays: attempts":                     "walks through all attempts",
	"StreamEvents: events":                 "the stream has the events of all parts",
	"streamBase: events":                   "looks for the stream's end",
	"Survey: events":                       "looks for the stream's end",
}

// sqlText is a text in the package's source. What the source puts together is one text with … for
// each piece that is no literal.
type sqlText struct{ holder, text string }

// sqlTexts returns the package's texts, except for those of tests.
func sqlTexts(t *testing.T) (all []sqlText) {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok {
				all = append(all, textsIn(d.Name.Name, d)...)
				continue
			}
			for _, spec := range decl.(*ast.GenDecl).Specs {
				if v, ok := spec.(*ast.ValueSpec); ok {
					all = append(all, textsIn(v.Names[0].Name, v)...)
				}
			}
		}
	}
	return all
}

func textsIn(holder string, in ast.Node) (all []sqlText) {
	ast.Inspect(in, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := pair.Key.(*ast.BasicLit); ok { // a map of statements
				all = append(all, textsIn(holder+" "+strings.Trim(key.Value, `"`), pair.Value)...)
				return false
			}
		}
		sum, ok := e.(*ast.BinaryExpr)
		if !ok {
			if text, ok := literal(e); ok {
				all = append(all, sqlText{holder, text})
			}
			return true
		}
		if sum.Op != token.ADD {
			return true
		}
		var text strings.Builder
		for _, piece := range summands(sum) {
			if s, ok := literal(piece); ok {
				text.WriteString(s)
				continue
			}
			text.WriteString("…")
			all = append(all, textsIn(holder, piece)...)
		}
		all = append(all, sqlText{holder, text.String()})
		return false
	})
	return all
}

// summands returns the operands of a sum, in order.
func summands(e ast.Expr) []ast.Expr {
	if sum, ok := e.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		return append(summands(sum.X), summands(sum.Y)...)
	}
	return []ast.Expr{e}
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

var (
	subquery = regexp.MustCompile(`^\(\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b`)
	mention  = regexp.MustCompile(`\b(FROM|JOIN|USING|UPDATE|INTO) (` + strings.Join(hot, "|") + `)\b(?: AS)?( [a-z]+\b)?`)
)

// given matches what may give a part: a parameter, or a row that was found before. Rows of a hot
// table that come first must have their own condition.
const given = `(\$\d|ANY ?\(\$\d|[a-z_]+\.part\b|…)`

// scopes returns a statement and each of its subqueries, without the subqueries in it.
func scopes(sql string) []string {
	all, open := []string{""}, []int{0} // open has an index into all for each open parenthesis
	for i := range len(sql) {
		if sql[i] == '(' {
			at := open[len(open)-1]
			if subquery.MatchString(sql[i:]) {
				all, at = append(all, ""), len(all)
			}
			open = append(open, at)
		}
		all[open[len(open)-1]] += sql[i : i+1]
		if sql[i] == ')' && len(open) > 1 {
			open = open[:len(open)-1]
		}
	}
	return all
}

// acrossParts returns the hot tables that a statement reads or writes without naming the part.
func acrossParts(sql string) (tables []string) {
	for _, scope := range scopes(sql) {
		for _, m := range mention.FindAllStringSubmatchIndex(scope, -1) {
			verb, table, rest := scope[m[2]:m[3]], scope[m[4]:m[5]], scope[m[1]:]
			if verb == "INTO" {
				if !strings.HasPrefix(rest, " (part,") {
					tables = append(tables, table)
				}
				continue
			}
			name := table
			if m[6] >= 0 {
				name = strings.TrimSpace(scope[m[6]:m[7]])
			}
			named := `\b` + name + `\.part = ` + given
			if name == table {
				named += `|(WHERE|AND|ON) part = ` + given
			}
			if !regexp.MustCompile(named).MatchString(scope) {
				tables = append(tables, table)
			}
		}
	}
	return tables
}

// TestParts_NamedByEachStatement checks that each statement names the part of the rows that it
// looks for in a hot table, unless it is one of the few that must look in all parts.
func TestParts_NamedByEachStatement(t *testing.T) {
	found := map[string]bool{}
	mentions := 0
	for _, s := range sqlTexts(t) {
		mentions += len(mention.FindAllString(s.text, -1))
		for _, table := range acrossParts(s.text) {
			where := s.holder + ": " + table
			found[where] = true
			if fanOuts[where] == "" {
				t.Errorf("%s: this statement does not name the part:\n%s", where, s.text)
			}
		}
	}
	for where := range fanOuts {
		if !found[where] {
			t.Errorf("%s is on the list, but no such statement looks in all parts", where)
		}
	}
	if mentions < 60 {
		t.Errorf("found only %d mentions of hot tables: the test does not see the package's statements", mentions)
	}
}

// TestParts_OfASample checks that acrossParts sees what it must see.
func TestParts_OfASample(t *testing.T) {
	for sql, want := range map[string][]string{
		"SELECT 1 FROM events e WHERE e.part = $1 AND e.id = $2":                                                 nil,
		"SELECT 1 FROM events WHERE part = $1 AND id = $2":                                                       nil,
		"SELECT 1 FROM events WHERE part = ANY ($1) AND seq > $2":                                                nil,
		"SELECT 1 FROM events WHERE id = $1":                                                                     {"events"},
		"SELECT 1 FROM events e JOIN deliveries d ON d.event_id = e.id WHERE e.part = $1":                        {"deliveries"},
		"SELECT 1 FROM events e JOIN deliveries d ON d.part = e.part WHERE e.part = $1":                          nil,
		"SELECT 1 FROM events e JOIN deliveries d ON d.part = e.part WHERE e.seq > $1":                           {"events"},
		"SELECT 1 FROM events WHERE id = $1 AND EXISTS (SELECT 1 FROM expansions x WHERE x.part = events.part)":  {"events"},
		"SELECT 1 FROM events e WHERE e.part = $1 AND EXISTS (SELECT 1 FROM attempts a WHERE a.event_id = e.id)": {"attempts"},
		"DELETE FROM guards g USING old WHERE g.part = old.part":                                                 nil,
		"UPDATE deliveries SET status = 2 WHERE id = $1":                                                         {"deliveries"},
		"INSERT INTO attempts (part, id) VALUES ($1, $2)":                                                        nil,
		"INSERT INTO attempts (id) VALUES ($1)":                                                                  {"attempts"},
	} {
		if got := acrossParts(sql); !slices.Equal(got, want) {
			t.Errorf("%s: looks in all parts of %v, want %v", sql, got, want)
		}
	}
}

// selectInserts are the statements that insert what they select into a hot table, by their holder,
// each with the reason.
var selectInserts = map[string]string{
	"acceptStatements keys":       fromParameters,
	"acceptStatements expansions": fromParameters,
	"insertEvents":                fromParameters,
	"insertDeliveries":            fromParameters,
	"guardsStatement":             fromParameters,
	"guardedKeysStatement":        fromParameters,
	"insertFirsts":                fromParameters,
	"logEnds":                     fromParameters,
	"completeStatements complete": "the attempts of the deliveries that it moved, which have the same parts",
}

const fromParameters = "the rows of a batch, which are parameters"

// TestParts_Shapes checks that no statement selects nothing, which other servers that speak
// PostgreSQL's language refuse, and that few statements insert what they select.
func TestParts_Shapes(t *testing.T) {
	empty := regexp.MustCompile(`(?i)\bSELECT\s+(FROM|WHERE)\b`)
	inserts := regexp.MustCompile(`INTO (` + strings.Join(hot, "|") + `)\b[^;]*\bSELECT\b`)
	found := map[string]bool{}
	for _, s := range sqlTexts(t) {
		if empty.MatchString(s.text) {
			t.Errorf("%s: this statement selects nothing; write SELECT 1:\n%s", s.holder, s.text)
		}
		if inserts.MatchString(s.text) {
			found[s.holder] = true
			if selectInserts[s.holder] == "" {
				t.Errorf("%s: this statement inserts what it selects:\n%s", s.holder, s.text)
			}
		}
	}
	for holder := range selectInserts {
		if !found[holder] {
			t.Errorf("%s is on the list, but inserts no rows that it selects", holder)
		}
	}
}

// TestParts_InUniqueIndexes checks that the part is in each unique index of a hot table, so that no
// insert must look in another part.
func TestParts_InUniqueIndexes(t *testing.T) {
	url := pgtest.New(t)
	s, err := Open(t.Context(), url, Options{Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rows, err := s.engine.Query(t.Context(), `
		SELECT i.indexrelid::regclass::text, EXISTS (
			SELECT 1 FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attname = 'part' AND a.attnum = ANY (i.indkey))
		FROM pg_index i WHERE i.indisunique AND i.indrelid = ANY ($1::text[]::regclass[])`, hot)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var has bool
	n := 0
	if _, err := pgx.ForEachRow(rows, []any{&name, &has}, func() error {
		n++
		if !has {
			t.Errorf("the unique index %s does not have the part", name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n < len(hot) {
		t.Errorf("found %d unique indexes of %d tables", n, len(hot))
	}
}
