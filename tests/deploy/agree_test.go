package deploy

import (
	"fmt"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestChartAndKustomizeAgree compares object by object, for each overlay with the
// values that ask for the same.
func TestChartAndKustomizeAgree(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		dir string
		set values
	}{
		"base":    {dir: "base"},
		"default": {dir: "overlays/default", set: values{"agent": values{"extraArgs": []any{"--log-level=info"}}}},
		"k3s": {dir: "overlays/k3s", set: values{
			"agent":          values{"evalMemory": "1Gi"},
			"nixDaemon":      values{"resources": values{"limits": values{"memory": "1Gi"}}},
			"nixConf":        values{"max-jobs": 1, "cores": 0},
			"updateStrategy": values{"maxUnavailable": 1},
			"registry":       values{"certsDir": "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"},
		}},
		"rke2": {dir: "overlays/rke2", set: values{
			"registry": values{"certsDir": "/var/lib/rancher/rke2/agent/etc/containerd/certs.d"},
		}},
		"CRI-O":       {dir: "overlays/crio", set: values{"registry": values{"certsDir": ""}}},
		"no registry": {dir: "../tests/deploy/testdata/no-registry", set: values{"registry": values{"enabled": false}}},
		"nixos":       {dir: "overlays/nixos", set: values{"hostStore": true}},
		"start-up taint": {dir: "../tests/deploy/testdata/startup-taint", set: values{
			"startupTaint": values{"enabled": true},
		}},
		"NixImage": {dir: niximage, set: values{"nixImage": values{"enabled": true}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			byKustomize := normalise(t, kustomize(t, test.dir))
			delete(byKustomize, "Namespace "+namespace) // Helm has --create-namespace
			byChart := normalise(t, chart(t, test.set))
			if diff := cmp.Diff(byKustomize, byChart); diff != "" {
				t.Errorf("objects (-kustomize +chart):\n%s", diff)
			}
		})
	}
}

// hashed is the suffix that kustomize gives to config maps, so that pods roll.
var hashed = regexp.MustCompile(`^(closured-nix-conf)-[a-z0-9]{10}$`)

// normalise takes away what the two tools must do differently, and gives the
// objects by their names.
func normalise(t *testing.T, objects []object) map[string]object {
	t.Helper()
	out := map[string]object{}
	for _, o := range objects {
		o, _ = walk(o).(map[string]any)
		if out[id(o)] != nil {
			t.Errorf("there are two of %s", id(o))
		}
		out[id(o)] = o
		for _, c := range items(o, "spec", "template", "spec", "containers") {
			c["args"] = effective(c["args"])
		}
		if o["kind"] == "ConfigMap" {
			data, _ := o["data"].(map[string]any)
			for file, text := range data {
				data[file] = meaning(t, file, fmt.Sprint(text))
			}
		}
	}
	return out
}

// walk copies a value without Helm's own labels and annotations, with the names of
// config maps bare, and with lists of named things by name.
func walk(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			switch key {
			case "app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart", "helm.sh/resource-policy", "checksum/nix-conf":
				continue
			case "app.kubernetes.io/managed-by":
				if value == "Helm" {
					continue
				}
			}
			out[key] = walk(value)
		}
		return out
	case []any:
		if len(v) == 0 {
			return v
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = walk(v[i])
		}
		if at(out[0], "image") == nil { // the order of containers means something
			sort.SliceStable(out, func(i, j int) bool { return named(out[i]) < named(out[j]) })
		}
		return out
	case string:
		if m := hashed.FindStringSubmatch(v); m != nil {
			return m[1]
		}
		return strings.TrimSpace(v)
	case int64, float64:
		return fmt.Sprint(v)
	}
	return v
}

// named gives the name of an element of a list; "" keeps its place.
func named(v any) string {
	name, _ := at(v, "name").(string)
	return name
}

// effective sorts flags and keeps the last of each, without those that say what is
// the default anyway.
func effective(args any) any {
	list, _ := args.([]any)
	last := map[string]string{}
	for _, a := range list {
		name, value, _ := strings.Cut(fmt.Sprint(a), "=")
		last[name] = value
	}
	if last["--log-level"] == "info" {
		delete(last, "--log-level")
	}
	var out []string
	for name, value := range last {
		out = append(out, name+"="+value)
	}
	sort.Strings(out)
	return out
}

// meaning gives what a file says, without comments and order.
func meaning(t *testing.T, file, text string) any {
	t.Helper()
	if strings.HasSuffix(file, ".yaml") {
		var v any
		if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		return v
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	sort.Strings(lines)
	return lines
}

// TestVersionsAgree finds a release that was made by half.
func TestVersionsAgree(t *testing.T) {
	t.Parallel()
	image := func(objects []object, name string) string {
		return fmt.Sprint(items(find(t, objects, "DaemonSet", name), "spec", "template", "spec", "containers")[0]["image"])
	}
	controller := func(objects []object) string {
		return fmt.Sprint(items(find(t, objects, "Deployment", "closured-controller"), "spec", "template", "spec", "containers")[0]["image"])
	}
	want := image(kustomize(t, "base"), "closured")
	if !strings.HasPrefix(want, "ghcr.io/closured/closured:v") {
		t.Errorf("the base runs %s", want)
	}
	for name, got := range map[string]string{
		"overlays/default": image(kustomize(t, "overlays/default"), "closured"),
		"cleanup":          image(kustomize(t, "cleanup"), "closured-cleanup"),
		"the chart":        image(chart(t, nil), "closured"),
		"the component":    controller(kustomize(t, niximage)),
		"its controller":   controller(chart(t, withNixImage(nil))),
	} {
		if got != want {
			t.Errorf("%s runs %s, the base %s", name, got, want)
		}
	}
}
