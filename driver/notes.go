package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/provide"
)

// volume names the volume as the pod's author does, where the target tells.
func (n *narrator) volume() string {
	if n.d.cfg.KubeletDir == "" {
		return "volume " + n.r.id
	}
	return "volume " + filepath.Base(filepath.Dir(n.r.target))
}

func (n *narrator) realisingNote(f provide.Running, age time.Duration) string {
	source := f.Source
	if source == "" {
		source = "its closure"
	}
	text := n.volume() + ": realising " + source + ", the pod starts when that is done"
	if age >= time.Second {
		text += "; the work is shared and has been running for " + span(age)
	}
	return n.note(text)
}

func (n *narrator) progressNote(f provide.Running, age time.Duration) string {
	p := f.Progress
	phase := p.Phase
	if phase == "" {
		phase = "realising"
	}
	text := n.volume() + ": still " + phase + " after " + span(age)
	if p.Total > 0 {
		text += fmt.Sprintf(", %d of %d paths done", p.Done, p.Total)
	}
	if p.Bytes > 0 {
		text += ", " + size(p.Bytes) + " fetched"
	}
	if p.What != "" {
		text += ", now " + p.What
	}
	return n.note(text)
}

// readyNote says what the volume came to. Count and size are worth a look at the
// store, and not a publish: without an answer they are left out.
func (n *narrator) readyNote(ctx context.Context, root nixstore.StorePath) string {
	text := n.volume() + ": " + root.BaseName() + " is mounted"
	if !n.story.flight.IsZero() {
		text += " after " + span(time.Since(n.story.flight))
	}
	if n.d.cfg.Closures != nil {
		ctx, cancel := context.WithTimeout(ctx, closureTimeout)
		defer cancel()
		if c, err := n.d.cfg.Closures.Closure(ctx, root); err == nil {
			text += ": " + count(len(c.Paths), "path") + ", " + size(c.NarSize())
		}
	}
	return n.note(text)
}

// failureNote gives cause and next step of err's failures, and then the end of
// their logs: a builder says last what it died of. gist is the note without the
// log, in which times and numbers may differ between failures that are the same.
func (n *narrator) failureNote(err error) (gist, note string) {
	head, logs := told(err)
	gist = n.note(n.volume() + ": " + head)
	// Together, as a secret may span lines; and before anything is cut, as half a
	// secret is not recognised.
	log := strings.TrimSpace(n.words.Text(strings.Join(logs, "\n")))
	if log == "" {
		return gist, gist
	}
	return gist, withLog(gist, plain(strings.ReplaceAll(log, "\n", logBreak)))
}

// note makes a text fit for an event.
func (n *narrator) note(text string) string { return tame(n.words.Text(text)) }

// cutBegin gives the last bytes of a text, from the border of a character on.
func cutBegin(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	begin := len(text) - limit + len(ellipsis)
	for begin < len(text) && !utf8.RuneStart(text[begin]) {
		begin++
	}
	return ellipsis + text[begin:]
}

// count writes a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// span writes a duration as people do: 0.4s, 12s, 2m, 1h5m.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Minute)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// size writes a number of bytes with one decimal, in binary units.
func size(bytes int64) string {
	const step = 1024
	value, unit := float64(bytes), 0
	for ; value >= step && unit < 4; unit++ {
		value /= step
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGT"[unit-1])
}
