package deploy

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"sigs.k8s.io/yaml"
)

const (
	niximage = "overlays/niximage"
	crd      = "CustomResourceDefinition"
)

// withNixImage gives values with NixImage on, and others of it.
func withNixImage(more values) values {
	set := values{"enabled": true}
	maps.Copy(set, more)
	return values{"nixImage": set}
}

// niximageSources gives what installs NixImage, by kustomize and by Helm.
func niximageSources(t testing.TB) map[string][]object {
	t.Helper()
	return map[string][]object{"component": kustomize(t, niximage), "chart": chart(t, withNixImage(nil))}
}

// TestTheKindStaysWhenTheReleaseGoes: with the kind all its objects would go.
func TestTheKindStaysWhenTheReleaseGoes(t *testing.T) {
	t.Parallel()
	kind := find(t, chart(t, withNixImage(nil)), crd, "niximages.closured.dev")
	if at(kind, "metadata", "annotations", "helm.sh/resource-policy") != "keep" {
		t.Errorf("the kind has %v", at(kind, "metadata"))
	}
}

// TestTheNotesTellOfTheKey: agents wait for the Secret, so somebody has to say so.
func TestTheNotesTellOfTheKey(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set  values
		says bool
	}{
		"without NixImage": {nil, false},
		"with NixImage":    {withNixImage(nil), true},
	} {
		files, err := helm(test.set)
		if err != nil {
			t.Fatal(err)
		}
		notes := files["closured/templates/NOTES.txt"]
		if strings.Contains(notes, "genkey") != test.says || strings.Contains(notes, "closured-cache-key") != test.says {
			t.Errorf("%s: the notes are\n%s", name, notes)
		}
	}
}

// TestTheControllerIsRestricted: its pod is one of the pod security standard
// "restricted", though the namespace allows more.
func TestTheControllerIsRestricted(t *testing.T) {
	t.Parallel()
	for name, objects := range niximageSources(t) {
		controller := pods(t, []object{find(t, objects, "Deployment", "closured-controller")})[0]
		s := controller.SecurityContext
		if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 ||
			s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || len(controller.Volumes) > 0 {
			t.Errorf("%s: the pod is not restricted: %+v", name, controller)
		}
	}
}

// TestUsersMayWriteObjects by the roles that Kubernetes has for them, and nobody a
// status: all nodes believe it.
func TestUsersMayWriteObjects(t *testing.T) {
	t.Parallel()
	const aggregate = "rbac.authorization.k8s.io/aggregate-to-"
	all := map[string][]any{
		"view":  {"get", "list", "watch"},
		"edit":  {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
		"admin": {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
	}
	for name, objects := range niximageSources(t) {
		got := map[string][]any{}
		for _, o := range objects {
			for to := range all {
				if at(o, "metadata", "labels", aggregate+to) != "true" {
					continue
				}
				rules := items(o, "rules")
				if len(rules) != 1 || o["kind"] != "ClusterRole" || words(rules[0]["resources"]) != "niximages" || words(rules[0]["apiGroups"]) != "closured.dev" {
					t.Errorf("%s: %s adds %v to %s", name, id(o), rules, to)
					continue
				}
				verbs, _ := rules[0]["verbs"].([]any)
				got[to] = append(got[to], verbs...)
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("%s: verbs (-want +got):\n%s", name, diff)
		}
	}
}

// TestControllerAndAgentsAgree: the controller runs the agent's image, with the
// agent's settings, on which digests and references depend.
func TestControllerAndAgentsAgree(t *testing.T) {
	t.Parallel()
	changed := withNixImage(nil)
	maps.Copy(changed, values{
		"image":      values{"repository": "example.org/closured", "tag": "v9"},
		"driverName": "csi.example.org", "registry": values{"host": "nix.example:5000", "compression": "zstd"},
	})
	off := withNixImage(nil)
	off["registry"] = values{"enabled": false, "host": "other.internal"}
	sources := niximageSources(t)
	sources["chart with other values"] = chart(t, changed)
	sources["chart without a registry"] = chart(t, off)
	for name, objects := range sources {
		controller := pods(t, []object{find(t, objects, "Deployment", "closured-controller")})[0].Containers
		agent := pods(t, []object{find(t, objects, "DaemonSet", "closured")})[0].Containers[0]
		if len(controller) != 1 || controller[0].Image != agent.Image || agent.Image == "closured" {
			t.Errorf("%s: the controller runs %q, and the agent %q", name, controller[0].Image, agent.Image)
		}
		for _, flag := range []string{"--driver-name=", "--registry-host=", "--registry-compression="} {
			if ours, theirs := argument(controller[0].Args, flag), argument(agent.Args, flag); ours == "" || ours != theirs {
				t.Errorf("%s: %s is %q for the controller, and %q for the agent", name, flag, ours, theirs)
			}
		}
	}
}

// TestAgentsFindEachOther: the flag that names the agents' pods, their labels, the
// port that they listen on, the policy that opens it, and the Secret.
func TestAgentsFindEachOther(t *testing.T) {
	t.Parallel()
	sources := niximageSources(t)
	sources["chart with other values"] = chart(t, withNixImage(values{"cache": values{"port": 7000, "secretName": "mine"}}))
	for name, objects := range sources {
		set := find(t, objects, "DaemonSet", "closured")
		pod := pods(t, []object{set})[0]
		agent := pod.Containers[0]
		labels, _ := at(set, "spec", "template", "metadata", "labels").(object)
		for pair := range strings.SplitSeq(strings.TrimPrefix(argument(agent.Args, "--cache-peers="), namespace+"/"), ",") {
			if key, value, ok := strings.Cut(pair, "="); !ok || labels[key] != value {
				t.Errorf("%s: agents look for pods with %q, and are %v", name, pair, labels)
			}
		}
		port := strings.TrimPrefix(argument(agent.Args, "--cache-address="), ":")
		if !slices.ContainsFunc(agent.Ports, func(p corev1.ContainerPort) bool { return p.Name == "cache" && fmt.Sprint(p.ContainerPort) == port }) {
			t.Errorf("%s: the cache is at %q, and the ports are %v", name, port, agent.Ports)
		}
		rule := items(find(t, objects, "NetworkPolicy", "closured-cache"), "spec", "ingress")[0]
		if fmt.Sprint(items(rule, "ports")[0]["port"]) != port {
			t.Errorf("%s: the cache is at %q, and open is %v", name, port, rule["ports"])
		}
		want := "closured-cache-key"
		if strings.HasSuffix(name, "values") {
			want = "mine"
		}
		if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
			return v.Name == "cache-key" && v.Secret != nil && v.Secret.SecretName == want && v.Secret.Optional == nil
		}) {
			t.Errorf("%s: there is no volume of the Secret %s", name, want)
		}
	}
}

// TestValuesOfBuildsReachTheController as flags, and the defaults do not.
func TestValuesOfBuildsReachTheController(t *testing.T) {
	t.Parallel()
	common := []string{
		"--build-image-pull-policy=IfNotPresent", "--driver-name=csi.closured.dev", "--registry-host=nix.internal", "--registry-compression=none",
		"--health-address=:9859", "--metrics-address=:9860",
	}
	tests := map[string]struct {
		set  values
		want []string // beside those
	}{
		"the defaults": {nil, nil},
		"everything": {
			values{
				"controller": values{"logLevel": "debug", "extraArgs": []any{"--workers=8"}},
				"build": values{
					"imagePullSecrets": []any{"a", "b.c"}, "requests": values{"cpu": 1, "memory": "1.5Gi"}, "limits": values{"memory": "2Gi", "example.org/gpu": 1},
					"nodeSelector": values{"example.org/pool": "builds", "fast": ""}, "deadline": "2h30m",
					"tolerations": []any{
						values{"key": "builds", "operator": "Exists"}, values{"key": "example.org/pool", "value": "builds", "effect": "NoSchedule"},
						values{"key": "gone", "operator": "Equal", "value": "", "effect": "NoExecute"},
					},
				},
			},
			[]string{
				"--build-image-pull-secret=a", "--build-image-pull-secret=b.c", "--build-requests=cpu=1,memory=1.5Gi",
				"--build-limits=example.org/gpu=1,memory=2Gi", "--build-node-selector=example.org/pool=builds", "--build-node-selector=fast=",
				"--build-toleration=builds", "--build-toleration=example.org/pool=builds:NoSchedule", "--build-toleration=gone=:NoExecute",
				"--build-deadline=2h30m", "--log-level=debug", "--workers=8",
			},
		},
		"no limits and requests": {
			values{"build": values{"requests": values{"cpu": nil, "memory": nil}, "limits": values{"memory": nil}}},
			[]string{"--build-requests=", "--build-limits="},
		},
		"one request less": {values{"build": values{"requests": values{"cpu": nil}}}, []string{"--build-requests=memory=64Mi"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := pods(t, []object{find(t, chart(t, withNixImage(test.set)), "Deployment", "closured-controller")})[0].Containers[0].Args
			if diff := cmp.Diff(append(slices.Clone(common), test.want...), args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
	program, err := os.ReadFile("../../cmd/closured-controller/flags.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, arg := range append(common, tests["everything"].want...) {
		if name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "="); !strings.Contains(string(program), fmt.Sprintf("%q", name)) {
			t.Errorf("the controller has no flag %s", name)
		}
	}
	always := chart(t, values{"image": values{"pullPolicy": "Always"}, "nixImage": values{"enabled": true}})
	if args := pods(t, []object{find(t, always, "Deployment", "closured-controller")})[0].Containers[0].Args; argument(args, "--build-image-pull-policy=") != "Always" {
		t.Errorf("the image is pulled always, and build pods have %q", args)
	}
}

// argument gives the last value of a flag.
func argument(args []string, flag string) string {
	value := ""
	for _, a := range args {
		if rest, ok := strings.CutPrefix(a, flag); ok {
			value = rest
		}
	}
	return value
}

// requireDescribed has the kind's schema judge an object.
func requireDescribed(t *testing.T, name string, o object) {
	t.Helper()
	kind := find(t, kustomize(t, niximage), crd, "niximages.closured.dev")
	text, err := yaml.Marshal(at(kind, "spec", "versions").([]any)[0].(object)["schema"].(object)["openAPIV3Schema"])
	if err != nil {
		t.Fatal(err)
	}
	var schema apiextensionsv1.JSONSchemaProps
	if err := yaml.UnmarshalStrict(text, &schema); err != nil {
		t.Fatal(err)
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&schema, &internal, nil); err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range validation.ValidateCustomResource(nil, o, validator) {
		t.Errorf("%s: %s", name, problem)
	}
	structural, err := structuralschema.NewStructural(&internal)
	if err != nil {
		t.Fatal(err)
	}
	for _, unknown := range pruning.PruneWithOptions(o, structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		t.Errorf("%s: the kind has no field %s", name, unknown)
	}
}
