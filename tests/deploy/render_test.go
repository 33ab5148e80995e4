// Package deploy tests what is in the folder deploy without a cluster: that the
// Helm chart and the kustomize base render the same objects, that these are
// objects of Kubernetes, what rights they ask for, and what their admission
// policies allow.
//
// It is a module of its own, so that the libraries of Helm and kustomize stay out
// of the product's. It starts nothing and needs no network. Run it with -count=1:
// Go's cache of results does not see files outside of the module.
package deploy

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	folder    = "../../deploy"
	chartDir  = folder + "/chart/closured"
	namespace = "closured-system"
)

// object is one object of Kubernetes.
type object = map[string]any

// values are what a user sets of the chart.
type values = map[string]any

// kustomize renders a folder below deploy.
func kustomize(t testing.TB, dir string) []object {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	objects, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), filepath.Join(folder, dir))
	if err != nil {
		t.Fatal(err)
	}
	text, err := objects.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// helm renders the chart, hooks and notes included, by the name of the template.
func helm(set values) (map[string]string, error) {
	c, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	release := common.ReleaseOptions{Name: "closured", Namespace: namespace, Revision: 1, IsInstall: true}
	capabilities := common.DefaultCapabilities.Copy()
	all, err := util.ToRenderValues(c, set, release, capabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// chart renders the chart's objects, without the pods of helm test.
func chart(t testing.TB, set values) []object {
	t.Helper()
	files, err := helm(set)
	if err != nil {
		t.Fatal(err)
	}
	var objects []object
	for _, name := range sortedKeys(files) {
		if strings.HasSuffix(name, ".yaml") && !strings.Contains(name, "/tests/") {
			objects = append(objects, parse(t, []byte(files[name]))...)
		}
	}
	return objects
}

// parse reads the objects of a YAML file.
func parse(t testing.TB, text []byte) []object {
	t.Helper()
	var objects []object
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var o object
		err := decoder.Decode(&o)
		if err == io.EOF {
			return objects
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
}

// read reads the objects of a file below deploy.
func read(t testing.TB, name string) []object {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// at gives what is at a path of an object, or nil.
func at(o any, path ...string) any {
	for _, key := range path {
		m, ok := o.(map[string]any)
		if !ok {
			return nil
		}
		o = m[key]
	}
	return o
}

// items gives a list of objects at a path; none when it is not there.
func items(o any, path ...string) []object {
	list, _ := at(o, path...).([]any)
	var out []object
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// id names an object: kind, namespace, name.
func id(o object) string {
	name := fmt.Sprint(at(o, "metadata", "name"))
	if ns := at(o, "metadata", "namespace"); ns != nil {
		name = fmt.Sprint(ns, "/", name)
	}
	return fmt.Sprint(o["kind"], " ", name)
}

// find gives the object of a kind and name.
func find(t testing.TB, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o["kind"] == kind && at(o, "metadata", "name") == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
