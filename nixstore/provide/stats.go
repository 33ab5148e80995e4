package provide

import (
	"sync/atomic"
	"time"

	"github.com/closured/closured/nixstore"
)

// Stats counts since New. All only grow.
type Stats struct {
	Warm         uint64 // answers without a flight
	Cold         uint64 // answers after a flight
	Busy         uint64 // calls that ended before their flight did
	Failed       uint64 // calls that ended with any other error
	Evaluations  uint64
	Realisations uint64 // processes of the store, not paths
}

type counters struct {
	warm, cold, busy, failed, evaluations, realisations atomic.Uint64
}

func (c *counters) answered(flown int) {
	if flown == 0 {
		c.warm.Add(1)
		return
	}
	c.cold.Add(1)
}

// Stats gives the counters.
func (p *Provider) Stats() Stats {
	return Stats{
		Warm: p.counts.warm.Load(), Cold: p.counts.cold.Load(),
		Busy: p.counts.busy.Load(), Failed: p.counts.failed.Load(),
		Evaluations: p.counts.evaluations.Load(), Realisations: p.counts.realisations.Load(),
	}
}

// Running describes one flight.
type Running struct {
	Source   string // for people; holds no credentials
	Started  time.Time
	Holders  []string // "<kind>/<name>", sorted
	Progress nixstore.Progress
}

// Running gives the flights that run, the oldest first.
func (p *Provider) Running() []Running {
	infos := p.sources.Running()
	all := make([]Running, 0, len(infos))
	for _, info := range infos {
		r := Running{Started: info.Started, Holders: info.Holders, Progress: info.Progress}
		p.mu.Lock()
		if l := p.leases[info.Key]; l != nil {
			r.Source = l.source
			r.Progress = l.progress(info.Progress)
		}
		p.mu.Unlock()
		all = append(all, r)
	}
	return all
}
