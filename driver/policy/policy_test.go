package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/nixstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// design is the example of the documentation.
const design = `rules:
- namespaces: ["dev-*"]
  sources: [storePath, packages, image, flakeRef, nixExpr]
  flakes: ["github:our-org/*"]
  build: true              # false: substitute only
- namespaces: ["*"]
  sources: [storePath, packages, image]
  build: false
`

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

// of gives a source of a kind; for a flake one that the example allows.
func of(kind nixstore.SourceKind) nixstore.Source {
	if kind == nixstore.SourceFlake {
		return nixstore.Source{Kind: kind, Flake: "github:our-org/app#x"}
	}
	return nixstore.Source{Kind: kind}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const (
		storePath = nixstore.SourceStorePath
		pkgs      = nixstore.SourcePackages
		image     = nixstore.SourceImage
		flake     = nixstore.SourceFlake
		expr      = nixstore.SourceExpr
	)
	// The second rule would allow what the first refuses.
	const narrow = "rules:\n- {namespaces: [web], sources: [image]}\n- {namespaces: ['*'], sources: [storePath, nixExpr]}\n"
	tests := map[string]struct {
		policy    *policy.Policy
		namespace string
		source    nixstore.SourceKind
		allowed   bool
		build     bool
	}{
		"default: store paths for all":                    {policy.Default(), "web", storePath, true, true},
		"default: packages for all":                       {policy.Default(), "web", pkgs, true, true},
		"default: images for all":                         {policy.Default(), "web", image, true, true},
		"default: flakes for none":                        {policy.Default(), "web", flake, false, false},
		"default: expressions for none":                   {policy.Default(), "web", expr, false, false},
		"default: nobody's store paths":                   {policy.Default(), "", storePath, true, true},
		"default: nobody's expressions":                   {policy.Default(), "", expr, false, false},
		"default: a kind that does not exist":             {policy.Default(), "web", "new", false, false},
		"example: dev builds packages":                    {parse(t, design), "dev-a", pkgs, true, true},
		"example: dev uses our flakes":                    {parse(t, design), "dev-a", flake, true, true},
		"example: dev writes expressions":                 {parse(t, design), "dev-", expr, true, true},
		"example: others substitute packages":             {parse(t, design), "web", pkgs, true, false},
		"example: others have no flakes":                  {parse(t, design), "web", flake, false, false},
		"example: a name that holds dev is no dev":        {parse(t, design), "my-dev-a", flake, false, false},
		"example: nobody is no dev":                       {parse(t, design), "", flake, false, false},
		"example: nobody gets what all get":               {parse(t, design), "", image, true, false},
		"the first rule of a namespace decides alone":     {parse(t, narrow), "web", storePath, false, false},
		"the first rule of a namespace allows":            {parse(t, narrow), "web", image, true, true},
		"a later rule serves the others":                  {parse(t, narrow), "shop", expr, true, true},
		"no rules":                                        {parse(t, "rules: []"), "web", storePath, false, false},
		"no rule for the namespace":                       {parse(t, "rules:\n- {namespaces: [a], sources: [image]}"), "b", image, false, false},
		"nobody matches the star alone":                   {parse(t, "rules:\n- {namespaces: ['**'], sources: [image]}"), "", image, false, false},
		"a rule may allow nothing":                        {parse(t, "rules:\n- {namespaces: ['*'], sources: []}"), "web", image, false, false},
		"JSON is YAML":                                    {parse(t, `{"rules":[{"namespaces":["*"],"sources":["image"],"build":false}]}`), "web", image, true, false},
		"a namespace that a pattern's letters surround":   {parse(t, "rules:\n- {namespaces: [a*b*c], sources: [image]}"), "axxbxxc", image, true, true},
		"a namespace that lacks one of a pattern's parts": {parse(t, "rules:\n- {namespaces: [a*b*c], sources: [image]}"), "axxc", image, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.policy.Check(test.namespace, of(test.source))
			if (err == nil) != test.allowed || got.Build != test.build {
				t.Fatalf("Check = %+v, %v; want allowed %v, build %v", got, err, test.allowed, test.build)
			}
			if err == nil {
				return
			}
			text := err.Error()
			if !errors.Is(err, nixstore.ErrForbidden) {
				t.Errorf("%v is not ErrForbidden", err)
			}
			for _, want := range []string{test.namespace, string(test.source), "policy", "next: ", "operator"} {
				if first := text[:min(200, len(text))]; !strings.Contains(first, want) {
					t.Errorf("the first 200 characters do not say %q: %s", want, text)
				}
			}
		})
	}
}

func TestRefusalNamesTheRule(t *testing.T) {
	t.Parallel()
	p := parse(t, design)
	_, err := p.Check("web", of(nixstore.SourceExpr))
	if err == nil || !strings.Contains(err.Error(), "rule 2") || !strings.Contains(err.Error(), "storePath, packages, image") {
		t.Errorf("the refusal of rule 2: %v", err)
	}
	secret := nixstore.Source{Kind: nixstore.SourceFlake, Flake: "git+https://bob:hunter2@evil.example/r#x"}
	_, err = p.Check("dev-a", secret)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "rule 1") {
		t.Errorf("the refusal of a flake with a password: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const good = "rules:\n- namespaces: ['*']\n  sources: [image]\n"
	tests := map[string]struct {
		text string
		says []string
	}{
		"nothing":                            {"", []string{"no map"}},
		"comments alone":                     {"# rules: []\n", []string{"no map"}},
		"no YAML":                            {"rules: [", []string{"no YAML"}},
		"a tab":                              {"rules:\n\t- x", []string{"no YAML"}},
		"bytes":                              {"\x00\xff", []string{"no YAML"}},
		"a list":                             {"- namespaces: ['*']", []string{"no map"}},
		"a word":                             {"rules", []string{"no map"}},
		"no rules":                           {"{}", []string{"no list of rules"}},
		"rules that are nothing":             {"rules:", []string{"no list of rules"}},
		"rules that are a map":               {"rules: {a: b}", []string{"no list of rules"}},
		"an unknown key":                     {good + "default: allow\n", []string{`"default"`}},
		"rules twice":                        {good + good, []string{"no YAML", "rules"}},
		"two documents":                      {good + "---\n" + good, []string{"more than one"}},
		"two documents after a mark":         {"--- # first\n" + good + "--- # second\n" + good, []string{"more than one"}},
		"a rule that is a word":              {"rules: [allow]", []string{"rule 1", "no map"}},
		"a rule that is nothing":             {"rules: [null]", []string{"rule 1", "no map"}},
		"an unknown field":                   {good + "  biuld: false\n", []string{"rule 1", `"biuld"`, "namespaces, sources, flakes, build"}},
		"a field in the wrong case":          {good + "  Build: false\n", []string{`"Build"`}},
		"a field twice":                      {good + "  sources: [nixExpr]\n", []string{"no YAML"}},
		"no namespaces":                      {"rules:\n- sources: [image]", []string{"rule 1", "no namespaces"}},
		"empty namespaces":                   {"rules:\n- {namespaces: [], sources: [image]}", []string{"rule 1", "no namespaces"}},
		"namespaces that are a word":         {"rules:\n- {namespaces: '*', sources: [image]}", []string{"namespaces is no list"}},
		"a namespace that is a number":       {"rules:\n- {namespaces: [1], sources: [image]}", []string{"namespaces is no list"}},
		"a namespace that is nothing":        {"rules:\n- {namespaces: [~], sources: [image]}", []string{"namespaces is no list"}},
		"an empty namespace":                 {"rules:\n- {namespaces: [''], sources: [image]}", []string{"namespace pattern"}},
		"a namespace in upper case":          {"rules:\n- {namespaces: [Dev], sources: [image]}", []string{`"Dev"`}},
		"a class of letters":                 {"rules:\n- {namespaces: ['[a-z]*'], sources: [image]}", []string{`"[a-z]*"`}},
		"a question mark":                    {"rules:\n- {namespaces: ['a?'], sources: [image]}", []string{`"a?"`}},
		"no sources":                         {"rules:\n- {namespaces: ['*']}", []string{"rule 1", "no sources"}},
		"an unknown source":                  {"rules:\n- {namespaces: ['*'], sources: [storepath]}", []string{`"storepath"`, "storePath, packages"}},
		"a system as a source":               {"rules:\n- {namespaces: ['*'], sources: [x86_64-linux]}", []string{"part of storePath"}},
		"flakeRef without flakes":            {"rules:\n- {namespaces: ['*'], sources: [flakeRef]}", []string{"no flakes", `["*"]`}},
		"flakeRef with empty flakes":         {"rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: []}", []string{"empty", `["*"]`}},
		"flakeRef with null flakes":          {"rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: }", []string{"flakes is no list"}},
		"flakes without flakeRef":            {"rules:\n- {namespaces: ['*'], sources: [image], flakes: ['*']}", []string{"lack flakeRef"}},
		"a flake pattern that is malformed":  {"rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: ['*.org']}", []string{`"*.org"`, "scheme"}},
		"build that is text":                 {good + "  build: 'false'\n", []string{"build", "neither true nor false"}},
		"build that is nothing":              {good + "  build:\n", []string{"build", "neither true nor false"}},
		"build that is a number":             {good + "  build: 0\n", []string{"build"}},
		"the third rule":                     {good + "- namespaces: [a]\n  sources: [image]\n- namespaces: [b]\n  sources: [x]\n", []string{"rule 3", `"x"`}},
		"too many rules":                     {"rules:\n" + strings.Repeat("- {}\n", 1001), []string{"1001"}},
		"a file that is too long":            {good + strings.Repeat("#", 1<<20), []string{"bytes"}},
		"a bomb of aliases":                  {bomb(), []string{"no YAML"}},
		"a merge that would hide what holds": {"a: &a {build: true}\nrules:\n- {<<: *a, namespaces: ['*'], sources: [image]}", []string{`"a"`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := policy.Parse([]byte(test.text))
			if !errors.Is(err, nixstore.ErrInvalid) || p != nil {
				t.Fatalf("Parse = %v, %v; want ErrInvalid", p, err)
			}
			for _, want := range test.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not said: %v", want, err)
				}
			}
		})
	}
}

// bomb is a small text that grows beyond all bounds when its aliases are followed.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 12 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return b.String()
}

func TestParseTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse([]byte("rules:\n- {namespaces: [A], sources: [x], extra: 1}\n- {sources: [flakeRef], build: 7}\n"))
	if err == nil {
		t.Fatal("all was accepted")
	}
	for _, want := range []string{
		"rule 1 of the policy: there is no field \"extra\"", `rule 1 of the policy: the namespace pattern "A"`, `rule 1 of the policy: there is no source "x"`,
		"rule 2 of the policy: it has no namespaces", "rule 2 of the policy: it allows flakeRef", "rule 2 of the policy: build is",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(design), "dev-a", "github:our-org/app")
	f.Add([]byte("rules: []"), "", "")
	f.Add([]byte("rules:\n- {namespaces: ['*'], sources: [flakeRef], flakes: ['https://*.a/**']}"), "x", "https://b.a/c")
	f.Fuzz(func(t *testing.T, data []byte, namespace, ref string) {
		p, err := policy.Parse(data)
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) || p != nil {
				t.Errorf("Parse(%q) = %v, %v", data, p, err)
			}
			return
		}
		src := nixstore.Source{Kind: nixstore.SourceFlake, Flake: ref}
		got, err := p.Check(namespace, src)
		if err != nil && (got.Build || !errors.Is(err, nixstore.ErrForbidden)) {
			t.Errorf("Check = %+v, %v", got, err)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	p, err := policy.Parse([]byte(design))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := p.Check("dev-a", of(nixstore.SourceFlake)); err != nil {
			b.Fatal(err)
		}
	}
}

func ExamplePolicy_Check() {
	p, err := policy.Parse([]byte(design))
	if err != nil {
		fmt.Println(err)
		return
	}
	decision, err := p.Check("web", nixstore.Source{Kind: nixstore.SourcePackages, Packages: []string{"curl"}})
	fmt.Println(decision.Build, err)
	_, err = p.Check("web", nixstore.Source{Kind: nixstore.SourceExpr, Expr: "…"})
	fmt.Println(err)
	// Output:
	// false <nil>
	// rule 2 of the policy allows namespace "web" storePath, packages, image, not nixExpr; next: use one of those, or ask the operator to allow nixExpr in that rule
}
