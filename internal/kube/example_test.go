package kube_test

import (
	"errors"
	"fmt"

	"github.com/closured/closured/internal/kube"
)

func ExampleOpen() {
	_, err := kube.Open(kube.Config{Kubeconfig: "/nowhere/config"})
	fmt.Println(err != nil, errors.Is(err, kube.ErrNoCluster))
	// Output: true false
}
