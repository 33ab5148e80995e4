package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

func mustNew(t *testing.T, cfg driver.Config) *driver.Driver {
	t.Helper()
	d, err := driver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNewTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := driver.New(driver.Config{KubeletDir: "var/lib/kubelet/", NodeID: strings.Repeat("n", 193), Events: &drivertest.Events{}})
	for _, want := range []string{"Name", "NodeID", "KubeletDir", "Provider", "Pins", "Views", "Policy", "Flights"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said about %s: %v", want, err)
		}
	}
}

// TestNoRPCReturnsUnknown makes each step of each RPC fail with an error that
// nobody has judged.
func TestNoRPCReturnsUnknown(t *testing.T) {
	t.Parallel()
	odd := errors.New("odd")
	for _, step := range []string{"", "provide", "release", "mount", "mount late", "unmount", "mounted", "volumes", "usage"} {
		n := newNode(t)
		hook := failAt(step, odd)
		d := n.Driver(t)
		client := drivertest.Serve(t, d)
		ctx := t.Context()
		req := n.Publish(t, uid, redis())
		calls := map[string]func() error{
			"publish":      func() error { _, err := client.NodePublishVolume(ctx, req); return err },
			"republish":    func() error { _, err := client.NodePublishVolume(ctx, req); return err },
			"unpublish":    func() error { _, err := client.NodeUnpublishVolume(ctx, drivertest.Unpublish(req)); return err },
			"empty":        func() error { _, err := client.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{}); return err },
			"empty un":     func() error { _, err := client.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{}); return err },
			"stage":        func() error { _, err := client.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{}); return err },
			"unstage":      func() error { _, err := client.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{}); return err },
			"expand":       func() error { _, err := client.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{}); return err },
			"health":       func() error { _, err := client.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{}); return err },
			"info":         func() error { _, err := client.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}); return err },
			"capabilities": func() error { _, err := client.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{}); return err },
			"probe":        func() error { _, err := client.Probe(ctx, &csi.ProbeRequest{}); return err },
			"stats": func() error {
				_, err := client.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: req.GetVolumeId(), VolumePath: req.GetTargetPath()})
				return err
			},
		}
		n.Provider.Hook, n.Views.Hook = hook, hook
		for _, name := range []string{"info", "capabilities", "probe", "empty", "empty un", "stage", "unstage", "expand", "health", "publish", "stats", "republish", "unpublish"} {
			if err := calls[name](); status.Code(err) == codes.Unknown {
				t.Errorf("%s with a failing %q: %v", name, step, err)
			}
		}
	}
}

// TestFault47CanaryInStatusAndLog puts a secret wherever a caller can put one,
// and lets everything fail that can.
func TestFault47CanaryInStatusAndLog(t *testing.T) {
	t.Parallel()
	const canary = "hunter2canary"
	var log bytes.Buffer
	for _, change := range []map[string]string{
		{"csi.storage.k8s.io/serviceAccount.tokens": `{"":{"token":"` + canary + `"}}`},
		{"nixExpr": `derivation { password = "` + canary + `"; }`},
		{"flakeRef": "git+https://user:" + canary + "@example.org/repo#x"},
		{"unknown": canary},
	} {
		for _, failure := range []error{nil, nixstore.ErrForbidden, nixstore.ErrBusy, errors.New("odd"), nixstore.Fail(nixstore.ErrBuild, "", "builder failed")} {
			n := newNode(t)
			cfg := n.Config()
			cfg.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			cfg.HostUsers = hostUsers{err: errors.New("no route to host")}
			hook := func(step string) error {
				if step == "mount" || step == "release" || step == "provide" {
					return failure
				}
				return nil
			}
			n.Provider.Hook, n.Views.Hook = hook, hook
			req := n.Publish(t, uid, redis())
			for key, value := range change {
				if key == "nixExpr" || key == "flakeRef" {
					delete(req.GetVolumeContext(), "packages")
				}
				req.VolumeContext[key] = value
			}
			req.Secrets = map[string]string{"password": canary}
			req.PublishContext = map[string]string{"password": canary}
			d := mustNew(t, cfg)
			for range 2 {
				_, err := d.NodePublishVolume(t.Context(), req)
				if strings.Contains(fmt.Sprint(err), canary) {
					t.Errorf("the status tells the secret: %v", err)
				}
			}
			if err := d.Recover(t.Context()); err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the sweep tells the secret: %v", err)
			}
		}
	}
	if log.Len() == 0 {
		t.Error("nothing was logged: the test looks at nothing")
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("the log tells the secret: %s", log.String())
	}
}

type hostUsers struct {
	known, host bool
	err         error
}

func (h hostUsers) HostUsers(context.Context, string, string) (known, host bool, err error) {
	return h.known, h.host, h.err
}

// seeing notes the volumes that are mounted.
type seeing struct {
	*drivertest.Views

	volumes []view.Volume
}

func (s *seeing) Mount(ctx context.Context, v view.Volume, t *view.Target) error {
	s.volumes = append(s.volumes, v)
	return s.Views.Mount(ctx, v, t)
}

func TestUserNamespaceIsAskedOfTheCluster(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		attr    string
		cluster driver.HostUsers
		want    bool
	}{
		{"nobody says", "", nil, false},
		{"the pod says", "false", nil, true},
		{"the pod says, and the cluster is away", "false", hostUsers{err: errors.New("away")}, true},
		{"the cluster says yes", "", hostUsers{known: true, host: false}, true},
		{"the cluster says no", "", hostUsers{known: true, host: true}, false},
		{"the cluster does not know", "", hostUsers{}, false},
		{"the cluster is away", "", hostUsers{err: errors.New("away")}, false},
		{"the pod says no, and is not doubted", "true", hostUsers{known: true, host: false}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			views := &seeing{Views: n.Views}
			cfg := n.Config()
			cfg.Views, cfg.HostUsers = views, row.cluster
			attrs := redis()
			if row.attr != "" {
				attrs["hostUsers"] = row.attr
			}
			_, err := mustNew(t, cfg).NodePublishVolume(t.Context(), n.Publish(t, uid, attrs))
			expect(t, err, codes.OK, "")
			if len(views.volumes) != 1 || views.volumes[0].UserNamespace != row.want {
				t.Errorf("mounted %+v, want UserNamespace %t", views.volumes, row.want)
			}
		})
	}
}
