package view

import (
	"time"

	"golang.org/x/sys/unix"
)

// Steps of a Mount, for tests that fail it there.
var (
	ReadOnlySteps = []string{stepFolder, stepView, stepBind, stepDone}
	WritableSteps = []string{stepFolder, stepView, stepLayer, stepDisk, stepOverlay, stepBind, stepDone}
)

// Before makes f run before each step; its error fails the step. Not concurrently with Mounts.
func (m *Manager) Before(f func(step string) error) { m.before = f }

// Classic makes the manager do without the newer mount calls.
func (m *Manager) Classic() { m.classic = true }

// LimitLinks makes each n-th link fail as an inode with too many links does.
func (m *Manager) LimitLinks(n int) {
	count := 0
	m.linkat = func(oldDir int, oldPath string, newDir int, newPath string, flags int) error {
		if count++; count%n == 0 {
			return unix.EMLINK
		}
		return unix.Linkat(oldDir, oldPath, newDir, newPath, flags)
	}
}

// DropIdle drops the views that are idle at a moment.
func (m *Manager) DropIdle(now time.Time) { m.dropIdle(now) }

// ParseMountLine parses one line of mountinfo.
func ParseMountLine(line string) (root, point, source string, ok bool) {
	e, ok := parseMount(line)
	return e.root, e.point, e.source, ok
}
