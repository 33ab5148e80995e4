package nixcli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/closured/closured/nixstore"
)

// Numbers of --log-format internal-json, libutil/logging.hh of Nix 2.8 to 2.34.
const (
	activityCopyPath   = 100 // fields: path, from, to
	activityTransfer   = 101 // fields: address; its parent is one of 100, 108, 109
	activityCopyPaths  = 103
	activityBuilds     = 104
	activityBuild      = 105 // fields: derivation, …
	activitySubstitute = 108 // fields: path, cache
	activityPathInfo   = 109 // fields: path, cache

	resultBuildLog = 101 // fields: line
	resultProgress = 105 // fields: done, expected, running, failed
)

const (
	levelWarn   = 1  // lvlWarn; errors are 0
	messagesMax = 64 // warnings and errors that we keep
	originsMax  = 64 // paths whose cache we remember
	buildsMax   = 16 // builds whose last lines we keep

	overrunBytes = 1 << 20 // more than Nix reads at a time
)

// event is one line of Nix's log.
type event struct {
	Action string            `json:"action"` // msg, start, stop, result
	ID     uint64            `json:"id"`
	Parent uint64            `json:"parent"`
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
type origin struct {
	path, cache string
	id          uint64 // the activity that told
	url         string // what was fetched for it last, redacted
}

// buildLog is what one builder said last.
type buildLog struct {
	id   uint64
	drv  string
	last tail
}

// account is what one realisation told, in bounded memory.
type account struct {
	errors   []string    // in order, redacted, without "error: "
	warnings []string    // in order, redacted, without "warning: "
	builds   []*buildLog // the builds begun last
	origins  []origin    // the paths asked for last
	first    string      // the path that was asked of us first
	progress progressMeter
	end      func(cause error) // ends the realisation; nil: it cannot be ended
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
		switch e.Type {
		case resultBuildLog:
			a.buildLine(e)
		case resultProgress:
			a.bound(e)
		}
	}
	a.progress.take(e)
}

func (a *account) message(e event) {
	text := cut(strings.TrimSpace(redact(e.Msg)), maxRead)
	if e.Level > levelWarn || text == "" {
		return
	}
	if warning, ok := strings.CutPrefix(text, "warning: "); ok {
		a.warnings = keepLast(a.warnings, warning, messagesMax)
		return
	}
	// Without a daemon's tag, such as the last words of a crash, it counts as an error.
	text = strings.TrimPrefix(text, "error: ")
	if len(a.errors) < messagesMax { // the first ones: what follows is mostly what they entail
		a.errors = append(a.errors, strings.TrimSpace(text))
	}
}

func (a *account) start(e event) {
	switch e.Type {
	case activityBuild:
		a.builds = keepLast(a.builds, &buildLog{id: e.ID, drv: e.text(0)}, buildsMax)
	case activityCopyPath, activitySubstitute, activityPathInfo:
		if cache := redact(e.text(1)); cache != "" {
			a.origins = keepLast(a.origins, origin{path: e.text(0), cache: cache, id: e.ID}, originsMax)
		}
	case activityTransfer:
		for i, o := range a.origins {
			if o.id == e.Parent {
				a.origins[i].url = redact(e.text(0))
			}
		}
	}
}

func (a *account) buildLine(e event) {
	for _, b := range a.builds {
		if b.id == e.ID {
			b.last.add(cut(redact(e.text(0)), maxMessage))
		}
	}
}

// bound ends the realisation when a cache sends more than the size that it
// declared and that is signed: Nix compares the two only when it has everything,
// and by then the disk may be full.
func (a *account) bound(e event) {
	done, declared := e.number(0), e.number(1)
	if a.end == nil || declared <= 0 || done <= declared+overrunBytes {
		return
	}
	for _, o := range a.origins {
		if o.id == e.ID {
			a.end(nixstore.Fail(nixstore.ErrCorrupt, "tell whoever runs the cache, or remove it from the substituters",
				"the cache %s sends more than the %d bytes that it declared of %s", o.cache, declared, o.path))
		}
	}
}

// buildLog gives the last lines of a derivation's builder.
func (a *account) buildLog(drv string) []string {
	for _, b := range slices.Backward(a.builds) {
		if b.drv == drv {
			return b.last.lines
		}
	}
	return nil
}

// lastBuild gives the derivation begun last.
func (a *account) lastBuild() string {
	if len(a.builds) == 0 {
		return "a derivation"
	}
	return a.builds[len(a.builds)-1].drv
}

// origin gives the cache asked last for what a text names: a path, the name of a
// narinfo, or the address of one of its files. Without a text it gives the path
// asked for last.
func (a *account) origin(text string) origin {
	found := origin{path: cmp.Or(a.first, "a path"), cache: "a binary cache"}
	if len(a.origins) > 0 {
		found = a.origins[len(a.origins)-1]
	}
	if text == "" {
		return found
	}
	base := text[strings.LastIndexByte(text, '/')+1:]
	hash, narinfo := strings.CutSuffix(base, ".narinfo")
	for _, o := range slices.Backward(a.origins) {
		if o.path == text || o.url == text || narinfo && strings.Contains(o.path, "/"+hash+"-") {
			return o
		}
	}
	if strings.HasPrefix(text, nixstore.Dir) {
		found.path = text
	}
	return found
}

// keepLast appends to a list that keeps the last n.
func keepLast[T any](list []T, item T, n int) []T {
	if len(list) >= n {
		list = slices.Delete(list, 0, len(list)-n+1)
	}
	return append(list, item)
}
