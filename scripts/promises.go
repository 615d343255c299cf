//go:build ignore

// promises makes docs/promises.md: which test keeps which promise. It reads the source of the
// tests and runs none of them. An id stands in a test's name (TestBadInput_B71_Vectors), in its
// doc comment or in a text of its body (the case "B-13 NUL"); the promise is the first sentence of
// the doc comment. In internal/store/storetest each case is a promise that begins with its ids.
// The program fails when a test that has an id does not say what it promises. Run it with
//
//	go generate .
package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	page  = "docs/promises.md"
	suite = "internal/store/storetest" // what both stores are tested with
)

const intro = `<!-- Made by go generate . of the tests' comments; do not edit. -->
# Promises

What Kapsel promises when something goes wrong, and the test that holds it to that. Many tests have ids in their names or in the names of their cases (there they are written B-71 and F-A10): look up here what B71 or FA10 means. Numbers that are missing have no test of their own.

Run one by its package and name:

    go test ./internal/signature -run TestBadInput_B71_Vectors
    go test ./internal/store/... -run TestStore/Accept/B-62

` + "`TestStore` and `TestReopen` run on every store. `make chaos` runs the tests of crashes with their full counts, `make interop` those of other libraries, and `make perf` measures." + `
`

// groups are the parts of the page, in order, by what ids begin with and their least number.
var groups = []group{
	{"FA", 1, "FA: crashes", "The process or the database is killed, at any moment."},
	{"FB", 1, "FB: the database and its disk", "The database is away, slow, full, locked, read-only or set up unsafely."},
	{"FC", 1, "FC: clocks", "Clocks jump or differ."},
	{"FD", 1, "FD: destinations", "A destination is away, slow, broken or hostile."},
	{"FE", 1, "FE: load and fairness", "Some tenants, endpoints or clients take more than their share."},
	{"FF", 1, "FF: several nodes", "Nodes share a database, and one of them freezes, dies or is cut off."},
	{"FG", 1, "FG: operations", "The service is stopped, reconfigured or short of files, disk or readers of its log."},
	{"FH", 1, "FH: the audit log", "A write of the log fails, its writer is replaced, or somebody changes it."},
	{"B", 1, "B1 to B29: malformed HTTP", "A request to ingest is not quite HTTP, or is HTTP at its limits."},
	{"B", 30, "B30 to B49: odd data", "Bodies, keys, cursors, numbers and names hold what breaks parsers and stores."},
	{"B", 50, "B50 to B59: headers", "Headers are sent along that must not be, or must be unchanged."},
	{"B", 60, "B60 to B75: keys, signatures and duplicates", "API keys, idempotency keys and signatures are wrong, old, repeated or guessed."},
	{"B", 76, "B76 to B79: isolation of tenants", "A caller asks for what belongs to another tenant."},
	{"B", 80, "B80 to B98: addresses that must not be reached", "An endpoint's URL leads into the network that Kapsel runs in, or back to Kapsel (server-side request forgery)."},
	{"B", 110, "B110 to B119: exhaustion", "A caller asks for so much that memory, connections or the database could run out."},
	{"B", 120, "B120 to B129: injection and counts", "A text is meant to be read as code, as a line of the log or as a pattern; a count is asked for that could cost a lot."},
	{"S", 1, "S: hardening", "Secrets, certificates, defaults, the database's roles and the container image."},
}

type group struct {
	letters     string
	least       int
	title, what string
}

// id is a row's id: B71 is {"B", 71, ""}.
type id struct {
	letters string
	number  int
	suffix  string
}

func (i id) String() string { return i.letters + strconv.Itoa(i.number) + i.suffix }

func compare(a, b id) int {
	return cmp.Or(cmp.Compare(a.letters, b.letters), cmp.Compare(a.number, b.number), cmp.Compare(a.suffix, b.suffix))
}

// row is a promise and the test that keeps it: its name, its file, and the package to run.
type row struct {
	ids                      []id
	promise, test, file, pkg string
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("promises: ")
	set := token.NewFileSet()
	var rows []row
	var wrong []string
	shared := map[string]*ast.File{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && name != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
			return filepath.SkipDir
		}
		path = filepath.ToSlash(path)
		inSuite := filepath.Dir(path) == suite
		if !strings.HasSuffix(path, "_test.go") && !(inSuite && strings.HasSuffix(path, ".go")) {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if inSuite {
			shared[path] = file
			return nil
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			ids := slices.Concat(inName(f.Name.Name), inText(f.Doc.Text()), inBody(f.Body))
			if len(ids) == 0 {
				continue
			}
			promise, ok := promised(f)
			if !ok {
				wrong = append(wrong, fmt.Sprintf("%s: the doc comment must begin with %q and say in its first sentence what %s promises",
					set.Position(f.Pos()), f.Name.Name+" checks that", ids[0]))
			}
			rows = append(rows, row{ids, promise, f.Name.Name, path, "./" + strings.TrimPrefix(filepath.Dir(path), ".")})
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if len(wrong) > 0 {
		log.Fatalf("%s was not made:\n%s", page, strings.Join(wrong, "\n"))
	}
	text, err := render(append(rows, cases(shared)...))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(page, text, 0o644); err != nil {
		log.Fatal(err)
	}
}

// promised returns what a test's doc comment says after "TestX checks that".
func promised(f *ast.FuncDecl) (sentence string, ok bool) {
	sentence, ok = strings.CutPrefix(new(doc.Package).Synopsis(f.Doc.Text()), f.Name.Name+" checks that ")
	return capitalized(sentence), ok
}

// cases returns the promises of the suite that begin with ids, such as "B-62 F-A3 keys are their
// owner's". Each is in a list, which Run gives a name: {"Accept", accepting} makes its cases
// TestStore/Accept/…; a list without a name is one of RunReopen's.
func cases(files map[string]*ast.File) (rows []row) {
	names := map[string]string{}
	inLiterals(files, func(_, _ string, lit *ast.CompositeLit) {
		if len(lit.Elts) == 2 {
			if list, ok := lit.Elts[1].(*ast.Ident); ok {
				names[list.Name] = unquoted(lit.Elts[0])
			}
		}
	})
	inLiterals(files, func(path, list string, lit *ast.CompositeLit) {
		if len(lit.Elts) == 0 {
			return
		}
		text := unquoted(lit.Elts[0])
		begin, _, _ := strings.Cut(text, " ")
		var ids []id
		for {
			first, rest, _ := strings.Cut(text, " ")
			if first == "" || textID.FindString(first) != first {
				break
			}
			ids, text = append(ids, inText(first)...), rest
		}
		if len(ids) == 0 {
			return
		}
		test := "TestReopen/" + begin
		if name := names[list]; name != "" {
			test = "TestStore/" + name + "/" + begin
		}
		rows = append(rows, row{ids, capitalized(text) + ".", test, path, "./internal/store/..."})
	})
	return rows
}

// inLiterals calls f with each composite literal, its file, and the package's variable that it
// is a part of, if any.
func inLiterals(files map[string]*ast.File, f func(path, variable string, lit *ast.CompositeLit)) {
	inspect := func(path, variable string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				f(path, variable, lit)
			}
			return true
		})
	}
	for path, file := range files {
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				inspect(path, "", d)
				continue
			}
			for _, s := range g.Specs {
				if v, ok := s.(*ast.ValueSpec); ok {
					inspect(path, v.Names[0].Name, v)
				}
			}
		}
	}
}

// nameID matches a part of a test's name, as in TestStore_FB13_Locked, and textID an id or a
// range of them elsewhere, as in "F-B13", "B-13 NUL" and "B-34 to B-37".
var (
	nameID = regexp.MustCompile(`^(B|S|F[A-H])(\d+)([a-z]?)$`)
	textID = regexp.MustCompile(`\b(B-|S-|F-[A-H])(\d+)([a-z]?)(?: to (?:B-|S-|F-[A-H])(\d+))?\b`)
)

func inName(name string) (ids []id) {
	for part := range strings.SplitSeq(strings.ReplaceAll(name, "_F_", "_F"), "_") {
		if m := nameID.FindStringSubmatch(part); m != nil {
			ids = append(ids, id{m[1], number(m[2]), m[3]})
		}
	}
	return ids
}

func inText(text string) (ids []id) {
	for _, m := range textID.FindAllStringSubmatch(text, -1) {
		first := number(m[2])
		for n := first; n <= max(first, number(m[4])); n++ {
			ids = append(ids, id{strings.ReplaceAll(m[1], "-", ""), n, m[3]})
		}
	}
	return ids
}

func inBody(body ast.Node) (ids []id) {
	ast.Inspect(body, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			ids = append(ids, inText(unquoted(e))...)
		}
		return true
	})
	return ids
}

// number returns the number that digits are, and 0 for none.
func number(digits string) int {
	n, _ := strconv.Atoi(digits)
	return n
}

// unquoted returns a string literal's text, and "" for any other expression.
func unquoted(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(lit.Value)
	return text
}

func capitalized(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// render writes the page: a table for each group, in which a test has one row, with those of its
// ids that belong there.
func render(rows []row) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(intro)
	for i, g := range groups {
		var inside []row
		for _, r := range rows {
			r.ids = slices.Clone(r.ids)
			r.ids = slices.DeleteFunc(r.ids, func(x id) bool { return groupOf(x) != i })
			slices.SortFunc(r.ids, compare)
			if r.ids = slices.Compact(r.ids); len(r.ids) > 0 {
				inside = append(inside, r)
			}
		}
		slices.SortFunc(inside, func(a, b row) int {
			return cmp.Or(slices.CompareFunc(a.ids, b.ids, compare), cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test), cmp.Compare(a.promise, b.promise))
		})
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| id | promise | test | package |\n| --- | --- | --- | --- |\n", g.title, g.what)
		for _, r := range inside {
			var ids []string
			for _, x := range r.ids {
				ids = append(ids, x.String())
			}
			fmt.Fprintf(&b, "| %s | %s | [`%s`](../%s) | `%s` |\n", strings.Join(ids, ", "), cell.Replace(r.promise), r.test, r.file, r.pkg)
		}
	}
	for _, r := range rows {
		for _, x := range r.ids {
			if groupOf(x) < 0 {
				return nil, fmt.Errorf("%s of %s belongs to no group", x, r.test)
			}
		}
	}
	return b.Bytes(), nil
}

// cell escapes what ends a cell of a table or begins HTML.
var cell = strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ")

// groupOf returns the index of an id's group, and -1 when it has none.
func groupOf(x id) int {
	found := -1
	for i, g := range groups {
		if g.letters == x.letters && x.number >= g.least {
			found = i
		}
	}
	return found
}
