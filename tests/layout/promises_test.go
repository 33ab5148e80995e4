package layout

import (
	"go/ast"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// faultRows are the rows of the list of faults that the node agent answers for.
const faultRows = "1-9 13-18 20 21 26-36 39-42 44 45 47"

var (
	faultTest = regexp.MustCompile(`^TestFault(\d+(?:And\d+)*)[^\d]`)
	faultLine = regexp.MustCompile(`(?m)^[|*# -]*\**0*(\d+)\**\s*[|:.]`)
)

// TestEveryFaultIsTriedOrExplained asks for a test named TestFault<row>… (or
// TestFault<row>And<row>…) or a line of docs/faults.md that begins with the row's number.
func TestEveryFaultIsTriedOrExplained(t *testing.T) {
	t.Parallel()
	answered := map[int]bool{}
	for _, f := range tree(t) {
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || !f.test {
				continue
			}
			if m := faultTest.FindStringSubmatch(fn.Name.Name); m != nil {
				for row := range strings.SplitSeq(m[1], "And") {
					answered[number(t, row)] = true
				}
			}
		}
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, m := range faultLine.FindAllStringSubmatch(string(doc), -1) {
		answered[number(t, m[1])] = true
	}
	for _, row := range rows(t) {
		if !answered[row] {
			t.Errorf("fault %d has neither a test TestFault%d… nor a line in docs/faults.md that begins with its number and says why", row, row)
		}
	}
}

func rows(t *testing.T) []int {
	t.Helper()
	var all []int
	for part := range strings.FieldsSeq(faultRows) {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		for n := number(t, first); n <= number(t, last); n++ {
			all = append(all, n)
		}
	}
	return all
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var (
	helpFlag    = regexp.MustCompile(`(?m)^\s*--?([a-z][a-z0-9-]*)`)
	helpDefault = regexp.MustCompile(`\(default "?([^")]*)"?\)`)
	readmeFlag  = regexp.MustCompile("`--([a-z][a-z0-9-]*)`")
)

// TestReadmeTableHasTheProgramsFlags compares the names, and each default that
// the program prints, in both directions.
func TestReadmeTableHasTheProgramsFlags(t *testing.T) {
	t.Parallel()
	help := programFlags(t)
	table := readmeFlags(t)
	for _, name := range slices.Sorted(maps.Keys(help)) {
		row, ok := table[name]
		if !ok {
			t.Errorf("the table of flags in README.md lacks --%s", name)
			continue
		}
		if want := help[name]; !strings.Contains(row, want) {
			t.Errorf("README.md says of --%s %q, but its default is %q", name, row, want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if _, ok := help[name]; !ok {
			t.Errorf("the table of flags in README.md has --%s, which closured does not know", name)
		}
	}
}

// programFlags gives the flags of `closured -h` with their printed defaults.
func programFlags(t *testing.T) map[string]string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "closured")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, module+"/cmd/closured").CombinedOutput(); err != nil {
		t.Fatalf("building closured: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), bin, "-h").CombinedOutput()
	starts := helpFlag.FindAllSubmatchIndex(out, -1)
	if len(starts) == 0 {
		t.Fatalf("closured -h lists no flag (%v): %s", err, out)
	}
	flags := map[string]string{}
	for i, s := range starts {
		end := len(out)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		value := ""
		if m := helpDefault.FindSubmatch(out[s[0]:end]); m != nil {
			value = string(m[1])
		}
		flags[string(out[s[2]:s[3]])] = value
	}
	return flags
}

// readmeFlags gives the rows of the README's table of flags by flag.
func readmeFlags(t *testing.T) map[string]string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatalf("reading the table of flags: %v", err)
	}
	_, rest, begun := strings.Cut(string(readme), "<!-- flags -->")
	table, _, ended := strings.Cut(rest, "<!-- /flags -->")
	if !begun || !ended {
		t.Fatal("README.md has no table of flags between <!-- flags --> and <!-- /flags -->")
	}
	flags := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, m := range readmeFlag.FindAllStringSubmatch(cells[1], -1) {
			flags[m[1]] = strings.TrimSpace(strings.Join(cells[2:], "|"))
		}
	}
	return flags
}
