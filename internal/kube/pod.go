package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// HostUsers gives the pod's spec.hostUsers. known is false when the pod does not
// say, or is not there. It asks once; ctx bounds the wait, and so do 5 s.
func (c *Client) HostUsers(ctx context.Context, namespace, pod string) (known, hostUsers bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var p corev1.Pod
	// One try: the caller has pods waiting, and can do without the answer.
	err = c.others.Get().MaxRetries(0).Namespace(namespace).Resource("pods").Name(pod).Do(ctx).Into(&p)
	switch {
	case apierrors.IsNotFound(err):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("asking for the pod %s/%s: %w", namespace, pod, err)
	case p.Spec.HostUsers == nil:
		return false, false, nil
	}
	return true, *p.Spec.HostUsers, nil
}
