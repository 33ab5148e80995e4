//go:build privileged

// Package sanity_test runs csi-sanity, the conformance suite of CSI, against the
// driver on a real socket, with real Nix, real pins and real mounts. The suite
// makes volumes by a controller, which is a fake on a second socket: the driver
// has none. It needs root.
package sanity_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"

	"github.com/closured/closured/driver"
	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore/nixcli"
	"github.com/closured/closured/nixstore/pins"
	"github.com/closured/closured/nixstore/provide"
)

// nodeCases is the number of the suite's cases that a driver like this one must
// pass: all but those of controllers and of capabilities that it does not have.
const nodeCases = 15

func TestSanity(t *testing.T) {
	nixtest.Require(t)
	stateDir := nixtest.StateDir(t)
	root := nixtest.TextClosure(t, stateDir, 20, "sanity")
	d := newDriver(t, stateDir)
	client := drivertest.Serve(t, d)

	config := sanity.NewTestConfig()
	config.Address = client.Address
	config.ControllerAddress = drivertest.Listen(t, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, d) // the suite asks both sockets
		csi.RegisterControllerServer(s, controller{attributes: map[string]string{"storePath": root}})
	})
	config.TargetPath = filepath.Join(stateDir, "target")
	config.StagingPath = filepath.Join(stateDir, "staging")
	suite := sanity.GinkgoTest(&config)
	defer suite.Finalize()

	var passed, failed int
	ginkgo.ReportAfterSuite("count", func(report ginkgo.Report) {
		for _, spec := range report.SpecReports.WithLeafNodeType(types.NodeTypeIt) {
			switch {
			case spec.State == types.SpecStatePassed:
				passed++
			case spec.Failed():
				failed++
			}
		}
	})
	gomega.RegisterFailHandler(ginkgo.Fail)
	how, show := ginkgo.GinkgoConfiguration()
	how.SkipStrings = []string{`\[Controller Server\]`}
	show.NoColor = true
	show.Succinct = true
	ginkgo.RunSpecs(t, "csi-sanity", how, show)

	t.Logf("%d cases passed, %d failed", passed, failed)
	if passed != nodeCases || failed > 0 {
		t.Errorf("%d cases passed and %d failed, want %d and 0", passed, failed, nodeCases)
	}
	if left := d.Volumes(); left > 0 {
		t.Errorf("%d pins are left", left)
	}
}

// newDriver makes a driver on the store of a state directory. What the suite asks
// for is in the store, so that no daemon is needed.
func newDriver(t *testing.T, stateDir string) *driver.Driver {
	t.Helper()
	store, err := nixcli.Open(t.Context(), nixcli.Config{StateDir: stateDir})
	if err != nil {
		t.Fatal(err)
	}
	held, err := pins.Open(filepath.Join(stateDir, "nix/var/nix/gcroots/closured"))
	if err != nil {
		t.Fatal(err)
	}
	provider, err := provide.New(provide.Config{Store: store, Pins: held})
	if err != nil {
		t.Fatal(err)
	}
	views, err := view.New(t.Context(), view.Config{StateDir: stateDir, StoreDir: filepath.Join(stateDir, "nix/store"), Closures: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		provider.Close()
		if err := errors.Join(views.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	d, err := driver.New(driver.Config{
		Name: "csi.closured.dev", Version: "test", NodeID: "node-a",
		Provider: provider, Pins: held, Views: views, Policy: policy.Default(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
