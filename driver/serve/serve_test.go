package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver/serve"
	"github.com/closured/closured/internal/logtest"
	"github.com/closured/closured/nixstore"
)

// canary is what no log line may hold.
const canary = "c4n4ryS3cr3tV4lue"

// request is a publish that carries secrets wherever a request can.
func request() *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId:   "csi-1",
		TargetPath: "/var/lib/kubelet/pods/u/mount",
		Secrets:    map[string]string{"key": canary},
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/serviceAccount.tokens": `{"":{"token":"` + canary + `"}}`,
			"csi.storage.k8s.io/pod.namespace":         "web",
			"nixExpr":                                  `fetch "` + canary + `"`,
			"flakeRef":                                 "git+https://u:" + canary + "@h/r",
			"password":                                 canary,
		},
		PublishContext: map[string]string{"token": canary},
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{FsType: "x://u:" + canary + "@h", MountFlags: []string{"password=" + canary}},
		}},
	}
}

// lines gives the log lines of answered calls.
func lines(t *testing.T, log *logtest.Buffer) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.SplitSeq(strings.TrimSpace(log.String()), "\n") {
		var entry map[string]any
		must(t, json.Unmarshal([]byte(line), &entry))
		if entry["msg"] == "call answered" {
			out = append(out, entry)
		}
	}
	return out
}

func TestOneLineForEachCall(t *testing.T) {
	t.Parallel()
	for code, level := range map[codes.Code]string{
		codes.OK: "INFO", codes.InvalidArgument: "INFO", codes.NotFound: "INFO", codes.PermissionDenied: "INFO",
		codes.FailedPrecondition: "INFO", codes.Aborted: "INFO", codes.AlreadyExists: "INFO", codes.DeadlineExceeded: "INFO",
		codes.Canceled: "INFO", codes.Unavailable: "WARN", codes.ResourceExhausted: "WARN",
		codes.Internal: "ERROR", codes.Unknown: "ERROR", codes.DataLoss: "ERROR",
	} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			dir, log := shortDir(t), &logtest.Buffer{}
			cfg := config(dir, &driver{publish: func(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
				if code == codes.OK {
					return &csi.NodePublishVolumeResponse{}, nil
				}
				return nil, status.Error(code, "because of https://u:"+canary+"@h")
			}})
			cfg.Log = log.Logger(slog.LevelInfo)
			r := run(t, cfg)
			_, err := csi.NewNodeClient(dial(t, filepath.Join(dir, "csi.sock"))).NodePublishVolume(t.Context(), request())
			if status.Code(err) != code {
				t.Fatalf("the call ends with %v", err)
			}
			r.stop(t)
			got := lines(t, log)
			if len(got) != 1 {
				t.Fatalf("%d lines for one call: %s", len(got), log)
			}
			line := got[0]
			if line["level"] != level || line["code"] != code.String() || line["volumeId"] != "csi-1" ||
				line["target"] != "/var/lib/kubelet/pods/u/mount" || line["method"] != "/csi.v1.Node/NodePublishVolume" {
				t.Errorf("the line is %v", line)
			}
			if _, ok := line["durationSeconds"].(float64); !ok {
				t.Errorf("the line has no duration: %v", line)
			}
			if text := log.String(); strings.Contains(text, canary) {
				t.Errorf("a secret is in the log: %s", text)
			}
		})
	}
}

func TestFault47RequestsAreLoggedWithoutSecrets(t *testing.T) {
	t.Parallel()
	dir, log := shortDir(t), &logtest.Buffer{}
	seen := make(chan *csi.NodePublishVolumeRequest, 1)
	cfg := config(dir, &driver{publish: func(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
		seen <- req
		return &csi.NodePublishVolumeResponse{}, nil
	}})
	cfg.Log = log.Logger(slog.LevelDebug)
	r := run(t, cfg)
	_, err := csi.NewNodeClient(dial(t, filepath.Join(dir, "csi.sock"))).NodePublishVolume(t.Context(), request())
	must(t, err)
	r.stop(t)
	text := log.String()
	if strings.Contains(text, canary) {
		t.Errorf("a secret is in the log: %s", text)
	}
	for _, want := range []string{`"csi.storage.k8s.io/pod.namespace":"web"`, "sha256"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not hold %s: %s", want, text)
		}
	}
	if got := <-seen; got.GetSecrets()["key"] != canary || got.GetVolumeContext()["password"] != canary {
		t.Error("the driver's own request lost its secrets")
	}
}

func TestHostileRequestsMakeShortLines(t *testing.T) {
	t.Parallel()
	dir, log := shortDir(t), &logtest.Buffer{}
	cfg := config(dir, &driver{publish: func(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
		return nil, status.Error(codes.InvalidArgument, strings.Repeat("é\n", 1<<10))
	}})
	cfg.Log = log.Logger(slog.LevelInfo)
	r := run(t, cfg)
	req := &csi.NodePublishVolumeRequest{
		VolumeId: strings.Repeat("v", 1<<20), TargetPath: strings.Repeat("/x", 1<<18),
		VolumeContext: map[string]string{"a": strings.Repeat("x", 1<<20)},
	}
	for i := range 5000 {
		req.VolumeContext[fmt.Sprint("key", i)] = "x\n{}"
	}
	_, err := csi.NewNodeClient(dial(t, filepath.Join(dir, "csi.sock"))).NodePublishVolume(t.Context(), req)
	if status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	r.stop(t)
	if got := lines(t, log); len(got) != 1 || len(log.String()) > 32<<10 {
		t.Errorf("%d lines, %d bytes for one call", len(got), len(log.String()))
	}
}

func TestProbesAreLoggedAtDebug(t *testing.T) {
	t.Parallel()
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 1} {
		dir, log := shortDir(t), &logtest.Buffer{}
		cfg := config(dir, &driver{name: "x"})
		cfg.Log = log.Logger(level)
		r := run(t, cfg)
		if nameAt(t, filepath.Join(dir, "csi.sock")) != "x" {
			t.Fatal("nobody answers")
		}
		r.stop(t)
		if got := lines(t, log); len(got) != want {
			t.Errorf("%d lines at level %v, want %d", len(got), level, want)
		}
	}
}

func TestPanicBecomesInternal(t *testing.T) {
	t.Parallel()
	dir, log := shortDir(t), &logtest.Buffer{}
	cfg := config(dir, &driver{name: "alive", publish: func(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
		panic("with token=" + canary)
	}})
	cfg.Log = log.Logger(slog.LevelInfo)
	run(t, cfg)
	path := filepath.Join(dir, "csi.sock")
	_, err := csi.NewNodeClient(dial(t, path)).NodePublishVolume(t.Context(), request())
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), canary) {
		t.Errorf("the call ends with %v", err)
	}
	if name := nameAt(t, path); name != "alive" {
		t.Error("the server died of it")
	}
	text := log.String()
	if !strings.Contains(text, "a call panicked") || !strings.Contains(text, "serve_test.go") || strings.Contains(text, canary) {
		t.Errorf("the log says %s", text)
	}
}

// metric gives the count of a histogram's observations by result, or a gauge's value.
func metric(t *testing.T, reg *prometheus.Registry, name, result string) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch {
			case family.GetName() != name:
			case m.GetGauge() != nil:
				return m.GetGauge().GetValue()
			case len(m.GetLabel()) == 1 && m.GetLabel()[0].GetName() == "result" && m.GetLabel()[0].GetValue() == result:
				return float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	dir, reg := shortDir(t), prometheus.NewRegistry()
	started, release := make(chan struct{}), make(chan struct{})
	cfg := config(dir, &driver{publish: func(_ context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
		if req.GetVolumeId() == "bad" {
			return nil, status.Error(codes.InvalidArgument, "bad")
		}
		close(started)
		<-release
		return &csi.NodePublishVolumeResponse{}, nil
	}})
	cfg.Registerer = reg
	run(t, cfg)
	client := csi.NewNodeClient(dial(t, filepath.Join(dir, "csi.sock")))
	done := make(chan error, 1)
	go func() {
		_, err := client.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{})
		done <- err
	}()
	<-started
	if got := metric(t, reg, "closured_rpc_in_flight", ""); got != 1 {
		t.Errorf("%v calls are in flight, want 1", got)
	}
	close(release)
	must(t, <-done)
	_, err := client.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "bad"})
	if status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	_, err = client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{})
	must(t, err)
	for _, want := range [][2]string{
		{"closured_publish_seconds", "OK"}, {"closured_publish_seconds", "InvalidArgument"}, {"closured_unpublish_seconds", "OK"},
	} {
		eventually(t, want[0]+" of "+want[1], func() bool { return metric(t, reg, want[0], want[1]) == 1 })
	}
	eventually(t, "nothing in flight", func() bool { return metric(t, reg, "closured_rpc_in_flight", "") == 0 })
}

func TestNewTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := serve.New(serve.Config{Endpoint: "tcp://x", DriverName: "-", KubeletDir: "relative", RegisterEndpoint: "/a/.."})
	if !errors.Is(err, nixstore.ErrInvalid) {
		t.Fatalf("New: %v", err)
	}
	for _, want := range []string{"tcp://x", "driver name", "no services", "kubelet folder", "registered endpoint"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said: %v", want, err)
		}
	}
	for _, name := range []string{"", "a b", "../x", "a/b", ".a", "a-", strings.Repeat("a", 64), "ä"} {
		if _, err := serve.New(serve.Config{DriverName: name, Register: func(*grpc.Server) {}}); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("the driver name %q: %v", name, err)
		}
	}
	if _, err := serve.New(serve.Config{DriverName: driverName, Register: func(*grpc.Server) {}, KubeletDir: "/" + strings.Repeat("k", 100)}); err == nil {
		t.Error("a registration socket that is too long is accepted")
	}
}

func TestRunRunsOnce(t *testing.T) {
	t.Parallel()
	r := run(t, config(shortDir(t), &driver{}))
	r.stop(t)
	if err := r.server.Run(t.Context()); !errors.Is(err, nixstore.ErrConflict) {
		t.Errorf("the second Run: %v", err)
	}
	if err := r.server.Ready(); err == nil {
		t.Error("a stopped server says that it is ready")
	}
}

func TestTwoServersDoNotShareMetrics(t *testing.T) {
	t.Parallel()
	cfg := config(shortDir(t), &driver{})
	cfg.Registerer = prometheus.NewRegistry()
	_, err := serve.New(cfg)
	must(t, err)
	if _, err := serve.New(cfg); err == nil {
		t.Error("two servers share one registry")
	}
}

func ExampleServer_Run() {
	dir, err := os.MkdirTemp("", "serve")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := serve.New(serve.Config{
		Endpoint:   "unix://" + filepath.Join(dir, "csi.sock"),
		DriverName: "csi.closured.dev",
		Register:   func(s *grpc.Server) { csi.RegisterIdentityServer(s, csi.UnimplementedIdentityServer{}) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a signal would do that
	fmt.Println(s.Run(ctx))
	// Output: <nil>
}
