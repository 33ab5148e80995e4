package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
)

func TestNixImages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	redis := v1alpha1.NixImage{TypeMeta: metav1.TypeMeta{Kind: v1alpha1.Kind, APIVersion: "closured.dev/v1alpha1"}}
	redis.Namespace, redis.Name = "shop", "redis"
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path != "/apis/closured.dev/v1alpha1/niximages":
			return false
		case r.URL.Query().Get("watch") != "true":
			answer(w, http.StatusOK, v1alpha1.NixImageList{
				TypeMeta: metav1.TypeMeta{Kind: "NixImageList", APIVersion: "closured.dev/v1alpha1"}, Items: []v1alpha1.NixImage{redis},
			})
		default:
			answer(w, http.StatusOK, map[string]any{"type": "MODIFIED", "object": redis})
		}
		return true
	})
	api := cache.ToListerWatcherWithContext(s.client(t).NixImages())
	list, err := api.ListWithContext(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := list.(*v1alpha1.NixImageList); !ok || len(got.Items) != 1 || got.Items[0].Name != "redis" {
		t.Errorf("the list is %+v", list)
	}
	w, err := api.WatchWithContext(t.Context(), metav1.ListOptions{ResourceVersion: "7"})
	if err != nil {
		t.Fatal(err)
	}
	event := <-w.ResultChan()
	w.Stop()
	if got, ok := event.Object.(*v1alpha1.NixImage); !ok || got.Name != "redis" || event.Type != "MODIFIED" {
		t.Errorf("the event is %+v", event)
	}
}

func TestNixImagesAskOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
		return true
	})
	api := cache.ToListerWatcherWithContext(s.client(t).NixImages())
	if _, err := api.ListWithContext(t.Context(), metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) || strings.Contains(err.Error(), token) {
		t.Errorf("list: %v", err)
	}
	if _, err := api.WatchWithContext(t.Context(), metav1.ListOptions{}); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("watch: %v", err)
	}
	if n := len(s.requests()); n != 2 {
		t.Errorf("it asked %d times", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := api.ListWithContext(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a list that nobody wants is given")
	}
}

// TestNixImagesOfAnySpec: what no node needs is not decoded, so that nobody can
// keep the nodes from all images by one object that does not decode, or not soon.
func TestNixImagesOfAnySpec(t *testing.T) {
	t.Parallel()
	object := func(name, spec string) string {
		return fmt.Sprintf(`{"kind": "NixImage", "apiVersion": "closured.dev/v1alpha1", "metadata": {"namespace": "shop", "name": %q, "labels": {"a": "b"}},
			"spec": {"tag": "v1", "contents": ["curl"], "systems": ["aarch64-linux"], %s}, "status": {"digest": "sha256:1"}}`, name, spec)
	}
	objects := []string{
		object("good", `"config": {"user": "1"}`),
		object("days", `"refreshInterval": "1d", "build": {"deadline": "2 hours"}`),
		object("shapes", `"refreshInterval": {}, "historyLimit": 1e30, "config": [], "build": {"nodeSelector": 7}`),
		object("seconds", `"build": {"tolerations": [{"tolerationSeconds": 1e30}]}`),
		object("exponent", `"build": {"resources": {"requests": {"cpu": "1e99999999999999999999"}}}`),
		object("bomb", `"build": {"resources": {"limits": {"cpu": "1e-2147483647"}}}`),
	}
	s := newServer(t)
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "true" {
			for _, o := range objects {
				_, _ = fmt.Fprintf(w, `{"type": "ADDED", "object": %s}`, o)
			}
			return true
		}
		_, _ = fmt.Fprintf(w, `{"kind": "NixImageList", "apiVersion": "closured.dev/v1alpha1", "metadata": {"resourceVersion": "7"}, "items": [%s]}`, strings.Join(objects, ","))
		return true
	})
	api := cache.ToListerWatcherWithContext(s.client(t).NixImages())
	check := func(how string, i int, n *v1alpha1.NixImage) {
		t.Helper()
		if !strings.Contains(objects[i], `"name": "`+n.Name+`"`) || n.Namespace != "shop" || n.Labels["a"] != "b" || n.Status.Digest != "sha256:1" ||
			n.Spec.Tag != "v1" || !slices.Equal(n.Spec.Contents, []v1alpha1.PackageName{"curl"}) || !slices.Equal(n.Spec.EffectiveSystems(), []v1alpha1.System{"aarch64-linux"}) {
			t.Errorf("%s: %s gives %+v", how, objects[i], n)
		}
	}
	got, err := api.ListWithContext(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, ok := got.(*v1alpha1.NixImageList)
	if !ok || len(list.Items) != len(objects) || list.ResourceVersion != "7" {
		t.Fatalf("the list is %+v", got)
	}
	for i := range list.Items {
		check("list", i, &list.Items[i])
	}
	w, err := api.WatchWithContext(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range objects {
		event := <-w.ResultChan()
		n, ok := event.Object.(*v1alpha1.NixImage)
		if !ok {
			t.Fatalf("the event is %+v", event)
		}
		check("watch", i, n)
	}
}
