package serve_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/closured/closured/driver/serve"
	"github.com/closured/closured/internal/logtest"
)

// registered gives a configuration that registers with the kubelet folder dir.
func registered(dir string, d *driver) serve.Config {
	cfg := config(filepath.Join(dir, "plugins", driverName), d)
	cfg.KubeletDir = dir
	return cfg
}

func registrationSocket(dir string) string {
	return filepath.Join(dir, "plugins_registry", driverName+"-reg.sock")
}

// kubelet does what kubelet does when the socket appears: asks who is there,
// connects to the endpoint, and says whether it took the driver.
func kubelet(t *testing.T, dir, refusal string) *registerapi.PluginInfo {
	t.Helper()
	client := registerapi.NewRegistrationClient(dial(t, registrationSocket(dir)))
	info, err := client.GetInfo(t.Context(), &registerapi.InfoRequest{})
	must(t, err)
	_, err = client.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: refusal == "", Error: refusal})
	must(t, err)
	return info
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	r := run(t, registered(dir, &driver{name: "ours"}))
	info := kubelet(t, dir, "")
	if info.GetType() != registerapi.CSIPlugin || info.GetName() != driverName || strings.Join(info.GetSupportedVersions(), ",") != "1.0.0" {
		t.Errorf("kubelet is told %v", info)
	}
	if name := nameAt(t, info.GetEndpoint()); name != "ours" {
		t.Errorf("%q answers where kubelet is sent", name)
	}
	if err := r.server.Ready(); err != nil {
		t.Errorf("not ready when registered: %v", err)
	}
	r.stop(t)
	if exists(registrationSocket(dir)) || exists(info.GetEndpoint()) {
		t.Error("a socket is still there after a clean stop")
	}
}

func TestRefusedRegistrationIsNotReady(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	log := &logtest.Buffer{}
	cfg := registered(dir, &driver{})
	cfg.Log = log.Logger(0)
	r := run(t, cfg)
	if r.server.Registered() {
		t.Error("registered before kubelet came")
	}
	kubelet(t, dir, "no such driver")
	if r.server.Registered() {
		t.Error("registered when kubelet refused")
	}
	err := r.server.Ready()
	if err == nil || !strings.Contains(err.Error(), "no such driver") || !strings.Contains(err.Error(), "csi.sock") {
		t.Errorf("Ready after a refusal: %v", err)
	}
	if text := log.String(); !strings.Contains(text, `"level":"ERROR","msg":"kubelet refused the registration"`) {
		t.Errorf("the log says nothing of it: %s", text)
	}
	kubelet(t, dir, "") // kubelet tries again by itself
	if err := r.server.Ready(); err != nil {
		t.Errorf("Ready after kubelet came round: %v", err)
	}
	if !r.server.Registered() {
		t.Error("not registered when kubelet came round")
	}
}

func TestFault13RegistrationSockets(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	must(t, os.MkdirAll(filepath.Dir(registrationSocket(dir)), 0o755))
	staleSocket(t, registrationSocket(dir))
	foreign := filepath.Join(dir, "plugins_registry", "other-reg.sock")
	must(t, os.WriteFile(foreign, nil, 0o600))

	run(t, registered(dir, &driver{name: "ours"}))
	kubelet(t, dir, "")
	if !exists(foreign) {
		t.Error("another driver's socket was removed")
	}
	// As a kubelet does that starts and clears its folder.
	must(t, os.RemoveAll(filepath.Dir(registrationSocket(dir))))
	eventually(t, "a new registration socket", func() bool { return exists(registrationSocket(dir)) })
	kubelet(t, dir, "")
}

func TestFault13CSISocketIsThereBeforeTheRegistration(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := shortDir(t)
		s, err := serve.New(registered(dir, &driver{name: "ours"}))
		must(t, err)
		r := &running{server: s, done: make(chan error, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		r.cancel = cancel
		go func() { r.done <- s.Run(ctx) }()
		eventually(t, "the registration socket", func() bool { return exists(registrationSocket(dir)) })
		if !exists(filepath.Join(dir, "plugins", driverName, "csi.sock")) {
			t.Error("kubelet was called before the driver listened")
		}
		r.stop(t)
	}
}

func TestRegistrationThatCannotBeLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "plugins_registry"), nil, 0o600))
	s, err := serve.New(registered(dir, &driver{}))
	must(t, err)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "plugins_registry") {
		t.Errorf("Run: %v", err)
	}
	if exists(filepath.Join(dir, "plugins", driverName, "csi.sock")) {
		t.Error("the CSI socket is still there")
	}
}

func TestEndpointThatKubeletIsTold(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ endpoint, register, want string }{
		"in a container":                  {"/csi.sock", "", "KUBELET/plugins/csi.closured.dev/csi.sock"},
		"below kubelet's folder":          {"KUBELET/plugins/x/my.sock", "", "KUBELET/plugins/x/my.sock"},
		"beside kubelet's folder":         {"KUBELETx/my.sock", "", "KUBELET/plugins/csi.closured.dev/my.sock"},
		"as the operator says":            {"/csi.sock", "/run/closured.sock", "/run/closured.sock"},
		"as the operator says, also here": {"KUBELET/plugins/x/my.sock", "/run/closured.sock", "/run/closured.sock"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := shortDir(t)
			dir := filepath.Join(base, "k")
			at := strings.NewReplacer("KUBELET", dir)
			cfg := config(base, &driver{})
			cfg.KubeletDir, cfg.RegisterEndpoint = dir, at.Replace(test.register)
			cfg.Endpoint = at.Replace(test.endpoint)
			if test.endpoint == "/csi.sock" {
				cfg.Endpoint = filepath.Join(base, "csi.sock") // no test writes into the root folder
			}
			run(t, cfg)
			if got, want := kubelet(t, dir, "").GetEndpoint(), at.Replace(test.want); got != want {
				t.Errorf("kubelet is told %s, want %s", got, want)
			}
		})
	}
}

func TestRegistrationServesNothingElse(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	run(t, registered(dir, &driver{name: "ours"}))
	if name := nameAt(t, registrationSocket(dir)); name != "" {
		t.Errorf("the registration socket serves the driver %q", name)
	}
}
