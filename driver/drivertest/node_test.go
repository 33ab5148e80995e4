package drivertest_test

import (
	"strings"
	"testing"

	"github.com/closured/closured/driver/drivertest"
)

// TestPublishOnANode is the usage that the package's comment shows.
func TestPublishOnANode(t *testing.T) {
	t.Parallel()
	node := drivertest.NewNode(t)
	node.Provider.Add("redis")
	client := drivertest.Serve(t, node.Driver(t))
	req := node.Publish(t, "0a1b2c3d", map[string]string{"packages": "redis"})
	if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, s := range node.State(t) {
		kind, _, _ := strings.Cut(s, " ")
		kinds = append(kinds, kind)
	}
	if got := strings.Join(kinds, " "); got != "folder mount pin" {
		t.Errorf("the volume left %q, want a folder, a mount and a pin", got)
	}
}
