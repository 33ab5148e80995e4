package view_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// A volume is mounted at a target, which is opened beneath kubelet's folder first.
func Example() {
	publish := func(ctx context.Context, m *view.Manager, root nixstore.Realised) error {
		target, err := view.OpenTarget("/var/lib/kubelet",
			"/var/lib/kubelet/pods/0123/volumes/kubernetes.io~csi/nix/mount")
		if err != nil {
			return err
		}
		defer target.Close()
		volume := view.Volume{ID: "csi-0123", Root: root.Root, Registration: root.Registration}
		if state, err := m.Mounted(target, volume); err != nil || state == view.Same {
			return err // kubelet asks again for running pods
		}
		return m.Mount(ctx, volume, target)
	}
	_ = publish
}

// Whatever leads out of the base, or through a symlink, is refused.
func ExampleOpenTarget() {
	kubelet, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(kubelet)
	if err := os.Symlink("/etc", filepath.Join(kubelet, "pods")); err != nil {
		fmt.Println(err)
		return
	}
	_, err = view.OpenTarget(kubelet, filepath.Join(kubelet, "pods", "mount"))
	fmt.Println(errors.Is(err, nixstore.ErrInvalid))
	_, err = view.OpenTarget(kubelet, kubelet+"/../mount")
	fmt.Println(errors.Is(err, nixstore.ErrInvalid))
	// Output:
	// true
	// true
}
