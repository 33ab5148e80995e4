package v1alpha1_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/controllertest"
	"github.com/closured/closured/internal/kube"
)

// described is a part of a spec, beside the source curl.
type described = map[string]any

func config(field string, value any) described { return described{"config": described{field: value}} }

func build(field string, value any) described { return described{"build": described{field: value}} }

func resources(kind string, quantity any) described {
	return build("resources", described{kind: described{"cpu": quantity}})
}

func toleration(seconds any) described {
	return build("tolerations", []any{described{"key": "a", "effect": "NoExecute", "operator": "Exists", "tolerationSeconds": seconds}})
}

func words(n, length int, word string) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = fmt.Sprintf("A%d=", i) + strings.Repeat(word, length)
	}
	return all
}

func labelled(n, key, value int) described {
	all := described{}
	for i := range n {
		all[fmt.Sprintf("%0*d", key, i)] = strings.Repeat("v", value)
	}
	return config("labels", all)
}

// specs are parts of specs, and words of the API server's answer; "" where it takes
// them.
func specs() map[string]struct {
	spec described
	says string
} {
	flake := func(more described) described {
		maps.Copy(more, described{"contents": nil, "flakeRef": "github:a/b#c"})
		return more
	}
	tests := map[string]struct {
		spec described
		says string
	}{
		"a minute":              {described{"refreshInterval": "1m"}, ""},
		"hours and minutes":     {described{"refreshInterval": "1h30m"}, ""},
		"the longest":           {described{"refreshInterval": "8760h"}, ""},
		"longer":                {described{"refreshInterval": "8760h1s"}, "at least 1m, and at most 8760h"},
		"the longest in 20":     {described{"refreshInterval": "999999h999999h99999h"}, "at least 1m, and at most 8760h"},
		"one more":              {described{"refreshInterval": "999999h999999h999999h"}, "Too long"},
		"days":                  {described{"refreshInterval": "1d"}, "at least 1m"},
		"words":                 {described{"refreshInterval": "2 hours"}, "at least 1m"},
		"a part of an hour":     {described{"refreshInterval": "1.5h"}, "at least 1m"},
		"a number":              {described{"refreshInterval": int64(60)}, "spec.refreshInterval"},
		"nothing":               {described{"refreshInterval": ""}, "at least 1m"},
		"a second":              {described{"refreshInterval": "1s"}, "at least 1m"},
		"before now":            {described{"refreshInterval": "-1h"}, "at least 1m"},
		"a moving flake":        {flake(described{"refreshInterval": "2h"}), ""},
		"a flake that flaps":    {flake(described{"refreshInterval": "119m"}), "at least 2h with flakeRef"},
		"a flake and days":      {flake(described{"refreshInterval": "1d"}), "at least 1m"},
		"a deadline":            {build("deadline", "90m"), ""},
		"a deadline of days":    {build("deadline", "1d"), "between 10s and 168h"},
		"a deadline too long":   {build("deadline", "169h"), "between 10s and 168h"},
		"a history as a float":  {described{"historyLimit": 1e0}, ""},
		"a long history":        {described{"historyLimit": 1e30}, "spec.historyLimit"},
		"seconds":               {toleration(int64(300)), ""},
		"the most seconds":      {toleration(int64(1<<63 - 1)), ""},
		"seconds as a float":    {toleration(1e30), "tolerationSeconds"},
		"a half second":         {toleration(0.5), "tolerationSeconds"},
		"32 KiB":                {config("env", words(31, 1020, "x")), ""},
		"33 KiB":                {config("env", words(33, 1020, "x")), "longer than 32 KiB"},
		"32 KiB in some places": {described{"config": described{"env": words(17, 1000, "x"), "cmd": words(16, 1000, "x")}}, "longer than 32 KiB"},
		"characters are bytes":  {config("entrypoint", words(17, 1000, "ü")), "longer than 32 KiB"},
		"values of labels":      {labelled(32, 3, 1024), "longer than 32 KiB"},
		"labels":                {labelled(32, 255, 700), ""},
		"a long label":          {labelled(1, 256, 1), "at most 255 characters"},
		"a label of no name":    {config("labels", described{"": "a"}), "a label needs a name"},
	}
	for _, kind := range []string{"requests", "limits"} {
		for _, good := range []any{"500m", "2", "1.5", "100k", "1.125Gi", "4Ti", "1Pi", "+1", "1.", ".5", "5n", int64(1), int64(1 << 40)} {
			tests[fmt.Sprint(kind, " ", good)] = struct {
				spec described
				says string
			}{resources(kind, good), ""}
		}
		for _, bad := range []any{
			"1e1.5", "1e3", "1E3", "1e99999999999999999999", "1e-2147483647", "1e2147483647", "-1", int64(-1), "", "a", "1ki", "1Ei",
			1e30, 0.5, strings.Repeat("1", 17), strings.Repeat("9", 1<<16), true,
		} {
			name := fmt.Sprintf("%.40v", bad)
			tests[fmt.Sprint(kind, " no ", name)] = struct {
				spec described
				says string
			}{resources(kind, bad), "spec.build.resources." + kind}
		}
	}
	return tests
}

// TestWhatTheSchemaTakesIsRead: controller and agents read all objects at once, so
// that one that does not decode, or not soon, would stop them for everybody. What
// the API server takes, both read.
func TestWhatTheSchemaTakesIsRead(t *testing.T) {
	cluster := controllertest.Start(t)
	api := install(t, cluster)
	agent, err := kube.Open(kube.Config{Kubeconfig: kubeconfig(t, cluster)})
	must(t, err)
	images := cache.ToListerWatcherWithContext(agent.NixImages())
	for name, test := range specs() {
		t.Run(name, func(t *testing.T) {
			spec := described{"contents": []any{"curl"}}
			maps.Copy(spec, test.spec)
			maps.DeleteFunc(spec, func(_ string, value any) bool { return value == nil })
			object := &unstructured.Unstructured{Object: described{
				"apiVersion": "closured.dev/v1alpha1", "kind": v1alpha1.Kind, "metadata": described{"name": "it", "namespace": "tools"}, "spec": spec,
			}}
			err := api.Create(t.Context(), object)
			if err == nil {
				defer func() { must(t, api.Delete(t.Context(), object)) }()
			}
			if test.says != "" {
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("the API server says %v", err)
				}
				return
			}
			must(t, err)
			list := &v1alpha1.NixImageList{}
			if err := api.List(t.Context(), list); err != nil || len(list.Items) != 1 {
				t.Errorf("the controller reads %d objects: %v", len(list.Items), err)
			}
			if _, err := images.ListWithContext(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("an agent reads: %v", err)
			}
			for i := range list.Items { // what it writes is as good
				must(t, api.Update(t.Context(), &list.Items[i]))
			}
		})
	}
}

// install makes the kind and a namespace, and gives a client as the controller's.
func install(t *testing.T, cluster *controllertest.Cluster) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, corev1.AddToScheme(scheme))
	must(t, v1alpha1.AddToScheme(scheme))
	api, err := client.New(cluster.Config, client.Options{Scheme: scheme})
	must(t, err)
	data, err := os.ReadFile("../../deploy/components/niximage/closured.dev_niximages.yaml")
	must(t, err)
	kind := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal(data, kind))
	must(t, api.Create(t.Context(), kind))
	must(t, api.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tools"}}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := api.List(ctx, &v1alpha1.NixImageList{})
		if err == nil {
			return api
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the kind is not served: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func kubeconfig(t *testing.T, cluster *controllertest.Cluster) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
		"clusters": [{"name": "a", "cluster": {"server": %q, "insecure-skip-tls-verify": true}}],
		"users": [{"name": "a", "user": {"token": %q}}],
		"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}`, cluster.Config.Host, cluster.Config.BearerToken)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
