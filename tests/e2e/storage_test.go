//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"k8s.io/kubernetes/test/e2e/framework"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init" // by which it looks at nodes
	"k8s.io/kubernetes/test/e2e/storage/external"
	"k8s.io/kubernetes/test/utils/image"
)

// TestExternalStorageSuite runs the specs of the Kubernetes external storage suite
// for inline volumes. storage-driver.yaml tells it of the driver.
func TestExternalStorageSuite(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	// Its pods' image, which nobody can pull here.
	tag := exec.CommandContext(t.Context(), filepath.Join(w.dir, "bin", "ctr"), "-n", "k8s.io", "images", "tag", "--force",
		busyboxImage, image.GetE2EImage(image.BusyBox))
	if out, err := tag.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defaults := flag.NewFlagSet("storage", flag.ContinueOnError)
	framework.RegisterCommonFlags(defaults)
	framework.RegisterClusterFlags(defaults)
	c := &framework.TestContext
	c.KubeConfig = filepath.Join(w.dir, "pki", "admin.kubeconfig")
	c.Provider, c.CloudConfig.NumNodes = "skeleton", 1
	c.DumpLogsOnFailure = false
	framework.AfterReadingAllFlags(c)
	if err := external.AddDriverDefinition("storage-driver.yaml"); err != nil {
		t.Fatal(err)
	}
	gomega.RegisterFailHandler(framework.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = []string{`CSI Ephemeral-volume \(default fs\)`}
	reporter.Succinct, reporter.SilenceSkips, reporter.NoColor = true, true, true
	passed := 0
	ginkgo.ReportAfterSuite("count", func(report ginkgo.Report) {
		for _, spec := range report.SpecReports {
			if spec.State == types.SpecStatePassed && spec.LeafNodeType == types.NodeTypeIt {
				passed++
				fmt.Printf("    passed in %s: %s\n", spec.RunTime.Round(100*time.Millisecond), spec.LeafNodeText)
			}
		}
	})
	ginkgo.RunSpecs(t, "external storage", suite, reporter)
	if passed != 4 {
		t.Errorf("%d specs passed, want 4: read-only, read and write, two pods, two volumes", passed)
	}
}
