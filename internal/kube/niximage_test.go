package kube_test

import (
	"context"
	"net/http"
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
