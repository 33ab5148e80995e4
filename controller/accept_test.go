package controller_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// TestWhatTheAPIServerTakes asks a real one, without making anything.
func TestWhatTheAPIServerTakes(t *testing.T) {
	w := newWorld(t)
	arm := "storePaths: {aarch64-linux: " + root + "}"
	for name, test := range map[string]struct{ spec, says string }{
		"packages":                          {"contents: [curl, python3Packages.numpy, \"foo'\"]", ""},
		"a flake":                           {"flakeRef: github:o/r#p", ""},
		"an expression":                     {"expression: \"(import <pkgs> {}).hello\"", ""},
		"store paths":                       {arm, ""},
		"two systems":                       {"contents: [a]\nsystems: [x86_64-linux, aarch64-linux]", ""},
		"all of a config":                   {"contents: [a]\nconfig: {entrypoint: [a], cmd: [b], env: [A=b], user: \"1:1\", workingDir: /, exposedPorts: [80, 53/udp], labels: {a: b}}", `must be of type string: "integer"`},
		"a config":                          {"contents: [a]\nconfig: {entrypoint: [a], cmd: [b], env: [A=b], user: \"1:1\", workingDir: /, exposedPorts: [\"80\", 53/udp], labels: {a: b}}", ""},
		"an empty user":                     {"contents: [a]\nconfig: {user: \"\", workingDir: \"\"}", ""},
		"all of a build":                    {"contents: [a]\nbuild: {resources: {requests: {cpu: 1, memory: 1Gi}}, nodeSelector: {a: b}, tolerations: [{key: a, operator: Exists}], deadline: 10m}", ""},
		"a refresh":                         {"contents: [a]\nrefreshInterval: 24h", ""},
		"no source":                         {"tag: v1", "set exactly one"},
		"two sources":                       {"contents: [a]\nflakeRef: a#b", "set exactly one"},
		"an empty list of packages":         {"contents: []", "at least 1"},
		"a package twice":                   {"contents: [a, a]", "Duplicate"},
		"no package":                        {"contents: [\"a b\"]", "should match"},
		"an option for a package":           {"contents: [--help]", "should match"},
		"a package that ends in a dot":      {"contents: [a.]", "should match"},
		"too many packages":                 {"contents: [" + numbered(65) + "]", "at most 64"},
		"names that are too long together":  {"contents: [" + strings.ReplaceAll(numbered(60), "p", strings.Repeat("p", 70)) + "]", "4000"},
		"a flake with a space":              {"flakeRef: \"a b\"", "should match"},
		"an expression that is too long":    {"expression: \"" + strings.Repeat("x", 4001) + "\"", "4000"},
		"no tag":                            {"contents: [a]\ntag: \"-a\"", "should match"},
		"a tag with a slash":                {"contents: [a]\ntag: a/b", "should match"},
		"an unknown system":                 {"contents: [a]\nsystems: [riscv64-linux]", "Unsupported value"},
		"no system":                         {"contents: [a]\nsystems: []", "at least 1"},
		"a path of an unknown system":       {"storePaths: {riscv64-linux: " + root + "}", "known systems"},
		"no store path":                     {"storePaths: {x86_64-linux: /etc/passwd}", "should match"},
		"a path below a store path":         {"storePaths: {x86_64-linux: " + root + "/bin}", "should match"},
		"a derivation":                      {"storePaths: {x86_64-linux: " + root + ".drv}", "not the derivation"},
		"a system without a store path":     {arm + "\nsystems: [x86_64-linux]", "a path for each of systems"},
		"a refresh of store paths":          {arm + "\nrefreshInterval: 1h", "of no use"},
		"a refresh too often":               {"contents: [a]\nrefreshInterval: 1s", "at least 1m"},
		"a refresh that is no duration":     {"contents: [a]\nrefreshInterval: often", "such as 24h"},
		"a variable without a value":        {"contents: [a]\nconfig: {env: [A]}", "should match"},
		"a relative folder":                 {"contents: [a]\nconfig: {workingDir: a}", "should match"},
		"a deadline too short":              {"contents: [a]\nbuild: {deadline: 1s}", "between 10s and 168h"},
		"the architecture of a node":        {"contents: [a]\nbuild: {nodeSelector: {kubernetes.io/arch: arm64}}", "the system selects"},
		"a history without end":             {"contents: [a]\nhistoryLimit: 11", "less than or equal to 10"},
		"a field with a typing error":       {"contents: [a]\nsystem: [a]", "unknown field"},
		"an exposed port that is too great": {"contents: [a]\nconfig: {exposedPorts: [\"800000\"]}", "should match"},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			text := "apiVersion: closured.dev/v1alpha1\nkind: NixImage\nmetadata: {name: a, namespace: tools}\nspec:\n  " +
				strings.ReplaceAll(test.spec, "\n", "\n  ")
			must(t, yaml.Unmarshal([]byte(text), object))
			err := w.Create(t.Context(), object, client.DryRunAll, client.FieldValidation("Strict"))
			switch {
			case test.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)):
				t.Errorf("the answer is %v, and not %q", err, test.says)
			case test.says != "" && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err):
				t.Errorf("the answer is %v", err)
			}
		})
	}
	t.Run("a long name", func(t *testing.T) {
		object := &unstructured.Unstructured{}
		must(t, yaml.Unmarshal([]byte("apiVersion: closured.dev/v1alpha1\nkind: NixImage\nspec: {contents: [a]}"), object))
		object.SetName(strings.Repeat("a", 64))
		object.SetNamespace(tools)
		if err := w.Create(t.Context(), object, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "63") {
			t.Errorf("the answer is %v", err)
		}
	})
}

func numbered(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("p%d", i))
	}
	return strings.Join(names, ", ")
}
