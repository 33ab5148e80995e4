//go:build privileged

// Package integration_test tries the rows of the fault table, and what must hold
// under load, with a real agent process, real Nix and real mounts. It calls the
// CSI socket as kubelet does. Each test has a node of its own: a folder with
// state, store, sockets and kubelet's folder, which goes away with the test.
//
// Everything that a test starts dies with it, also when the test fails; the
// processes of an agent are those that name its folder.
package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// pollEvery is how often a wait looks again.
const pollEvery = 20 * time.Millisecond

// node is a running agent with what tests ask of its node.
type node struct {
	*agent.Agent
	t *testing.T
}

// start runs an agent until the test ends. After that nothing of it may be left:
// no process, no mount, and no report of the race detector when the program has one.
func start(t *testing.T, cfg agent.Config) node {
	t.Helper()
	var dir string
	t.Cleanup(func() { requireNoProcesses(t, dir) }) // after the agent is closed
	n := node{agent.Run(t, cfg), t}
	dir = n.Dir()
	t.Cleanup(func() {
		if strings.Contains(n.Log(), "WARNING: DATA RACE") {
			t.Error("the race detector reports a race of the agent")
		}
	})
	return n
}

// raceBinary gives a program with the race detector, made once, or the plain one
// where no Go compiler is.
func raceBinary(t *testing.T) string {
	t.Helper()
	path, err := buildRace()
	if err != nil {
		t.Logf("without the race detector: %v", err)
		return ""
	}
	return path
}

var buildRace = sync.OnceValues(func() (string, error) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("no Go compiler: %w", err)
	}
	path := filepath.Join(strings.TrimSpace(string(module)), ".cache", "agent", "closured-race")
	made := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.Command("go", "build", "-race", "-o", made, "github.com/closured/closured/cmd/closured")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, os.Rename(made, path)
})

// nix runs a program of Nix as a client of the agent's daemon, and gives the
// words that it prints.
func (n node) nix(program string, args ...string) []string {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), program, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + n.Dir(), "NIX_CONFIG=substituters =",
		"NIX_REMOTE=unix://" + n.daemonSocket() + "?root=" + n.StateDir(),
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("running %s %s: %v\n%s", program, strings.Join(args, " "), err, stderr.String())
	}
	return strings.Fields(string(out))
}

func (n node) daemonSocket() string { return filepath.Join(n.StateDir(), "run", "nix", "socket") }

// textClosure adds a closure of count plain files to the agent's store and gives its root.
func (n node) textClosure(count int, seed string) string {
	n.t.Helper()
	words := n.nix("nix-instantiate", "--eval", "--read-write-mode", nixtest.Fixture(n.t, "text-closure.nix"),
		"--arg", "n", strconv.Itoa(count), "--argstr", "seed", seed, "-A", "root")
	if len(words) != 1 {
		n.t.Fatalf("instantiating the text closure gave %q", words)
	}
	return strings.Trim(words[0], `"`)
}

// packageSet makes a folder to be used as --package-set. text is the body of an
// attribute set that may use:
//
//	run NAME SCRIPT                a derivation whose builder is busybox's sh; bin/ of busybox is in PATH
//	synthetic { n = 4; ... }       the root of synthetic-closure.nix
//	text { n = 4; seed = ""; }     no derivation: the root of text-closure.nix
func packageSet(t *testing.T, text string) string {
	t.Helper()
	dir := nixtest.StateDir(t) // readable for evaluators, unlike t.TempDir
	busybox := nixtest.Busybox(t)
	for _, args := range [][]string{
		{"cp", "-a", busybox, filepath.Join(dir, "busybox")},
		{"cp", nixtest.Fixture(t, "synthetic-closure.nix"), nixtest.Fixture(t, "text-closure.nix"), dir},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("making the package set: %v\n%s", err, out)
		}
	}
	writeFile(t, filepath.Join(dir, "default.nix"), fmt.Sprintf(`
let
  bb = builtins.path { path = ./busybox; name = "busybox-tree"; };
  run = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "${bb}/bin/sh";
    args = [ "-c" script ];
    PATH = "${bb}/bin";
  };
  synthetic = args: (import ./synthetic-closure.nix ({ busybox = ./busybox; } // args)).root;
  text = args: (import ./text-closure.nix args).root;
in
{
%s
}
`, text))
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// metric gives the value of a metric without labels, such as "closured_pins".
func (n node) metric(name string) float64 {
	n.t.Helper()
	body, err := n.Get(n.t.Context(), "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		rest, ok := strings.CutPrefix(line, name+" ")
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
		if err != nil {
			n.t.Fatal(err)
		}
		return value
	}
	n.t.Fatalf("there is no metric %s", name)
	return 0
}

// publish publishes with kubelet's patience, for at most a minute.
func (n node) publish(v agent.Volume) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	if err := n.PublishPatiently(ctx, v); err != nil {
		n.t.Fatalf("publishing %s of %s: %v", v.Name, v.Pod, err)
	}
}

// unpublish takes the volume away.
func (n node) unpublish(v agent.Volume) {
	n.t.Helper()
	if err := n.Unpublish(n.t.Context(), v); err != nil {
		n.t.Fatalf("unpublishing %s of %s: %v", v.Name, v.Pod, err)
	}
}

// requireVolumes checks that just these many volumes are mounted and pinned.
func (n node) requireVolumes(want int) {
	n.t.Helper()
	mounts, err := n.Volumes()
	if err != nil {
		n.t.Fatal(err)
	}
	pins, err := n.Pins()
	if err != nil {
		n.t.Fatal(err)
	}
	if len(mounts) != want || len(pins) != want {
		n.t.Errorf("there are %d mounts and %d pins, want %d of each:\n%q\n%q", len(mounts), len(pins), want, mounts, pins)
	}
}

// requireNothing checks that no volume has left anything: mount, pin, or folder
// below kubelet's.
func (n node) requireNothing() {
	n.t.Helper()
	n.requireVolumes(0)
	entries, err := os.ReadDir(filepath.Join(n.KubeletDir(), "pods"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range entries {
		n.t.Errorf("the folder of pod %s is left", e.Name())
	}
}

// readVolume reads every file below dir to its end, and gives how many there are.
func readVolume(dir string) (files int, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		_, err = os.ReadFile(path)
		return err
	})
	return files, err
}

// eventually waits until check gives nil, and fails the test with its last error
// after limit.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(pollEvery)
	}
}

// requireNoProcesses checks that within a moment no process of the node in dir is left.
func requireNoProcesses(t *testing.T, dir string) {
	t.Helper()
	if dir == "" {
		return
	}
	eventually(t, 10*time.Second, "the end of all processes of "+dir, func() error {
		if left := processesOf(dir); len(left) > 0 {
			return fmt.Errorf("%d are left: %q", len(left), left)
		}
		return nil
	})
}

var errNotYet = errors.New("not yet")
