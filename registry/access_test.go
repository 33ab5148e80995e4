package registry_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

func TestOneLineForEachRequest(t *testing.T) {
	t.Parallel()
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		log := &logtest.Buffer{}
		r := newRigWith(t, registry.Config{Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level}))})
		r.define(t, "redis")
		r.manifest(t, "pkgs/redis", "latest")
		r.get(t, "/v2/pkgs/re%0adis/manifests/latest")
		quiet := log.String()
		if n := strings.Count(quiet, "\n"); n != 2 && level == slog.LevelDebug || n != 0 && level == slog.LevelInfo {
			t.Errorf("%d lines at the level %s: %s", n, level, quiet)
		}
		r.images.hook.Store(new(func(context.Context) error { panic("a fault at /var/lib") }))
		got := r.get(t, "/v2/volume/pkgs/redis/manifests/latest")
		got.wantError(t, http.StatusInternalServerError, "UNKNOWN", "the registry has a fault")
		if told := strings.TrimPrefix(log.String(), quiet); !strings.Contains(told, "panicked") || !strings.Contains(told, `"code":500`) {
			t.Errorf("the log of a fault is %s", told)
		}
	}
}

func TestAFaultOfAHandlerIsAnAnswer(t *testing.T) {
	t.Parallel()
	log := &logtest.Buffer{}
	r := newRigWith(t, registry.Config{Policy: faulty{}, Log: slog.New(slog.NewJSONHandler(log, nil))})
	r.get(t, "/v2/pkgs/redis/manifests/latest").wantError(t, http.StatusInternalServerError, "UNKNOWN", "the registry has a fault")
	r.get(t, "/v2/").wantStatus(t, http.StatusOK)
	if !strings.Contains(log.String(), "a request panicked") || !strings.Contains(log.String(), "access_test.go") {
		t.Errorf("the log is %s", log)
	}
}

// faulty is a policy with a fault.
type faulty struct{}

func (faulty) Check(string, nixstore.Source) (bool, error) { panic("a fault at /var/lib") }

func TestNoLabelHoldsWhatAClientWrote(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	layer := r.get(t, "/v2/pkgs/redis/blobs/"+doc.Layers[0].Digest).body
	for _, path := range []string{"/canary", "/v2/canary/manifests/latest", "/v2/pkgs/canary/tags/list", "/v2/pkgs/redis/manifests/canary", "/v2/canary/canary/canary"} {
		r.get(t, path)
	}
	r.do(t, "CANARY", "/v2/")
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range families {
		seen[f.GetName()] = true
		if strings.Contains(strings.ToLower(f.String()), "canary") {
			t.Errorf("the metric %s repeats a client: %s", f.GetName(), f)
		}
		checkBytes(t, f, len(layer))
	}
	for _, name := range []string{
		"closured_registry_requests_total", "closured_registry_bytes_total", "closured_registry_manifest_seconds",
		"closured_registry_waiting", "closured_registry_flights",
		"closured_registry_images_computed_total", "closured_registry_layers_computed_total",
	} {
		if !seen[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
}

func checkBytes(t *testing.T, f *dto.MetricFamily, least int) {
	t.Helper()
	if f.GetName() != "closured_registry_bytes_total" {
		return
	}
	if sent := f.GetMetric()[0].GetCounter().GetValue(); sent < float64(least) {
		t.Errorf("%f bytes were counted, and a layer alone has %d", sent, least)
	}
}

func TestNewTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := registry.New(registry.Config{Hold: -1, Keep: 1, Limits: registry.Limits{Streams: -1}})
	for _, problem := range []string{"provider", "pins", "images", "policy", "negative duration", "less than a second", "negative limit"} {
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("the error %v does not tell of %s", err, problem)
		}
	}
	r := newRig(t)
	reg := prometheus.NewRegistry()
	cfg := registry.Config{Provider: r.provider, Pins: r.pins, Images: r.images, Policy: r.policy, Registerer: reg}
	first, err := registry.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := registry.New(cfg); err == nil {
		t.Error("two registries share their metrics")
	}
}
