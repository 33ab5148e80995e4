package controller

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/closured/closured/api/v1alpha1"
)

// metrics are what the controller counts, beside what controller-runtime does.
// Its methods may be called concurrently.
type metrics struct {
	started   prometheus.Counter
	published prometheus.Counter
	failures  *prometheus.CounterVec
	objects   *prometheus.GaugeVec

	mu    sync.Mutex // guards known
	known map[types.NamespacedName][2]string
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		known: map[types.NamespacedName][2]string{},
		started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "closured_controller_builds_started_total", Help: "Build Jobs that were made.",
		}),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "closured_controller_images_published_total", Help: "Versions of images that were published.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "closured_controller_builds_failed_total", Help: "Attempts to build that failed, by the reason of the condition Stalled.",
		}, []string{"reason"}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "closured_controller_niximages", Help: "NixImage objects by the status of their condition Ready and by its reason.",
		}, []string{"ready", "reason"}),
	}
	for _, c := range []prometheus.Collector{m.started, m.published, m.failures, m.objects} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// count counts what a status that was written has new.
func (m *metrics) count(before, after *v1alpha1.NixImageStatus) {
	if after.Digest != before.Digest {
		m.published.Inc()
	}
	if stalled := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionStalled); failed(before, after) {
		m.failures.WithLabelValues(stalled.Reason).Inc()
	}
}

// observe notes how an object is; nil: it is gone.
func (m *metrics) observe(name types.NamespacedName, status *v1alpha1.NixImageStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if was, ok := m.known[name]; ok {
		m.objects.WithLabelValues(was[:]...).Dec()
		delete(m.known, name)
	}
	if status == nil {
		return
	}
	if ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); ready != nil {
		is := [2]string{string(ready.Status), ready.Reason}
		m.objects.WithLabelValues(is[:]...).Inc()
		m.known[name] = is
	}
}
