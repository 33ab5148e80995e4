package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/closured/closured/controller/buildjob"
)

// unseenMax is how often in a row, once a second, a Job may be there and not in the
// cache: after that it is somebody else's.
const unseenMax = 10

// refusals remembers which Jobs the API server did not take, so that they are
// tried again ever more slowly. It is lost with the process: then each is tried
// once more. Its methods may be called concurrently.
type refusals struct {
	mu  sync.Mutex // guards all
	all map[types.NamespacedName]map[buildjob.Key]refused
}

type refused struct {
	message string
	times   int
	until   time.Time
	unseen  int // how often it was there already
}

func newRefusals() *refusals {
	return &refusals{all: map[types.NamespacedName]map[buildjob.Key]refused{}}
}

// last gives the last refusal of a Job, and for how long it is not tried again.
func (r *refusals) last(name types.NamespacedName, key buildjob.Key, now time.Time) (string, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.all[name][key]
	return last.message, last.until.Sub(now)
}

// note remembers a refusal, and gives how long until the next try.
func (r *refusals) note(name types.NamespacedName, key buildjob.Key, message string, now time.Time, rules Rules) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.of(name, key)
	delay := rules.delay(key.Build, last.times)
	last.message, last.times, last.until = message, last.times+1, now.Add(delay)
	r.all[name][key] = last
	return delay
}

// stranger notes that a Job is there already, and tells whether it has been for so
// long, without that the cache shows it, that it is not of this object.
func (r *refusals) stranger(name types.NamespacedName, key buildjob.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.of(name, key)
	last.unseen++
	r.all[name][key] = last
	return last.unseen > unseenMax
}

// of gives what is known of one Job, and drops those of an earlier spec. The
// caller holds mu.
func (r *refusals) of(name types.NamespacedName, key buildjob.Key) refused {
	if r.all[name] == nil {
		r.all[name] = map[buildjob.Key]refused{}
	}
	for other := range r.all[name] {
		if other.System == key.System && other != key {
			delete(r.all[name], other)
		}
	}
	return r.all[name][key]
}

// taken drops what is known of one Job.
func (r *refusals) taken(name types.NamespacedName, key buildjob.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all[name], key)
}

// forget drops what is known of an object.
func (r *refusals) forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, name)
}
