package kapsel_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOtherSystems type-checks the command for the systems that are released and that the
// tests do not run on. A release builds them, but compiling SQLite for each takes a minute of
// CPU; this reads the code of dependencies without function bodies and takes seconds.
func TestOtherSystems(t *testing.T) {
	for _, system := range []string{"windows", "darwin"} {
		t.Run(system, func(t *testing.T) {
			list := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap", "./cmd/kapsel")
			list.Env = append(os.Environ(), "GOOS="+system, "GOARCH=arm64", "CGO_ENABLED=0")
			list.Stderr = os.Stderr
			out, err := list.Output()
			if err != nil {
				t.Fatal(err)
			}

			checked := map[string]*types.Package{"unsafe": types.Unsafe}
			files := token.NewFileSet()
			for d := json.NewDecoder(bytes.NewReader(out)); ; {
				var pkg struct {
					ImportPath, Dir string
					GoFiles         []string
					ImportMap       map[string]string
				}
				if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if pkg.ImportPath == "unsafe" {
					continue
				}
				var syntax []*ast.File
				for _, name := range pkg.GoFiles {
					f, err := parser.ParseFile(files, filepath.Join(pkg.Dir, name), nil, parser.SkipObjectResolution)
					if err != nil {
						t.Fatal(err)
					}
					syntax = append(syntax, f)
				}
				ours := strings.HasPrefix(pkg.ImportPath+"/", module+"/")
				conf := types.Config{
					IgnoreFuncBodies: !ours,
					Sizes:            types.SizesFor("gc", "arm64"),
					Importer: importer(func(path string) *types.Package {
						if real, ok := pkg.ImportMap[path]; ok {
							path = real
						}
						return checked[path] // go list names dependencies first
					}),
					Error: func(err error) {
						if ours {
							t.Error(err)
						}
					},
				}
				checked[pkg.ImportPath], _ = conf.Check(pkg.ImportPath, files, syntax, nil) // errors go to conf.Error
			}
			if main := checked[module+"/cmd/kapsel"]; main == nil || main.Scope().Lookup("main") == nil {
				t.Error("the command was not checked")
			}
		})
	}
}

// importer makes a types.Importer of a function.
type importer func(path string) *types.Package

func (i importer) Import(path string) (*types.Package, error) {
	if pkg := i(path); pkg != nil {
		return pkg, nil
	}
	return nil, errors.New("not listed: " + path)
}
