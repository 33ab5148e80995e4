package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	niximage = "../tests/deploy/testdata/niximage"
	crd      = "CustomResourceDefinition"
)

// TestNixImageObjects decodes what the component adds strictly, and finds it to
// be beside what the base has, in the same namespace.
func TestNixImageObjects(t *testing.T) {
	t.Parallel()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	kinds := 0
	for _, o := range kustomize(t, niximage) {
		if o["kind"] == crd {
			kinds++
			continue
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decoder.Decode(text, nil, nil); err != nil {
			t.Errorf("%s: %v", id(o), err)
		}
	}
	if kinds != 1 {
		t.Errorf("there are %d kinds, want NixImage", kinds)
	}
}

// TestNixImageRights compares what the component adds to the rights of the base
// with a list that somebody has read.
func TestNixImageRights(t *testing.T) {
	t.Parallel()
	before := rights(t, kustomize(t, "base"))
	var added []string
	for _, line := range rights(t, kustomize(t, niximage)) {
		if !slices.Contains(before, line) {
			added = append(added, line)
		}
	}
	want := []string{
		"ClusterRole closured-controller: create,patch events in events.k8s.io",
		"ClusterRole closured-controller: get,list,watch niximages in closured.dev",
		"ClusterRole closured-controller: list events in core",
		"ClusterRole closured-controller: list,watch pods in core",
		"ClusterRole closured-controller: list,watch,create,patch,delete jobs in batch",
		"ClusterRole closured-controller: patch niximages/status in closured.dev",
		"ClusterRole closured-controller: update niximages/finalizers in closured.dev",
		"ClusterRole closured-niximages: list,watch niximages in closured.dev",
		"ClusterRoleBinding closured-controller: closured-controller to ServiceAccount closured-system/closured-controller",
		"ClusterRoleBinding closured-niximages: closured-niximages to ServiceAccount closured-system/closured",
		"Role closured-system/closured-controller: create,patch events in core",
		"Role closured-system/closured-controller: get,create,update leases in coordination.k8s.io",
		"Role closured-system/closured-peers: list pods in core",
		"RoleBinding closured-system/closured-controller: closured-controller to ServiceAccount closured-system/closured-controller",
		"RoleBinding closured-system/closured-peers: closured-peers to ServiceAccount closured-system/closured",
		"container agent: port 5859/TCP, host port 0 of \"\"",
		"container agent: secret closured-cache-key",
		"container controller: drops [ALL]",
		"container controller: port 9859/TCP, host port 0 of \"\"",
		"container controller: port 9860/TCP, host port 0 of \"\"",
		"container controller: privileged false, escalation false, read-only root true",
		"pod: a token in every container",
		"pod: priority \"\"",
	}
	if diff := cmp.Diff(want, added); diff != "" {
		t.Errorf("added rights (-read by somebody +asked for now):\n%s", diff)
	}
}

// TestTheControllerIsRestricted: its pod is one of the pod security standard
// "restricted", though the namespace allows more; and it runs the agent's image,
// with the agent's settings.
func TestTheControllerIsRestricted(t *testing.T) {
	t.Parallel()
	objects := kustomize(t, niximage)
	controller := pods(t, []object{find(t, objects, "Deployment", "closured-controller")})[0]
	agent := pods(t, []object{find(t, objects, "DaemonSet", "closured")})[0].Containers[0]
	s := controller.SecurityContext
	if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || len(controller.Volumes) > 0 {
		t.Errorf("the pod is not restricted: %+v", controller)
	}
	if len(controller.Containers) != 1 || controller.Containers[0].Image != agent.Image || agent.Image == "closured" {
		t.Errorf("the controller runs %q, and the agent %q", controller.Containers[0].Image, agent.Image)
	}
	for _, flag := range []string{"--driver-name=", "--registry-host=", "--registry-compression="} {
		if ours, theirs := argument(controller.Containers[0].Args, flag), argument(agent.Args, flag); ours == "" || ours != theirs {
			t.Errorf("%s is %q for the controller, and %q for the agent", flag, ours, theirs)
		}
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
