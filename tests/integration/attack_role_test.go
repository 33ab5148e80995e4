//go:build privileged

package integration_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inPod names the folder to be entered when a test's own program is the process in
// the pod, and not the test. The folder becomes the root, as in a container.
const inPod = "CLOSURED_TEST_POD"

// said begins the lines of a process in a pod that are for its test.
const said = "pod: "

// pod is how a process in a pod is confined.
type pod struct {
	name string
	attr syscall.SysProcAttr
}

const podNamespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC

// rangeOf maps the ids 0 to 65535 of a user namespace to those from host on.
func rangeOf(host int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: host, Size: 1 << 16}}
}

// pods are a privileged container, one in a user namespace, and an ordinary one.
func pods() []pod {
	return []pod{
		{"root with all capabilities", syscall.SysProcAttr{Cloneflags: podNamespaces}},
		{"root of a user namespace", syscall.SysProcAttr{
			Cloneflags: podNamespaces | syscall.CLONE_NEWUSER, UidMappings: rangeOf(200_000), GidMappings: rangeOf(200_000),
			Credential: &syscall.Credential{}, // becomes root of it
		}},
		{"root of a user namespace that is root outside", syscall.SysProcAttr{
			Cloneflags: podNamespaces | syscall.CLONE_NEWUSER, UidMappings: rangeOf(0), GidMappings: rangeOf(0),
		}},
		{"a user without capabilities", syscall.SysProcAttr{Cloneflags: podNamespaces}},
	}
}

// runInPod runs the test that calls it once more, in a pod whose /nix is the
// volume at, and gives what it said. Everything else of the node is out of the pod's
// sight, also /proc.
func runInPod(t *testing.T, p pod, at string, env ...string) []string {
	t.Helper()
	root := t.TempDir()
	for dir := root; dir != filepath.Dir(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) { // a mapped root goes through it
		_ = os.Chmod(dir, 0o755)
		if filepath.Dir(dir) == os.TempDir() {
			break
		}
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	// The volume is mounted by the runtime, which is root of the node, before the
	// pod's namespaces are there.
	runtime := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^"+name+"$", "-test.count", "1", "-test.v")
	attr := p.attr
	attr.Pdeathsig = syscall.SIGKILL
	runtime.SysProcAttr = &attr
	runtime.Env = append(append(os.Environ(), inPod+"="+root), env...)
	makeDir(t, filepath.Join(root, "nix"))
	if err := unix.Mount(at, filepath.Join(root, "nix"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(filepath.Join(root, "nix"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	out, err := runtime.CombinedOutput()
	var lines []string
	for text := bufio.NewScanner(strings.NewReader(string(out))); text.Scan(); {
		if line, ok := strings.CutPrefix(text.Text(), said); ok {
			lines = append(lines, line)
		}
	}
	if err != nil || len(lines) == 0 || lines[len(lines)-1] != "done" {
		t.Fatalf("in the pod: %v\n%s", err, out)
	}
	return lines[:len(lines)-1]
}

// isInPod tells whether this is the process in a pod, and shuts it in.
func isInPod(t *testing.T) bool {
	t.Helper()
	root := os.Getenv(inPod)
	if root == "" {
		return false
	}
	if err := enter(root); err != nil {
		t.Fatal(err)
	}
	return true
}

// enter makes root the root, with nothing of the old one left.
func enter(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding the root: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivoting: %w", err)
	}
	return errors.Join(unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"))
}

// tell says a line to the test.
func tell(format string, args ...any) { fmt.Printf(said+format+"\n", args...) }
