package driver_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver/drivertest"
)

// BenchmarkPublish measures what the driver and the socket add to a warm publish
// with its unpublish; views and provider are in memory.
func BenchmarkPublish(b *testing.B) {
	n := drivertest.NewNode(b)
	n.Provider.Add("redis")
	client := drivertest.Serve(b, n.Driver(b))
	req := n.Publish(b, uid, redis())
	un := drivertest.Unpublish(req)
	for b.Loop() {
		if _, err := client.NodePublishVolume(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		if _, err := client.NodeUnpublishVolume(b.Context(), un); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRepublish measures what kubelet's calls for running pods cost, on a
// node with 500 volumes.
func BenchmarkRepublish(b *testing.B) {
	n := drivertest.NewNode(b)
	n.Provider.Add("redis")
	d := n.Driver(b)
	var req *csi.NodePublishVolumeRequest
	for i := range 500 {
		req = n.Publish(b, uid[:len(uid)-3]+string([]byte{'0' + byte(i/100), '0' + byte(i/10%10), '0' + byte(i%10)}), redis())
		if _, err := d.NodePublishVolume(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := d.NodePublishVolume(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
