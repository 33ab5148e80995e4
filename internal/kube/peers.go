package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// PodIPs gives the addresses of the running pods with the labels on a node. It
// asks once; ctx bounds the wait, and so do 5 s. It needs the verb list.
func (c *Client) PodIPs(ctx context.Context, namespace, selector, node string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var pods corev1.PodList
	// The field keeps the answer small: the API server compares it.
	err := c.others.Get().MaxRetries(0).Namespace(namespace).Resource("pods").Param("labelSelector", selector).
		Param("fieldSelector", fields.OneTermEqualSelector("spec.nodeName", node).String()).Do(ctx).Into(&pods)
	if err != nil {
		return nil, fmt.Errorf("asking for the pods of the node %s: %w", node, err)
	}
	var ips []string
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp.IsZero() && p.Status.PodIP != "" {
			ips = append(ips, p.Status.PodIP)
		}
	}
	return ips, nil
}
