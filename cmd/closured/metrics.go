package main

import (
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// register offers what the parts count. Publishes and unpublishes are measured
// by the server itself.
func (a *agent) register() {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "closured", Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "closured", Name: name, Help: help},
			func() float64 { return float64(value()) })
	}
	a.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "closured", Name: "build_info", Help: "The version of the agent and of its Nix; always 1.",
			ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
		gauge("flights", "Realisations that run.", func() float64 { return float64(len(a.provider.Running())) }),
		gauge("views", "Views of closures that are made.", func() float64 { return float64(a.views.Count()) }),
		gauge("pins", "Garbage collector roots of volumes and images.", func() float64 { return float64(a.pins.Count()) }),
		gauge("volumes", "Volumes that hold a pin.", func() float64 { return float64(a.driver.Volumes()) }),
		gauge("ready", "Whether volumes can be published now.", func() float64 { return truth(a.ready() == nil) }),
		gauge("store_bytes", "Size of the store's file system.", func() float64 { return a.disk().total }),
		gauge("store_free_bytes", "Free space of the store's file system.", func() float64 { return a.disk().free }),
		gauge("store_free_inodes", "Free inodes of the store's file system.", func() float64 { return a.disk().inodes }),
		counter("provided_warm_total", "Closures given without any work.", func() uint64 { return a.provider.Stats().Warm }),
		counter("provided_cold_total", "Closures given after a flight.", func() uint64 { return a.provider.Stats().Cold }),
		counter("provided_failed_total", "Requests for closures that failed.", func() uint64 { return a.provider.Stats().Failed }),
		counter("evaluations_total", "Evaluations started.", func() uint64 { return a.provider.Stats().Evaluations }),
		counter("realisations_total", "Realisations started.", func() uint64 { return a.provider.Stats().Realisations }),
	)
	if r := a.cluster.recorder; r != nil {
		a.metrics.MustRegister(
			counter("events_sent_total", "Events that the API server took.", r.Sent),
			counter("events_dropped_total", "Events that nobody will see.", r.Dropped),
		)
	}
}

type disk struct{ total, free, inodes float64 }

// disk measures the store's file system; zeros when it cannot be measured.
func (a *agent) disk() disk {
	var s syscall.Statfs_t
	if err := syscall.Statfs(a.cfg.storeRoot, &s); err != nil {
		return disk{}
	}
	block := float64(s.Bsize)
	return disk{total: float64(s.Blocks) * block, free: float64(s.Bavail) * block, inodes: float64(s.Ffree)}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
