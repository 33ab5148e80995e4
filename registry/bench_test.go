package registry_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/closured/closured/registry"
)

// BenchmarkKnownManifest measures what containerd asks first for each container
// that starts: over a connection that is open, after a restart of the agent.
func BenchmarkKnownManifest(b *testing.B) {
	r := newRig(b)
	r.define(b, "redis")
	doc := r.manifest(b, "pkgs/redis", "latest")
	r.restart(b, registry.Config{})
	for _, c := range []struct{ name, method, reference string }{
		{"HEAD by tag", http.MethodHead, "latest"},
		{"GET by tag", http.MethodGet, "latest"},
		{"GET by digest", http.MethodGet, doc.digest},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				r.do(b, c.method, "/v2/pkgs/redis/manifests/"+c.reference).wantStatus(b, http.StatusOK)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
