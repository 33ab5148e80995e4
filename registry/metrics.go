package registry

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/closured/closured/registry/closureimage"
)

// metrics count requests. No label holds what a client wrote.
type metrics struct {
	requests        *prometheus.CounterVec
	bytes           prometheus.Counter
	manifestSeconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, r *Registry) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "closured_registry_requests_total",
			Help: "Requests to the registry, by kind of resource and HTTP status; 499: the client left first.",
		}, []string{"route", "code"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "closured_registry_bytes_total", Help: "Bytes of bodies sent by the registry.",
		}),
		manifestSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "closured_registry_manifest_seconds",
			Help: "Time until a manifest was known, its realisation and digests included.",
			// From a known manifest below a millisecond to the end of a request's wait.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25},
		}),
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	err := r.registerComputed(reg)
	return m, errors.Join(err,
		reg.Register(m.requests), reg.Register(m.bytes), reg.Register(m.manifestSeconds),
		reg.Register(gauge("closured_registry_waiting", "Requests that wait for an image or a stream.",
			func() float64 { return float64(r.limits.waiting.Load()) })),
		reg.Register(gauge("closured_registry_flights", "Images that are being resolved, realised or made.",
			func() float64 { return float64(len(r.flights.Running())) })),
	)
}

// registerComputed offers what a closureimage.Builder counts.
func (r *Registry) registerComputed(reg prometheus.Registerer) error {
	builder, ok := r.cfg.Images.(interface{ Stats() closureimage.Stats })
	if !ok {
		return nil
	}
	counter := func(name, help string, value func(closureimage.Stats) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(value(builder.Stats())) })
	}
	return errors.Join(
		reg.Register(counter("closured_registry_images_computed_total", "Images whose digests were computed, not remembered.",
			func(s closureimage.Stats) int64 { return s.Images })),
		reg.Register(counter("closured_registry_layers_computed_total", "Layers whose digests were computed, not remembered.",
			func(s closureimage.Stats) int64 { return s.Layers })),
	)
}

func (m *metrics) done(route kind, status int, bytes int64) {
	m.requests.WithLabelValues(string(route), strconv.Itoa(status)).Inc()
	m.bytes.Add(float64(bytes))
}
