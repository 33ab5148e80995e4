package drivertest_test

import (
	"testing"

	"github.com/closured/closured/driver/drivertest"
)

// A test publishes a volume over a socket and looks at what it leaves.
func Example() {
	test := func(t *testing.T) {
		node := drivertest.NewNode(t)
		node.Provider.Add("redis")
		client := drivertest.Serve(t, node.Driver(t))
		req := node.Publish(t, "0a1b2c3d", map[string]string{"packages": "redis"})
		if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		t.Log(node.State(t)) // a folder, a mount and a pin
	}
	_ = test
	// Output:
}
