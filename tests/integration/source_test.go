//go:build privileged

package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/tests/agent"
)

// sourceSet is a package set with paths of all types: folders, files, programs,
// links, an empty folder, and a path that is one file.
const sourceSet = `
  hello = run "hello-1.0" ''
    mkdir -p $out/bin $out/share/hello/empty $out/lib
    echo "#!${bb}/bin/sh" > $out/bin/hello
    chmod 755 $out/bin/hello
    echo "read me" > "$out/share/hello/read me"
    ln -s ../../bin/hello $out/share/hello/link
    ln -s ${text { n = 3; seed = "hello"; }} $out/lib/data
    ln -s /etc/passwd $out/lib/outside
    : > $out/lib/nothing
  '';
  other = run "other-2.0" ''mkdir -p $out/bin $out/share/other; ln -s ${bb}/bin/true $out/bin/other; seq 1 20000 > $out/share/other/numbers'';
  file = run "file-3.0" ''echo text > $out; chmod 755 $out'';
  nested.deep.tool = run "tool-4.0" ''mkdir -p $out/bin; echo tool > $out/bin/tool'';
  two = derivation {
    name = "two"; outputs = [ "out" "dev" ]; system = builtins.currentSystem; builder = "${bb}/bin/sh"; PATH = "${bb}/bin";
    args = [ "-c" "mkdir -p $out/lib $dev/include; echo $dev > $out/lib/x; echo h > $dev/include/x.h" ];
  };
`

// offline are flags of an agent that asks no cache.
func offline(flags ...string) []string {
	return append([]string{"--nix-option", "substituters="}, flags...)
}

// policyFile writes a policy into a new folder and gives its path.
func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	writeFile(t, path, text)
	return path
}

const allowAll = `
rules:
- namespaces: ["*"]
  sources: [storePath, packages, flakeRef, nixExpr, image]
  flakes: ["path:/tmp/**"]
`

// as gives the node for a subtest.
func (n node) as(t *testing.T) node {
	t.Helper()
	return node{n.Agent, t}
}

// volume is the volume "nix" of pod number i in namespace "default".
func volume(i int, attributes map[string]string) agent.Volume {
	v := agent.StorePath(i, "")
	v.Attributes = attributes
	return v
}

// localFlake makes a flake in a folder, which its builder's shell is copied to, and gives its URL.
func localFlake(t *testing.T) string {
	t.Helper()
	dir := nixtest.StateDir(t)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", nixtest.Busybox(t), filepath.Join(dir, "busybox")).CombinedOutput(); err != nil {
		t.Fatalf("making the flake: %v\n%s", err, out)
	}
	writeFile(t, filepath.Join(dir, "flake.nix"), fmt.Sprintf(`{
  outputs = { self }: {
    packages.%q = rec {
      default = derivation {
        name = "flaked"; system = %[1]q; builder = "${./busybox}/bin/sh"; PATH = "${./busybox}/bin";
        args = [ "-c" "mkdir -p $out/share; echo from a flake > $out/share/flaked" ];
      };
      named = default;
    };
  };
}`, nixstore.System()))
	return "path:" + dir
}

// TestSources publishes each kind of source and compares the volume with the
// store, file by file. The root is what the pod's var/result says; for store
// paths it is known before.
func TestSources(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline("--policy", policyFile(t, allowAll))})
	flake := localFlake(t)
	files := n.textClosure(30, "source")
	folders := nixtest.SyntheticClosure(t, n.StateDir(), 12, "source")
	more := nixtest.SyntheticClosure(t, n.StateDir(), 5, "more", "--arg", "files", "7")
	other := map[string]string{"x86_64-linux": "aarch64-linux", "aarch64-linux": "x86_64-linux"}[nixstore.System()]
	const elsewhere = "/nix/store/00000000000000000000000000000000-elsewhere"
	tests := []struct {
		name       string
		attributes map[string]string
		root       string   // when it is known
		shows      []string // names below var/result
	}{
		{name: "a store path", attributes: map[string]string{"storePath": folders}, root: folders, shows: []string{"bin/run"}},
		{name: "a store path that is a file", attributes: map[string]string{"storePath": files}, root: files, shows: []string{""}},
		{name: "several store paths", attributes: map[string]string{"storePath": folders + "\n" + more}, shows: []string{"bin/run", "share/f0", "share/f6"}},
		{name: "the path of this system", attributes: map[string]string{nixstore.System(): more, other: elsewhere}, root: more},
		{name: "the path of this system beside storePath", attributes: map[string]string{nixstore.System(): folders, "storePath": elsewhere}, root: folders},
		{name: "a package", attributes: map[string]string{"packages": "hello"}, shows: []string{"bin/hello", "share/hello/empty", "lib/data"}},
		{name: "a package that is a file", attributes: map[string]string{"packages": "file"}, shows: []string{""}},
		{name: "several packages", attributes: map[string]string{"packages": "other, hello\nnested.deep.tool"}, shows: []string{"bin/hello", "bin/other", "bin/tool", "share/other/numbers"}},
		{name: "a dotted package", attributes: map[string]string{"packages": "nested.deep.tool"}, shows: []string{"bin/tool"}},
		{name: "an output of a package", attributes: map[string]string{"packages": "two.dev"}, shows: []string{"include/x.h"}},
		{name: "an expression", attributes: map[string]string{"nixExpr": "pkgs: pkgs.hello"}, shows: []string{"bin/hello"}},
		{name: "an expression that is a list", attributes: map[string]string{"nixExpr": "{ hello, other }: [ hello other ]"}, shows: []string{"bin/hello", "bin/other"}},
		{name: "a flake", attributes: map[string]string{"flakeRef": flake + "#named"}, shows: []string{"share/flaked"}},
		{name: "a flake's default", attributes: map[string]string{"flakeRef": flake}, shows: []string{"share/flaked"}},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, v := n.as(t), volume(i, test.attributes)
			n.publish(v)
			root := n.result(v)
			if test.root != "" && root != test.root {
				t.Errorf("the root is %s, want %s", root, test.root)
			}
			for _, name := range test.shows {
				if _, err := os.Lstat(inVolume(t, n.Target(v), root+"/"+name)); err != nil {
					t.Errorf("below var/result: %v", err)
				}
			}
			n.requireClosure(v, root)
		})
	}
	n.requireVolumes(len(tests))
	for i, test := range tests {
		n.unpublish(volume(i, test.attributes))
	}
	n.requireNothing()
}

// result gives the root of a volume as the pod sees it.
func (n node) result(v agent.Volume) string {
	n.t.Helper()
	root, err := os.Readlink(filepath.Join(n.Target(v), "var", "result"))
	if err != nil || !strings.HasPrefix(root, "/nix/store/") {
		n.t.Fatalf("var/result: %q, %v", root, err)
	}
	return root
}

// logged waits until the agent has said something.
func (n node) logged(message string) {
	n.t.Helper()
	eventually(n.t, 20*time.Second, message, func() error {
		if strings.Contains(n.Log(), message) {
			return nil
		}
		return errNotYet
	})
}

func TestPathsAddedLaterStayInvisible(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{Args: offline()})
	v := agent.StorePath(1, n.textClosure(5, "first"))
	w := agent.StorePath(2, n.textClosure(8, "second"))
	n.publish(v)
	n.publish(w)
	later := n.textClosure(3, "later")
	for _, v := range []agent.Volume{v, w} {
		n.requireClosure(v, v.Attributes["storePath"])
		if _, err := os.Lstat(filepath.Join(n.Target(v), "store", filepath.Base(later))); !os.IsNotExist(err) {
			t.Errorf("a path that was added later can be looked up: %v", err)
		}
	}
}

// TestSameClosureIsOneView: two pods and two ways to say it, one view.
func TestSameClosureIsOneView(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet), Args: offline()})
	one, two := agent.Packages(1, "hello other"), agent.Packages(2, "other,hello")
	n.publish(one)
	three := agent.StorePath(3, n.result(one))
	realisations := n.metric("closured_realisations_total")
	n.publish(two)
	n.publish(three)
	if views := n.metric("closured_views"); views != 1 {
		t.Errorf("%v views", views)
	}
	if after := n.metric("closured_realisations_total"); after != realisations {
		t.Errorf("%v realisations were started for what is there", after-realisations)
	}
	n.requireVolumes(3)
	n.requireClosure(three, n.result(one))
}

const devMayAll = `
rules:
- namespaces: ["dev-*"]
  sources: [storePath, packages, flakeRef, nixExpr]
  flakes: ["path:%s"]
- namespaces: ["*"]
  sources: [storePath, packages]
  build: %v
`

func TestPolicyDecidesByNamespace(t *testing.T) {
	t.Parallel()
	set, flake := packageSet(t, sourceSet), localFlake(t)
	expression := volume(1, map[string]string{"nixExpr": "pkgs: pkgs.hello"})
	flaked := volume(2, map[string]string{"flakeRef": flake})

	t.Run("without a file flakes and expressions are refused", func(t *testing.T) {
		t.Parallel()
		n := start(t, agent.Config{PackageSet: set, Args: offline()})
		for _, v := range []agent.Volume{expression, flaked} {
			n.refused(v, "PermissionDenied", "default", "ask the operator")
		}
		n.publish(agent.Packages(3, "hello"))
		n.unpublish(agent.Packages(3, "hello"))
		n.requireNothing()
	})

	t.Run("a file allows them in one namespace, and is followed", func(t *testing.T) {
		t.Parallel()
		dir := strings.TrimPrefix(flake, "path:")
		file := policyFile(t, fmt.Sprintf(devMayAll, dir, true))
		n := start(t, agent.Config{PackageSet: set, Args: offline("--policy", file)})
		for _, v := range []agent.Volume{expression, flaked} {
			n.refused(v, "PermissionDenied", `namespace "default"`, "ask the operator")
			v.Namespace = "dev-1"
			n.publish(v)
			n.unpublish(v)
		}
		foreign := volume(3, map[string]string{"flakeRef": flake + "-beside"})
		foreign.Namespace = "dev-1"
		n.refused(foreign, "PermissionDenied", "flakeRef", "ask the operator")

		writeFile(t, file, fmt.Sprintf(devMayAll, dir, false)) // build: false for the others
		n.logged("policy reloaded")
		other := agent.Packages(4, "other")
		n.refused(other, "NotFound", "no binary cache of this node offers", "-other-2.0", "push it to a cache")
		n.requireNothing()
		n.publish(agent.Packages(5, "hello")) // is there: nothing to build
		n.unpublish(agent.Packages(5, "hello"))
		other.Namespace = "dev-1"
		n.publish(other) // may build, whatever failed for the others
		n.unpublish(other)

		writeFile(t, file, "rules: [")
		n.logged("policy file is unusable")
		if n.metric("closured_policy_problem") != 1 {
			t.Error("the metric says that the policy is fine")
		}
		n.refused(expression, "PermissionDenied", "default") // what was read before holds
		if err := n.Restart(context.WithoutCancel(t.Context())); err == nil {
			t.Error("the agent starts with a broken policy")
		}
	})
}
