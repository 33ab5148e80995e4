package controllertest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// StartJobController runs Kubernetes' own controller of Jobs until the test ends:
// it makes their pods, and ends them at their deadline.
func (c *Cluster) StartJobController(tb testing.TB) {
	tb.Helper()
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
		"clusters": [{"name": "a", "cluster": {"server": %q, "insecure-skip-tls-verify": true}}],
		"users": [{"name": "a", "user": {"token": %q}}],
		"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}`, c.Config.Host, token)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	c.run(tb, "controller-manager", "--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig, "--controllers=job-controller", "--leader-elect=false",
		"--bind-address="+c.address, "--cert-dir="+c.dir)
}
