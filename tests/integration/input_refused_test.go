//go:build privileged

package integration_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

// noteBytes is how much of a status a user sees at a glance in the list of events.
const noteBytes = 200

// refused publishes once and checks the refusal: its code, that the first 200
// bytes say the words and a next step, and that nothing stays. What kubelet makes
// is removed, as it does for a pod that goes.
func (n node) refused(v agent.Volume, code string, words ...string) string {
	n.t.Helper()
	if err := n.Prepare(v); err != nil {
		n.t.Fatal(err)
	}
	message := n.refusedRequest(n.PublishRequest(v), code, words...)
	n.unpublish(v) // also tidies kubelet's folders
	return message
}

// refusedRequest is refused for a request that kubelet would never send.
func (n node) refusedRequest(req *csi.NodePublishVolumeRequest, code string, words ...string) string {
	n.t.Helper()
	before := n.leftovers(req)
	_, err := n.Node().NodePublishVolume(n.t.Context(), req)
	message := requireRefusal(n.t, err, code, words...)
	if after := n.leftovers(req); after != before {
		n.t.Errorf("the refused publish leaves %s, before it was %s", after, before)
	}
	return message
}

// requireRefusal checks the status of a call, and gives its text.
func requireRefusal(t *testing.T, err error, code string, words ...string) string {
	t.Helper()
	message := status.Convert(err).Message()
	if got := status.Code(err).String(); got != code {
		t.Errorf("the code is %s, want %s: %s", got, code, message)
		return message
	}
	first := message[:min(noteBytes, len(message))]
	for _, w := range words {
		if !strings.Contains(first, w) {
			t.Errorf("the first %d bytes do not say %q: %s", noteBytes, w, first)
		}
	}
	cause, next, found := strings.Cut(first, "; next: ")
	if !found || cause == "" || len(next) < 5 {
		t.Errorf("the first %d bytes tell no next step: %s", noteBytes, first)
	}
	if strings.ContainsAny(message, "\n\r\x00\x1b") || len(message) > 1024 || !strings.Contains(err.Error(), message) {
		t.Errorf("the text is not fit for an event: %q", message)
	}
	return message
}

// leftovers tells what there is of volumes: pins, mounts, and whether something
// is at the target.
func (n node) leftovers(req *csi.NodePublishVolumeRequest) string {
	n.t.Helper()
	mounts, err := agent.MountsBelow(n.Dir())
	if err != nil {
		n.t.Fatal(err)
	}
	pins, err := n.Pins()
	if err != nil {
		n.t.Fatal(err)
	}
	found := slices.Concat(mounts, pins)
	layers, err := os.ReadDir(filepath.Join(n.StateDir(), "writable"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.t.Fatal(err)
	}
	for _, l := range layers {
		found = append(found, l.Name())
	}
	if info, err := os.Lstat(req.GetTargetPath()); err == nil {
		found = append(found, info.Mode().String())
	}
	return strings.Join(found, ", ")
}

// idleWait is how long processes of a call that was answered may take to end.
const idleWait = 20 * time.Second

// requireIdle checks that the agent has no process but its daemon, within a
// moment: a connection's own process ends a little later.
func (n node) requireIdle() {
	n.t.Helper()
	eventually(n.t, idleWait, "the end of evaluators and builders", func() error {
		for _, p := range n.descendants() {
			if p.parent != n.PID() || !strings.Contains(p.args, "nix-daemon") {
				return errors.New(p.String())
			}
		}
		return nil
	})
}

// descendants gives the processes that the agent, or one of them, has started.
func (n node) descendants() []process {
	all := processes()
	ours := map[int]bool{n.PID(): true}
	var found []process
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if ours[p.parent] && !ours[p.pid] {
				ours[p.pid], grown = true, true
				found = append(found, p)
			}
		}
	}
	return found
}
