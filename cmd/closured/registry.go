package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
	"github.com/closured/closured/registry/closureimage"
	"github.com/closured/closured/registry/hosts"
)

// images is what serves closures as images; the zero value serves none.
type images struct {
	registry *registry.Registry
	server   *registry.Server
	hosts    *hosts.File // nil: containerd is not told
}

// openRegistry makes the registry, and what leads containerd to it.
func (a *agent) openRegistry(ctx context.Context) error {
	if a.cfg.registry.address == "" {
		return a.forgetRegistry()
	}
	builder, err := closureimage.New(closureimage.Config{
		StoreDir: filepath.Join(a.cfg.storeRoot, nixstore.Dir), CacheDir: filepath.Join(a.cfg.stateDir, "cache", "images"),
		Closures: a.store, Compression: a.cfg.registry.compression, Log: a.component("images"),
	})
	if err != nil {
		return err
	}
	a.images.registry, err = registry.New(registry.Config{
		Provider: a.provider, Pins: a.pins, Images: builder, Policy: pullPolicy{a.rules}, Named: a.cluster.named(a.rules),
		Finder: a.store, Flights: a.provider, Host: a.cfg.registry.host, Keep: a.cfg.registry.keep,
		Log: a.component("registry"), Registerer: a.metrics,
	})
	if err != nil {
		return err
	}
	a.images.server, err = registry.Listen(ctx, registry.ServerConfig{
		Address: a.cfg.registry.address, Namespace: a.cfg.registry.netns, Handler: a.images.registry.Handler(),
		Log: a.component("registry"),
	})
	if err != nil || a.cfg.registry.certsDir == "" {
		return err
	}
	a.images.hosts, err = a.hostsFile()
	return err
}

// hostsFile is the file that leads containerd to the registry.
func (a *agent) hostsFile() (*hosts.File, error) {
	log := a.component("hosts")
	if err := hosts.CheckContainerd(hosts.ContainerdConfig, a.cfg.registry.certsDir); err != nil {
		log.Warn("containerd may not find the registry", slog.String(logkey.Error, err.Error()))
	}
	return hosts.New(hosts.Config{
		CertsDir: a.cfg.registry.certsDir, Host: a.cfg.registry.host, Address: a.images.server.Addr().String(), Log: log,
	})
}

// forgetRegistry takes the file away that an agent with a registry has left here.
func (a *agent) forgetRegistry() error {
	if a.cfg.registry.certsDir == "" {
		return nil
	}
	const anyAddress = "127.0.0.1:1" // no part of what is removed
	file, err := hosts.New(hosts.Config{CertsDir: a.cfg.registry.certsDir, Host: a.cfg.registry.host, Address: anyAddress})
	if err != nil {
		return err
	}
	if _, err := file.Remove(); err != nil {
		a.logError("removing "+file.Path(), err)
	}
	return nil
}

// parts gives what has to run.
func (i images) parts() []func(context.Context) error {
	var parts []func(context.Context) error
	if i.registry != nil {
		parts = append(parts, i.registry.Run, i.server.Run)
	}
	if i.hosts != nil {
		parts = append(parts, i.hosts.Run)
	}
	return parts
}

func (i images) close() {
	if i.server != nil {
		_ = i.server.Close() // after Run it is closed already
	}
	if i.registry != nil {
		i.registry.Close()
	}
}

// pullPolicy asks the policy of volumes about pulls.
type pullPolicy struct{ rules driver.Policy }

// Check implements registry.Policy.
func (p pullPolicy) Check(namespace string, src nixstore.Source) (build bool, err error) {
	decision, err := p.rules.Check(namespace, src)
	return decision.Build, err
}
