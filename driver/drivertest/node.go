// Package drivertest runs a driver over a real unix socket for tests, on a node
// that is in memory: a provider that knows a few closures, views that are a map
// from path to volume, and real pins and target folders below a temporary one.
//
// The fakes are honest: they refuse what the real ones refuse, leave nothing
// after an error, and their work goes on when a call stops waiting for it. They
// are no mocks: tests look at what is there, not at which calls were made. They
// hold no Nix and mount nothing, and say nothing about either.
//
// A test publishes a volume over a socket and looks at what it leaves:
//
//	node := drivertest.NewNode(t)
//	node.Provider.Add("redis")
//	client := drivertest.Serve(t, node.Driver(t))
//	req := node.Publish(t, "0a1b2c3d", map[string]string{"packages": "redis"})
//	if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
//		t.Fatal(err)
//	}
//	t.Log(node.State(t)) // a folder, a mount and a pin
//
// Everything may be used concurrently, except that hooks must be set before calls
// start.
package drivertest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// Node is a node in memory.
type Node struct {
	KubeletDir string
	Pins       *pins.Pins
	Provider   *Provider
	Views      *Views
	Policy     Policy

	pinsDir string
}

// Policy is a policy as a function; nil allows everything, and to build it.
type Policy func(namespace string, src nixstore.Source) (policy.Decision, error)

// Check asks the function.
func (p Policy) Check(namespace string, src nixstore.Source) (policy.Decision, error) {
	if p == nil {
		return policy.Decision{Build: true}, nil
	}
	return p(namespace, src)
}

// NewNode makes a node whose folders go with the test.
func NewNode(tb testing.TB) *Node {
	tb.Helper()
	dir, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	n := &Node{KubeletDir: filepath.Join(dir, "kubelet"), pinsDir: filepath.Join(dir, "pins")}
	if err := os.MkdirAll(n.KubeletDir, 0o700); err != nil {
		tb.Fatal(err)
	}
	n.Restart(tb)
	return n
}

// Restart forgets what a process forgets: running work and the index of the
// pins. Pins, targets and mounts stay.
func (n *Node) Restart(tb testing.TB) {
	tb.Helper()
	p, err := pins.Open(n.pinsDir)
	if err != nil {
		tb.Fatal(err)
	}
	n.Pins = p
	n.Provider = newProvider(p)
	if n.Views == nil {
		n.Views = newViews()
	}
}

// Config gives the configuration of a driver on the node, to change before New.
func (n *Node) Config() driver.Config {
	return driver.Config{
		Name: "csi.closured.dev", Version: "test", NodeID: "node-a",
		KubeletDir: n.KubeletDir, System: "x86_64-linux",
		Provider: n.Provider, Pins: n.Pins, Views: n.Views, Policy: n.Policy,
	}
}

// Driver makes a driver on the node.
func (n *Node) Driver(tb testing.TB) *driver.Driver {
	tb.Helper()
	d, err := driver.New(n.Config())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// Target makes the folders that kubelet makes for a pod's volume and gives the
// target path, which is not made.
func (n *Node) Target(tb testing.TB, podUID, volume string) string {
	tb.Helper()
	parent := filepath.Join(n.KubeletDir, "pods", podUID, "volumes", "kubernetes.io~csi", volume)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(parent, "mount")
}

// Publish gives a publish as kubelet makes it, for a pod with the given uid. The
// volume's name is "nix" and its id is "csi-" and the uid.
func (n *Node) Publish(tb testing.TB, podUID string, attributes map[string]string) *csi.NodePublishVolumeRequest {
	tb.Helper()
	context := map[string]string{
		"csi.storage.k8s.io/pod.name":            "pod-" + podUID,
		"csi.storage.k8s.io/pod.namespace":       "default",
		"csi.storage.k8s.io/pod.uid":             podUID,
		"csi.storage.k8s.io/serviceAccount.name": "default",
		"csi.storage.k8s.io/ephemeral":           "true",
	}
	maps.Copy(context, attributes)
	return &csi.NodePublishVolumeRequest{
		VolumeId:   "csi-" + podUID,
		TargetPath: n.Target(tb, podUID, "nix"),
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: context,
		Readonly:      true,
	}
}

// Unpublish gives the call that takes back a publish.
func Unpublish(req *csi.NodePublishVolumeRequest) *csi.NodeUnpublishVolumeRequest {
	return &csi.NodeUnpublishVolumeRequest{VolumeId: req.GetVolumeId(), TargetPath: req.GetTargetPath()}
}

// State gives all that calls may leave on the node, sorted: pins, interest in
// running work, mounts, private layers, and target folders.
func (n *Node) State(tb testing.TB) []string {
	tb.Helper()
	var state []string
	for _, p := range n.Pins.List(nixstore.HolderVolume) {
		state = append(state, fmt.Sprintf("pin %s -> %s", p.Holder.Name, p.Root))
	}
	for _, h := range n.Provider.Interested() {
		state = append(state, "interest "+h.Name)
	}
	state = append(state, n.Views.state()...)
	targets, err := filepath.Glob(filepath.Join(n.KubeletDir, "pods", "*", "volumes", "*", "*", "mount"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, t := range targets {
		state = append(state, "folder "+t)
	}
	slices.Sort(state)
	return state
}
