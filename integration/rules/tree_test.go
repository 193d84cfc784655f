package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"testing"
)

const module = "wstun"

// A tree is the sources of the module, parsed.
type tree struct {
	fsys  fs.FS
	fset  *token.FileSet
	files []*file
}

// A file is one Go file.
type file struct {
	name    string // from the module's root, with slashes
	dir     string // its package's folder, "." for the root
	test    bool   // a _test.go file
	lines   int
	syntax  *ast.File
	imports map[string]string // path to the name it has in this file
}

// parse reads every Go file of the module at fsys. It leaves out what the go
// command leaves out, and modules inside this one.
func parse(t *testing.T, fsys fs.FS) *tree {
	t.Helper()
	tr := &tree{fsys: fsys, fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && ignored(fsys, name) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := tr.parseFile(name)
		if err != nil {
			return err
		}
		tr.files = append(tr.files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func ignored(fsys fs.FS, dir string) bool {
	base := path.Base(dir)
	if base == "testdata" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(fsys, dir+"/go.mod")
	return err == nil
}

func (tr *tree) parseFile(name string) (*file, error) {
	source, err := fs.ReadFile(tr.fsys, name)
	if err != nil {
		return nil, err
	}
	syntax, err := parser.ParseFile(tr.fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	f := &file{
		name:    name,
		dir:     path.Dir(name),
		test:    strings.HasSuffix(name, "_test.go"),
		lines:   strings.Count(string(source), "\n"),
		syntax:  syntax,
		imports: make(map[string]string),
	}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		local := path.Base(imported)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		f.imports[imported] = local
	}
	return f, nil
}

// at says where a node is, as an editor understands it.
func (tr *tree) at(n ast.Node) string {
	p := tr.fset.Position(n.Pos())
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

// under reports whether a package or folder is dir or below it.
func under(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir+"/")
}

// ours gives the folder of a package of this module.
func ours(imported string) (dir string, ok bool) {
	return strings.CutPrefix(imported, module+"/")
}

// standard reports whether a package is of the standard library: all others
// begin with a host name, or with the module's own name.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".") && first != module
}
