package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNoCluster is the error of Open when nothing says where an API server is.
var ErrNoCluster = errors.New("no kubeconfig is given, and no service account of a pod is there")

// Events are sent at this rate. A node full of pods that fail must not become a
// load for the API server, which also limits what one client may create.
const (
	eventsPerSecond = 5
	eventsBurst     = 50
)

// requestTimeout bounds each request to the API server.
const requestTimeout = 5 * time.Second

// Config says how to reach the API server.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file. Empty: the service account of
	// the pod that this process runs in.
	Kubeconfig string
	// UserAgent is what the API server's audit log calls this program, such as
	// "closured/1.0"; empty: client-go's default.
	UserAgent string
}

// Client speaks to one API server. Its methods may be called concurrently.
type Client struct {
	events rest.Interface // with a limit of its own, so that events delay nothing else
	others rest.Interface
	images rest.Interface // of NixImages, another API group
}

// Open makes a client. It reads files, and asks nobody: an API server that is
// away is no error. Without a kubeconfig and outside a pod, or in one without a
// service account token, it is ErrNoCluster.
func Open(cfg Config) (*Client, error) {
	config, err := restConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = cfg.UserAgent
	return newClient(config)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("reading the kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster), errors.Is(err, fs.ErrNotExist):
		return nil, ErrNoCluster // the latter: automountServiceAccountToken: false
	case err != nil:
		return nil, fmt.Errorf("reading the pod's service account: %w", err)
	}
	return config, nil
}

// newClient makes both REST clients over one connection.
func newClient(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("making a scheme: %w", err)
	}
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.APIPath = "/api"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.WarningHandler = rest.NoWarnings{} // it would write to klog; they are about API versions
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making an HTTP client for the API server: %w", err)
	}
	events, err := restClient(config, transport, eventsPerSecond, eventsBurst)
	if err != nil {
		return nil, err
	}
	others, err := restClient(config, transport, -1, 0)
	if err != nil {
		return nil, err
	}
	images, err := imagesClient(config, transport)
	if err != nil {
		return nil, err
	}
	return &Client{events: events, others: others, images: images}, nil
}

// restClient makes a client with a rate of its own; negative: unlimited.
func restClient(config *rest.Config, transport *http.Client, qps float32, burst int) (rest.Interface, error) {
	limited := rest.CopyConfig(config)
	limited.QPS, limited.Burst = qps, burst
	c, err := rest.RESTClientForConfigAndClient(limited, transport)
	if err != nil {
		return nil, fmt.Errorf("making a client of the API server: %w", err)
	}
	return c, nil
}
