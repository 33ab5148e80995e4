package buildjob_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/closured/closured/controller/buildjob"
)

// FuzzObserve reads what others write: kubelet's events, with the agent's words and
// a builder's log in them, a pod's last words, and annotations.
func FuzzObserve(f *testing.F) {
	f.Add("MountVolume.SetUp failed : rpc error: code = FailedPrecondition desc = why; log: a | b", "", "", int32(0))
	f.Add("", `{"root": "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-a"}`, "", int32(0))
	f.Add("", "killed", "", int32(137))
	f.Add("rpc error: code = DataLoss desc = \xff\x00", "", "Build Failed", int32(0))
	f.Add("", "", strings.Repeat("a", 5000), int32(0))
	reasons := regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`) // metav1.Condition's
	f.Fuzz(func(t *testing.T, event, message, annotation string, code int32) {
		o := buildjob.Observe(facts(func(f *buildjob.Facts, p *corev1.Pod) {
			if event != "" {
				f.Events = []corev1.Event{{Reason: "FailedMount", Message: event}, {Reason: "FailedCreate", Message: event}}
			}
			if message != "" {
				ends(code, message)(f, p)
			}
			if annotation != "" {
				f.Job.Annotations = map[string]string{
					"closured.dev/failure-reason": annotation, "closured.dev/failure-message": event, "closured.dev/failure-time": "2026-01-01T00:00:00Z",
				}
			}
		}))
		if len(o.Message) > 4096+len("…") || !utf8.ValidString(o.Message) || strings.ContainsAny(o.Message, "\x00\x1b\x7f") {
			t.Errorf("the message is %q", o.Message)
		}
		switch {
		case o.Phase == buildjob.Succeeded && (o.Report.Root.IsZero() || o.Report.Digest == ""):
			t.Errorf("a report of nothing: %+v", o.Report)
		case o.Phase != buildjob.Succeeded && (!reasons.MatchString(o.Reason) || len(o.Reason) > 1024):
			t.Errorf("the reason is %q", o.Reason)
		}
		if _, err := buildjob.FailurePatch(o); err != nil {
			t.Error(err)
		}
	})
}
