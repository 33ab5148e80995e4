package controller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller"
	"github.com/closured/closured/controller/buildjob"
)

// desk plans for one object, with Jobs that are made up.
type desk struct {
	t     *testing.T
	image *v1alpha1.NixImage
	jobs  []buildjob.Observation
	now   time.Time
	rules controller.Rules
}

func newDesk(t *testing.T, spec v1alpha1.NixImageSpec) *desk {
	t.Helper()
	return &desk{
		t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		rules: controller.Rules{RegistryHost: "nix.internal", Backoff: time.Minute, BackoffMax: 10 * time.Minute},
		image: &v1alpha1.NixImage{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: tools, UID: "u", Generation: 1}, Spec: spec},
	}
}

// round plans, acts on the Jobs and writes the status.
func (d *desk) round() *controller.Plan {
	d.t.Helper()
	plan := controller.NewPlan(d.image, d.jobs, d.rules, d.now)
	status, err := plan.Status()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, gone := range plan.Delete {
		for i, job := range d.jobs {
			if job.Key == gone.Key {
				d.jobs = append(d.jobs[:i:i], d.jobs[i+1:]...)
				break
			}
		}
	}
	for _, key := range plan.Create {
		job := buildjob.New(d.image, key, buildjob.Settings{Image: "a"})
		job.CreationTimestamp = metav1.NewTime(d.now)
		d.jobs = append(d.jobs, buildjob.Observation{Key: key, Job: job, Reason: v1alpha1.ReasonScheduling, Message: "soon"})
	}
	d.image.Status = status
	return plan
}

// job gives the newest Job of a system.
func (d *desk) job(system v1alpha1.System) *buildjob.Observation {
	d.t.Helper()
	for i := len(d.jobs) - 1; i >= 0; i-- {
		if d.jobs[i].System == system {
			return &d.jobs[i]
		}
	}
	d.t.Fatalf("there is no Job for %s", system)
	return nil
}

func (d *desk) succeed(system v1alpha1.System, digit string) {
	d.t.Helper()
	o := d.job(system)
	o.Phase = buildjob.Succeeded
	o.Report = goodReport(string(system), "sha256:"+strings.Repeat(digit, 64))
}

func (d *desk) fail(system v1alpha1.System, reason string) {
	d.t.Helper()
	o := d.job(system)
	o.Phase, o.Reason, o.Message, o.Time = buildjob.Failed, reason, "words", metav1.NewTime(d.now)
}

// want checks a condition, and that a further plan changes nothing.
func (d *desk) want(condition, status, reason string) {
	d.t.Helper()
	c := meta.FindStatusCondition(d.image.Status.Conditions, condition)
	if string(c.Status) != status || c.Reason != reason {
		d.t.Errorf("%s is %s %s (%s), want %s %s", condition, c.Status, c.Reason, c.Message, status, reason)
	}
}

func TestPlanSettles(t *testing.T) {
	t.Parallel()
	d := newDesk(t, three())
	d.round()
	d.round()
	d.succeed(x86, "1")
	d.round()
	d.want("Ready", "True", v1alpha1.ReasonAvailable)
	for range 3 {
		before := d.image.Status.DeepCopy()
		d.round()
		d.now = d.now.Add(time.Hour)
		if !equality.Semantic.DeepEqual(*before, d.image.Status) || len(d.jobs) > 0 && before.ObservedGeneration == 0 {
			t.Errorf("at rest the status changes: %+v", d.image.Status)
		}
	}
	if plan := d.round(); plan.Wake() != 0 || len(d.jobs) != 0 {
		t.Errorf("at rest it wakes in %s, and has %d Jobs", plan.Wake(), len(d.jobs))
	}
}

func TestBackoffGrows(t *testing.T) {
	t.Parallel()
	d := newDesk(t, three())
	d.round()
	last := time.Duration(0)
	for attempt := range 6 {
		d.fail(x86, v1alpha1.ReasonBuildFailed)
		plan := d.round()
		d.want("Stalled", "True", v1alpha1.ReasonBuildFailed)
		if len(plan.Create) != 0 || plan.Wake() <= last && last < d.rules.BackoffMax || plan.Wake() > d.rules.BackoffMax*5/4 {
			t.Fatalf("attempt %d: the next one in %s, after %s", attempt, plan.Wake(), last)
		}
		last = plan.Wake()
		d.now = d.now.Add(last)
		if plan = d.round(); len(plan.Create) != 1 || plan.Create[0].Attempt != attempt+1 {
			t.Fatalf("attempt %d: makes %+v", attempt, plan.Create)
		}
		d.round()
		d.want("Stalled", "True", v1alpha1.ReasonBuildFailed) // until this attempt says something
		if len(d.jobs) != 1 {
			t.Fatalf("%d Jobs are kept", len(d.jobs))
		}
	}
}

func TestADeadlineSaysWhatWasWaitedFor(t *testing.T) {
	t.Parallel()
	spec := three()
	spec.Systems = []v1alpha1.System{x86, arm}
	d := newDesk(t, spec)
	d.round()
	for _, s := range spec.Systems {
		o := d.job(s)
		o.Phase, o.Reason, o.Message = buildjob.Blocked, v1alpha1.ReasonNoNode, "no node for "+string(s)
	}
	d.round()
	d.want("Stalled", "True", v1alpha1.ReasonNoNode)
	d.fail(arm, v1alpha1.ReasonDeadlineExceeded)
	d.job(arm).Mark = true
	plan := d.round()
	const words = "words; its last state was: no node for aarch64-linux"
	if len(plan.Fail) != 1 || plan.Fail[0].Message != words {
		t.Errorf("to be kept with the Job is %+v, want %q", plan.Fail, words)
	}
	c := meta.FindStatusCondition(d.image.Status.Conditions, "Stalled")
	if want := "x86_64-linux: no node for x86_64-linux\naarch64-linux: " + words; c.Message != want {
		t.Errorf("Stalled says %q, want %q", c.Message, want)
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	spec := three()
	spec.RefreshInterval = &metav1.Duration{Duration: time.Hour}
	d := newDesk(t, spec)
	d.round()
	d.succeed(x86, "1")
	d.round()
	if plan := d.round(); plan.Wake() != time.Hour || len(plan.Create) != 0 {
		t.Fatalf("wakes in %s, makes %v", plan.Wake(), plan.Create)
	}
	d.now = d.now.Add(time.Hour)
	if plan := d.round(); len(plan.Create) != 1 || plan.Create[0].Round != 2 {
		t.Fatalf("makes %v", plan.Create)
	}
	d.round()
	d.want("Ready", "True", v1alpha1.ReasonAvailable) // the old one is what the spec says, too
	d.succeed(x86, "2")
	d.round()
	if h := d.image.Status.History; len(h) != 2 || d.image.Status.Resolved[0].Round != 2 {
		t.Errorf("status %+v", d.image.Status)
	}
}

// TestTimesAreTheControllers: what a node's clock says of a build's end neither
// hastens nor delays anything.
func TestTimesAreTheControllers(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		spec := three()
		spec.RefreshInterval = &metav1.Duration{Duration: time.Minute}
		d := newDesk(t, spec)
		d.round()
		d.succeed(x86, "1")
		d.job(x86).Time = metav1.NewTime(d.now.Add(skew))
		d.round()
		if got := d.image.Status.Resolved[0].Time.Time; !got.Equal(d.now) {
			t.Errorf("a clock that is wrong by %s: resolved at %s", skew, got)
		}
		if plan := d.round(); len(plan.Create) != 0 || plan.Wake() != time.Minute {
			t.Errorf("a clock that is wrong by %s: makes %v, wakes in %s", skew, plan.Create, plan.Wake())
		}
	}
}

func TestAServedSystemIsNotTakenAway(t *testing.T) {
	t.Parallel()
	spec := three()
	spec.Systems = []v1alpha1.System{x86, arm}
	d := newDesk(t, spec)
	d.round()
	d.succeed(x86, "1")
	d.round()
	if d.image.Status.Digest != "" {
		t.Fatal("published while the other one may still be built")
	}
	d.succeed(arm, "2")
	d.round()
	both := d.image.Status.Digest
	d.image.Spec.Contents, d.image.Generation = []v1alpha1.PackageName{"git"}, 2
	d.round()
	d.succeed(x86, "3")
	d.fail(arm, v1alpha1.ReasonBuildFailed)
	d.round()
	d.want("Ready", "False", v1alpha1.ReasonNotAvailable)
	if d.image.Status.Digest != both || both == "" {
		t.Errorf("digest %s, want %s", d.image.Status.Digest, both)
	}
}

// TestWhatIsAwayForAMomentIsWaitedFor: it makes no version that lacks a system, and
// nobody is sent to a condition that has nothing to say.
func TestWhatIsAwayForAMomentIsWaitedFor(t *testing.T) {
	t.Parallel()
	spec := three()
	spec.Systems = []v1alpha1.System{x86, arm}
	d := newDesk(t, spec)
	d.round()
	d.succeed(x86, "1")
	o := d.job(arm)
	o.Phase, o.Reason, o.Message = buildjob.Blocked, v1alpha1.ReasonWaiting, "the cache does not answer"
	d.round()
	d.want("Ready", "False", v1alpha1.ReasonBuilding)
	d.want("Building", "True", v1alpha1.ReasonWaiting)
	d.want("Stalled", "False", v1alpha1.ReasonProgressing)
	if c := meta.FindStatusCondition(d.image.Status.Conditions, "Ready"); !strings.Contains(c.Message, "see the condition Building") || d.image.Status.Digest != "" {
		t.Errorf("it says %q, and serves %q", c.Message, d.image.Status.Digest)
	}
	d.succeed(arm, "2")
	d.round()
	if h := d.image.Status.History; len(h) != 1 || len(h[0].Images) != 2 {
		t.Errorf("history %+v", h)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	d := newDesk(t, three())
	d.image.Spec.HistoryLimit = new(int32(2))
	for n := range 6 {
		d.image.Spec.Contents, d.image.Generation = []v1alpha1.PackageName{v1alpha1.PackageName(fmt.Sprintf("p%d", n))}, int64(n+1)
		d.round()
		d.succeed(x86, fmt.Sprint(n))
		d.round()
	}
	if h := d.image.Status.History; len(h) != 3 || h[0].Digest != d.image.Status.Digest || h[2].Generation != 4 {
		t.Errorf("history %+v", h)
	}
	d.image.Spec.Tag = "v9"
	d.round()
	if s := d.image.Status; !strings.HasSuffix(s.Reference, ":v9") || len(s.History) != 3 || len(d.jobs) != 0 {
		t.Errorf("another tag needs no build: %+v, %d Jobs", s, len(d.jobs))
	}
}

// TestHistoryStaysStorable: etcd has a limit, which many versions of a long config
// must not reach. JSON takes six bytes for some characters.
func TestHistoryStaysStorable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		variable string
		want     int
	}{
		"short":                    {"A=b", 11},
		"long":                     {"A=" + strings.Repeat("b", 32000), 11},
		"long, and longer in JSON": {"A=" + strings.Repeat("<", 32000), 2},
		"longer than all may be":   {"A=" + strings.Repeat("<", 100000), 1},
		"just as long as may be":   {"A=" + strings.Repeat("b", 46000), 11},
		"just longer than may be":  {"A=" + strings.Repeat("b", 47800), 10},
	} {
		d := newDesk(t, v1alpha1.NixImageSpec{Tag: "v1", Contents: []v1alpha1.PackageName{"curl"}})
		d.image.Spec.HistoryLimit = new(int32(10))
		d.image.Spec.Config.Env = []string{test.variable}
		for i := range 12 {
			d.image.Generation++
			d.image.Spec.Config.User = fmt.Sprint(i)
			d.round()
			d.succeed("x86_64-linux", fmt.Sprintf("%x", i))
			d.round()
		}
		h := d.image.Status.History
		if len(h) != test.want || h[0].Digest != d.image.Status.Digest || h[0].Config.User != "11" {
			t.Errorf("%s: %d versions are kept, want %d; the first is %s", name, len(h), test.want, h[0].Config.User)
		}
	}
}

func TestAReportOnAnotherPathIsRefused(t *testing.T) {
	t.Parallel()
	d := newDesk(t, v1alpha1.NixImageSpec{StorePaths: map[string]v1alpha1.StorePath{x86: "/nix/store/2rz4g4znpzjwh1xymhjpm42vipw92pr7-jq-1.6"}})
	d.round()
	d.succeed(x86, "1")
	plan := d.round()
	d.want("Stalled", "True", v1alpha1.ReasonReportFailed)
	if d.image.Status.Digest != "" {
		t.Error("it is served")
	}
	if len(plan.Fail) != 1 || !plan.Fail[0].Time.Time.Equal(d.now) || len(plan.Create) != 0 {
		t.Errorf("given up is %+v, and made %v", plan.Fail, plan.Create)
	}
}

func ExampleNewPlan() {
	image := &v1alpha1.NixImage{Spec: v1alpha1.NixImageSpec{Contents: []v1alpha1.PackageName{"curl"}}}
	plan := controller.NewPlan(image, nil, controller.Rules{}, time.Time{})
	fmt.Println("builds:", len(plan.Create), plan.Create[0].System)
	// Output: builds: 1 x86_64-linux
}
