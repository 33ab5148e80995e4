//go:build privileged

package integration_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/closured/closured/tests/agent"
)

// TestPolicyAppliesToPulls gives packages to one namespace only, after images of
// them were pulled: a pull has no namespace, so that manifests and blobs are
// refused at once, by tag and digest, while volumes of that namespace go on.
func TestPolicyAppliesToPulls(t *testing.T) {
	t.Parallel()
	const forAll = "rules:\n- namespaces: [\"*\"]\n  sources: [packages, storePath]\n"
	const forOne = "rules:\n- namespaces: [\"default\"]\n  sources: [packages]\n- namespaces: [\"*\"]\n  sources: [storePath]\n"
	policy := policyFile(t, forAll)
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `tree = synthetic { n = 4; }; other = synthetic { n = 2; seed = "other"; };`),
		Args:       offline("--policy", policy),
	})
	image := n.pull("pkgs/tree")
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layer := largestLayer(t, image)
	byPath := "/v2/store/" + hashOf(n.textClosure(3, "allowed")) + "/manifests/latest"

	writeFile(t, policy, forOne)
	eventually(t, time.Minute, "the new policy", func() error {
		if n.request(http.MethodGet, "/v2/pkgs/tree/manifests/latest").status == http.StatusOK {
			return errors.New("the pull is allowed")
		}
		return nil
	})
	for _, path := range []string{
		"/v2/pkgs/tree/manifests/latest", "/v2/pkgs/tree/manifests/" + digest.String(), "/v2/pkgs/tree/blobs/" + layer.Digest.String(),
		"/v2/pkgs/tree/tags/list", "/v2/pkgs/tree/referrers/" + digest.String(), "/v2/volume/pkgs/tree/manifests/latest", "/v2/pkgs/other/manifests/latest",
	} {
		requireError(t, n.request(http.MethodGet, path), http.StatusForbidden, "DENIED")
	}
	if r := n.request(http.MethodGet, byPath); r.status != http.StatusOK {
		t.Errorf("a store path, which all may pull, gives %d: %s", r.status, r.body)
	}
	v := agent.Packages(1, "tree")
	n.publish(v)
	n.unpublish(v)
	foreign := agent.Packages(2, "tree")
	foreign.Namespace = "elsewhere"
	n.refused(foreign, "PermissionDenied")

	writeFile(t, policy, forAll)
	eventually(t, time.Minute, "the old policy", func() error {
		if r := n.request(http.MethodGet, "/v2/pkgs/tree/manifests/latest"); r.status != http.StatusOK {
			return errors.New(string(r.body))
		}
		return nil
	})
	requireBlobs(t, image)
}

// TestPullsSubstituteOnlyWhereThePolicySaysSo: what must not be built is not built
// by a pull either, but given when somebody else has had it built.
func TestPullsSubstituteOnlyWhereThePolicySaysSo(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `tool = run "unbuilt" "mkdir $out; echo tool > $out/f";`),
		Args: offline("--policy", policyFile(t, "rules:\n- namespaces: [\"builders\"]\n  sources: [packages]\n"+
			"- namespaces: [\"*\"]\n  sources: [packages]\n  build: false\n")),
	})
	built := watch(t, "unbuilt")
	requireError(t, n.request(http.MethodGet, "/v2/pkgs/tool/manifests/latest"), http.StatusNotFound, "NAME_UNKNOWN")
	if got := built(); got != 0 {
		t.Errorf("%d builders ran for a pull that may not build", got)
	}
	v := agent.Packages(1, "tool")
	v.Namespace = "builders"
	n.publish(v)
	requireFile(t, filepath.Join(n.Target(v), "var/result"), "tool\n")
	eventually(t, time.Minute, "the pull of what is there", func() error {
		if r := n.request(http.MethodGet, "/v2/pkgs/tool/manifests/latest"); r.status != http.StatusOK {
			return errors.New(string(r.body))
		}
		return nil
	})
	n.unpublish(v)
}
