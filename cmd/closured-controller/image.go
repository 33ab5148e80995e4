package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ownContainer is the name of the container that this program runs in. Others may
// stand before it: webhooks add some.
const ownContainer = "controller"

// ownImage gives the image of a pod's container that this program runs in, so that
// manifests name their image once. It lists, since the controller may not get pods.
func ownImage(ctx context.Context, api *rest.Config, namespace, name string) (string, error) {
	if namespace == "" || name == "" {
		return "", errors.New("the image of build pods is unknown without POD_NAMESPACE and POD_NAME")
	}
	c, err := client.New(api, client.Options{})
	if err != nil {
		return "", fmt.Errorf("looking up the pod %s/%s: %w", namespace, name, err)
	}
	var pods corev1.PodList
	only := client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", name)}
	if err := c.List(ctx, &pods, client.InNamespace(namespace), only); err != nil {
		return "", fmt.Errorf("looking up the pod %s/%s: %w", namespace, name, err)
	}
	if len(pods.Items) != 1 {
		return "", fmt.Errorf("there is no pod %s/%s, whose image build pods would run", namespace, name)
	}
	all := pods.Items[0].Spec.Containers
	if i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == ownContainer }); i >= 0 {
		return all[i].Image, nil
	}
	if len(all) == 1 {
		return all[0].Image, nil
	}
	return "", fmt.Errorf("no container of the pod %s/%s is called %s, so that the image of build pods is unknown", namespace, name, ownContainer)
}
