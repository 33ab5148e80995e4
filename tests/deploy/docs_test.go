package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// foreign are words of others than closured that the page explains.
var foreign = []string{
	"not found in the list of registered CSI drivers", "no such file", "Read-only file system", "No space left on device",
	"lookup nix.internal", "connection refused", "MOUNT_ATTR_IDMAP", "runtime does not support user namespaces", "violates PodSecurity", "is forbidden:", "Terminating",
}

// TestTroubleshootingQuotesTheProgram: what the first columns quote must be what
// the program, or the admission policy, says; else nobody finds it.
func TestTroubleshootingQuotesTheProgram(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	said := program(t)
	code := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		quote := code.FindStringSubmatch(cells[1])
		if quote == nil || isForeign(cells[1]) {
			continue
		}
		rows++
		for part := range strings.SplitSeq(quote[1], "…") {
			if part = strings.TrimSpace(part); !strings.Contains(said, part) {
				t.Errorf("nobody says %q, of the row %q", part, quote[1])
			}
		}
	}
	if rows < 40 {
		t.Errorf("only %d rows quote the program", rows)
	}
}

func isForeign(cell string) bool {
	for _, words := range foreign {
		if strings.Contains(cell, words) {
			return true
		}
	}
	return false
}

// program gives the sources of the program and its admission policy, on one line.
func program(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	add := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(strings.Join(strings.Fields(string(text)), " "))
	}
	for _, dir := range []string{"api/v1alpha1", "cmd", "controller", "driver", "internal", "nixstore", "registry"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				add(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(folder + "/base/admission.yaml")
	add(folder + "/components/niximage/builds.yaml")
	return b.String()
}

// TestDocumentedValuesAreThoseOfTheChart: each value that a table names is there,
// and each one of NixImage is in the table of its page.
func TestDocumentedValuesAreThoseOfTheChart(t *testing.T) {
	t.Parallel()
	var all values
	text, err := os.ReadFile(chartDir + "/values.yaml")
	if err == nil {
		err = yaml.UnmarshalStrict(text, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, page := range []string{"install.md", "niximage.md"} {
		for _, name := range documentedValues(t, page) {
			documented[name] = true
			if at(all, strings.Split(name, ".")...) == nil {
				t.Errorf("%s documents %s, which values.yaml does not have", page, name)
			}
		}
	}
	sections, _ := all["nixImage"].(values)
	for section, of := range sections {
		if of, ok := of.(values); ok {
			for name := range of {
				if name = "nixImage." + section + "." + name; !documented[name] {
					t.Errorf("no page has %s", name)
				}
			}
		}
	}
	if len(documented) < 25 {
		t.Errorf("only %d values are documented: %v", len(documented), sortedKeys(documented))
	}
}

// documentedValues gives the first cells of the tables of values; in one cell
// `.b` after `a.c` is a.b.
func documentedValues(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	inside := false
	for line := range strings.Lines(string(text)) {
		inside = strings.HasPrefix(line, "| value |") || inside && strings.HasPrefix(line, "|")
		if !inside || !strings.HasPrefix(line, "| `") {
			continue
		}
		parent := ""
		for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			name := quote[1]
			if strings.HasPrefix(name, ".") {
				name = parent + name
			} else if i := strings.LastIndex(name, "."); i > 0 {
				parent = name[:i]
			}
			names = append(names, name)
		}
	}
	return names
}
