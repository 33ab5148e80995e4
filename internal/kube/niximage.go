package kube

import (
	"context"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/closured/closured/api/v1alpha1"
)

// listTimeout bounds one list of all NixImages, which nobody waits for.
const listTimeout = 30 * time.Second

// imagesClient makes a client of the API group of NixImages. It has no limit of
// its own: a reflector asks once, and then listens.
func imagesClient(config *rest.Config, transport *http.Client) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("making a scheme: %w", err)
	}
	version := v1alpha1.GroupVersion()
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &version, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return restClient(config, transport, -1, 0)
}

// NixImages gives what lists and watches the NixImages of all namespaces, for a
// reflector, which has pauses of its own between its tries. It needs the verbs
// list and watch.
func (c *Client) NixImages() cache.ListerWatcher {
	const resource = "niximages"
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			ctx, cancel := context.WithTimeout(ctx, listTimeout)
			defer cancel()
			list := &v1alpha1.NixImageList{}
			err := c.images.Get().MaxRetries(0).Resource(resource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(list)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			return c.images.Get().MaxRetries(0).Resource(resource).VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
		},
	}
}
