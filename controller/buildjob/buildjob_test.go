package buildjob_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/controller/report"
	"github.com/closured/closured/nixstore"
)

const root = "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2"

func image() *v1alpha1.NixImage {
	return &v1alpha1.NixImage{
		ObjectMeta: metav1.ObjectMeta{Name: "curl", Namespace: "tools", UID: "u1"},
		Spec:       v1alpha1.NixImageSpec{Tag: "v1", Contents: []v1alpha1.PackageName{"jq", "curl"}},
	}
}

func key(i *v1alpha1.NixImage, system v1alpha1.System) buildjob.Key {
	return buildjob.Key{System: system, Build: buildjob.BuildHash(&i.Spec, system, ""), Round: 1}
}

func TestNamesFollowFromWhatIsBuilt(t *testing.T) {
	t.Parallel()
	base := image()
	name := buildjob.Name(base, key(base, "x86_64-linux"))
	for what, change := range map[string]struct {
		edit func(*v1alpha1.NixImage, *buildjob.Key)
		same bool
	}{
		"the order of packages": {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.Spec.Contents = []v1alpha1.PackageName{"curl", "jq"} }, true},
		"the tag":               {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.Spec.Tag = "v2" }, true},
		"the history":           {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.Spec.HistoryLimit = new(int32) }, true},
		"a package":             {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.Spec.Contents = []v1alpha1.PackageName{"curl"} }, false},
		"the config":            {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.Spec.Config.User = "1" }, false},
		"where it is built": {func(i *v1alpha1.NixImage, _ *buildjob.Key) {
			i.Spec.Build.NodeSelector = map[string]v1alpha1.SelectorValue{"a": "b"}
		}, false},
		"another object of the name": {func(i *v1alpha1.NixImage, _ *buildjob.Key) { i.UID = "u2" }, false},
		"the round":                  {func(_ *v1alpha1.NixImage, k *buildjob.Key) { k.Round = 2 }, false},
		"the attempt":                {func(_ *v1alpha1.NixImage, k *buildjob.Key) { k.Attempt = 1 }, false},
	} {
		i, k := image(), buildjob.Key{}
		change.edit(i, &k)
		full := key(i, "x86_64-linux")
		full.Round, full.Attempt = max(k.Round, 1), k.Attempt
		if got := buildjob.Name(i, full); (got == name) != change.same {
			t.Errorf("%s: the same name: %t, want %t", what, got == name, change.same)
		}
	}
	for _, long := range []string{strings.Repeat("a", 63), strings.Repeat("a.", 20) + "a", strings.Repeat("a-", 31) + "a"} {
		i := image()
		i.Name = long
		if got := buildjob.Name(i, key(i, "x86_64-linux")); len(validation.IsDNS1123Label(got)) > 0 || len(got) > 63-6 {
			t.Errorf("the name %q is no label of a pod", got)
		}
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	i := image()
	i.Spec.Config = v1alpha1.ImageConfig{Cmd: []string{"$(HOME)"}}
	i.Spec.Build.NodeSelector = map[string]v1alpha1.SelectorValue{"disk": "fast", "pool": "production"}
	i.Spec.Build.Deadline = &metav1.Duration{Duration: 90 * time.Second}
	k := key(i, "aarch64-linux")
	settings := buildjob.Settings{Image: "closured:1", NodeSelector: map[string]string{"pool": "nix", "kubernetes.io/arch": "s390x"}, PullSecrets: []string{"a"}}
	job := buildjob.New(i, k, settings)
	if d := cmp.Diff(job, buildjob.New(i, k, settings)); d != "" {
		t.Errorf("two calls differ: %s", d)
	}
	if got, ok := buildjob.KeyOf(job); !ok || got != k {
		t.Errorf("key %+v, want %+v", got, k)
	}
	pod := job.Spec.Template.Spec
	want := map[string]string{"disk": "fast", "pool": "nix", "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
	if d := cmp.Diff(want, pod.NodeSelector); d != "" {
		t.Errorf("node selector: %s", d)
	}
	if d := cmp.Diff(map[string]string{"packages": "curl jq"}, pod.Volumes[0].CSI.VolumeAttributes); d != "" {
		t.Errorf("attributes: %s", d)
	}
	if d := cmp.Diff([]corev1.LocalObjectReference{{Name: "a"}}, pod.ImagePullSecrets); d != "" {
		t.Errorf("pull secrets: %s", d)
	}
	if *job.Spec.ActiveDeadlineSeconds != 90 || *job.Spec.BackoffLimit != 0 {
		t.Errorf("deadline %d, back-off limit %d", *job.Spec.ActiveDeadlineSeconds, *job.Spec.BackoffLimit)
	}
	if args := strings.Join(pod.Containers[0].Args, " "); !strings.Contains(args, "--cmd=$$(HOME)") || !strings.HasPrefix(args, "report --system=aarch64-linux") {
		t.Errorf("arguments %s", args)
	}
	for name, src := range map[string]v1alpha1.NixImageSpec{
		"flakeRef": {FlakeRef: "a#b"}, "nixExpr": {Expression: "x"},
		"x86_64-linux": {StorePaths: map[string]v1alpha1.StorePath{"x86_64-linux": root}},
	} {
		i.Spec = src
		got := buildjob.New(i, key(i, "x86_64-linux"), settings).Spec.Template.Spec.Volumes[0].CSI.VolumeAttributes
		if len(got) != 1 || got[name] == "" {
			t.Errorf("attributes %v, want %s", got, name)
		}
	}
}

// now is the time of all facts.
func now() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// facts are those of a Job with a pod on a node.
func facts(edit func(*buildjob.Facts, *corev1.Pod)) buildjob.Facts {
	i := image()
	f := buildjob.Facts{Job: buildjob.New(i, key(i, "x86_64-linux"), buildjob.Settings{Image: "a"}), Now: now()}
	pod := corev1.Pod{Spec: corev1.PodSpec{NodeName: "node-a"}}
	edit(&f, &pod)
	if f.Pods == nil {
		f.Pods = []corev1.Pod{pod}
	}
	return f
}

func mountFails(note string) func(*buildjob.Facts, *corev1.Pod) {
	return func(f *buildjob.Facts, _ *corev1.Pod) {
		old := metav1.NewTime(f.Now.Add(-time.Hour))
		f.Events = []corev1.Event{
			{Reason: "FailedMount", Message: "rpc error: code = InvalidArgument desc = long ago", LastTimestamp: old},
			{Reason: "FailedMount", Message: note, LastTimestamp: metav1.NewTime(f.Now)},
			{Reason: "Pulled", Message: "x", LastTimestamp: metav1.NewTime(f.Now.Add(time.Hour))},
		}
	}
}

func rpc(code string) func(*buildjob.Facts, *corev1.Pod) {
	return mountFails(`MountVolume.SetUp failed for volume "nix" : rpc error: code = ` + code + ` desc = why; next: this`)
}

// waits has the container wait for a reason.
func waits(reason string) func(*buildjob.Facts, *corev1.Pod) {
	return func(_ *buildjob.Facts, p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "report", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "gone"}},
		}}
	}
}

func both(first, second func(*buildjob.Facts, *corev1.Pod)) func(*buildjob.Facts, *corev1.Pod) {
	return func(f *buildjob.Facts, p *corev1.Pod) {
		first(f, p)
		second(f, p)
	}
}

func ends(code int32, message string) func(*buildjob.Facts, *corev1.Pod) {
	return func(_ *buildjob.Facts, p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "report", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{
				ExitCode: code, Message: message, Reason: "Error", FinishedAt: metav1.NewTime(now().Add(-time.Hour)), // a clock that is behind
			},
		}}}
	}
}

func condition(kind batchv1.JobConditionType, reason string) func(*buildjob.Facts, *corev1.Pod) {
	return func(f *buildjob.Facts, _ *corev1.Pod) {
		f.Job.Status.Conditions = []batchv1.JobCondition{{
			Type: kind, Status: "True", Reason: reason, Message: "words", LastTransitionTime: metav1.NewTime(now().Add(-time.Hour)),
		}}
		f.Pods = []corev1.Pod{}
	}
}

func encoded(r report.Report) string {
	data, _ := r.Encode()
	return string(data)
}

// unplaced is a pod that no node has taken for some time.
func unplaced(since time.Duration) func(*buildjob.Facts, *corev1.Pod) {
	return func(f *buildjob.Facts, p *corev1.Pod) {
		p.Spec.NodeName = ""
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: "False", Reason: "Unschedulable", Message: "0/3 nodes", LastTransitionTime: metav1.NewTime(f.Now.Add(-since)),
		}}
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	good := report.Report{
		Root: nixstore.MustParseStorePath(root), System: "x86_64-linux", Digest: "sha256:" + strings.Repeat("a", 64), ManifestSize: 1, Paths: 1,
	}
	other := good
	other.System = "aarch64-linux"
	for name, test := range map[string]struct {
		edit   func(*buildjob.Facts, *corev1.Pod)
		phase  buildjob.Phase
		reason string
		mark   bool
		says   string
	}{
		"no pod yet": {func(f *buildjob.Facts, _ *corev1.Pod) { f.Pods = []corev1.Pod{} }, buildjob.Active, "Scheduling", false, "not made"},
		"a pod that no quota admits": {func(f *buildjob.Facts, _ *corev1.Pod) {
			f.Pods, f.Events = []corev1.Pod{}, []corev1.Event{{Reason: "FailedCreate", Message: "exceeded quota: q"}}
		}, buildjob.Blocked, "QuotaExceeded", false, "exceeded quota: q"},
		"a pod that is refused": {func(f *buildjob.Facts, _ *corev1.Pod) {
			f.Pods, f.Events = []corev1.Pod{}, []corev1.Event{{Reason: "FailedCreate", Message: "violates PodSecurity"}}
		}, buildjob.Blocked, "PodRefused", false, "violates"},
		"a pod that is refused under a name of its own": {func(f *buildjob.Facts, _ *corev1.Pod) {
			f.Pods, f.Events = []corev1.Pod{}, []corev1.Event{{Reason: "FailedCreate", Message: `Error creating: pods "curl-ab1fb3f42b781337-cnzvh" is forbidden: exceeded quota: q`}}
		}, buildjob.Blocked, "QuotaExceeded", false, "the build pod is forbidden: exceeded quota: q"},
		"a pod that admission refuses by the policy": {func(f *buildjob.Facts, _ *corev1.Pod) {
			f.Pods, f.Events = []corev1.Pod{}, []corev1.Event{{Reason: "FailedCreate", Message: `Error creating: pods "a" is forbidden: ValidatingAdmissionPolicy 'closured-volumes' with binding 'closured-volumes' denied request: flakeRef is not allowed`}}
		}, buildjob.Blocked, "PolicyRefused", false, "the build pod is forbidden: ValidatingAdmissionPolicy"},
		"no node for a moment":       {unplaced(time.Second), buildjob.Active, "Scheduling", false, "0/3 nodes"},
		"no node":                    {unplaced(time.Minute), buildjob.Blocked, "NoNode", false, "0/3 nodes"},
		"on its node":                {func(*buildjob.Facts, *corev1.Pod) {}, buildjob.Active, "Realising", false, "node-a"},
		"still building":             {rpc("Aborted"), buildjob.Active, "Realising", false, "why; next: this"},
		"a cache is away":            {rpc("Unavailable"), buildjob.Blocked, "Waiting", false, "why"},
		"the disk is full":           {rpc("ResourceExhausted"), buildjob.Blocked, "Waiting", false, "why"},
		"no agent yet":               {mountFails("driver name csi.closured.dev not found in the list of registered CSI drivers"), buildjob.Blocked, "Waiting", false, "not found in the list"},
		"no cache has it":            {rpc("NotFound"), buildjob.Blocked, "SourceNotFound", false, "why"},
		"a bad source":               {rpc("InvalidArgument"), buildjob.Failed, "InvalidSource", true, "why"},
		"refused by policy":          {rpc("PermissionDenied"), buildjob.Failed, "PolicyRefused", true, "why"},
		"a builder fails":            {rpc("FailedPrecondition"), buildjob.Failed, "BuildFailed", true, "why"},
		"corrupt":                    {rpc("DataLoss"), buildjob.Failed, "Corrupt", true, "why"},
		"a report":                   {ends(0, encoded(good)), buildjob.Succeeded, "", false, ""},
		"a report of a failure":      {ends(1, `{"error":"no space"}`), buildjob.Failed, "ReportFailed", true, "no space"},
		"a report on another system": {ends(0, encoded(other)), buildjob.Failed, "ReportFailed", true, "aarch64-linux"},
		"no report":                  {ends(0, "hello"), buildjob.Failed, "ReportFailed", true, "cannot be used"},
		"killed":                     {ends(137, "last words"), buildjob.Failed, "ReportFailed", true, "code 137"},
		"about to be too late":       {condition(batchv1.JobFailureTarget, "DeadlineExceeded"), buildjob.Failed, "DeadlineExceeded", true, "1h0m0s"},
		"too late":                   {condition(batchv1.JobFailed, "DeadlineExceeded"), buildjob.Failed, "DeadlineExceeded", true, "1h0m0s"},
		"failed without a pod":       {condition(batchv1.JobFailed, "BackoffLimitExceeded"), buildjob.Failed, "ReportFailed", true, "deletes it: words; next: wait"},
		"failed with a pod that kubelet evicted": {both(condition(batchv1.JobFailed, "BackoffLimitExceeded"), func(f *buildjob.Facts, _ *corev1.Pod) {
			f.Pods = []corev1.Pod{{Spec: corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{Phase: "Failed", Reason: "Evicted", Message: "too much on the disk"}}}
		}), buildjob.Failed, "ReportFailed", true, ": Evicted: too much on the disk; next: wait"},
		"done without a pod": {condition(batchv1.JobComplete, ""), buildjob.Failed, "ReportFailed", true, "before its report"},
		"an image that is not there": {func(_ *buildjob.Facts, p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "gone"}}}}
		}, buildjob.Blocked, "BuildImagePull", false, "gone"},
		"an image that is not there, after mounts that failed": {both(rpc("NotFound"), waits("ImagePullBackOff")), buildjob.Blocked, "BuildImagePull", false, "ImagePullBackOff: gone"},
		"a volume that is there, after mounts that failed": {both(rpc("NotFound"), func(_ *buildjob.Facts, p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: "True"}}
		}), buildjob.Active, "Realising", false, "the build pod starts"},
		"an init container that runs, after mounts that failed": {both(rpc("NotFound"), func(_ *buildjob.Facts, p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}), buildjob.Active, "Realising", false, "the build pod starts"},
		"mounts that fail in a pod without a sandbox": {both(rpc("NotFound"), func(_ *buildjob.Facts, p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: "False"}}
		}), buildjob.Blocked, "SourceNotFound", false, "why"},
		"mounts that fail before a container":       {both(rpc("NotFound"), waits("ContainerCreating")), buildjob.Blocked, "SourceNotFound", false, "why"},
		"mounts that fail before an init container": {both(rpc("NotFound"), waits("PodInitializing")), buildjob.Blocked, "SourceNotFound", false, "why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := buildjob.Observe(facts(test.edit))
			if test.mark && !o.Time.Time.Equal(now()) {
				t.Errorf("it failed at %s", o.Time)
			}
			if o.Phase != test.phase || o.Reason != test.reason || o.Mark != test.mark || !strings.Contains(o.Message, test.says) {
				t.Errorf("got %d %q %t %q", o.Phase, o.Reason, o.Mark, o.Message)
			}
		})
	}
}

func TestDisruptedPods(t *testing.T) {
	t.Parallel()
	target := func(status corev1.ConditionStatus) func(*buildjob.Facts, *corev1.Pod) {
		return func(_ *buildjob.Facts, p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: status, Reason: "EvictionByEvictionAPI"}}
		}
	}
	for name, test := range map[string]struct {
		edit func(*buildjob.Facts, *corev1.Pod)
		want bool
	}{
		"one that runs":                        {func(*buildjob.Facts, *corev1.Pod) {}, false},
		"one that failed":                      {ends(1, "x"), false},
		"one that was evicted":                 {both(ends(143, ""), target("True")), true},
		"one that was evicted before it ran":   {target("True"), true},
		"one that nobody evicts any more":      {both(ends(1, "x"), target("False")), false},
		"one that reported while it was moved": {both(ends(0, "{}"), target("True")), false},
	} {
		if got := buildjob.Disrupted(&facts(test.edit).Pods[0]); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAnAttemptThatWasGivenUpStaysSo(t *testing.T) {
	t.Parallel()
	f := facts(rpc("PermissionDenied"))
	first := buildjob.Observe(f)
	patch, err := buildjob.FailurePatch(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(patch, f.Job); err != nil {
		t.Fatal(err)
	}
	f.Job.Annotations["example.org/other"] = "x"
	f.Job.Annotations = buildjob.Annotations(f.Job)
	if len(f.Job.Annotations) != 3 {
		t.Errorf("annotations %v", f.Job.Annotations)
	}
	f.Pods, f.Events, f.Now = nil, nil, f.Now.Add(time.Hour)
	again := buildjob.Observe(f)
	if again.Phase != buildjob.Failed || again.Mark || again.Message != first.Message || !again.Time.Equal(&first.Time) || !*f.Job.Spec.Suspend {
		t.Errorf("first %+v, then %+v", first, again)
	}
}

func TestFault56TextsAreBounded(t *testing.T) {
	t.Parallel()
	o := buildjob.Observe(facts(ends(1, strings.Repeat("log \x1b[31m\xff", 1<<20))))
	if len(o.Message) > 5000 || !utf8.ValidString(o.Message) || strings.Contains(o.Message, "\x1b") {
		t.Errorf("%d bytes: %.80q", len(o.Message), o.Message)
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a line\n\tand é, 猫":        "a line\n\tand é, 猫",
		"\x1b[31mred\x9b\u009b1m":   "[31mred1m",
		"over\rwritten\x7f\x00":     "overwritten",
		"\u202egnp.exe\u2066\u200b": "gnp.exe",
		"two\u2028lines":            "twolines",
		"half \xf0\x9f":             "half ",
	} {
		if got := buildjob.Clip(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	if got := buildjob.ClipTo("123456789", 5); got != "12345…" {
		t.Errorf("got %q", got)
	}
}

func ExampleNew() {
	i := image()
	job := buildjob.New(i, key(i, "x86_64-linux"), buildjob.Settings{Image: "closured:1"})
	fmt.Println(job.Namespace, job.Spec.Template.Spec.Volumes[0].CSI.VolumeAttributes)
	// Output: tools map[packages:curl jq]
}
