package serve_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/closured/closured/driver/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const driverName = "csi.closured.dev"

// driver is a CSI driver whose calls do what a test says.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	name    string
	publish func(context.Context, *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error)
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name}, nil
}

func (d *driver) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if d.publish == nil {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	return d.publish(ctx, req)
}

func (d *driver) NodeUnpublishVolume(context.Context, *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) register(s *grpc.Server) {
	csi.RegisterIdentityServer(s, d)
	csi.RegisterNodeServer(s, d)
}

// shortDir gives a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "serve") //nolint:usetesting // t.TempDir's may be longer than the 107 bytes of unix(7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// config gives a configuration with a socket in dir and quick looks after it.
func config(dir string, d *driver) serve.Config {
	return serve.Config{
		Endpoint: "unix://" + filepath.Join(dir, "csi.sock"), DriverName: driverName, Register: d.register,
		WatchEvery: 5 * time.Millisecond,
	}
}

// running is a server that a test runs.
type running struct {
	server *serve.Server
	cancel context.CancelFunc
	done   chan error
	ended  bool
}

// run runs a server until the test ends or stop is called, and waits until it listens.
func run(t *testing.T, cfg serve.Config) *running {
	t.Helper()
	s, err := serve.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{server: s, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	eventually(t, "the server listens", func() bool { return s.Ready() == nil })
	return r
}

// stop ends the server as a signal would, and wants no error.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if r.ended {
		return
	}
	r.ended = true
	if err := <-r.done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// eventually waits until ok holds, or fails the test after ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("this never came: %s", what)
}

// dial connects to a socket.
func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// nameAt asks who serves a socket, over a new connection; "" when nobody answers.
func nameAt(t *testing.T, path string) string {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		return ""
	}
	return info.GetName()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
