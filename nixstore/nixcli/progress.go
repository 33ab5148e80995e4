package nixcli

import (
	"time"

	"github.com/closured/closured/nixstore"
)

// progressInterval is how often progress is reported at most, but for changes of
// the phase.
const progressInterval = 200 * time.Millisecond

// progressMeter turns events into nixstore.Progress.
type progressMeter struct {
	report  func(nixstore.Progress)
	now     nixstore.Progress
	last    time.Time                              // of the last report
	copying map[uint64]int64                       // bytes of the paths being fetched, by activity
	whole   int64                                  // bytes of the paths that were fetched
	counts  map[uint64]struct{ done, total int64 } // by activity: copies and builds
}

func newProgressMeter(report func(nixstore.Progress)) progressMeter {
	return progressMeter{
		report: report, now: nixstore.Progress{Started: time.Now()},
		copying: map[uint64]int64{}, counts: map[uint64]struct{ done, total int64 }{},
	}
}

func (m *progressMeter) take(e event) {
	if m.report == nil {
		return
	}
	phase := m.now.Phase
	switch e.Action {
	case "start":
		m.start(e)
	case "stop":
		m.whole += m.copying[e.ID]
		delete(m.copying, e.ID)
	case "result":
		if e.Type == resultProgress {
			m.result(e)
		}
	}
	if phase == m.now.Phase && time.Since(m.last) < progressInterval {
		return
	}
	if m.now.Phase != "" {
		m.last = time.Now()
		m.report(m.now)
	}
}

// finish reports the last state, which an interval may have swallowed.
func (m *progressMeter) finish() {
	if m.report != nil && m.now.Phase != "" {
		m.report(m.now)
	}
}

func (m *progressMeter) start(e event) {
	switch e.Type {
	case activityCopyPath:
		m.now.Phase, m.now.What = "fetching", e.text(0)
		m.copying[e.ID] = 0
	case activityBuild:
		m.now.Phase, m.now.What = "building", e.text(0)
	case activityCopyPaths, activityBuilds:
		m.counts[e.ID] = struct{ done, total int64 }{}
	}
}

func (m *progressMeter) result(e event) {
	if _, ok := m.copying[e.ID]; ok {
		m.copying[e.ID] = e.number(0)
		m.now.Bytes = m.whole
		for _, n := range m.copying {
			m.now.Bytes += n
		}
		return
	}
	if _, ok := m.counts[e.ID]; !ok {
		return
	}
	m.counts[e.ID] = struct{ done, total int64 }{e.number(0), e.number(1)}
	m.now.Done, m.now.Total = 0, 0
	for _, c := range m.counts {
		m.now.Done += c.done
		m.now.Total += c.total
	}
}
