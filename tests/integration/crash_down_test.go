//go:build privileged

package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/tests/agent"
)

// TestFault09AgentDownWhilePodsRun takes the agent away by SIGKILL and by SIGTERM.
// Volumes are mounts of the kernel, and need no agent.
func TestFault09AgentDownWhilePodsRun(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, `tools = synthetic { n = 4; files = 3; };`)})
	built, text := agent.Packages(1, "tools"), agent.StorePath(2, n.textClosure(30, "down"))
	writable := agent.StorePath(3, text.Attributes["storePath"])
	writable.Attributes["writable"], writable.Writable = "true", true
	volumes := []agent.Volume{built, text, writable}
	for _, v := range volumes {
		n.publish(v)
	}
	note := filepath.Join(n.Target(writable), "store", "note")
	writeFile(t, note, "")
	stopReading := readAllTheTime(n, volumes...)
	for name, end := range map[string]func() error{"SIGKILL": n.Kill, "SIGTERM": n.Stop} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		requireNoProcesses(t, n.Dir())
		n.requireVolumes(len(volumes))
		writeFile(t, note, "written without an agent after "+name)
		if _, err := os.Stat(n.Socket()); name == "SIGTERM" && err == nil {
			t.Error("after SIGTERM the socket is still there")
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatalf("starting after %s: %v", name, err)
		}
		for _, v := range volumes { // as a restarted kubelet does
			if err := n.Publish(t.Context(), v); err != nil {
				t.Errorf("publishing the volume of %s again after %s: %v", v.Pod, name, err)
			}
		}
		n.requireVolumes(len(volumes))
	}
	stopReading()
	for _, v := range volumes {
		n.unpublish(v)
	}
	n.requireNothing()
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	requireClean(n)
}

// TestFault11And15DaemonHangs stops Nix's daemon by SIGSTOP, with no network
// either: what lives must go on and be taken away, what is new must say why it
// has to wait, and all must heal when the daemon does.
func TestFault11And15DaemonHangs(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, `new = run "new" "mkdir $out; echo new > $out/f";`)})
	live, gone := agent.StorePath(1, n.textClosure(10, "live")), agent.StorePath(2, n.textClosure(10, "gone"))
	n.publish(live)
	n.publish(gone)
	n.signalDaemon(syscall.SIGSTOP)

	eventually(t, 30*time.Second, "/readyz to tell", func() error {
		_, err := n.Get(t.Context(), "/readyz")
		if err == nil || !strings.Contains(err.Error(), "daemon") {
			return fmt.Errorf("it says %v", err) //nolint:errorlint // nil is an answer, too
		}
		return nil
	})
	if _, err := n.Get(t.Context(), "/healthz"); err != nil {
		t.Errorf("/healthz says %v: a restart of the agent would help nobody", err)
	}
	if err := n.Restart(t.Context()); err != nil { // its stopped daemon ends with it
		t.Fatal(err)
	}
	n.signalDaemon(syscall.SIGSTOP)

	before := time.Now()
	if err := n.Publish(t.Context(), live); err != nil {
		t.Errorf("publishing a live volume again: %v", err)
	}
	if err := n.Unpublish(t.Context(), gone); err != nil {
		t.Errorf("unpublishing: %v", err)
	}
	if took := time.Since(before); took > 5*time.Second { // what waits for a daemon takes longer
		t.Errorf("publishing again and unpublishing took %s", took)
	}
	fresh := agent.Packages(3, "new")
	err := n.Publish(t.Context(), fresh)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "daemon") {
		t.Errorf("a new volume is answered with %v, want Unavailable and that it is the daemon", err)
	}
	n.requireVolumes(1)

	n.signalDaemon(syscall.SIGCONT)
	eventually(t, 30*time.Second, "/readyz to be well", func() error {
		_, err := n.Get(t.Context(), "/readyz")
		return err
	})
	n.publish(fresh)
	requireFile(t, filepath.Join(n.Target(fresh), "var/result"), "new\n")
	n.unpublish(fresh)
	n.unpublish(live)
	n.requireNothing()
}

// signalDaemon signals the daemon that listens, and no worker of it.
func (n node) signalDaemon(s syscall.Signal) {
	n.t.Helper()
	for _, p := range processes() {
		if p.parent == n.PID() && strings.HasPrefix(p.args, "nix-daemon") {
			if err := syscall.Kill(p.pid, s); err != nil {
				n.t.Fatal(err)
			}
			return
		}
	}
	n.t.Fatal("the agent has no daemon")
}

// TestFault14SecondAgentOnOneNode starts another agent on the same state directory.
func TestFault14SecondAgentOnOneNode(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	v := agent.StorePath(1, n.textClosure(3, "two"))
	n.publish(v)
	binary, err := agent.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	second := exec.CommandContext(ctx, binary, "--state-dir", n.StateDir(), "--kubelet-dir", n.KubeletDir(),
		"--endpoint", "unix://"+n.Socket(), "--http-address", "")
	out, err := second.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("the second agent ended with %v (%v), want an exit code\n%s", err, ctx.Err(), out)
	}
	for _, want := range []string{"state directory", n.StateDir(), fmt.Sprint(n.PID())} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the second agent does not say %q:\n%s", want, out)
		}
	}
	if err := n.Publish(t.Context(), v); err != nil {
		t.Errorf("the first agent does not answer any more: %v", err)
	}
	n.requireVolumes(1)
	n.unpublish(v)
	n.requireNothing()
}

// TestAgentsBesideEachOther starts agents with state directories of their own on one
// machine, with one kubelet and without: what they sweep must be theirs.
func TestAgentsBesideEachOther(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]agent.Config{
		"without kubelet":           {NoKubelet: true},
		"with one kubelet's folder": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, cfg)
			v, w := agent.StorePath(1, n.textClosure(3, "first")), agent.StorePath(2, n.textClosure(3, "first"))
			w.Attributes["writable"], w.Writable = "true", true
			n.publish(v)
			n.publish(w)
			if !cfg.NoKubelet {
				cfg.Args = []string{"--kubelet-dir", n.KubeletDir(), "--driver-name", "second.closured.dev"}
			}
			second := start(t, cfg)
			n.requireVolumes(2)
			if err := second.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.requireVolumes(2)
			if files, err := readVolume(n.Target(v)); err != nil || files != 4 {
				t.Errorf("the first agent's volume shows %d files (%v), want 3 and closure.json", files, err)
			}
			n.unpublish(v)
			n.unpublish(w)
			n.requireNothing()
		})
	}
}

// TestFault13StaleAndRemovedSockets starts over sockets that a killed agent left,
// and removes the socket under a running agent.
func TestFault13StaleAndRemovedSockets(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{})
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", n.Socket()); err == nil {
		t.Fatal("the dead agent's socket answers")
	}
	if _, err := os.Lstat(n.Socket()); err != nil {
		t.Fatalf("the dead agent's socket is not there, so that this test shows nothing: %v", err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatalf("starting over a stale socket: %v", err)
	}
	if info, err := os.Lstat(n.Socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v (%v), want 0600", info.Mode(), err)
	}
	if err := os.Remove(n.Socket()); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the socket to be there again", func() error {
		conn, err := net.Dial("unix", n.Socket())
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	v := agent.StorePath(1, n.textClosure(3, "socket"))
	n.publish(v)
	n.unpublish(v)
	n.requireNothing()
}
