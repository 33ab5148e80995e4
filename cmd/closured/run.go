package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/driver/serve"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/health"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/internal/opshttp"
	"github.com/closured/closured/internal/statedir"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/nixstore/nixeval"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
)

// checkEvery is how often the daemon is asked whether it answers.
const checkEvery = 5 * time.Second

// agent is the parts of one running agent.
type agent struct {
	cfg      config
	log      *slog.Logger
	store    *nixcli.Store
	pins     *pins.Pins
	provider *provide.Provider
	views    *view.Manager
	policy   *policy.File // nil without --policy
	rules    driver.Policy
	driver   *driver.Driver
	server   *serve.Server
	ops      *opshttp.Server // nil without --http-address
	daemon   *health.Monitor
	cluster  cluster
	images   images
	metrics  *prometheus.Registry

	neighbours neighbours
}

// run owns the state directory, puts the agent together, and serves until ctx ends.
func run(ctx context.Context, cfg config, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("closured mounts file systems: start it as root")
	}
	if err := findKubelet(cfg.kubeletDir); err != nil {
		return err
	}
	// What is in memory may hold a pod's words, and a core file is read by whoever finds it.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	syscall.Umask(0o022)
	lock, err := statedir.Acquire(ctx, cfg.stateDir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()

	a := &agent{cfg: cfg, log: log, metrics: prometheus.NewRegistry()}
	defer a.close()
	if err := a.assemble(ctx); err != nil {
		return err
	}
	if err := a.driver.Recover(ctx); err != nil {
		log.Error("recovering is not complete", slog.String(logkey.Error, err.Error()))
	}
	log.Info("starting", slog.String(logkey.Version, version))
	return a.serve(ctx)
}

// findKubelet makes sure that a folder that nobody made is not taken for a kubelet's.
func findKubelet(dir string) error {
	if dir == "" {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("looking for the kubelet: %w; give its folder as --kubelet-dir, or --kubelet-dir \"\" to run without one", err)
	}
	return nil
}

// assemble makes the parts from left to right of the import order.
func (a *agent) assemble(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.openPolicy, a.readCacheKeys, a.openStore, a.openViews, a.openKubernetes, a.openPeers, a.openProvider, a.openDriver,
		a.openServers, a.openRegistry, a.openCache,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	a.register()
	return nil
}

func (a *agent) openStore(ctx context.Context) (err error) {
	a.store, err = nixcli.Open(ctx, nixcli.Config{
		StateDir: a.cfg.stateDir, StoreRoot: a.cfg.storeRoot, DaemonSocket: a.cfg.daemon,
		Substituters: a.cfg.substituter, TrustedPublicKeys: a.cfg.trustedKey, Options: a.daemonOptions(),
		Log: a.component("store"),
	})
	if err != nil {
		return err
	}
	starting := nixstore.Fail(nixstore.ErrUnavailable, "wait a moment", "the Nix daemon is starting")
	a.daemon = health.New(a.store.Healthy, checkEvery, starting, a.component("store"))
	return nil
}

func (a *agent) openViews(ctx context.Context) (err error) {
	a.views, err = view.New(ctx, view.Config{
		StateDir: a.cfg.stateDir, StoreDir: filepath.Join(a.cfg.storeRoot, nixstore.Dir),
		Closures: a.store, Log: a.component("view"),
	})
	return err
}

func (a *agent) openProvider(context.Context) (err error) {
	client := a.store.Client()
	evaluator, err := nixeval.New(nixeval.Config{
		Socket: client.Socket, StoreRoot: client.StoreRoot, BinDir: client.BinDir,
		PackageSet: a.cfg.packageSet, CacheDir: filepath.Join(a.cfg.stateDir, "cache", "eval"),
		FlakeDirs: []string{"/"}, // which of them is for the policy to say
		AllowIFD:  a.cfg.allowIFD, Timeout: a.cfg.evalTimeout,
		MemoryBytes: uint64(a.cfg.evalMemory), //nolint:gosec // a size is never negative, see quantity.Parse
		Log:         a.component("eval"),
	})
	if err != nil {
		return err
	}
	a.pins, err = pins.Open(filepath.Join(a.cfg.storeRoot, "nix/var/nix/gcroots/closured"))
	if err != nil {
		return err
	}
	a.provider, err = provide.New(provide.Config{
		Store: a.store, Pins: a.pins, Evaluator: evaluator, Images: a.cluster.imageSource(a.rules),
		Peers: a.neighbours.substituters(), Log: a.component("provide"),
	})
	return err
}

func (a *agent) openPolicy(context.Context) (err error) {
	a.rules = policy.Default()
	if a.cfg.policyFile == "" {
		return nil
	}
	a.policy, err = policy.OpenFile(policy.FileConfig{Path: a.cfg.policyFile, Log: a.component("policy"), Registerer: a.metrics})
	if err != nil {
		return err
	}
	a.rules = a.policy
	return nil
}

func (a *agent) openDriver(context.Context) (err error) {
	cfg := driver.Config{
		Name: a.cfg.driverName, Version: version, NodeID: a.cfg.nodeName, KubeletDir: a.cfg.kubeletDir,
		Provider: a.provider, Pins: a.pins, Views: a.views, Policy: a.rules,
		Ready: a.daemon.Err, Flights: a.provider, Closures: a.store, Log: a.component("driver"),
	}
	a.cluster.configure(&cfg)
	a.driver, err = driver.New(cfg)
	return err
}

func (a *agent) openServers(ctx context.Context) (err error) {
	a.server, err = serve.New(serve.Config{
		Endpoint: a.cfg.endpoint, KubeletDir: a.cfg.kubeletDir, DriverName: a.cfg.driverName,
		Log: a.component("serve"), Registerer: a.metrics,
		Register: func(s *grpc.Server) {
			csi.RegisterIdentityServer(s, a.driver)
			csi.RegisterNodeServer(s, a.driver)
		},
	})
	if err != nil || a.cfg.httpAddress == "" {
		return err
	}
	a.ops, err = opshttp.Listen(ctx, opshttp.Config{
		Address: a.cfg.httpAddress, Ready: a.ready, Gatherer: a.metrics, Log: a.component("http"),
	})
	return err
}

// ready tells why volumes cannot be published now.
func (a *agent) ready() error {
	return errors.Join(a.daemon.Err(), a.server.Ready())
}

// serve runs every part until ctx ends or one of them fails.
func (a *agent) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	parts := []func(context.Context) error{a.store.Run, a.daemon.Run, a.views.Run, a.server.Run}
	parts = append(parts, a.cluster.parts()...)
	parts = append(parts, a.keepers()...)
	parts = append(parts, a.images.parts()...)
	parts = append(parts, a.neighbours.parts()...)
	if a.policy != nil {
		parts = append(parts, a.policy.Run)
	}
	if a.ops != nil {
		parts = append(parts, a.ops.Run)
	}
	for _, part := range parts {
		g.Go(func() error { return part(ctx) })
	}
	return g.Wait()
}

// close lets go of what assemble made, whatever of it there is. Volumes stay mounted.
func (a *agent) close() {
	a.images.close()
	a.neighbours.close()
	if a.provider != nil {
		a.provider.Close()
	}
	if a.views != nil {
		a.logError("closing the views", a.views.Close())
	}
	if a.store != nil {
		a.logError("closing the store", a.store.Close())
	}
}

func (a *agent) logError(what string, err error) {
	if err != nil {
		a.log.Error("stopping is not clean", slog.String(logkey.Component, what), slog.String(logkey.Error, err.Error()))
	}
}

func (a *agent) component(name string) *slog.Logger {
	return a.log.With(slog.String(logkey.Component, name))
}
