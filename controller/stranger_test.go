package controller_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/controller/report"
)

// TestAJobOfTheNameThatIsSomebodyElses: it is told as an obstacle, rather than asked
// for each second for ever, and the build begins when it is gone.
func TestAJobOfTheNameThatIsSomebodyElses(t *testing.T) {
	w := newWorld(t)
	w.start(t, options{})
	image := w.image(t, "taken", three())
	first := w.job(t, image, x86, "0")
	key, _ := buildjob.KeyOf(first)
	key.Attempt++
	stranger := buildjob.New(image, key, buildjob.Settings{Image: "other"})
	stranger.Labels, stranger.OwnerReferences = nil, nil
	must(t, w.Create(t.Context(), stranger))
	w.finish(t, first, report.Report{Failure: "disk full"})
	now := w.is(t, image, "Stalled", "True", v1alpha1.ReasonPodRefused)
	says(t, now, "Stalled", "there is a Job "+stranger.Name+" already", "next: see whose it is")
	w.is(t, image, "Building", "False", v1alpha1.ReasonRetrying)
	must(t, w.Delete(t.Context(), stranger, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	w.finish(t, w.job(t, image, x86, "1"), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
}
