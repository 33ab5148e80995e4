package controller_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/closured/closured/api/v1alpha1"
)

// TestAPodThatIsRefusedIsNoHotLoop has the API server refuse build pods by the
// installation's policy, with Kubernetes' own controller of Jobs, and then permit
// them: nobody touches the object or its Job.
func TestAPodThatIsRefusedIsNoHotLoop(t *testing.T) {
	w := newWorld(t)
	w.StartJobController(t)
	w.start(t, options{})
	refusal := w.refusePods(t)
	image := w.image(t, "refused", v1alpha1.NixImageSpec{FlakeRef: "github:a/b#c"})
	now := w.is(t, image, "Stalled", "True", v1alpha1.ReasonPolicyRefused)
	says(t, now, "Stalled", "flakeRef is not allowed")
	begin, before := time.Now(), w.requests(t)
	const tries = 4 // with pauses of 1 s, 2 s, 4 s and so on, up to a minute
	w.eventually(t, "the pod is tried again", func(context.Context) error {
		if n := w.requests(t)["create pods"]; n < before["create pods"]+tries {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	for what, n := range w.requests(t) {
		if n -= before[what]; n > 0 {
			t.Logf("%d times %s in %s", n, what, time.Since(begin).Round(time.Second))
		}
	}
	must(t, w.Delete(t.Context(), refusal))
	w.report(t, w.madePod(t, image), goodReport(x86, digest))
	w.is(t, image, "Ready", "True", v1alpha1.ReasonAvailable)
	w.is(t, image, "Stalled", "False", v1alpha1.ReasonProgressing)
}

// refusePods makes a policy of the installation's name that refuses flakes, and
// waits until it holds. Deleting the binding permits them.
func (w *world) refusePods(t *testing.T) *admissionv1.ValidatingAdmissionPolicyBinding {
	t.Helper()
	const name = "closured-volumes"
	scheme := w.Scheme()
	must(t, admissionv1.AddToScheme(scheme))
	pods := admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create},
		Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
	}}
	must(t, w.Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{pods}},
			Validations: []admissionv1.Validation{{
				Expression: "object.spec.volumes.all(v, !has(v.csi) || !('flakeRef' in v.csi.volumeAttributes))", Message: "flakeRef is not allowed",
			}},
		},
	}))
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
	must(t, w.Create(t.Context(), binding))
	probe := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "probe", Namespace: "default"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "a", Image: "a"}},
		Volumes: []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
			Driver: "a", VolumeAttributes: map[string]string{"flakeRef": "a"},
		}}}},
	}}
	w.eventually(t, "the policy holds", func(ctx context.Context) error {
		if err := w.Create(ctx, probe.DeepCopy(), client.DryRunAll); err == nil || !strings.Contains(err.Error(), "flakeRef is not allowed") {
			return fmt.Errorf("a pod may be made: %w", err)
		}
		return nil
	})
	return binding
}

// requests counts what was asked of the API server about Jobs, pods, events and
// objects of ours, watches and the part of this test left out.
func (w *world) requests(t *testing.T) map[string]int {
	t.Helper()
	data, err := os.ReadFile(w.AuditLog)
	must(t, err)
	seen := map[string]int{}
	for line := range strings.Lines(string(data)) {
		verb := between(line, `"verb":"`)
		if verb == "watch" || strings.Contains(line, `"userAgent":"controller.test`) && !strings.Contains(line, `"impersonatedUser"`) {
			continue
		}
		switch resource := between(line, `"resource":"`); resource {
		case "jobs", "pods", "events", "niximages":
			seen[verb+" "+resource]++
		}
	}
	return seen
}

func between(line, begin string) string {
	_, rest, _ := strings.Cut(line, begin)
	word, _, _ := strings.Cut(rest, `"`)
	return word
}

// madePod waits for the pod that Kubernetes makes for an object.
func (w *world) madePod(t *testing.T, image *v1alpha1.NixImage) *corev1.Pod {
	t.Helper()
	var list corev1.PodList
	w.eventually(t, "the pod of "+image.Name, func(ctx context.Context) error {
		if err := w.List(ctx, &list, client.InNamespace(tools), client.MatchingLabels{"closured.dev/niximage": image.Name}); err != nil {
			return err
		}
		if len(list.Items) != 1 || list.Items[0].Labels[batchv1.JobNameLabel] == "" {
			return errors.New("it is not there")
		}
		return nil
	})
	return &list.Items[0]
}
