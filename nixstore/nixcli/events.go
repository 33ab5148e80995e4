package nixcli

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/closured/closured/nixstore"
)

// Numbers of --log-format internal-json, libutil/logging.hh of Nix 2.8 to 2.34.
const (
	activityCopyPath   = 100 // fields: path, from, to
	activityCopyPaths  = 103
	activityBuilds     = 104
	activityBuild      = 105 // fields: derivation, …
	activitySubstitute = 108 // fields: path, cache
	activityPathInfo   = 109 // fields: path, cache

	resultBuildLog = 101 // fields: line
	resultProgress = 105 // fields: done, expected, running, failed
)

const (
	levelWarn        = 1                      // lvlWarn; errors are 0
	progressInterval = 200 * time.Millisecond // at most this often, or when the phase changes
	messagesMax      = 64                     // warnings and errors that we keep
	originsMax       = 64                     // paths whose cache we remember
)

// event is one line of Nix's log.
type event struct {
	Action string            `json:"action"` // msg, start, stop, result
	ID     uint64            `json:"id"`
	Level  int               `json:"level"`
	Msg    string            `json:"msg"`
	Type   int               `json:"type"`
	Fields []json.RawMessage `json:"fields"`
}

// text gives field i when it is a text.
func (e event) text(i int) string {
	var s string
	if i < len(e.Fields) {
		_ = json.Unmarshal(e.Fields[i], &s) // a number: the empty text is right
	}
	return s
}

// number gives field i when it is a number.
func (e event) number(i int) int64 {
	var n int64
	if i < len(e.Fields) {
		_ = json.Unmarshal(e.Fields[i], &n) // a text: zero is right
	}
	return n
}

// parseEvent parses a line. What is no event is a message of its own, such as
// the last words of a program that crashes.
func parseEvent(line []byte) event {
	data, ok := bytes.CutPrefix(line, []byte("@nix "))
	var e event
	if !ok || json.Unmarshal(data, &e) != nil {
		return event{Action: "msg", Msg: string(line)}
	}
	return e
}

// origin is a path and the cache that offers it.
type origin struct{ path, cache string }

// account is what one realisation told, in bounded memory.
type account struct {
	messages []string // warnings and errors, in order, redacted
	build    tail     // the last lines of the builders
	builds   tail     // the derivations begun last
	origins  []origin // the paths fetched last
	progress progressMeter
}

// take adds one line of Nix's log.
func (a *account) take(line []byte) {
	e := parseEvent(line)
	switch e.Action {
	case "msg":
		a.message(e)
	case "start":
		a.start(e)
	case "result":
		if e.Type == resultBuildLog {
			a.build.add(cut(redact(e.text(0))))
		}
	}
	a.progress.take(e)
}

// message keeps warnings and errors: the first ones, since what follows is
// mostly the same again, and always the last.
func (a *account) message(e event) {
	text := cut(redact(e.Msg))
	if e.Level > levelWarn || text == "" || strings.Contains(text, "--add-root") {
		return
	}
	if len(a.messages) == messagesMax {
		a.messages = a.messages[:messagesMax-1]
	}
	a.messages = append(a.messages, text)
}

func (a *account) start(e event) {
	switch e.Type {
	case activityBuild:
		a.builds.add(e.text(0))
	case activityCopyPath, activitySubstitute:
		a.remember(origin{path: e.text(0), cache: redact(e.text(1))})
	case activityPathInfo:
		a.remember(origin{path: e.text(0), cache: redact(e.text(1))})
	}
}

func (a *account) remember(o origin) {
	if o.cache == "" {
		return
	}
	if len(a.origins) == originsMax {
		a.origins = a.origins[1:]
	}
	a.origins = append(a.origins, o)
}

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
