package driver_test

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/closured/closured/driver/drivertest"
)

func TestVolumeStats(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	client := drivertest.Serve(t, n.Driver(t))
	req := n.Publish(t, uid, redis())
	req.VolumeId = "csi.1"
	if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	ask := func(id, path string) (*csi.NodeGetVolumeStatsResponse, error) {
		return client.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path})
	}
	got, err := ask(req.GetVolumeId(), req.GetTargetPath())
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: 7, Used: 5, Available: 2},
		{Unit: csi.VolumeUsage_INODES, Total: 70, Used: 50, Available: 20},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, row := range []struct {
		name, id, path string
		code           codes.Code
	}{
		{"no id", "", req.GetTargetPath(), codes.InvalidArgument},
		{"no path", req.GetVolumeId(), "", codes.InvalidArgument},
		{"another id", "other", req.GetTargetPath(), codes.NotFound},
		{"an id that it begins with", "csi", req.GetTargetPath(), codes.NotFound},
		{"an odd id", "../x", req.GetTargetPath(), codes.NotFound},
		{"another path", req.GetVolumeId(), n.Target(t, "other", "nix"), codes.NotFound},
		{"a relative path", req.GetVolumeId(), "some/path", codes.NotFound},
		{"a path outside", req.GetVolumeId(), "/etc", codes.NotFound},
	} {
		_, err := ask(row.id, row.path)
		expect(t, err, row.code, "")
	}
	n.Views.Lose()
	_, err = ask(req.GetVolumeId(), req.GetTargetPath())
	expect(t, err, codes.NotFound, "volume ")
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cfg := n.Config()
	var trouble error
	cfg.Ready = func() error { return trouble }
	client := drivertest.Serve(t, mustNew(t, cfg))
	info, err := client.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "csi.closured.dev" || info.GetVendorVersion() != "test" {
		t.Errorf("%v, %v", info, err)
	}
	node, err := client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || node.GetNodeId() != "node-a" || node.GetMaxVolumesPerNode() != 0 {
		t.Errorf("%v, %v", node, err)
	}
	for _, want := range []bool{true, false} {
		if !want {
			trouble = errors.New("the Nix daemon does not answer")
		}
		probe, err := client.Probe(t.Context(), &csi.ProbeRequest{})
		if err != nil || probe.GetReady().GetValue() != want {
			t.Errorf("%v, %v, want ready %t", probe, err, want)
		}
	}
}
