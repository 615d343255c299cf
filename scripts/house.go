//go:build ignore

// house counts what makes the code easy or hard to find one's way in: packages, how deep they
// import each other, direct dependencies, how many lines lie on one event's path, and how the
// files of the engine call each other. Run it with
//
//	go run scripts/house.go [-dir CHECKOUT]
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/kapsel-hq/kapsel"

// path holds the files that an event runs through from the request to its last record, by
// where they may be in this and in earlier versions. Stores add their own.
var path = []string{
	"internal/ingest/ingest.go", "internal/ingest/request.go", "internal/ingest/rate.go", "internal/ingest/quota.go",
	"internal/ingest/key.go", "internal/ingest/answer.go", "internal/ingest/accept.go", "internal/ingest/handshake.go",
	"internal/ingest/verifiers.go", "internal/ingest/prepared.go", "internal/ingest/origin.go", "internal/ingest/strangers.go",
	"internal/route/route.go",
	"internal/store/cache.go", "internal/settings/cache.go", "internal/settings/prepared.go",
	"internal/delivery/engine.go", "internal/delivery/permit.go", "internal/delivery/claim.go", "internal/delivery/gate.go",
	"internal/delivery/turns.go", "internal/delivery/shares.go", "internal/delivery/send.go", "internal/delivery/exchange.go",
	"internal/delivery/compose.go", "internal/delivery/record.go", "internal/delivery/circuit.go",
	"internal/delivery/host.go", "internal/delivery/recipient.go", "internal/delivery/holdings.go", "internal/delivery/work.go",
	"internal/delivery/gate/keeper.go", "internal/delivery/gate/permit.go", "internal/delivery/gate/gate.go", "internal/delivery/gate/turns.go",
	"internal/delivery/gate/agenda.go", "internal/delivery/gate/slow.go", "internal/delivery/gate/circuit.go", "internal/delivery/gate/share.go",
	"internal/egress/exchange.go", "internal/store/batch/batch.go",
}

var stores = map[string][]string{
	"SQLite": {"internal/store/sqlite/inbox.go", "internal/store/sqlite/queue.go", "internal/store/sqlite/rows.go",
		"internal/store/sqlite/writer.go", "internal/store/sqlite/conn.go", "internal/store/sqlite/counters.go"},
	"PostgreSQL": {"internal/store/postgres/accept.go", "internal/store/postgres/commit.go", "internal/store/postgres/complete.go",
		"internal/store/postgres/claim.go", "internal/store/postgres/connect.go", "internal/store/postgres/wire.go", "internal/store/postgres/counters.go"},
}

// reading is the order in which the engine's files are read. A call from a file to one that
// comes before it is an arrow back.
var reading = []string{"engine.go", "life.go", "permit.go", "claim.go", "gate.go", "turns.go", "host.go", "exchange.go", "send.go",
	"recipient.go", "compose.go", "record.go", "circuit.go", "shares.go", "holdings.go", "work.go"}

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", ".", "the checkout to count")
	flag.Parse()
	if err := os.Chdir(*dir); err != nil {
		log.Fatal(err)
	}
	w := os.Stdout
	packages, depth := imports()
	fmt.Fprintf(w, "| what | count |\n| --- | --- |\n")
	fmt.Fprintf(w, "| packages | %d |\n| import depth | %d |\n| direct dependencies | %d |\n", packages, depth, direct())
	fmt.Fprintf(w, "| lines of Go, tests apart | %d |\n", lines("*.go", false))
	for _, name := range []string{"SQLite", "PostgreSQL"} {
		total, files, rooms := 0, 0, map[string]bool{}
		for _, f := range slices.Concat(path, stores[name]) {
			if n, ok := count(f); ok {
				total, files = total+n, files+1
				rooms[filepath.Dir(f)] = true
			}
		}
		fmt.Fprintf(w, "| an event's path on %s | %d lines, %d files, %d packages |\n", name, total, files, len(rooms))
	}
	arrows, back, methods := engine()
	fmt.Fprintf(w, "| calls between the engine's files | %d, %d of them back |\n| methods of the engine's largest type | %d |\n", arrows, back, methods)
}

// imports counts our packages, and the longest chain of imports among them, programs apart.
func imports() (packages, depth int) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Imports", "./...").Output()
	if err != nil {
		log.Fatalf("go list: %v", err)
	}
	type pkg struct {
		ImportPath, Name string
		Imports          []string
	}
	all, programs := map[string]pkg{}, map[string]bool{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		all[p.ImportPath] = p
		programs[p.ImportPath] = p.Name == "main"
	}
	var deep func(string) int
	known := map[string]int{}
	deep = func(name string) int {
		if n, ok := known[name]; ok {
			return n
		}
		n := 0
		for _, i := range all[name].Imports {
			if strings.HasPrefix(i, module) {
				n = max(n, deep(i)+1)
			}
		}
		known[name] = n
		return n
	}
	for name := range all {
		if !programs[name] && !strings.HasSuffix(name, "/sim") {
			depth = max(depth, deep(name))
		}
	}
	return len(all), depth
}

// direct counts the modules that go.mod requires directly.
func direct() (n int) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if strings.HasPrefix(line, "\t") && !strings.Contains(line, "// indirect") {
			n++
		}
	}
	return n
}

// count returns a file's number of lines.
func count(file string) (int, bool) {
	b, err := os.ReadFile(file)
	return bytes.Count(b, []byte("\n")), err == nil
}

// lines counts the lines of the files that git knows.
func lines(pattern string, tests bool) (n int) {
	out, err := exec.Command("git", "ls-files", pattern).Output()
	if err != nil {
		log.Fatalf("git ls-files: %v", err)
	}
	for _, f := range strings.Fields(string(out)) {
		if strings.HasSuffix(f, "_test.go") == tests {
			more, _ := count(f)
			n += more
		}
	}
	return n
}

// imported reports whether a file imports a package under a name. It knows packages by the last element of
// their path.
func imported(f *ast.File, name string) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool {
		return filepath.Base(strings.Trim(i.Path.Value, `"`)) == name
	})
}

// engine counts the arrows between the engine's files, how many point back, and the methods of
// the type that has the most.
func engine() (arrows, back, methods int) {
	set, declared, files := token.NewFileSet(), map[string]string{}, map[string]*ast.File{}
	of := map[string]int{}
	for _, name := range reading {
		f, err := parser.ParseFile(set, filepath.Join("internal/delivery", name), nil, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			log.Fatal(err)
		}
		files[name] = f
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			declared[fn.Name.Name] = name
			if fn.Recv != nil {
				t := fn.Recv.List[0].Type
				if star, ok := t.(*ast.StarExpr); ok {
					t = star.X
				}
				if id, ok := t.(*ast.Ident); ok {
					of[id.Name]++
					methods = max(methods, of[id.Name])
				}
			}
		}
	}
	seen := map[[2]string]bool{}
	for name, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			called := ""
			switch fn := call.Fun.(type) {
			case *ast.Ident:
				called = fn.Name
			case *ast.SelectorExpr:
				if x, ok := fn.X.(*ast.Ident); !ok || !imported(f, x.Name) {
					called = fn.Sel.Name
				}
			}
			if to := declared[called]; to != "" && to != name && !seen[[2]string{name, to}] {
				seen[[2]string{name, to}] = true
				arrows++
				if slices.Index(reading, to) < slices.Index(reading, name) {
					back++
				}
			}
			return true
		})
	}
	return arrows, back, methods
}
