package controller_test

import (
	"strings"
	"testing"

	"github.com/closured/closured/api/v1alpha1"
)

// TestAllIsBuiltAnewWhenImagesAreMadeInAnotherWay has the operator change the
// compression of layers, or a release that makes other bytes.
func TestAllIsBuiltAnewWhenImagesAreMadeInAnotherWay(t *testing.T) {
	t.Parallel()
	d := newDesk(t, three())
	d.rules.Making = "1 none"
	d.round()
	d.succeed(x86, "1")
	d.round()
	d.want("Ready", "True", v1alpha1.ReasonAvailable)
	d.round()
	if len(d.jobs) != 0 {
		t.Fatalf("%d Jobs at rest", len(d.jobs))
	}
	d.rules.Making = "1 gzip"
	if plan := d.round(); len(plan.Create) != 1 || plan.Create[0].Round != 2 {
		t.Fatalf("to be made are %+v", plan.Create)
	}
	d.want("Ready", "False", v1alpha1.ReasonBuilding)
	if d.image.Status.Digest != "sha256:"+strings.Repeat("1", 64) {
		t.Errorf("the old one is not in the status any more: %+v", d.image.Status)
	}
	d.succeed(x86, "2")
	d.round()
	d.want("Ready", "True", v1alpha1.ReasonAvailable)
	d.round()
	if h := d.image.Status.History; len(h) != 2 || len(d.jobs) != 0 {
		t.Errorf("the history is %+v, and %d Jobs are left", h, len(d.jobs))
	}
}
