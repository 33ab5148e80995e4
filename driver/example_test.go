package driver_test

import (
	"fmt"

	"github.com/closured/closured/driver"
)

func ExampleNew() {
	_, err := driver.New(driver.Config{Name: "csi.closured.dev", NodeID: "node-a", KubeletDir: "/var/lib/kubelet/"})
	fmt.Println(err)
	// Output:
	// driver: KubeletDir must be an absolute, clean path other than /
	// driver: Provider is missing
	// driver: Pins is missing
	// driver: Views is missing
	// driver: Policy is missing
}
