package kapsel_test

import (
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the import path of the root package. Below, packages are named by what comes
// after it, and the root is ".".
const module = "github.com/kapsel-hq/kapsel"

// anywhere, in place of a list of packages, means every package.
var anywhere = []string{"*"}

// mayImport is the dependency rule: which packages of ours each package may import, tests
// apart. The domain knows nothing, pure parts know the domain, stores and engines know the
// store's contract but not each other, and only the command and the simulated world see
// which store there is. A new package adds a row.
var mayImport = map[string][]string{
	".": {},

	// Pure parts.
	"internal/breaker":   {"."},
	"internal/durable":   {},
	"internal/budget":    {},
	"internal/egress":    {"."},
	"internal/jsonpath":  {"."},
	"internal/mail":      {"internal/egress"},
	"internal/oidc":      {".", "internal/access", "internal/egress", "internal/secret"},
	"internal/problem":   {"."},
	"internal/ratelimit": {"."},
	"internal/secret":    {"."},
	"internal/signature": {".", "internal/jsonpath"},
	"internal/schema":    {"."},
	"internal/ledger":    {"."},
	"internal/telemetry": {"."},

	// The store's contract, its suite and its implementations.
	"internal/store":            {".", "receipt"},
	"internal/store/pgtest":     {},
	"internal/store/batch":      {"internal/store"},
	"internal/store/rules":      {"."},
	"internal/store/transfer":   {},
	"internal/store/postgres":   {".", "internal/store", "internal/store/batch", "internal/store/rules", "internal/store/transfer"},
	"internal/store/sqlite":     {".", "internal/durable", "internal/store", "internal/store/batch", "internal/store/rules", "internal/store/transfer"},
	"internal/store/schematest": {".", "internal/store", "internal/store/pgtest", "internal/store/postgres", "internal/store/sqlite", "internal/store/storetest"},
	"internal/store/storetest":  {".", "receipt", "internal/store", "internal/store/batch", "internal/store/rules", "internal/store/transfer"},

	// What a node knows of the store's time and settings, and what it does beside the engine.
	"internal/clock":    {},
	"internal/feed":     {".", "internal/clock", "internal/store"},
	"internal/settings": {".", "internal/clock", "internal/store"},
	"internal/audit":    {".", "internal/durable", "internal/store", "internal/witness", "receipt"},
	"internal/upkeep":   {".", "internal/clock", "internal/settings", "internal/store"},

	// Witnesses of audit logs: a witness, and how a log asks for one.
	"internal/witness": {".", "internal/durable", "receipt"},

	// Who calls, and what they may do.
	"internal/access": {".", "internal/ratelimit", "internal/secret"},

	// Engines.
	"internal/cluster":       {".", "internal/ratelimit", "internal/store"},
	"internal/delivery/gate": {".", "internal/breaker", "internal/budget", "internal/ratelimit"},
	"internal/delivery": {".", "receipt", "internal/cluster", "internal/delivery/gate", "internal/clock", "internal/settings", "internal/store", "internal/breaker", "internal/budget", "internal/egress",
		"internal/ratelimit", "internal/secret", "internal/signature", "internal/telemetry"},
	"internal/ingest": {".", "internal/access", "internal/clock", "internal/settings", "internal/store", "internal/budget", "internal/delivery", "internal/jsonpath", "internal/problem",
		"internal/ratelimit", "internal/schema", "internal/secret", "internal/signature", "internal/telemetry"},

	// The books. What talks to TigerBeetle is linked into cmd/kapsel-ledger only.
	"internal/ledger/ledgertest":  {".", "internal/ledger"},
	"internal/ledger/booker":      {".", "client", "internal/ledger"},
	"internal/ledger/tigerbeetle": {"internal/ledger"},
	"cmd/kapsel-ledger":           {".", "client", "internal/ledger", "internal/ledger/booker", "internal/ledger/tigerbeetle"},

	// The use cases.
	"internal/manage": {".", "receipt", "internal/access", "internal/audit", "internal/breaker", "internal/budget", "internal/feed", "internal/jsonpath", "internal/ratelimit", "internal/schema", "internal/secret", "internal/signature", "internal/store"},

	// What people and programs outside meet.
	"internal/api":                    {".", "receipt", "internal/access", "internal/audit", "internal/feed", "internal/manage", "internal/problem", "internal/secret", "internal/signature", "internal/store"},
	"internal/dashboard":              {".", "internal/access", "internal/feed", "internal/manage", "internal/problem", "internal/secret", "internal/signature", "internal/store"},
	"internal/dashboard/internal/gen": {},
	"internal/bench":                  {"internal/harness"},
	"internal/harness":                {},
	"internal/browsertest":            {},
	"scripts":                         {}, // programs that look at the code, run by go run

	// The client is for other programs too, so it is alone.
	"client":              {},
	"client/internal/gen": {"internal/api"},

	// What verifies the audit log must do so without the program that wrote it.
	"receipt": {},

	// The only ones that see implementations.
	"cmd/kapsel":   anywhere,
	"internal/sim": anywhere,
}

// libraries are the modules of others, and where each may be imported: most have one package
// that knows them, so that leaving one is a change in one place. What only tests need is not
// in the list.
var libraries = map[string][]string{
	"github.com/HdrHistogram/hdrhistogram-go": {"internal/harness"},
	"charm.land/bubbletea/v2":                 {"cmd/kapsel"},
	"github.com/KimMachineGun/automemlimit":   {"cmd/kapsel"},
	"github.com/a-h/templ":                    {"internal/dashboard", "internal/dashboard/internal/gen"},
	"github.com/alecthomas/kong":              {"cmd/kapsel", "cmd/kapsel-ledger"},
	"github.com/chromedp/cdproto":             {"internal/browsertest"},
	"github.com/chromedp/chromedp":            {"internal/browsertest"},
	"github.com/coreos/go-oidc/v3":            {"internal/oidc"},
	"github.com/danielgtaylor/huma/v2":        {"internal/api"},
	"github.com/ebitengine/purego":            {"internal/ledger/tigerbeetle"}, // loads TigerBeetle's client library
	"github.com/go-logr/logr":                 {"internal/telemetry"},
	"github.com/go-jose/go-jose/v4":           {"internal/signature"},
	"github.com/google/go-cmp":                {"internal/store/storetest"},
	"github.com/google/uuid":                  {"."},
	"github.com/jackc/pgx/v5":                 {"internal/bench", "internal/store/pgtest", "internal/store/postgres"},
	"github.com/pressly/goose/v3":             {"internal/store/postgres", "internal/store/sqlite"},
	"github.com/prometheus/client_golang":     anywhere,
	"github.com/santhosh-tekuri/jsonschema":   {"internal/schema"},
	"github.com/tink-crypto/tink-go/v2":       {"internal/secret"},
	"go.opentelemetry.io/contrib":             {"internal/telemetry"},
	"go.opentelemetry.io/otel":                {"internal/telemetry"},
	"golang.org/x/mod":                        {"internal/audit", "internal/witness", "receipt"},
	"golang.org/x/net":                        {"internal/egress", "internal/signature"},
	"golang.org/x/oauth2":                     {"internal/oidc"},
	"golang.org/x/sync":                       anywhere,
	"golang.org/x/sys":                        {"cmd/kapsel", "internal/bench", "internal/harness", "internal/store/postgres", "internal/store/sqlite", "internal/telemetry", "internal/durable"},
	"golang.org/x/time":                       {"internal/ratelimit"},
	"modernc.org/libc":                        {"internal/store/sqlite"},
	"modernc.org/sqlite":                      {"internal/store/sqlite"},
	"pgregory.net/rapid":                      {"internal/store/storetest"},
}

// narrow are standard packages that few may import: profiles and traces on one listener, no
// other processes, no second logger, no second random source, no test code in the binary.
var narrow = map[string][]string{
	"database/sql":   {"internal/store/sqlite", "internal/store/postgres", "internal/store/pgtest"},
	"log":            {"internal/telemetry", "scripts"}, // for libraries that log with it
	"math/rand":      {},
	"net/http/pprof": {"internal/telemetry"},
	"os/exec":        {"scripts", "internal/harness", "internal/store/pgtest"},
	"testing":        {"internal/sim", "internal/store/pgtest", "internal/store/schematest", "internal/store/storetest", "internal/ledger/ledgertest", "internal/browsertest"},
	"unsafe":         {"internal/store/sqlite", "internal/ledger/tigerbeetle"}, // speak to C interfaces
}

// narrowNames are names of standard packages that few may use. Everything that reaches out
// goes through egress, which guards the address; the load generator and the client call what
// their users name, and the store its database. Engines wait for events, not by
// the clock. Nothing but the command ends the process or prints.
var narrowNames = map[string][]string{
	"bytes.Equal":                 {"internal/store/postgres", "internal/store/sqlite", "internal/store/storetest"}, // see TestArchitecture_B72_S8_Compares
	"bytes.Compare":               {"internal/settings", "internal/store", "internal/store/postgres", "internal/store/sqlite", "internal/store/storetest"},
	"reflect.DeepEqual":           {},
	"net/http.Client":             {"client", "internal/egress", "internal/bench", "internal/harness"},
	"net/http.Transport":          {"internal/egress", "internal/bench", "internal/harness"},
	"net/http.DefaultClient":      {},
	"net/http.DefaultTransport":   {},
	"net/http.DefaultServeMux":    {},
	"net/http.Get":                {},
	"net/http.Head":               {},
	"net/http.Post":               {},
	"net/http.PostForm":           {},
	"net/http.Handle":             {},
	"net/http.HandleFunc":         {},
	"net/http.ListenAndServe":     {}, // has no time-outs
	"net.Dial":                    {},
	"net.DialTimeout":             {},
	"net.DialTCP":                 {},
	"net.DialUDP":                 {},
	"net.DialIP":                  {},
	"net.DialUnix":                {},
	"net.Dialer":                  {"internal/egress", "internal/harness", "internal/store/postgres"},
	"net.Resolver":                {"internal/egress"},
	"net.DefaultResolver":         {"internal/egress"},
	"net.LookupHost":              {},
	"net.LookupIP":                {},
	"crypto/tls.Dial":             {},
	"crypto/tls.DialWithDialer":   {},
	"crypto/tls.Dialer":           {},
	"time.Sleep":                  {"cmd/kapsel", "internal/durable", "internal/store/pgtest", "internal/store/postgres", "internal/store/schematest", "internal/store/sqlite"},
	"os.Exit":                     {"cmd/kapsel", "cmd/kapsel-ledger"},
	"fmt.Print":                   {"cmd/kapsel"},
	"fmt.Printf":                  {"cmd/kapsel"},
	"fmt.Println":                 {"cmd/kapsel"},
	"os.Stdout":                   {"scripts", "cmd/kapsel", "cmd/kapsel-ledger", "internal/telemetry"}, // writing to it may wait for its reader
	"os.Stderr":                   {"cmd/kapsel", "cmd/kapsel-ledger", "internal/telemetry"},
	"log/slog.SetDefault":         {"internal/telemetry"},
	"context.TODO":                {},
	"runtime/debug.SetGCPercent":  {"cmd/kapsel"},
	"runtime/debug.SetMaxThreads": {"cmd/kapsel"},
}

// maxDirect is how many modules of others the module may use itself, apart from those of tests and of
// kapsel-ledger alone.
const maxDirect = 30

// ofLedger are the packages that only the program kapsel-ledger may link: they load a C library.
var ofLedger = []string{"cmd/kapsel-ledger", "internal/ledger/tigerbeetle"}

// source is a file of ours that is not a test.
type source struct {
	path string // slash-separated, from the module's root
	pkg  string
	set  *token.FileSet
	file *ast.File
}

// sources parses all files of the module that are not tests, under every build tag.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch base := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || nested(name)):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		slashed := filepath.ToSlash(name)
		all = append(all, source{slashed, path.Dir(slashed), set, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// nested reports whether a directory is a module of its own.
func nested(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// imports returns the file's imports by the names that the file gives them.
func (s source) imports(t *testing.T) map[string]string {
	t.Helper()
	names := make(map[string]string)
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(p)
		if strings.HasPrefix(name, "v") && strings.Trim(name[1:], "0123456789") == "" {
			name = path.Base(path.Dir(p)) // such as math/rand/v2
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "_" || name == "." {
			name += p // two such imports must not hide each other
		}
		names[name] = p
	}
	return names
}

// permits reports whether a list of packages holds one.
func permits(list []string, pkg string) bool {
	return slices.Contains(list, pkg) || slices.Contains(list, anywhere[0])
}

// ours returns an import path in the form of mayImport; false for a package of another module.
func ours(imported string) (string, bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

// library returns the longest row of libraries that an import path belongs to, "" if there is none.
func library(imported string) string {
	best := ""
	for lib := range libraries {
		if (imported == lib || strings.HasPrefix(imported, lib+"/")) && len(lib) > len(best) {
			best = lib
		}
	}
	return best
}

func TestArchitectureImports(t *testing.T) {
	seen := make(map[string]bool)
	defer func() {
		for pkg := range mayImport {
			if !seen[pkg] {
				t.Errorf("mayImport has a row for %s, which is no package", pkg)
			}
		}
	}()
	for _, s := range sources(t) {
		seen[s.pkg] = true
		allowed, known := mayImport[s.pkg]
		if !known {
			t.Errorf("package %s has no row in mayImport", s.pkg)
			continue
		}
		for _, imported := range s.imports(t) {
			if name, ok := ours(imported); ok {
				if !permits(allowed, name) {
					t.Errorf("%s imports %s, which %s may not", s.path, name, s.pkg)
				}
				continue
			}
			if list, ok := narrow[imported]; ok && !permits(list, s.pkg) {
				t.Errorf("%s imports %s, which %s may not", s.path, imported, s.pkg)
			}
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			if lib := library(imported); lib == "" || !permits(libraries[lib], s.pkg) {
				t.Errorf("%s imports %s, which has no row in libraries that names %s", s.path, imported, s.pkg)
			}
		}
	}
}

// TestArchitecture_B95_NarrowNames checks that only internal/egress opens outbound
// connections, and only the packages that arch_test.go lists use other functions that are easy
// to misuse.
func TestArchitecture_B95_NarrowNames(t *testing.T) {
	for _, s := range sources(t) {
		imports := s.imports(t)
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && imports[x.Name] != "" {
				name := imports[x.Name] + "." + sel.Sel.Name
				if list, ok := narrowNames[name]; ok && !permits(list, s.pkg) {
					t.Errorf("%s uses %s, which %s may not", s.set.Position(n.Pos()), name, s.pkg)
				}
			}
			return true
		})
	}
}

// secretive are the packages that hold secrets in the clear or what is made with them.
var secretive = []string{"internal/secret", "internal/signature", "internal/access", "internal/oidc", "internal/manage", "internal/api", "internal/dashboard", "internal/ingest", "internal/delivery", "cmd/kapsel"}

// secretName matches what a secret, or something that only who knows it can make, is called.
var secretName = regexp.MustCompile(`(?i)(secret|token|signature|mac|digest|hash|sum|password|apikey|admin|check|want|got|expected)$|^(key|text|value)$`)

// comparisons lists the comparisons by == of something that is called like a secret and is
// none, each with why.
var comparisons = map[string]string{
	"internal/dashboard/logo.go: r.PathValue(\"hash\") != logoHash(l)":                  "the hash of an image that who asks may see",
	"internal/manage/endpoints.go: e.DisabledReason == kapsel.DisabledAdmin":            "a reason",
	"internal/delivery/compose.go: h.Value == redacted":                                 "only what is no secret equals it",
	"internal/ingest/answer.go: code == kapsel.InvalidSignature":                        "an error's code",
	"internal/oidc/claims.go: slices.Contains(c.values(m.Claim), m.Value)":              "what the operator's settings look for, such as a group's name",
	"internal/oidc/claims.go: value != rule.Value":                                      "what the operator's settings look for, such as a group's name",
	"internal/secret/generate.go: s[apiKeyLength-apiKeyChecksum:] != apiKeySum(random)": "a checksum that who sent the key can compute",
	"internal/secret/keyring.go: check[0] != checkVersion":                              "the format's version",
	"internal/signature/checker.go: c.version == versionToken":                          "the format's version",
	"internal/signature/checker.go: bytes.HasPrefix(secret, []byte(\"whsec_\"))":        "what begins every secret of its kind, of the endpoint's owner",
	"internal/signature/format.go: version == versionHMAC":                              "the format's version",
}

// TestArchitecture_B72_S8_Compares checks that secrets are compared in constant time, so that
// nobody can guess one byte by byte. Packages that hold secrets have no bytes.Equal
// (narrowNames) and no == or switch on a value that is named like a secret, except with a
// length, a constant or nil.
func TestArchitecture_B72_S8_Compares(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if !slices.Contains(secretive, s.pkg) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			var operands []ast.Expr
			switch n := n.(type) {
			case *ast.BinaryExpr:
				if n.Op == token.EQL || n.Op == token.NEQ {
					operands = []ast.Expr{n.X, n.Y}
				}
			case *ast.CallExpr:
				if name := called(n); name == "EqualFold" || name == "HasPrefix" || name == "HasSuffix" || name == "Contains" || name == "Index" {
					operands = n.Args
				}
			}
			if len(operands) != 2 || isPlainValue(operands[0]) || isPlainValue(operands[1]) || !isSecret(operands[0]) && !isSecret(operands[1]) {
				return true
			}
			var text strings.Builder
			if err := printer.Fprint(&text, s.set, n); err != nil {
				t.Fatal(err)
			}
			at := s.path + ": " + text.String()
			if seen[at] = true; comparisons[at] == "" {
				t.Errorf("%s: %s compares what may be a secret in a time that depends on it; use hmac.Equal, or say in comparisons why not", s.set.Position(n.Pos()), text.String())
			}
			return true
		})
	}
	for at := range comparisons {
		if !seen[at] {
			t.Errorf("comparisons has %q, which is not there", at)
		}
	}
}

// called returns the name of the function that a call calls, without its package.
func called(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// isPlainValue reports whether an expression is a constant, nil or a length.
func isPlainValue(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil" || e.Name == "true" || e.Name == "false"
	case *ast.CallExpr:
		return called(e) == "len"
	case *ast.UnaryExpr:
		return isPlainValue(e.X)
	}
	return false
}

// isSecret reports whether an expression ends in a name that secrets have.
func isSecret(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return secretName.MatchString(e.Name)
	case *ast.SelectorExpr:
		return secretName.MatchString(e.Sel.Name)
	case *ast.CallExpr:
		return called(e) == "Reveal" || called(e) == "string" && isSecret(e.Args[0]) || secretName.MatchString(called(e))
	case *ast.IndexExpr:
		return isSecret(e.X)
	case *ast.SliceExpr:
		return isSecret(e.X)
	case *ast.ParenExpr:
		return isSecret(e.X)
	case *ast.StarExpr:
		return isSecret(e.X)
	}
	return false
}

// TestArchitecture_S14_TLS checks that no code turns the verification of certificates off, and
// each TLS configuration names its oldest version, 1.2 or later.
func TestArchitecture_S14_TLS(t *testing.T) {
	made := 0
	for _, s := range sources(t) {
		if s.pkg == "internal/harness" { // talks to what its user names
			continue
		}
		imports := s.imports(t)
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				if n.Name == "InsecureSkipVerify" {
					t.Errorf("%s: certificates must be checked", s.set.Position(n.Pos()))
				}
			case *ast.CompositeLit:
				sel, ok := n.Type.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Config" {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); !ok || imports[x.Name] != "crypto/tls" {
					return true
				}
				made++
				var text strings.Builder
				if err := printer.Fprint(&text, s.set, n); err != nil {
					t.Fatal(err)
				}
				if !regexp.MustCompile(`MinVersion:\s+tls.VersionTLS1[23]`).MatchString(text.String()) {
					t.Errorf("%s: these settings of TLS do not say MinVersion", s.set.Position(n.Pos()))
				}
			}
			return true
		})
	}
	if made == 0 {
		t.Error("no settings of TLS were found")
	}
}

func TestArchitecturePackageComments(t *testing.T) {
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment that says what it does", pkg)
		}
	}
}

// TestArchitectureStaticBinary checks that nothing but kapsel-ledger links what loads a C library.
func TestArchitectureStaticBinary(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports(t) {
			if name, ok := ours(imported); ok && permits(ofLedger, name) && !permits(ofLedger, s.pkg) {
				t.Errorf("%s imports %s, which only kapsel-ledger may link", s.path, name)
			}
		}
	}
}

func TestArchitectureFewDependencies(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, s := range sources(t) {
		if permits(ofLedger, s.pkg) || permits(narrow["testing"], s.pkg) { // another program, and what only tests link
			continue
		}
		for _, imported := range s.imports(t) {
			used[imported] = true
		}
	}
	var direct []string
	for line := range strings.Lines(string(mod)) {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "\t"), " v")
		if !ok || !strings.HasPrefix(line, "\t") || strings.Contains(line, "// indirect") {
			continue
		}
		for imported := range used {
			if imported == name || strings.HasPrefix(imported, name+"/") {
				direct = append(direct, name)
				break
			}
		}
	}
	if len(direct) == 0 || len(direct) > maxDirect {
		t.Errorf("the module uses %d modules itself, more than %d: %s", len(direct), maxDirect, strings.Join(direct, ", "))
	}
}

// TestDocumentedSettings holds docs/configuration.md to the settings that the command has:
// the same variables with the same defaults.
func TestDocumentedSettings(t *testing.T) {
	page, err := os.ReadFile("docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string) // variable to default
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 && strings.HasPrefix(cells[1], " `") {
			documented[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2])
		}
	}
	delete(documented, "OTEL_*")
	for name, value := range settings(t) {
		got, ok := documented[name]
		if !ok {
			t.Errorf("docs/configuration.md does not have %s", name)
		}
		if value != "" && got != "`"+value+"`" {
			t.Errorf("docs/configuration.md says that %s is %s by default, not %s", name, got, value)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/configuration.md has %s, which is no setting", name)
	}
}

// settings returns the variables that the command's settings read, with their defaults, "" if a default is
// not a fixed text.
func settings(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, s := range sources(t) {
		if s.path != "cmd/kapsel/settings.go" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			text, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			tag := reflect.StructTag(text)
			if name := tag.Get("env"); name != "" {
				found[name] = tag.Get("default")
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatal("cmd/kapsel/settings.go has no settings")
	}
	return found
}
