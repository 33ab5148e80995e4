package niximages_test

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/niximages"
)

func Example() {
	// kube.Client.NixImages gives one of a real cluster.
	api := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &v1alpha1.NixImageList{Items: []v1alpha1.NixImage{
				*object("tools", "curl-and-jq", nil, version("v1", image(x86, "curl-and-jq", "c0de", "node-a"))),
			}}, nil
		},
		WatchFuncWithContext: func(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
			if options.SendInitialEvents != nil {
				return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // lists do not stream here
			}
			return watch.NewFake(), nil
		},
	}
	images, err := niximages.New(niximages.Config{API: api, System: "x86_64-linux"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- images.Run(ctx) }()
	src, err := images.Source(ctx, "tools/curl-and-jq")
	fmt.Println(src.Paths, err)
	cancel()
	<-done
	// Output: [/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-and-jq] <nil>
}
