package attributes_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/driver/attributes"
	"github.com/closured/closured/nixstore"
)

const (
	x86  = "x86_64-linux"
	arm  = "aarch64-linux"
	curl = "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2"
	jq   = "/nix/store/2rz4g4znpzjwh1xymhjpm42vipw92pr7-jq-1.6"
	drv  = "/nix/store/3rz4g4znpzjwh1xymhjpm42vipw92pr7-jq-1.6.drv"
)

type words = map[string]string

func path(s string) nixstore.StorePath { return nixstore.MustParseStorePath(s) }

func storePaths(list ...string) nixstore.Source {
	src := nixstore.Source{Kind: nixstore.SourceStorePath}
	for _, s := range list {
		src.Paths = append(src.Paths, path(s))
	}
	return src
}

func packages(names ...string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourcePackages, Packages: names}
}

func flake(ref string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourceFlake, Flake: ref}
}

func expr(text string) nixstore.Source {
	return nixstore.Source{Kind: nixstore.SourceExpr, Expr: text}
}

func TestParseSources(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   words
		want nixstore.Source
	}{
		"one store path":                              {words{"storePath": curl}, storePaths(curl)},
		"several, separated by white space":           {words{"storePath": " " + jq + "\n\t" + curl + " \r\n"}, storePaths(jq, curl)},
		"one twice":                                   {words{"storePath": curl + " " + curl}, storePaths(curl)},
		"this node's system":                          {words{x86: curl}, storePaths(curl)},
		"this node's system wins over storePath":      {words{x86: curl, "storePath": jq}, storePaths(curl)},
		"this node's system wins over others":         {words{x86: curl, arm: jq}, storePaths(curl)},
		"storePath serves where the system is absent": {words{arm: jq, "storePath": curl}, storePaths(curl)},
		"one package":                                 {words{"packages": "curl"}, packages("curl")},
		"packages with spaces and commas":             {words{"packages": "redis, curl ,jq\nbash,"}, packages("redis", "curl", "jq", "bash")},
		"a nested package":                            {words{"packages": "python3Packages.numpy"}, packages("python3Packages.numpy")},
		"names of all characters":                     {words{"packages": "_7zz 0ad foo' a-b_C"}, packages("_7zz", "0ad", "foo'", "a-b_C")},
		"a package twice":                             {words{"packages": "a b a"}, packages("a", "b")},
		"a flake on GitHub":                           {words{"flakeRef": "github:o/r#pkg"}, flake("github:o/r#pkg")},
		"a flake with a revision and quotes":          {words{"flakeRef": `git+https://h.example/r?ref=main&dir=sub#packages."x.y"`}, flake(`git+https://h.example/r?ref=main&dir=sub#packages."x.y"`)},
		"a flake with a line end of YAML":             {words{"flakeRef": "github:o/r#pkg\n"}, flake("github:o/r#pkg")},
		"a flake of the registry":                     {words{"flakeRef": "nixpkgs#hello"}, flake("nixpkgs#hello")},
		"a flake of the registry with a branch":       {words{"flakeRef": "nixpkgs/nixos-24.05#hello"}, flake("nixpkgs/nixos-24.05#hello")},
		"a flake with outputs":                        {words{"flakeRef": "github:o/r#pkg^out,dev"}, flake("github:o/r#pkg^out,dev")},
		"an expression":                               {words{"nixExpr": "(import <pkgs> {}).hello"}, expr("(import <pkgs> {}).hello")},
		"an expression of lines":                      {words{"nixExpr": "let\n\tx = 1;\nin x\n"}, expr("let\n\tx = 1;\nin x\n")},
		"an image": {
			words{"image": "web.v1", "csi.storage.k8s.io/pod.namespace": "tools"},
			nixstore.Source{Kind: nixstore.SourceImage, Image: "tools/web.v1"},
		},
		"kubelet's unknown keys are left alone": {words{"packages": "a", "csi.storage.k8s.io/new.thing": "\x00\xff"}, packages("a")},
		"kubelet's tokens do not count":         {words{"packages": "a", "csi.storage.k8s.io/serviceAccount.tokens": strings.Repeat("x", 1<<20)}, packages("a")},
		"as many packages as are allowed":       {words{"packages": names(64)}, packages(strings.Fields(names(64))...)},
		"as long as is allowed":                 {words{"nixExpr": strings.Repeat("x", 4096-len("nixExpr"))}, expr(strings.Repeat("x", 4096-len("nixExpr")))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := attributes.Parse(test.in, x86)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			if got.Source.Key() != test.want.Key() || !cmp.Equal(test.want.Packages, got.Source.Packages) {
				t.Errorf("source %+v, want %+v", got.Source, test.want)
			}
		})
	}
}

// names gives n different packages.
func names(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("p%d", i))
	}
	return strings.Join(list, " ")
}

func TestParseOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   words
		want attributes.Attributes
	}{
		"none":                      {words{}, attributes.Attributes{}},
		"writable":                  {words{"writable": "true"}, attributes.Attributes{Writable: true}},
		"not writable":              {words{"writable": "false"}, attributes.Attributes{}},
		"a user namespace":          {words{"hostUsers": "false"}, attributes.Attributes{UserNamespace: true}},
		"no user namespace":         {words{"hostUsers": "true"}, attributes.Attributes{}},
		"writable on the host's":    {words{"writable": "true", "hostUsers": "true"}, attributes.Attributes{Writable: true}},
		"a binary size":             {words{"writable": "true", "sizeLimit": "10Gi"}, attributes.Attributes{Writable: true, SizeLimitBytes: 10 << 30}},
		"a decimal size":            {words{"writable": "true", "sizeLimit": "1G"}, attributes.Attributes{Writable: true, SizeLimitBytes: 1e9}},
		"a size with a fraction":    {words{"writable": "true", "sizeLimit": "1.5Gi"}, attributes.Attributes{Writable: true, SizeLimitBytes: 3 << 29}},
		"a size in bytes":           {words{"writable": "true", "sizeLimit": "1048576"}, attributes.Attributes{Writable: true, SizeLimitBytes: 1 << 20}},
		"a size that is rounded up": {words{"writable": "true", "sizeLimit": "1048576.0000001"}, attributes.Attributes{Writable: true, SizeLimitBytes: 1<<20 + 1}},
		"the greatest size":         {words{"writable": "true", "sizeLimit": "1Pi"}, attributes.Attributes{Writable: true, SizeLimitBytes: 1 << 50}},
		"leading noughts":           {words{"writable": "true", "sizeLimit": "0000000000000000000000001Gi"}, attributes.Attributes{Writable: true, SizeLimitBytes: 1 << 30}},
		"a pod": {
			words{
				"csi.storage.k8s.io/pod.namespace":       "web",
				"csi.storage.k8s.io/pod.name":            "shop-6d4cf56db6-x.y",
				"csi.storage.k8s.io/pod.uid":             "0a1b2c3d-0000-1111-2222-333344445555",
				"csi.storage.k8s.io/serviceAccount.name": "default",
				"csi.storage.k8s.io/ephemeral":           "true",
			},
			attributes.Attributes{Pod: attributes.Pod{
				Namespace: "web", Name: "shop-6d4cf56db6-x.y", UID: "0a1b2c3d-0000-1111-2222-333344445555",
				ServiceAccount: "default", Ephemeral: true,
			}},
		},
		"a static pod": {
			words{"csi.storage.k8s.io/pod.uid": strings.Repeat("a1", 32), "csi.storage.k8s.io/serviceAccount.name": ""},
			attributes.Attributes{Pod: attributes.Pod{UID: strings.Repeat("a1", 32)}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := maps.Clone(test.in)
			in["packages"] = "a"
			got, err := attributes.Parse(in, x86)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			test.want.Source = got.Source
			if got.Writable != test.want.Writable || got.SizeLimitBytes != test.want.SizeLimitBytes ||
				got.UserNamespace != test.want.UserNamespace || got.Pod != test.want.Pod {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// hostile is what a pod may not say, and what the first 200 characters of the answer say.
type hostile struct {
	in   words
	says []string
}

func refuseAll(t *testing.T, tests map[string]hostile) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := attributes.Parse(test.in, x86)
			refused(t, got, err, test.says...)
		})
	}
}

// namespace is kubelet's key of the pod's namespace.
const namespace = "csi.storage.k8s.io/pod.namespace"

func TestFault31HostileAttributes(t *testing.T) {
	t.Parallel()
	refuseAll(t, map[string]hostile{
		"nothing":                      {nil, []string{"no source", "storePath"}},
		"a key with a typing error":    {words{"pakages": "curl"}, []string{`"pakages"`, `did you mean "packages"`}},
		"a key in the wrong case":      {words{"StorePath": curl}, []string{`"StorePath"`, `did you mean "storePath"`}},
		"a key that is cut":            {words{"flake": "github:o/r"}, []string{`did you mean "flakeRef"`}},
		"a key of another driver":      {words{"packages": "a", "fsType": "ext4"}, []string{`"fsType"`, "did you mean"}},
		"a key with a NUL":             {words{"packages": "a", "x\x00y\n": "z"}, []string{`"x\x00y\n"`}},
		"a key like kubelet's":         {words{"packages": "a", "csi.storage.k8s.iox/pod.uid": "1"}, []string{"csi.storage.k8s.iox"}},
		"an unknown system":            {words{"x86_64-linus": curl}, []string{`did you mean "x86_64-linux"`}},
		"two sources":                  {words{"packages": "a", "storePath": curl}, []string{"2 sources", "storePath and packages"}},
		"two sources, one for others":  {words{"packages": "a", arm: curl}, []string{"2 sources", arm}},
		"all sources":                  {words{"packages": "a", x86: curl, "flakeRef": "a:b", "nixExpr": "1", "image": "x"}, []string{"5 sources"}},
		"an option for a flake":        {words{"flakeRef": "--impure"}, []string{"flakeRef"}},
		"an option for its attribute":  {words{"flakeRef": "github:o/r#--impure"}, []string{"dash"}},
		"a flake with a space":         {words{"flakeRef": "github:o/r --impure"}, []string{"space"}},
		"a flake of two lines":         {words{"flakeRef": "github:o/r\n--impure"}, []string{"space"}},
		"a flake that is a path":       {words{"flakeRef": "/etc/nixos#x"}, []string{"path"}},
		"a flake beside the agent":     {words{"flakeRef": ".#x"}, []string{"path"}},
		"a flake in a home":            {words{"flakeRef": "~/x"}, []string{"path"}},
		"a flake with nothing":         {words{"flakeRef": "#x"}, []string{"nothing"}},
		"an empty flake":               {words{"flakeRef": " "}, []string{"nothing"}},
		"a scheme alone":               {words{"flakeRef": "github:"}, []string{"nothing stands after"}},
		"two attributes":               {words{"flakeRef": "github:o/r#a#b"}, []string{"#"}},
		"a query after the attribute":  {words{"flakeRef": "github:o/r#a?host=evil"}, []string{"?"}},
		"two queries":                  {words{"flakeRef": "github:o/r?a=b?host=evil"}, []string{"two queries"}},
		"an empty expression":          {words{"nixExpr": "\n"}, []string{"nixExpr is empty"}},
		"an option for an expression":  {words{"nixExpr": " --eval"}, []string{"dash"}},
		"a NUL in an expression":       {words{"nixExpr": "1\x00"}, []string{"NUL"}},
		"an image with a namespace":    {words{"image": "other/x", namespace: "web"}, []string{`"other/x"`, "NixImage"}},
		"an image of dots":             {words{"image": "..", namespace: "web"}, []string{"NixImage"}},
		"an image in upper case":       {words{"image": "Web", namespace: "web"}, []string{"NixImage"}},
		"an image without a namespace": {words{"image": "x"}, []string{"podInfoOnMount"}},
		"an option for an image":       {words{"image": "-x", namespace: "web"}, []string{"NixImage"}},
		"a boolean in upper case":      {words{"packages": "a", "writable": "True"}, []string{`"True"`, `"true"`}},
		"a boolean with a space":       {words{"packages": "a", "writable": "true "}, []string{"writable"}},
		"a boolean that is a number":   {words{"packages": "a", "hostUsers": "0"}, []string{"hostUsers"}},
		"an empty boolean":             {words{"packages": "a", "writable": ""}, []string{"writable"}},
		"a boolean with a line end":    {words{"packages": "a", "writable": "true\n"}, []string{"writable"}},
		"writable with user namespace": {words{"packages": "a", "writable": "true", "hostUsers": "false"}, []string{"do not go together"}},
		"a limit without writable":     {words{"packages": "a", "sizeLimit": "1Gi"}, []string{"sizeLimit", "writable"}},
		"a limit that is no size":      {words{"packages": "a", "writable": "true", "sizeLimit": "much"}, []string{`"much"`, "10Gi"}},
		"a value of 1 MiB":             {words{"nixExpr": strings.Repeat("a", 1<<20)}, []string{"4096"}},
		"a key of 1 MiB":               {words{strings.Repeat("a", 1<<20): ""}, []string{"4096"}},
		"many small keys":              {many(2000), []string{"4096"}},
	})
}

func TestFault33PathsThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	refuseAll(t, map[string]hostile{
		"only another system's paths":     {words{arm: curl}, []string{arm, x86, "nodeSelector"}},
		"no path":                         {words{"storePath": ""}, []string{"storePath is empty"}},
		"white space for paths":           {words{"storePath": " \n\t"}, []string{"storePath is empty"}},
		"traversal in a path":             {words{"storePath": "/nix/store/../../etc/shadow"}, []string{"not a store path", "/etc/shadow"}},
		"traversal after a path":          {words{"storePath": curl + "/../../../etc"}, []string{"not a store path"}},
		"a file in a path":                {words{"storePath": curl + "/bin/curl"}, []string{"not a store path"}},
		"the store itself":                {words{"storePath": "/nix/store"}, []string{"not a store path"}},
		"a path elsewhere":                {words{"storePath": "/etc/shadow"}, []string{"not a store path", "/nix/store/"}},
		"a broken path of another system": {words{x86: curl, arm: "/etc"}, []string{arm, "not a store path"}},
		"paths joined by commas":          {words{"storePath": curl + "," + jq}, []string{"not a store path"}},
		"a path with a no-break space":    {words{"storePath": curl + "\u00a0" + jq}, []string{"not a store path"}},
		"a derivation":                    {words{"storePath": drv}, []string{"derivation", "jq-1.6.drv"}},
		"an option for a path":            {words{"storePath": "--option"}, []string{"not a store path"}},
		"a NUL in a path":                 {words{"storePath": curl + "\x00"}, []string{"NUL", "storePath"}},
		"an escape in a package":          {words{"packages": "curl\x1b[2J"}, []string{"control character", `"\x1b"`}},
		"a C1 control character":          {words{"packages": "curl\u0085jq"}, []string{"control character"}},
		"bytes that are no text":          {words{"packages": "\xff\xfe"}, []string{"UTF-8"}},
		"an option for a package":         {words{"packages": "curl --option sandbox false"}, []string{`"--option"`, "not a package"}},
		"an expression for a package":     {words{"packages": "(import<x>)"}, []string{"not a package"}},
		"interpolation in a package":      {words{"packages": "a.${builtins.readFile"}, []string{"not a package"}},
		"a quote in a package":            {words{"packages": `a."b`}, []string{"not a package"}},
		"a package that is a path":        {words{"packages": "../x"}, []string{"not a package"}},
		"an empty part":                   {words{"packages": "a..b"}, []string{"empty"}},
		"a dot at the end":                {words{"packages": "a."}, []string{"empty"}},
		"a package of letters elsewhere":  {words{"packages": "сurl"}, []string{"not a package"}}, // Cyrillic с
		"a long package":                  {words{"packages": strings.Repeat("a", 256)}, []string{"longer than 255"}},
		"too many packages":               {words{"packages": names(65)}, []string{"65", "64"}},
		"commas alone":                    {words{"packages": ",,,"}, []string{"packages is empty"}},
		"a value of 4 KiB":                {words{"packages": strings.Repeat("a", 4096)}, []string{"4104", "4096"}},
	})
}

func many(n int) words {
	m := words{}
	for i := range n {
		m[fmt.Sprint(i)] = "x"
	}
	return m
}

func TestFault32ForgedPodKeys(t *testing.T) {
	t.Parallel()
	const prefix = "csi.storage.k8s.io/"
	tests := map[string][2]string{
		"a namespace that is a path":     {prefix + "pod.namespace", "../kube-system"},
		"a namespace with a dot":         {prefix + "pod.namespace", "a.b"},
		"an empty namespace":             {prefix + "pod.namespace", ""},
		"a namespace that is a wildcard": {prefix + "pod.namespace", "*"},
		"a namespace that is too long":   {prefix + "pod.namespace", strings.Repeat("a", 64)},
		"a namespace with a line end":    {prefix + "pod.namespace", "web\n"},
		"a namespace with a dash first":  {prefix + "pod.namespace", "-web"},
		"a name with a slash":            {prefix + "pod.name", "a/b"},
		"a name that is too long":        {prefix + "pod.name", strings.Repeat("a", 254)},
		"a uid with a slash":             {prefix + "pod.uid", "../1"},
		"an empty uid":                   {prefix + "pod.uid", ""},
		"a uid that is an option":        {prefix + "pod.uid", "--x"},
		"a uid that is too long":         {prefix + "pod.uid", strings.Repeat("a", 65)},
		"a uid with a NUL":               {prefix + "pod.uid", "a\x00"},
		"a service account with a colon": {prefix + "serviceAccount.name", "system:admin"},
		"ephemeral that is no boolean":   {prefix + "ephemeral", "yes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := attributes.Parse(words{"packages": "a", test[0]: test[1]}, x86)
			refused(t, got, err, test[0], "kubelet")
		})
	}
}

// refused checks an error of Parse: its kind, that nothing was accepted, that it
// holds no line of the attacker's, and what its first 200 characters say.
func refused(t *testing.T, got attributes.Attributes, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, nixstore.ErrInvalid) {
		t.Fatalf("Parse gives %+v and %v, want ErrInvalid", got, err)
	}
	if diff := cmp.Diff("", got.Source.Flake+got.Source.Expr+got.Source.Image+string(got.Source.Kind)); diff != "" {
		t.Errorf("something was accepted beside the error: %s", diff)
	}
	text := err.Error()
	if strings.ContainsAny(text, "\x00\x1b\r") || len(text) > 8<<10 {
		t.Errorf("the text of %d bytes is not fit for an event: %q", len(text), text)
	}
	for _, want := range says {
		if first := text[:min(200, len(text))]; !strings.Contains(first, want) {
			t.Errorf("the first 200 characters do not say %q: %s", want, text)
		}
	}
}

func TestParseTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := attributes.Parse(words{
		"pakages": "x", "storePath": "/etc " + drv, "writable": "yes", "sizeLimit": "lots",
		"csi.storage.k8s.io/pod.uid": "/",
	}, x86)
	if err == nil {
		t.Fatal("all was accepted")
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T joins no errors", err)
	}
	order := []string{"pakages", "/etc", "derivation", "writable", "sizeLimit", "sizeLimit", "pod.uid"}
	problems := joined.Unwrap()
	if len(problems) != len(order) {
		t.Fatalf("%d problems, want %d: %v", len(problems), len(order), err)
	}
	for i, want := range order {
		if !strings.Contains(problems[i].Error(), want) {
			t.Errorf("problem %d is %q, want one of %s", i+1, problems[i], want)
		}
		var failure *nixstore.Failure
		if !errors.As(problems[i], &failure) || failure.Next == "" {
			t.Errorf("problem %d tells no next step: %v", i+1, problems[i])
		}
	}
}

func TestParseBoundsTheNumberOfProblems(t *testing.T) {
	t.Parallel()
	_, err := attributes.Parse(many(500), x86)
	if lines := strings.Count(err.Error(), "\n") + 1; lines > 10 {
		t.Errorf("%d problems are told", lines)
	}
}

func TestParseKnowsTheSystemOfItsNode(t *testing.T) {
	t.Parallel()
	in := words{x86: curl, arm: jq}
	got, err := attributes.Parse(in, arm)
	if err != nil || got.Source.Key() != storePaths(jq).Key() {
		t.Errorf("on %s: %+v, %v", arm, got.Source, err)
	}
	if _, err := attributes.Parse(words{"riscv64-linux": curl}, "riscv64-linux"); err != nil {
		t.Errorf("a node does not know its own system: %v", err)
	}
	if _, err := attributes.Parse(words{"riscv64-linux": curl}, x86); err == nil {
		t.Error("a system that nobody has was accepted")
	}
}

func ExampleParse() {
	got, err := attributes.Parse(map[string]string{"packages": "redis, curl"}, "x86_64-linux")
	fmt.Println(got.Source.Packages, err)

	_, err = attributes.Parse(map[string]string{"packages": "redis", "writeable": "true"}, "x86_64-linux")
	cause, _, _ := strings.Cut(err.Error(), " The known")
	fmt.Println(cause)
	// Output:
	// [redis curl] <nil>
	// there is no volume attribute "writeable"; next: did you mean "writable"?
}
