package logkey_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/closured/closured/internal/logkey"
)

func TestKeysAreDistinctAndLowerCamelCase(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "logkey.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^[a-z][a-zA-Z]*$`)
	seen := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok {
			return true
		}
		key, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(key) {
			t.Errorf("key %q is not lowerCamelCase", key)
		}
		if seen[key] {
			t.Errorf("key %q stands for two things", key)
		}
		seen[key] = true
		return true
	})
	if len(seen) == 0 {
		t.Error("no keys were found")
	}
}

func Example() {
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: drop}))
	log.Info("published", slog.String(logkey.VolumeID, "csi-1"))
	// Output: level=INFO msg=published volumeId=csi-1
}
