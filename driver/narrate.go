package driver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/closured/closured/driver/attributes"
	"github.com/closured/closured/internal/redact"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
)

// The times of a narration.
const (
	// coldAfter is how long a publish waits before anybody is told that it does. A
	// warm one needs a tenth of it at most, and so says nothing.
	coldAfter = 100 * time.Millisecond
	// noFlightEvery is how often a publish that waits for something else than a
	// flight, such as a collector, looks whether there is one now.
	noFlightEvery = time.Second
	// laterMarks is the distance of marks after the last of marks().
	laterMarks = 30 * time.Minute
	// repeatAfter is when a failure that stays the same is told again, so that the
	// API server, which forgets events after an hour, always has one.
	repeatAfter = 30 * time.Minute
	// forgetAfter is when a volume that nobody came back for is forgotten: kubelet
	// does not unpublish what failed for good.
	forgetAfter = 2 * time.Hour
	// closureTimeout bounds the reading of a closure for its count and size.
	closureTimeout = time.Second
)

// marks gives the ages of a flight at which its progress is told.
func marks() []time.Duration {
	return []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute}
}

// markBefore gives the last mark that age has reached, or 0.
func markBefore(age time.Duration) time.Duration {
	last := marks()[len(marks())-1]
	if age >= last+laterMarks {
		return last + (age - last).Truncate(laterMarks)
	}
	var reached time.Duration
	for _, m := range marks() {
		if m <= age {
			reached = m
		}
	}
	return reached
}

// markAfter gives the first mark that age has not reached.
func markAfter(age time.Duration) time.Duration {
	for _, m := range marks() {
		if m > age {
			return m
		}
	}
	return markBefore(age) + laterMarks
}

// story is what was told of a volume that is not published yet. It goes on from
// call to call. Only the call that holds the volume's lock uses it, and of that
// its narrator while it runs.
type story struct {
	holder   nixstore.Holder
	waited   bool          // it was told that the volume waits for an image
	flight   time.Time     // when the flight began that was told of last; zero: of none
	told     time.Duration // the last mark told of it
	failure  string        // the gist of the last failure told; empty: of none
	failedAt time.Time
	touched  time.Time // guarded by stories.mu
}

// empty tells whether nothing was told.
func (s *story) empty() bool { return s.fresh() && !s.waited }

// fresh tells whether nothing was told of work on the closure.
func (s *story) fresh() bool { return s.flight.IsZero() && s.failure == "" }

// stories remembers stories by volume.
type stories struct {
	mu       sync.Mutex // guards byVolume
	byVolume map[string]*story
}

func newStories() *stories { return &stories{byVolume: map[string]*story{}} }

// get gives the story of the volume and its holder, a new one that is not
// remembered yet if need be.
func (s *stories) get(volume string, h nixstore.Holder) *story {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byVolume[volume]; have != nil && have.holder == h {
		return have
	}
	return &story{holder: h}
}

// keep remembers a story of which something was told, and forgets old ones.
func (s *stories) keep(volume string, of *story, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of.touched = now
	s.byVolume[volume] = of
	for id, other := range s.byVolume {
		if now.Sub(other.touched) > forgetAfter {
			delete(s.byVolume, id)
		}
	}
}

func (s *stories) drop(volume string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byVolume, volume)
}

// narrator tells a pod's people about one call that publishes. A nil narrator
// tells nothing. A warm call costs it a timer.
type narrator struct {
	d     *Driver
	r     request
	pod   attributes.Pod
	image string // that the volume names; empty: none
	words *redact.Redactor
	story *story

	timer   *time.Timer
	quit    chan struct{} // closed when the goroutine of the timer shall end
	done    chan struct{} // closed when it has ended
	stopped bool
}

// narrate begins to tell about a call, unless nobody listens or nobody is known
// whom to tell. The caller ends it with stop or end.
func (d *Driver) narrate(r request, attrs attributes.Attributes) *narrator {
	pod := attrs.Pod
	if d.cfg.Events == nil || pod.Namespace == "" || pod.Name == "" || pod.UID == "" {
		return nil
	}
	n := &narrator{
		d: d, r: r, pod: pod, image: attrs.Source.Image, words: d.words, story: d.stories.get(r.id, r.holder),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	n.timer = time.AfterFunc(coldAfter, n.run)
	return n
}

// run watches the flight until stop.
func (n *narrator) run() {
	defer close(n.done)
	for {
		timer := time.NewTimer(n.look(time.Now()))
		select {
		case <-n.quit:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// look tells what is to be told now, and gives the time until the next look.
// Marks follow the flight and not the call, so that it does not matter how often
// kubelet calls, or how many pods wait.
func (n *narrator) look(now time.Time) time.Duration {
	f, ok := n.flight()
	if !ok {
		n.waits()
		return noFlightEvery
	}
	age := now.Sub(f.Started)
	mark := markBefore(age)
	switch s := n.story; {
	case s.fresh():
		n.tell(ReasonRealising, n.realisingNote(f, age))
		s.told = mark
	case !s.flight.Equal(f.Started):
		s.told = mark // tried again after a failure: its beginning is no news
	case mark > s.told:
		n.tell(ReasonProgress, n.progressNote(f, age))
		s.told = mark
	}
	n.story.flight = f.Started
	return markAfter(age) - age
}

// waits tells that the volume waits for its image, if that is so and news, and
// gives whether it is so.
func (n *narrator) waits() bool {
	if n.image == "" || n.d.cfg.Images == nil {
		return false
	}
	why, ok := n.d.cfg.Images.Waiting(n.image)
	if ok && !n.story.waited {
		n.story.waited = true
		n.tell(ReasonWaiting, n.note(n.volume()+": waiting for the NixImage "+n.image+": "+why))
	}
	return ok
}

// flight gives the flight that the volume waits for.
func (n *narrator) flight() (provide.Running, bool) {
	name := string(n.r.holder.Kind) + "/" + n.r.holder.Name
	for _, f := range n.d.cfg.Flights.Running() {
		if slices.Contains(f.Holders, name) {
			return f, true
		}
	}
	return provide.Running{}, false
}

// stop ends the watching, and returns when nothing more is told.
func (n *narrator) stop() {
	if n == nil || n.stopped {
		return
	}
	n.stopped = true
	if n.timer.Stop() {
		return
	}
	close(n.quit)
	<-n.done
}

// end tells how the call ended: that of the work, and not of the waiting.
func (n *narrator) end(ctx context.Context, root nixstore.StorePath, err error) {
	if n == nil {
		return
	}
	n.stop()
	switch {
	case err == nil:
		if n.story.empty() {
			return // a warm publish
		}
		n.tell(ReasonReady, n.readyNote(ctx, root))
		n.d.stories.drop(n.r.id)
	case errors.Is(err, nixstore.ErrUnavailable) && n.waits():
		// Kubelet's own event is a warning, and says the same as this error.
	case !unfinished(err):
		n.failed(err)
	}
}

// failed tells a failure, if it is news.
func (n *narrator) failed(err error) {
	gist, note := n.failureNote(err)
	now := time.Now()
	if s := n.story; gist == s.failure && now.Sub(s.failedAt) < repeatAfter {
		return
	}
	n.tell(ReasonFailed, note)
	n.story.failure, n.story.failedAt = gist, now
}

// unfinished tells whether err is the end of a call rather than of its work.
func unfinished(err error) bool {
	return errors.Is(err, nixstore.ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (n *narrator) tell(reason, note string) {
	n.d.stories.keep(n.r.id, n.story, time.Now())
	n.d.cfg.Events.Tell(Event{Pod: n.pod, Warning: reason == ReasonFailed, Reason: reason, Note: note})
}
