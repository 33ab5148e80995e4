// Package layout holds the rules of the repository that a compiler does not
// know: who may import whom, how long a file may be, what is documented.
//
// It is made of tests only, reads sources without type checking, and finishes
// in a second. golangci-lint knows some of these rules too; these tests are the
// gate for machines without it.
package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/closured/closured"
	root   = "../.." // the repository, seen from here
)

// file is one Go file of the repository.
type file struct {
	path  string // from the repository's root, with slashes
	dir   string // its package, "." for the root
	test  bool
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

// at gives "path:line" of a node.
func (f file) at(n ast.Node) string {
	pos := f.fset.Position(n.Pos())
	return f.path + ":" + itoa(pos.Line)
}

// under tells whether the file is in dir or below it.
func (f file) under(dir string) bool { return within(f.dir, dir) }

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

var sources = sync.OnceValues(func() ([]file, error) {
	var files []file
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "bin" || len(name) > 2 && name[0] == '.') {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		tree, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil || ast.IsGenerated(tree) {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		files = append(files, file{
			path: rel, dir: path.Dir(rel), test: strings.HasSuffix(name, "_test.go"),
			lines: fset.File(tree.FileStart).LineCount(), fset: fset, ast: tree,
		})
		return nil
	})
	return files, err
})

// tree gives every Go file that a person wrote, whatever its build tags.
func tree(t *testing.T) []file {
	t.Helper()
	files, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("only %d Go files found below %s", len(files), root)
	}
	return files
}
