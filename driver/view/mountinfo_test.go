package view_test

import (
	"strings"
	"testing"

	"github.com/closured/closured/driver/view"
)

func TestParseMountLine(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		line                string
		root, point, source string
		ok                  bool
	}{
		"a volume of ours":          {"88 64 0:40 /view /t ro,nosuid - overlay closured ro,lowerdir=/a:/b", "/view", "/t", "closured", true},
		"one with tags":             {"88 64 0:40 / /t rw shared:1 master:2 - tmpfs x rw", "/", "/t", "x", true},
		"one with escapes":          {`88 64 0:40 / /a\040b\134c\011 rw - tmpfs x\012 rw`, "/", "/a b\\c\t", "x\n", true},
		"an escape that is cut off": {`88 64 0:40 / /a\04 rw - tmpfs x rw`, "/", `/a\04`, "x", true},
		"an escape over a byte":     {`88 64 0:40 / /a\777 rw - tmpfs x rw`, "/", `/a\777`, "x", true},
		"one without a dash":        {"88 64 0:40 / /t rw tmpfs x rw", "", "", "", false},
		"one that is short":         {"88 64 0:40 / - tmpfs x rw", "", "", "", false},
		"an empty one":              {"", "", "", "", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, point, source, ok := view.ParseMountLine(test.line)
			if root != test.root || point != test.point || source != test.source || ok != test.ok {
				t.Errorf("got %q %q %q %v", root, point, source, ok)
			}
		})
	}
}

func FuzzParseMountLine(f *testing.F) {
	f.Add("88 64 0:40 /view /t ro,nosuid - overlay closured ro,lowerdir=/a:/b")
	f.Add(`88 64 0:40 / /a\040b rw - tmpfs x rw`)
	f.Fuzz(func(t *testing.T, line string) {
		root, point, _, ok := view.ParseMountLine(line)
		if !ok && (root != "" || point != "") {
			t.Errorf("a line that is refused gives %q %q", root, point)
		}
		if len(root)+len(point) > len(line) {
			t.Error("it grew")
		}
	})
}

func FuzzOpenTarget(f *testing.F) {
	for _, s := range []string{"/a/mount", "/../x", "/a/../../x", "relative", "/a\x00b", "//", "/."} {
		f.Add(s)
	}
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, path string) {
		target, err := view.OpenTarget(base, base+path)
		if err != nil {
			return
		}
		defer target.Close()
		if strings.Contains(path, "..") && strings.Contains(path, "/../") || !strings.HasPrefix(target.Path(), base+"/") {
			t.Errorf("opened %q", path)
		}
	})
}
