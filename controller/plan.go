package controller

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/nixstore"
)

// Rules are the operator's part of a plan.
type Rules struct {
	// RegistryHost is the host part of references.
	RegistryHost string
	// Backoff is how long after the first failure a build is tried again. It doubles
	// with each further one, up to BackoffMax.
	Backoff, BackoffMax time.Duration
	// Making identifies how this installation makes images of closures, on which
	// digests depend. When it changes all is built anew: no node serves an image with
	// another digest than its own. Empty: it never changes.
	Making string
}

// Plan is what shall become of one object.
type Plan struct {
	// Create are the builds that lack a Job.
	Create []buildjob.Key
	// Fail are attempts to give up.
	Fail []buildjob.Observation
	// Delete are Jobs that nobody needs any more.
	Delete []buildjob.Observation

	image   *v1alpha1.NixImage
	rules   Rules
	now     time.Time
	systems []*systemPlan
	wake    time.Duration // until time alone changes something; 0: never
}

// systemPlan is the state of one system.
type systemPlan struct {
	system   v1alpha1.System
	inputs   string
	resolved *v1alpha1.Resolution  // the newest result for these inputs; nil: none
	build    *buildjob.Observation // the newest attempt of what has to be built; nil: none
	pending  bool                  // there is something to build
	next     time.Time             // of a failed attempt: when the next one begins
	refused  *refusal              // the API server did not take the Job
}

// refusal is what the API server says of a Job that it did not take.
type refusal struct {
	reason, message string
}

// NewPlan says what to do about an object, given its Jobs.
func NewPlan(image *v1alpha1.NixImage, jobs []buildjob.Observation, rules Rules, now time.Time) *Plan {
	p := &Plan{image: image, rules: rules, now: now}
	keep := map[string]bool{}
	for _, system := range image.Spec.EffectiveSystems() {
		s := &systemPlan{system: system, inputs: buildjob.Inputs(&image.Spec, system, rules.Making)}
		p.systems = append(p.systems, s)
		p.planSystem(s, jobs)
		if s.build != nil {
			keep[s.build.Job.Name] = true
		}
	}
	for _, job := range jobs {
		if !keep[job.Job.Name] && job.Job.DeletionTimestamp.IsZero() {
			p.Delete = append(p.Delete, job)
		}
	}
	return p
}

// planSystem finds what one system has, lacks and waits for.
func (p *Plan) planSystem(s *systemPlan, jobs []buildjob.Observation) {
	round := int64(1)
	for _, r := range p.image.Status.Resolved {
		if r.System != s.system {
			continue
		}
		round = r.Round + 1
		if r.Inputs == s.inputs {
			s.resolved = &r
		}
	}
	if s.resolved != nil && !p.refreshDue(s.resolved) {
		return
	}
	s.pending = true
	key := buildjob.Key{System: s.system, Build: buildjob.BuildHash(&p.image.Spec, s.system, p.rules.Making), Round: round}
	s.build = latest(jobs, key)
	if s.build == nil {
		p.Create = append(p.Create, key)
		return
	}
	p.follow(s, round)
}

// refreshDue tells whether a result is to be looked at again, and when.
func (p *Plan) refreshDue(r *v1alpha1.Resolution) bool {
	interval := p.image.Spec.RefreshInterval
	if interval == nil || len(p.image.Spec.StorePaths) > 0 {
		return false
	}
	left := r.Time.Add(interval.Duration).Sub(p.now)
	if left > 0 {
		p.wakeIn(left)
	}
	return left <= 0
}

// latest gives the newest attempt of a build.
func latest(jobs []buildjob.Observation, key buildjob.Key) *buildjob.Observation {
	var last *buildjob.Observation
	for i := range jobs {
		k := jobs[i].Key
		k.Attempt = 0
		if k == key && (last == nil || jobs[i].Attempt > last.Attempt) {
			last = &jobs[i]
		}
	}
	return last
}

// follow acts on the newest attempt.
func (p *Plan) follow(s *systemPlan, round int64) {
	b := s.build
	if b.Phase == buildjob.Succeeded {
		if problem := p.wrongRoot(s.system, b); problem != "" {
			b.Phase, b.Reason, b.Message = buildjob.Failed, v1alpha1.ReasonReportFailed, problem
			b.Mark, b.Time = true, metav1.NewTime(p.now)
		}
	}
	switch b.Phase {
	case buildjob.Succeeded:
		s.resolved, s.pending = p.resolution(s, b, round), false
	case buildjob.Failed:
		if b.Mark && b.Reason == v1alpha1.ReasonDeadlineExceeded {
			b.Message = buildjob.Clip(b.Message + p.lastState(s.system))
		}
		if b.Mark {
			p.Fail = append(p.Fail, *b)
		}
		s.next = b.Time.Add(p.rules.delay(b.Job.Name, b.Attempt))
		if left := s.next.Sub(p.now); left > 0 {
			p.wakeIn(left)
			return
		}
		key := b.Key
		key.Attempt++
		p.Create = append(p.Create, key)
	case buildjob.Active, buildjob.Blocked:
		p.wakeIn(b.Recheck)
		p.wakeIn(pollDelay(p.now.Sub(b.Job.CreationTimestamp.Time)))
	}
}

// lastState gives what the condition Building said of a system, as the end of a
// sentence: what it waited for is what has to change, rather than the deadline.
func (p *Plan) lastState(system v1alpha1.System) string {
	c := meta.FindStatusCondition(p.image.Status.Conditions, v1alpha1.ConditionBuilding)
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.image.Generation {
		return ""
	}
	for line := range strings.Lines(c.Message) {
		if text, ok := strings.CutPrefix(line, string(system)+": "); ok {
			return "; its last state was: " + strings.TrimSpace(text)
		}
	}
	return ""
}

// wrongRoot compares a report with a source that is known beforehand.
func (p *Plan) wrongRoot(system v1alpha1.System, b *buildjob.Observation) string {
	want, ok := p.image.Spec.StorePaths[string(system)]
	if !ok || string(want) == b.Report.Root.String() {
		return ""
	}
	return nixstore.Fail(nixstore.ErrInvalid, "tell the operator, who knows who may make build pods", "the build pod reports on %s instead of %s", b.Report.Root, want).Error()
}

// wakeIn has the plan looked at again after d; 0 is never.
func (p *Plan) wakeIn(d time.Duration) {
	if d > 0 && (p.wake == 0 || d < p.wake) {
		p.wake = d
	}
}

// Wake gives when the object has to be looked at again although nothing changes.
func (p *Plan) Wake() time.Duration { return p.wake }

// Refused notes that the API server did not take the Job with the key.
func (p *Plan) Refused(key buildjob.Key, message string) {
	for _, s := range p.systems {
		if s.system == key.System {
			s.refused = &refusal{buildjob.RefusalReason(message), buildjob.Clip(message)}
		}
	}
}

// The limits of looking for events, which nobody announces.
const (
	pollFirst = 2 * time.Second
	pollLast  = time.Minute
)

// pollDelay gives when to look again at a Job of an age: soon at first.
func pollDelay(age time.Duration) time.Duration {
	const share = 4
	return min(max(age/share, pollFirst), pollLast)
}

// delay gives how long after an attempt the next one begins. The name spreads
// objects that fail together over a quarter of the time.
func (r Rules) delay(name string, attempt int) time.Duration {
	const doublings, spread, quarter = 30, 256, 4
	d := r.Backoff << min(attempt, doublings)
	if d <= 0 || d > r.BackoffMax {
		d = r.BackoffMax
	}
	return d + d/quarter*time.Duration(name[len(name)-1])/spread
}

// active tells whether a Job of the system may still end well.
func (s *systemPlan) active() bool {
	switch {
	case !s.pending || s.refused != nil:
		return false
	case s.build == nil:
		return true // it is being made
	}
	return s.build.Phase == buildjob.Active || s.build.Phase == buildjob.Blocked
}

// progressing tells whether a result may be near, and is worth waiting for: also when
// something is away for a moment, since each publication changes the digest. The
// deadline bounds it.
func (s *systemPlan) progressing() bool {
	return s.active() && (s.build == nil || s.build.Phase == buildjob.Active || s.build.Reason == v1alpha1.ReasonWaiting)
}

// problem gives what stands in the way, in words of Stalled; "" when nothing does.
func (s *systemPlan) problem() (reason, message string) {
	switch {
	case s.refused != nil:
		return s.refused.reason, s.refused.message
	case s.build != nil && s.pending && s.build.Phase != buildjob.Active:
		return s.build.Reason, s.build.Message
	}
	return "", ""
}

// resolution makes a result of a report.
func (p *Plan) resolution(s *systemPlan, b *buildjob.Observation, round int64) *v1alpha1.Resolution {
	r := b.Report
	return &v1alpha1.Resolution{
		SystemImage: v1alpha1.SystemImage{
			System: s.system, StorePath: v1alpha1.StorePath(r.Root.String()), Digest: r.Digest, ManifestSize: r.ManifestSize,
			ClosureSize: strconv.FormatInt(r.Size, 10), Paths: int32(r.Paths), //nolint:gosec // report.Parse bounds it
			Inputs: s.inputs, Node: r.Node,
		},
		Round: round, Time: metav1.NewTime(p.now).Rfc3339Copy(), // no clock of a node: refreshes are counted from it
	}
}

// results gives the results of all systems that have one, in the order of systems.
func (p *Plan) results() []v1alpha1.Resolution {
	var all []v1alpha1.Resolution
	for _, s := range p.systems {
		i := slices.IndexFunc(p.image.Status.Resolved, func(r v1alpha1.Resolution) bool { return r.System == s.system })
		switch {
		case s.resolved != nil:
			all = append(all, *s.resolved)
		case i >= 0:
			all = append(all, p.image.Status.Resolved[i]) // of an earlier spec: it counts the rounds
		}
	}
	return all
}
