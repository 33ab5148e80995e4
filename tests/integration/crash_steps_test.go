//go:build privileged

package integration_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

// steps gives the system calls by which publishes and unpublishes change anything,
// each with the names that it has on different machines.
func steps() []string {
	return []string{
		"?mkdir,?mkdirat", "?symlink,?symlinkat", "?link,?linkat", "?rename,?renameat,?renameat2", "?unlink,?unlinkat,?rmdir",
		"?setxattr,?lsetxattr,?fsetxattr", "mount", "open_tree", "mount_setattr", "move_mount", "umount2",
		"ftruncate", "?mknod,?mknodat",
	}
}

// TestFault07And08KillAtEachStep kills the agent right before the first system call
// of each kind that a publish or an unpublish makes. What is half done must be
// finished or gone after a restart, and repeated calls must succeed.
func TestFault07And08KillAtEachStep(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	root := n.textClosure(3, "steps")
	live := agent.StorePath(900, n.textClosure(5, "live"))
	n.publish(live)
	stopReading := readAllTheTime(n, live)
	kills := 0
	for i, step := range steps() {
		plain, writable := agent.StorePath(2*i, root), agent.StorePath(2*i+1, root)
		writable.Attributes["writable"], writable.Writable = "true", true
		for _, v := range []agent.Volume{plain, writable} {
			s := &storm{node: n, live: []agent.Volume{live}, slots: []*slot{{volume: v}}}
			kills += s.killAt(step, s.Publish)
			n.publish(v)
			n.requireVolumes(2)
			kills += s.killAt(step, s.Unpublish)
			n.unpublish(v)
			n.requireGone(v)
			n.requireVolumes(1)
		}
	}
	t.Logf("killed at %d steps", kills)
	if kills < 20 {
		t.Error("that is too little to show anything")
	}
	stopReading()
	n.unpublish(live)
	n.requireNothing()
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	requireClean(n)
}

// killAt makes a call, and kills the agent when that comes to the step. It gives
// how often it did: once, or not at all when the call has no such step.
func (s *storm) killAt(step string, call func(context.Context, agent.Volume) error) int {
	s.t.Helper()
	stop := s.strace("-e", "trace="+step, "-e", "inject="+step+":signal=KILL:when=1")
	err := call(s.t.Context(), s.slots[0].volume)
	stop()
	if status.Code(err) != codes.Unavailable { // it has no such step, or a child of the agent has it
		return 0
	}
	eventually(s.t, 10*time.Second, "the end of the agent at "+strings.ReplaceAll(step, "?", ""), func() error {
		if s.Running() {
			return err
		}
		return nil
	})
	s.requirePinned()
	if err := s.Start(s.t.Context()); err != nil {
		s.t.Fatalf("starting after a kill at %s: %v", step, err)
	}
	s.requireAgreement(0)
	return 1
}
