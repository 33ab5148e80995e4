package registry_test

import (
	"net/http"
	"slices"
	"strings"
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
	measure(b, r, "pkgs/redis", []string{"latest", doc.digest})
}

// measure asks for manifests one after the other.
func measure(b *testing.B, r *rig, repository string, references []string) {
	b.Helper()
	for _, reference := range references {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			what, _, _ := strings.Cut(reference, ":")
			b.Run(method+" "+what, func(b *testing.B) {
				var took []time.Duration
				for b.Loop() {
					start := time.Now()
					r.do(b, method, "/v2/"+repository+"/manifests/"+reference).wantStatus(b, http.StatusOK)
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}
