//go:build privileged

package integration_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/tests/agent"
)

const (
	podKey  = "csi.storage.k8s.io/"
	valid   = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-curl-8.0"
	invalid = "InvalidArgument"
)

// inputCase is a publish that is refused: a valid request with other attributes,
// or changed by change.
type inputCase struct {
	attributes map[string]string // instead of a valid source
	change     func(*csi.NodePublishVolumeRequest)
	code       string   // default InvalidArgument
	words      []string // in the first 200 bytes
}

// tryInputs sends each case to one agent, and looks each time at what it leaves.
func tryInputs(t *testing.T, n node, tests map[string]inputCase) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := n.as(t)
			v := volume(1, map[string]string{"packages": "hello"})
			if test.attributes != nil {
				v.Attributes = test.attributes
			}
			if err := n.Prepare(v); err != nil {
				t.Fatal(err)
			}
			req := n.PublishRequest(v)
			if test.change != nil {
				test.change(req)
			}
			code := test.code
			if code == "" {
				code = invalid
			}
			n.refusedRequest(req, code, test.words...)
		})
	}
	n.requireVolumes(0)
	n.requireIdle()
	if evaluations := n.metric("closured_evaluations_total"); evaluations != 0 {
		t.Errorf("%v evaluations were started for what is malformed", evaluations)
	}
	v := agent.Packages(1, "hello") // the agent is well
	n.publish(v)
	n.unpublish(v)
	n.requireNothing()
}

// words is short for attributes.
type words = map[string]string

func TestFault31MaliciousAttributes(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline("--policy", policyFile(t, allowAll))})
	tryInputs(t, n, map[string]inputCase{
		"an unknown key":                  {attributes: words{"pakages": "hello"}, words: []string{`"pakages"`, `did you mean "packages"`}},
		"an unknown key beside a source":  {attributes: words{"packages": "hello", "writeable": "true"}, words: []string{`did you mean "writable"`}},
		"a key in another case":           {attributes: words{"storepath": valid}, words: []string{`did you mean "storePath"`}},
		"two sources":                     {attributes: words{"packages": "hello", "nixExpr": "1"}, words: []string{"2 sources", "packages and nixExpr", "keep one"}},
		"no source":                       {attributes: words{"writable": "false"}, words: []string{"no source", "set storePath"}},
		"no attributes":                   {attributes: words{}, words: []string{"no source"}},
		"an empty source":                 {attributes: words{"packages": " \n"}, words: []string{"packages is empty"}},
		"a path for other systems only":   {attributes: words{foreignSystem(): valid}, words: []string{foreignSystem(), nixstore.System()}},
		"an image without images":         {attributes: words{"image": "web"}, words: []string{"no images", `"default/web"`, "storePath or packages"}},
		"an option for packages":          {attributes: words{"packages": "--option sandbox false"}, words: []string{`"--option"`, "not a package"}},
		"an option for a path":            {attributes: words{"storePath": "--option"}, words: []string{"not a store path"}},
		"an option for a flake":           {attributes: words{"flakeRef": "--impure"}, words: []string{"flakeRef"}},
		"an option after a flake":         {attributes: words{"flakeRef": "github:o/r --impure"}, words: []string{"space"}},
		"an option for an expression":     {attributes: words{"nixExpr": "--eval"}, words: []string{"dash"}},
		"an option for a boolean":         {attributes: words{"packages": "hello", "hostUsers": "--x"}, words: []string{"hostUsers"}},
		"an option as a key":              {attributes: words{"--option": "sandbox=false"}, words: []string{`"--option"`}},
		"a NUL in packages":               {attributes: words{"packages": "hello\x00"}, words: []string{"NUL", "packages"}},
		"a NUL in an expression":          {attributes: words{"nixExpr": "pkgs: pkgs.hello\x00"}, words: []string{"NUL"}},
		"a NUL in a key":                  {attributes: words{"packages\x00": "hello"}, words: []string{`\x00`}},
		"a terminal's escape":             {attributes: words{"packages": "hello\x1b[2J"}, words: []string{"control character"}},
		"interpolation in packages":       {attributes: words{"packages": "a.${builtins.readFile}"}, words: []string{"not a package"}},
		"a value of 4 KiB":                {attributes: words{"nixExpr": "pkgs: pkgs.hello" + strings.Repeat(" ", 4096)}, words: []string{"4096", "shorten"}},
		"a value of 1 MiB":                {attributes: words{"nixExpr": strings.Repeat("x", 1<<20)}, words: []string{"4096"}},
		"a key of 4 KiB":                  {attributes: words{strings.Repeat("x", 4097): ""}, words: []string{"4096"}},
		"a path of a kilobyte":            {attributes: words{"storePath": valid + strings.Repeat("x", 1024)}, words: []string{"not a store path", "longer than 211"}},
		"65 packages":                     {attributes: words{"packages": strings.Repeat("a ", 65)}, words: []string{"65", "64"}},
		"a boolean that is none":          {attributes: words{"packages": "hello", "writable": "yes"}, words: []string{"writable", `"yes"`}},
		"a size that is none":             {attributes: words{"packages": "hello", "writable": "true", "sizeLimit": "much"}, words: []string{"sizeLimit", `"much"`}},
		"a limit without a layer":         {attributes: words{"packages": "hello", "sizeLimit": "1Gi"}, words: []string{"sizeLimit", "writable"}},
		"a layer in a user namespace":     {attributes: words{"packages": "hello", "writable": "true", "hostUsers": "false"}, words: []string{"do not go together"}},
		"a layer on a read-only volume":   {attributes: words{"packages": "hello", "writable": "true"}, words: []string{"writable", "readOnly"}},
		"a quote that would end a string": {attributes: words{"packages": `hello"; x = "`}, words: []string{"not a package"}},
	})
}

func foreignSystem() string {
	if nixstore.System() == "aarch64-linux" {
		return "x86_64-linux"
	}
	return "aarch64-linux"
}

func TestFault33StorePathsThatLeadElsewhere(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	tests := map[string]inputCase{
		"a valid one that nobody has": {attributes: words{"storePath": valid}, code: "NotFound", words: []string{valid, "cache"}},
		"a derivation":                {attributes: words{"storePath": valid + ".drv"}, words: []string{"derivation"}},
	}
	for name, path := range map[string]string{
		"traversal to a file":           "/nix/store/../../etc/shadow",
		"traversal after a path":        valid + "/../../../etc",
		"traversal in the name":         "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a/../b",
		"a file in a path":              valid + "/bin/curl",
		"a path with a slash":           valid + "/",
		"the store itself":              "/nix/store",
		"the store with a slash":        "/nix/store/",
		"the physical store":            filepath.Join(n.StateDir(), valid),
		"the root":                      "/",
		"a path elsewhere":              "/etc/shadow",
		"a relative path":               "nix/store/0123456789abcdfghijklmnpqrsvwxyz-curl",
		"a base name":                   "0123456789abcdfghijklmnpqrsvwxyz-curl",
		"Nix's folder of links":         "/nix/store/.links",
		"a name of dots":                "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-..",
		"a hash of other letters":       "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-x",
		"a name with an escaped slash":  "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a%2f..%2fb",
		"two slashes":                   "/nix//store/0123456789abcdfghijklmnpqrsvwxyz-x",
		"paths that a comma joins":      valid + "," + valid,
		"a second word that is no path": valid + " ../../etc",
	} {
		tests[name] = inputCase{attributes: words{"storePath": path}, words: []string{"not a store path", "storePath"}}
	}
	tryInputs(t, n, tests)
}

// TestFault33StorePathThatIsALinkToTheHost publishes store paths whose builders
// made links out of the store: a link is shown as a link, never followed.
func TestFault33StorePathThatIsALinkToTheHost(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline(), PackageSet: packageSet(t, `
  file = run "to-a-file" "ln -s /etc/passwd $out";
  folder = run "to-a-folder" "ln -s / $out";
  up = run "upwards" "ln -s ../../../.. $out";
  join = run "join" "mkdir $out; ln -s /etc $out/bin; ln -s ../../.. $out/lib; ln -s / $out/share";
  plain = run "plain" "mkdir -p $out/bin $out/lib; echo > $out/bin/x; echo > $out/lib/y";
`)})
	for i, names := range []string{"file", "folder", "up", "join", "join plain"} {
		v := agent.Packages(i, names)
		n.publish(v)
		n.requireClosure(v, n.result(v))
		data, err := os.ReadFile(filepath.Join(n.Target(v), "var", "closure.json"))
		if err != nil || strings.Contains(string(data), "passwd") {
			t.Errorf("%s: %v", names, err)
		}
		n.unpublish(v)
	}
	n.requireNothing()
}

func TestFault32ForgedPodKeys(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	tests := map[string]inputCase{
		"no pod uid": {
			change: func(r *csi.NodePublishVolumeRequest) { delete(r.GetVolumeContext(), podKey+"pod.uid") },
			words:  []string{"pod.uid is missing", "podInfoOnMount"},
		},
		"no pod keys at all": {
			change: func(r *csi.NodePublishVolumeRequest) {
				maps.DeleteFunc(r.GetVolumeContext(), func(key, _ string) bool { return strings.HasPrefix(key, podKey) })
			},
			words: []string{"podInfoOnMount"},
		},
	}
	for name, key := range map[string][2]string{
		"another pod's uid":              {"pod.uid", "00000000-0000-4000-8000-000000000099"},
		"a uid that is a path":           {"pod.uid", "../1"},
		"a uid in upper case":            {"pod.uid", strings.ToUpper("00000000-0000-4000-8000-00000000000a")},
		"an empty uid":                   {"pod.uid", ""},
		"a namespace that is a path":     {"pod.namespace", "../kube-system"},
		"a namespace that is a wildcard": {"pod.namespace", "*"},
		"an empty namespace":             {"pod.namespace", ""},
		"a namespace of two lines":       {"pod.namespace", "web\nkube-system"},
		"a pod's name with a slash":      {"pod.name", "a/b"},
		"a service account with a colon": {"serviceAccount.name", "system:admin"},
		"ephemeral that is no boolean":   {"ephemeral", "maybe"},
	} {
		tests[name] = inputCase{
			change: func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[podKey+key[0]] = key[1] },
			words:  []string{podKey + key[0]},
		}
	}
	tryInputs(t, n, tests)
}
