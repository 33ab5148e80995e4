package kube

import (
	"context"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/json"
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
	version := v1alpha1.GroupVersion()
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(version.WithKind(v1alpha1.Kind), &described{})
	scheme.AddKnownTypeWithName(version.WithKind(v1alpha1.Kind+"List"), &describedList{})
	metav1.AddToGroupVersion(scheme, version)
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &version, "/apis"
	config.NegotiatedSerializer = unwrapping{serializer.NewCodecFactory(scheme).WithoutConversion()}
	return restClient(config, transport, -1, 0)
}

// NixImages gives what lists and watches the NixImages of all namespaces, for a
// reflector, which has pauses of its own between its tries. The objects have what
// nodes need of their spec, which is not config, build, refreshInterval and
// historyLimit, and their whole status. It needs the verbs list and watch.
func (c *Client) NixImages() cache.ListerWatcher {
	const resource = "niximages"
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			ctx, cancel := context.WithTimeout(ctx, listTimeout)
			defer cancel()
			list := &describedList{}
			err := c.images.Get().MaxRetries(0).Resource(resource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(list)
			return &list.NixImageList, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			return c.images.Get().MaxRetries(0).Resource(resource).VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
		},
	}
}

// described is a NixImage of which nothing is decoded that a node does not need.
// Objects come from anybody, and decoding stops at the first value that does not
// fit, or that costs more than it says, such as the quantity 1e-2147483647: each
// field less is one less by which somebody can keep all nodes from all images.
type described struct{ v1alpha1.NixImage }

// UnmarshalJSON decodes what a node needs. It is an encoding/json.Unmarshaler.
func (d *described) UnmarshalJSON(data []byte) error {
	var from struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`

		Spec struct {
			Tag        string                        `json:"tag"`
			Contents   []v1alpha1.PackageName        `json:"contents"`
			FlakeRef   string                        `json:"flakeRef"`
			Expression string                        `json:"expression"`
			StorePaths map[string]v1alpha1.StorePath `json:"storePaths"`
			Systems    []v1alpha1.System             `json:"systems"`
		} `json:"spec"`
		Status v1alpha1.NixImageStatus `json:"status"`
	}
	if err := json.Unmarshal(data, &from); err != nil {
		return fmt.Errorf("decoding a NixImage: %w", err)
	}
	d.NixImage = v1alpha1.NixImage{
		TypeMeta: from.TypeMeta, ObjectMeta: from.ObjectMeta, Status: from.Status,
		Spec: v1alpha1.NixImageSpec{
			Tag: from.Spec.Tag, Contents: from.Spec.Contents, FlakeRef: from.Spec.FlakeRef, Expression: from.Spec.Expression,
			StorePaths: from.Spec.StorePaths, Systems: from.Spec.Systems,
		},
	}
	return nil
}

// describedList is a list of such objects.
type describedList struct{ v1alpha1.NixImageList }

// UnmarshalJSON decodes what a node needs. It is an encoding/json.Unmarshaler.
func (l *describedList) UnmarshalJSON(data []byte) error {
	var from struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`

		Items []described `json:"items"`
	}
	if err := json.Unmarshal(data, &from); err != nil {
		return fmt.Errorf("decoding a list of NixImages: %w", err)
	}
	l.NixImageList = v1alpha1.NixImageList{
		TypeMeta: from.TypeMeta, ListMeta: from.ListMeta, Items: make([]v1alpha1.NixImage, 0, len(from.Items)),
	}
	for i := range from.Items {
		l.Items = append(l.Items, from.Items[i].NixImage)
	}
	return nil
}

// unwrapping is a serializer that gives the objects of a watch as what they are to
// everybody else.
type unwrapping struct{ runtime.NegotiatedSerializer }

// DecoderToVersion wraps the decoder of one version.
func (u unwrapping) DecoderToVersion(d runtime.Decoder, version runtime.GroupVersioner) runtime.Decoder {
	return unwrapped{u.NegotiatedSerializer.DecoderToVersion(d, version)}
}

type unwrapped struct{ runtime.Decoder }

// Decode decodes one object.
func (u unwrapped) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	object, kind, err := u.Decoder.Decode(data, defaults, into)
	if d, ok := object.(*described); ok {
		object = &d.NixImage
	}
	return object, kind, err
}
