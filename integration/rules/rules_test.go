package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// A rule gives a line for each place that breaks it.
type rule func(*tree) []string

var rules = map[string]rule{
	"imports":           importRules,
	"doc comments":      docComments,
	"lengths":           lengths,
	"no sleep in tests": noSleep,
	"only cmd exits":    onlyCmdExits,
	"top level":         topLevel,
	"names":             names,
	"go.mod":            goMod,
}

func TestRules(t *testing.T) {
	tr := parse(t, os.DirFS("../.."))
	if len(tr.files) == 0 {
		t.Fatal("no Go files found")
	}
	for name, check := range rules {
		t.Run(name, func(t *testing.T) {
			for _, broken := range check(tr) {
				t.Error(broken)
			}
		})
	}
}

// onlyIn says which folder alone may import a package, in tests too: whoever
// else needs what it does asks that folder's package.
var onlyIn = map[string]string{
	"github.com/hashicorp/yamux": "mux",
	"github.com/coder/websocket": "internal/wsconn",
	"github.com/urfave/cli":      "cmd",
	"github.com/chromedp":        "integration", // a whole browser is no unit
}

// never says what a package must know nothing of.
var never = map[string][]string{
	"server":        {module + "/client"},
	"client":        {module + "/server"},
	"mux":           {"net/http", module + "/internal/access", module + "/internal/wsconn", module + "/server", module + "/client"},
	"internal/line": {"net/http", "github.com/hashicorp/yamux"},
	// An internal package is a leaf: it has one idea and serves those above.
	"internal": {module + "/server", module + "/client", module + "/mux"},
	// The binary is a black box to its tests, or they would be unit tests.
	"integration": {module},
}

// except says what a package may know after all.
var except = map[string]string{
	module + "/internal/impair": "integration", // a bad network is nothing of the binary's
}

// outside says which packages of others a package may have beside the
// standard library, if that is limited. Their tests are free.
var outside = map[string][]string{
	"internal/relay": {},
	"internal/netx":  {"golang.org/x/net/proxy", "golang.org/x/net/http/httpproxy", "golang.org/x/sys"},
}

// forTests are packages for tests only; they may need what tests need.
var forTests = []string{"internal/netx/netxtest", "internal/impair", "internal/logtest"}

func importRules(tr *tree) (broken []string) {
	for _, f := range tr.files {
		for _, spec := range f.syntax.Imports {
			imported := strings.Trim(spec.Path.Value, "`\"")
			if why := forbidden(f, imported); why != "" {
				broken = append(broken, fmt.Sprintf("%s: %s imports %s: %s", tr.at(spec), f.dir, imported, why))
			}
		}
	}
	return broken
}

func forbidden(f *file, imported string) (why string) {
	dir, our := ours(imported)
	if our && under(dir, "cmd") {
		return "nobody imports cmd"
	}
	for what, home := range onlyIn {
		if under(imported, what) && !under(f.dir, home) {
			return "only " + home + " may"
		}
	}
	for importer, list := range never {
		if except[imported] != importer && under(f.dir, importer) && slices.ContainsFunc(list, func(what string) bool { return under(imported, what) }) {
			return importer + " knows nothing of that"
		}
	}
	if f.test || slices.Contains(forTests, f.dir) {
		return ""
	}
	if our && slices.Contains(forTests, dir) {
		return "it is for tests"
	}
	if our && under(f.dir, "internal") && !slices.ContainsFunc(roots, func(root string) bool { return under(dir, root) }) {
		return "a package under internal is a leaf: of ours it imports netx and the smallest helpers alone"
	}
	for importer, list := range outside {
		if under(f.dir, importer) && !standard(imported) && !our &&
			!slices.ContainsFunc(list, func(what string) bool { return under(imported, what) }) {
			return importer + " has the standard library only, and " + fmt.Sprint(list)
		}
	}
	return ""
}

// roots are what leaves may import of ours; they import nothing of it.
var roots = []string{"internal/netx", "internal/secret", "internal/nearest"}

func docComments(tr *tree) (broken []string) {
	documented := make(map[string]bool)
	for _, f := range tr.files {
		doc := strings.TrimSpace(f.syntax.Doc.Text())
		name := f.syntax.Name.Name
		documented[f.dir] = documented[f.dir] ||
			!f.test && (name == "main" && doc != "" || strings.HasPrefix(doc, "Package "+name+" "))
	}
	for dir, ok := range documented {
		if !ok {
			broken = append(broken, dir+": no doc comment that says what the package is for (Package NAME …)")
		}
	}
	return broken
}

const (
	maxFile     = 400
	maxFunction = 60
)

func lengths(tr *tree) (broken []string) {
	for _, f := range tr.files {
		if f.test {
			continue
		}
		if f.lines > maxFile {
			broken = append(broken, fmt.Sprintf("%s: %d lines, at most %d", f.name, f.lines, maxFile))
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := tr.fset.Position(fn.End()).Line - tr.fset.Position(fn.Pos()).Line + 1
			if n > maxFunction {
				broken = append(broken, fmt.Sprintf("%s: func %s has %d lines, at most %d", tr.at(fn), fn.Name, n, maxFunction))
			}
		}
	}
	return broken
}

// noSleep: a test waits for what it waits for. In a bubble of testing/synctest
// time is virtual and to sleep is how it passes, so there it may.
func noSleep(tr *tree) (broken []string) {
	for _, f := range tr.files {
		if !f.test {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && f.is(call.Fun, "testing/synctest", "Test") {
				return false
			}
			if e, ok := n.(ast.Expr); ok && f.is(e, "time", "Sleep") {
				broken = append(broken, tr.at(n)+": time.Sleep in a test: wait for the event itself, or use testing/synctest")
			}
			return true
		})
	}
	return broken
}

// is reports whether e is the name of an imported package, or of those names
// of it that begin so.
func (f *file) is(e ast.Expr, imported, prefix string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || !strings.HasPrefix(sel.Sel.Name, prefix) {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && f.imports[imported] == id.Name
}

func onlyCmdExits(tr *tree) (broken []string) {
	for _, f := range tr.files {
		if f.test || under(f.dir, "cmd") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok && (f.is(e, "os", "Exit") || f.is(e, "log", "Fatal")) {
				broken = append(broken, tr.at(n)+": only cmd ends the process; return an error")
			}
			return true
		})
	}
	return broken
}

// top is what the repository shows first. "bin" is built and not committed,
// "packaging" will be the one folder for all packagers.
var top = strings.Fields(`client server mux cmd integration internal docs go.mod go.sum
	README.md Makefile LICENSE CHANGELOG.md Dockerfile packaging bin`)

func topLevel(tr *tree) (broken []string) {
	entries, err := fs.ReadDir(tr.fsys, ".")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(top, e.Name()) {
			broken = append(broken, e.Name()+": not at the top level")
		}
	}
	return broken
}

// banned are words that say nothing about what they name; the last two only as
// the first word of several, where a better verb exists.
var (
	banned      = strings.Fields("manager util utils helper helpers common base impl data info")
	bannedVerbs = strings.Fields("do process")
)

func names(tr *tree) (broken []string) {
	for _, f := range tr.files {
		if f.test {
			continue
		}
		for _, id := range exported(f.syntax) {
			parts := words(id.Name)
			for _, w := range parts {
				_, http := f.imports["net/http"]
				if slices.Contains(banned, w) || w == "handler" && !http {
					broken = append(broken, fmt.Sprintf("%s: %s: the word %q says nothing", tr.at(id), id.Name, w))
				}
			}
			if len(parts) > 1 && slices.Contains(bannedVerbs, parts[0]) {
				broken = append(broken, fmt.Sprintf("%s: %s: the verb %q says nothing", tr.at(id), id.Name, parts[0]))
			}
		}
	}
	return broken
}

// exported gives the exported names of a file: those of packages and methods.
func exported(f *ast.File) (ids []*ast.Ident) {
	add := func(id *ast.Ident) {
		if id.IsExported() {
			ids = append(ids, id)
		}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			add(d.Name)
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					add(s.Name)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						add(id)
					}
				}
			}
		}
	}
	return ids
}

// words splits HTTPHandlerFunc into http, handler, func.
func words(name string) (list []string) {
	runes := []rune(name)
	start := 0
	for i := 1; i <= len(runes); i++ {
		if i == len(runes) || unicode.IsUpper(runes[i]) &&
			(!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			list = append(list, strings.ToLower(string(runes[start:i])))
			start = i
		}
	}
	return list
}

// goMod: the tools are a module of their own.
func goMod(tr *tree) (broken []string) {
	text, err := fs.ReadFile(tr.fsys, "go.mod")
	if err != nil {
		return []string{err.Error()}
	}
	for _, tool := range []string{"honnef.co/go/tools", "golang.org/x/tools", "tool "} {
		if strings.Contains(string(text), tool) {
			broken = append(broken, "go.mod: "+tool+" belongs into internal/tools/go.mod")
		}
	}
	return broken
}
