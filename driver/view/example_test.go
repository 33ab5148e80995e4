package view_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

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
