package hosts_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"

	"github.com/closured/closured/registry/hosts"
)

func parseTOML(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var got map[string]any
	if err := toml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return got
}

// TestContainerdAsksTheRegistryAlone: pulls go to one host, nothing goes elsewhere.
func TestContainerdAsksTheRegistryAlone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:5858", "[::1]:80"} {
		want := map[string]any{
			"server":       "http://" + address,
			"capabilities": []any{"push"},
			"host":         map[string]any{"http://" + address: map[string]any{"capabilities": []any{"pull", "resolve"}}},
		}
		if diff := cmp.Diff(want, parseTOML(t, hosts.Containerd(address))); diff != "" {
			t.Errorf("hosts.toml (-want +got):\n%s", diff)
		}
	}
}

func TestOtherRuntimes(t *testing.T) {
	t.Parallel()
	crio := map[string]any{"registry": []any{map[string]any{"prefix": "nix.internal:5000", "location": "127.0.0.1:5858", "insecure": true}}}
	if diff := cmp.Diff(crio, parseTOML(t, hosts.CRIO("nix.internal:5000", address))); diff != "" {
		t.Errorf("CRI-O (-want +got):\n%s", diff)
	}
	var k3s any
	if err := yaml.UnmarshalStrict(hosts.K3s("nix.internal:5000", address), &k3s); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"mirrors": map[string]any{"nix.internal:5000": map[string]any{"endpoint": []any{"http://127.0.0.1:5858"}}}}
	if diff := cmp.Diff(want, k3s); diff != "" {
		t.Errorf("k3s (-want +got):\n%s", diff)
	}
}

// TestFilesOfDeployAreRendered: what deploy/ holds for other runtimes is what this
// package gives for the defaults.
func TestFilesOfDeployAreRendered(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]byte{
		"../../deploy/overlays/crio/50-closured.conf": hosts.CRIO(host, address),
		"../../deploy/overlays/k3s/registries.yaml":   hosts.K3s(host, address),
	} {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-rendered +there):\n%s", file, diff)
		}
	}
}
