package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/closured/closured/controller"
	"github.com/closured/closured/internal/logkey"
)

// run controls until ctx ends.
func run(ctx context.Context, cfg settings, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	api, err := restConfig(cfg.kubeconfig)
	if err != nil {
		return err
	}
	api.UserAgent = "closured-controller/" + version
	if cfg.build.Image == "" {
		if cfg.build.Image, err = ownImage(ctx, api, os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME")); err != nil {
			return fmt.Errorf("%w; next: set --build-image", err)
		}
	}
	c, err := controller.New(controller.Config{
		REST: api, Build: cfg.build, Rules: cfg.rules, Workers: cfg.workers,
		LeaderElection: cfg.leaderElection, Namespace: cfg.namespace,
		HealthAddress: cfg.healthAddress, MetricsAddress: cfg.metricsAddress, Registerer: metrics.Registry, Log: log,
	})
	if err != nil {
		return err
	}
	log.Info("controller started", slog.String(logkey.Version, version))
	return c.Run(ctx)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		api, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("reading the pod's service account: %w; next: set --kubeconfig outside a cluster", err)
		}
		return api, nil
	}
	api, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig %s: %w", kubeconfig, err)
	}
	return api, nil
}
