package layout

import (
	"go/ast"
	"path"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// call is a call of a function by its name.
type call struct {
	node     ast.Node
	name     string // "panic", "os.Exit", "google.golang.org/grpc/status.Error"
	function string // where it stands
}

// calls gives the calls in f of built-in and imported functions.
func calls(f file) []call {
	imports := importNames(f.ast)
	var found []call
	for _, decl := range f.ast.Decls {
		function := "a declaration"
		if fn, ok := decl.(*ast.FuncDecl); ok {
			function = fn.Name.Name
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch fun := c.Fun.(type) {
			case *ast.Ident:
				found = append(found, call{c, fun.Name, function})
			case *ast.SelectorExpr:
				if pkg, ok := fun.X.(*ast.Ident); ok && imports[pkg.Name] != "" {
					found = append(found, call{c, imports[pkg.Name] + "." + fun.Sel.Name, function})
				}
			}
			return true
		})
	}
	return found
}

func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, spec := range f.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = p
	}
	return names
}
