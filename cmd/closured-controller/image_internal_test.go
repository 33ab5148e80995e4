package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/controller/controllertest"
)

// TestOwnImage: build pods run what the controller's pod runs, which it looks up
// by the one right on pods that it has, to list them.
func TestOwnImage(t *testing.T) {
	cluster := controllertest.Start(t)
	c := newClient(t, cluster.Config)
	const image = "example.org/closured:1"
	for name, containers := range map[string][]corev1.Container{
		"controller": {{Name: "controller", Image: image}},
		"proxied":    {{Name: "proxy", Image: "proxy"}, {Name: "controller", Image: image}},
		"renamed":    {{Name: "c", Image: image}},
		"unclear":    {{Name: "proxy", Image: "proxy"}, {Name: "c", Image: image}},
	} {
		must(t, c.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: containers},
		}))
	}
	for _, name := range []string{"controller", "proxied", "renamed"} {
		if got, err := ownImage(t.Context(), cluster.Config, "default", name); err != nil || got != image {
			t.Errorf("the image of %s is %q (%v)", name, got, err)
		}
	}
	for _, pod := range [][2]string{{"default", "gone"}, {"default", "unclear"}, {"kube-system", "controller"}, {"default", ""}, {"", "controller"}} {
		if image, err := ownImage(t.Context(), cluster.Config, pod[0], pod[1]); err == nil || !strings.Contains(err.Error(), "image") && !strings.Contains(err.Error(), "pod") {
			t.Errorf("the image of %q is %q (%v)", pod, image, err)
		}
	}
}
