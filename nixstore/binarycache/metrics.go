package binarycache

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what is served. No label holds what a client chooses.
type metrics struct {
	requests *prometheus.CounterVec
	sent     prometheus.Counter
	cut      *prometheus.CounterVec
	streams  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "closured_binarycache_requests_total",
			Help: "Requests of other nodes, by kind and HTTP status (0: the client left before the answer).",
		}, []string{"kind", "code"}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "closured_binarycache_sent_bytes_total", Help: "Bytes of bodies sent to other nodes.",
		}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "closured_binarycache_cut_total",
			Help: "Contents that ended before their end, by whose fault it was: client or store.",
		}, []string{"reason"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "closured_binarycache_streams", Help: "Contents that are being sent.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	if err := errors.Join(reg.Register(m.requests), reg.Register(m.sent), reg.Register(m.cut), reg.Register(m.streams)); err != nil {
		return nil, fmt.Errorf("registering the metrics of the binary cache: %w", err)
	}
	return m, nil
}

func (m *metrics) done(kind requestKind, a *answer) {
	m.requests.WithLabelValues(string(kind), strconv.Itoa(a.status)).Inc()
	m.sent.Add(float64(a.bytes))
}
