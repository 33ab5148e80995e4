package driver_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver/drivertest"
)

func TestFault05UnpublishOfTheUnknownAndTwice(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	client := drivertest.Serve(t, n.Driver(t))
	req := n.Publish(t, uid, redis())
	start := n.State(t)
	for range 2 {
		_, err := client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
		expect(t, err, codes.OK, "")
	}
	if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
		expect(t, err, codes.OK, "")
		expectState(t, n, start)
	}
}

func TestUnpublishChangedInOneField(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		change  func(*drivertest.Node, *csi.NodeUnpublishVolumeRequest)
		code    codes.Code
		prefix  string
		touches bool // the volume is gone after it
	}{
		{"nothing", func(*drivertest.Node, *csi.NodeUnpublishVolumeRequest) {}, codes.OK, "", true},
		{"no volume id", func(_ *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.VolumeId = "" }, codes.InvalidArgument, "the volume id is missing", false},
		{"no target", func(_ *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.TargetPath = "" }, codes.InvalidArgument, "the target path is missing", false},
		{"a target outside", func(_ *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.TargetPath = "/etc" }, codes.InvalidArgument, "the target path", false},
		{"another volume", func(_ *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.VolumeId = "other" }, codes.OK, "", false},
		{"a volume whose id it begins with", func(_ *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.VolumeId = "csi" }, codes.OK, "", false},
		{"another target", func(n *drivertest.Node, r *csi.NodeUnpublishVolumeRequest) { r.TargetPath = n.Target(t, uid, "two") }, codes.OK, "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			d := n.Driver(t)
			req := n.Publish(t, uid, redis())
			req.VolumeId = "csi.1"
			start := n.State(t)
			if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			published := n.State(t)
			un := drivertest.Unpublish(req)
			row.change(n, un)
			_, err := d.NodeUnpublishVolume(t.Context(), un)
			expect(t, err, row.code, row.prefix)
			if row.touches {
				expectState(t, n, start)
				return
			}
			expectState(t, n, published)
		})
	}
}

func TestUnpublishWhenTheFolderAboveIsGone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	req := n.Publish(t, uid, map[string]string{"packages": "redis", "writable": "true"})
	req.Readonly = false
	if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	n.Views.Lose()
	if err := os.RemoveAll(filepath.Join(n.KubeletDir, "pods", uid)); err != nil {
		t.Fatal(err)
	}
	_, err := d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expectState(t, n, nil)
}

func TestUnpublishWithoutPinStillUnmounts(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	req := n.Publish(t, uid, redis())
	start := n.State(t)
	if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for _, p := range n.Pins.List("volumes") {
		if err := n.Pins.Drop(p.Holder); err != nil {
			t.Fatal(err)
		}
	}
	_, err := d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expectState(t, n, start)
}

func TestFault18PinOutlivesAFailedUnmount(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	var failure error
	n.Views.Hook = func(step string) error {
		if step == "unmount" {
			return failure
		}
		return nil
	}
	d := n.Driver(t)
	if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	published := n.State(t)
	failure = errors.New("unmounting: input/output error")
	_, err := d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.Internal, "unmounting: input/output error")
	expectState(t, n, published)
}

func TestUnpublishEndsAPublishThatWaits(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Provider.AddSlow("slow")
	d := n.Driver(t)
	req := n.Publish(t, uid, map[string]string{"packages": "slow"})
	start := n.State(t)
	published := make(chan error)
	go func() {
		_, err := d.NodePublishVolume(t.Context(), req)
		published <- err
	}()
	for len(n.Provider.Interested()) == 0 {
		time.Sleep(time.Millisecond)
	}
	_, err := d.NodePublishVolume(t.Context(), req) // kubelet never does this, a restarted one might
	expect(t, err, codes.Aborted, "another call for volume csi-"+uid+" or its target is still in progress")
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expect(t, <-published, codes.Aborted, "volume csi-"+uid+" was unpublished while its closure was being realised")
	expectState(t, n, start)
}

func TestUnpublishAfterAnAbortedPublishEndsItsInterest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Provider.AddSlow("slow")
	d := n.Driver(t)
	req := n.Publish(t, uid, map[string]string{"packages": "slow"})
	start := n.State(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.NodePublishVolume(ctx, req)
	expect(t, err, codes.Aborted, "")
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expectState(t, n, start)
}

// TestFault05UnpublishConcurrentWithPublish runs both beside each other in random
// order and pace; whatever they answer, one last unpublish leaves nothing, and no
// answer is one that kubelet would give up on.
func TestFault05UnpublishConcurrentWithPublish(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	client := drivertest.Serve(t, n.Driver(t))
	req := n.Publish(t, uid, redis())
	start := n.State(t)
	for range 100 {
		var wg sync.WaitGroup
		for range 2 + rand.IntN(3) {
			publish, pause := rand.IntN(2) == 0, time.Duration(rand.IntN(1500))*time.Microsecond
			wg.Go(func() {
				time.Sleep(pause)
				if publish {
					_, err := client.NodePublishVolume(t.Context(), req)
					if code := status.Code(err); code != codes.OK && code != codes.Aborted && code != codes.Canceled {
						t.Errorf("publish: %v", err)
					}
					return
				}
				if _, err := client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req)); err != nil {
					t.Errorf("unpublish: %v", err)
				}
			})
		}
		wg.Wait()
		if mounts, pins := n.Views.Mounts(), len(n.Pins.List("volumes")); mounts != pins {
			t.Fatalf("%d mounts and %d pins", mounts, pins)
		}
		if _, err := client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req)); err != nil {
			t.Fatal(err)
		}
		expectState(t, n, start)
	}
}

func TestManyVolumesAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	client := drivertest.Serve(t, n.Driver(t))
	start := n.State(t)
	var wg sync.WaitGroup
	for i := range 50 {
		req := n.Publish(t, strings.Repeat("a", i+1), redis())
		wg.Go(func() {
			if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
				t.Error(err)
			}
			if _, err := client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	expectState(t, n, start)
}
