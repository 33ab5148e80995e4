package deploy

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// TestObjectsAreOfKubernetes decodes everything strictly: a field that Kubernetes
// does not know, or knows elsewhere, is a mistake that the API server swallows.
func TestObjectsAreOfKubernetes(t *testing.T) {
	t.Parallel()
	everything := values{
		"startupTaint": values{"enabled": true}, "packageSet": "/var/lib/closured/packages",
		"imagePullSecrets": []any{values{"name": "registry"}},
		"agent":            values{"extraArgs": []any{"--log-level=debug"}, "extraVolumeMounts": []any{values{"name": "x", "mountPath": "/x"}}},
		"nixDaemon":        values{"env": []any{values{"name": "https_proxy", "value": "http://proxy"}}, "extraVolumeMounts": []any{values{"name": "x", "mountPath": "/x"}}},
		"extraVolumes":     []any{values{"name": "x", "secret": values{"secretName": "x"}}},
		"affinity":         values{"nodeAffinity": values{}}, "podLabels": values{"a": "b"}, "podAnnotations": values{"a": "b"},
		"nixImage": values{"enabled": true, "controller": values{"affinity": values{"nodeAffinity": values{}}, "tolerations": []any{values{"operator": "Exists"}}}},
	}
	sources := map[string][]object{
		"base": kustomize(t, "base"), "default": kustomize(t, "overlays/default"), "k3s": kustomize(t, "overlays/k3s"),
		"nixos": kustomize(t, "overlays/nixos"), "cleanup": kustomize(t, "cleanup"),
		"rke2": kustomize(t, "overlays/rke2"), "CRI-O": kustomize(t, "overlays/crio"),
		"cleanup of k3s": kustomize(t, "overlays/k3s/cleanup"), "cleanup of rke2": kustomize(t, "overlays/rke2/cleanup"),
		"no registry":   kustomize(t, "../tests/deploy/testdata/no-registry"),
		"startup taint": kustomize(t, "../tests/deploy/testdata/startup-taint"),
		"NixImage":      kustomize(t, niximage),
		"chart":         chart(t, nil), "chart with everything": chart(t, everything), "chart on NixOS": chart(t, values{"hostStore": true}),
	}
	files, err := filepath.Glob(folder + "/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		sources[filepath.Base(file)] = read(t, "examples/"+filepath.Base(file))
	}
	tests, err := helm(nil)
	if err != nil {
		t.Fatal(err)
	}
	sources["helm test"] = parse(t, []byte(tests["closured/templates/tests/volume.yaml"]))

	kinds := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(kinds), apiextensionsv1.AddToScheme(kinds)); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(kinds, serializer.EnableStrict).UniversalDeserializer()
	for name, objects := range sources {
		if len(objects) == 0 {
			t.Errorf("%s holds no objects", name)
		}
		for _, o := range objects {
			if o["kind"] == "NixImage" {
				requireDescribed(t, name, o)
				continue
			}
			text, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := decoder.Decode(text, nil, nil); err != nil {
				t.Errorf("%s, %s: %v", name, id(o), err)
			}
		}
	}
}

// TestVolumesAndMountsMatch finds a mount without its volume, a volume that nobody
// mounts, and two mounts at one place.
func TestVolumesAndMountsMatch(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string][]object{
		"base": kustomize(t, "base"), "nixos": kustomize(t, "overlays/nixos"), "cleanup": kustomize(t, "cleanup"),
		"k3s": kustomize(t, "overlays/k3s"), "CRI-O": kustomize(t, "overlays/crio"),
		"no registry": kustomize(t, "../tests/deploy/testdata/no-registry"), "NixImage": kustomize(t, niximage),
		"chart with NixImage": chart(t, withNixImage(nil)),
		"chart":               chart(t, nil), "chart on NixOS": chart(t, values{"hostStore": true}),
		"chart without a registry": chart(t, values{"registry": values{"enabled": false}}),
	} {
		for _, pod := range pods(t, objects) {
			unused := map[string]bool{}
			for _, v := range pod.Volumes {
				unused[v.Name] = true
			}
			known := map[string]bool{}
			for k := range unused {
				known[k] = true
			}
			for _, c := range pod.Containers {
				taken := map[string]bool{}
				for _, m := range c.VolumeMounts {
					if !known[m.Name] || taken[m.MountPath] {
						t.Errorf("%s: container %s mounts %s at %s, which is unknown or there twice", name, c.Name, m.Name, m.MountPath)
					}
					taken[m.MountPath] = true
					delete(unused, m.Name)
				}
			}
			if len(unused) > 0 {
				t.Errorf("%s: nobody mounts %v", name, sortedKeys(unused))
			}
		}
	}
}

// TestBidirectionalMountsDoNotOverlap: a mount made below two of them would be
// there twice, and kubelet would find one of them busy.
func TestBidirectionalMountsDoNotOverlap(t *testing.T) {
	t.Parallel()
	for _, pod := range pods(t, kustomize(t, "base")) {
		var shared, all []string
		for _, c := range pod.Containers {
			for _, m := range c.VolumeMounts {
				all = append(all, m.MountPath)
				if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
					shared = append(shared, m.MountPath)
				}
			}
		}
		if len(shared) != 1 || shared[0] != "/var/lib/kubelet/pods" {
			t.Errorf("Bidirectional mounts are %q", shared)
		}
		for _, path := range all {
			if strings.HasPrefix(path, "/var/lib/kubelet/pods/") || path == "/var/lib/kubelet" || path == "/var/lib" {
				t.Errorf("the mount at %s overlaps kubelet's pods", path)
			}
		}
	}
}

// pods gives the pods that objects make.
func pods(t testing.TB, objects []object) []corev1.PodSpec {
	t.Helper()
	var out []corev1.PodSpec
	for _, o := range objects {
		spec := at(o, "spec", "template", "spec")
		if o["kind"] == "Pod" {
			spec = o["spec"]
		}
		if spec == nil {
			continue
		}
		text, err := yaml.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.PodSpec
		if err := yaml.UnmarshalStrict(text, &pod); err != nil {
			t.Fatal(err)
		}
		out = append(out, pod)
	}
	return out
}
