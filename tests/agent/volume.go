package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// callLimit is kubelet's limit for a CSI call (pkg/volume/csi: csiTimeout).
	callLimit = 2 * time.Minute
	// kubelet tries again after backoffFirst, doubled each time up to backoffMost
	// (pkg/util/goroutinemap/exponentialbackoff).
	backoffFirst = 500 * time.Millisecond
	backoffMost  = 2*time.Minute + 2*time.Second
)

// Volume is one inline volume of one pod.
type Volume struct {
	Namespace  string
	Pod        string // its name
	PodUID     string
	Name       string // of the volume in the pod's spec
	Attributes map[string]string
	Writable   bool // readOnly: false in the pod's spec
}

// Packages gives the volume "nix" of pod number n of namespace "default" with
// packages of the package set.
func Packages(n int, names string) Volume { return volume(n, "packages", names) }

// StorePath is Packages for a store path.
func StorePath(n int, path string) Volume { return volume(n, "storePath", path) }

func volume(n int, key, value string) Volume {
	return Volume{
		Namespace: "default", Pod: fmt.Sprintf("pod-%d", n), PodUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n),
		Name: "nix", Attributes: map[string]string{key: value},
	}
}

// ID gives the volume handle (kubelet, pkg/volume/csi: makeVolumeHandle).
func (v Volume) ID() string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(v.PodUID+v.Name)))
}

// Target gives the path at which kubelet wants the volume.
func (a *Agent) Target(v Volume) string {
	return filepath.Join(a.KubeletDir(), "pods", v.PodUID, "volumes", "kubernetes.io~csi", v.Name, "mount")
}

// PublishRequest gives the request that kubelet sends for v under podInfoOnMount.
func (a *Agent) PublishRequest(v Volume) *csi.NodePublishVolumeRequest {
	attributes := maps.Clone(v.Attributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	maps.Copy(attributes, map[string]string{
		"csi.storage.k8s.io/pod.name":            v.Pod,
		"csi.storage.k8s.io/pod.namespace":       v.Namespace,
		"csi.storage.k8s.io/pod.uid":             v.PodUID,
		"csi.storage.k8s.io/serviceAccount.name": "default",
		"csi.storage.k8s.io/ephemeral":           "true",
	})
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.ID(), TargetPath: a.Target(v), Readonly: !v.Writable, VolumeContext: attributes,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	}
}

// Prepare makes the parent of the target, as kubelet does before each publish.
func (a *Agent) Prepare(v Volume) error { return os.MkdirAll(filepath.Dir(a.Target(v)), 0o750) }

// Publish makes the parent and calls NodePublishVolume once, for two minutes at most.
// Its error is the gRPC status.
func (a *Agent) Publish(ctx context.Context, v Volume) error {
	if err := a.Prepare(v); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := a.Node().NodePublishVolume(ctx, a.PublishRequest(v))
	return err
}

// PublishPatiently calls Publish again after codes that kubelet takes as "still
// in progress", with kubelet's back-off, until ctx ends.
func (a *Agent) PublishPatiently(ctx context.Context, v Volume) error {
	for wait := backoffFirst; ; wait = min(2*wait, backoffMost) {
		err := a.Publish(ctx, v)
		if err == nil || IsFinal(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// IsFinal tells whether kubelet forgets a volume that was never mounted after
// this error of a publish (pkg/volume/csi: isFinalError).
func IsFinal(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	default:
		return true
	}
}

// Unpublish calls NodeUnpublishVolume once, for two minutes at most, and after
// success removes what kubelet made for the volume and the pod.
func (a *Agent) Unpublish(ctx context.Context, v Volume) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	req := &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID(), TargetPath: a.Target(v)}
	if _, err := a.Node().NodeUnpublishVolume(ctx, req); err != nil {
		return err
	}
	return a.forget(v)
}

// forget removes the empty folders from the volume up to the pod. Another
// volume of the pod keeps those that it needs.
func (a *Agent) forget(v Volume) error {
	dir := filepath.Dir(a.Target(v))
	for range 4 { // <volume>, kubernetes.io~csi, volumes, <uid>
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(entries) > 0 {
			return nil
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		dir = filepath.Dir(dir)
	}
	return nil
}
