//go:build privileged

package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/tests/agent"
)

// tracedCalls are the system calls by which a publish could do what a warm one
// must not: start a process, reach for a network, open or read files.
const tracedCalls = "execve,execveat,fork,vfork,clone,clone3,connect,sendto,sendmsg," +
	"open,openat,openat2,creat,read,readv,pread64,preadv,mmap"

// TestWarmPublishStartsNothing traces the agent while it publishes a closure that
// is there for fifty pods: no process, no connection, and no file of the store
// may be opened or read.
func TestWarmPublishStartsNothing(t *testing.T) {
	t.Parallel()
	const pods = 50
	n := start(t, agent.Config{PackageSet: packageSet(t, `tools = synthetic { n = 10; files = 3; };`)})
	byPath := n.textClosure(100, "warm")
	volume := func(i int) agent.Volume {
		if i%2 == 0 {
			return agent.StorePath(i, byPath)
		}
		return agent.Packages(i, "tools")
	}
	n.publish(volume(1000)) // the first of each is cold
	n.publish(volume(1001))
	eventually(t, 30*time.Second, "the end of the self-test", n.onlyTheDaemon)
	evaluations, realisations := n.metric("closured_evaluations_total"), n.metric("closured_realisations_total")
	warm := n.metric("closured_provided_warm_total")

	trace := n.strace("-e", "trace="+tracedCalls)
	begin := time.Now()
	for i := range pods {
		n.publish(volume(i))
	}
	took := time.Since(begin)
	calls := trace()

	n.requireWork(evaluations, realisations)
	if got := n.metric("closured_provided_warm_total") - warm; got != pods {
		t.Errorf("the agent counts %v warm answers, want %d", got, pods)
	}
	n.requireOnlyMounting(calls, took)
	n.requireVolumes(pods + 2)
	for i := range pods {
		n.unpublish(volume(i))
	}
	n.unpublish(volume(1000))
	n.unpublish(volume(1001))
	n.requireNothing()
}

// onlyTheDaemon tells whether the agent has no child but its daemon.
func (n node) onlyTheDaemon() error {
	var children []process
	for _, p := range processes() {
		if p.parent == n.PID() {
			children = append(children, p)
		}
	}
	if len(children) != 1 || !strings.HasPrefix(children[0].args, "nix-daemon") {
		return fmt.Errorf("its children are %q", children)
	}
	return nil
}

// strace attaches strace to all threads of the agent; stop detaches it and gives
// the calls, of which descriptors are followed by their paths.
func (n node) strace(args ...string) (stop func() []string) {
	n.t.Helper()
	program, err := exec.LookPath("strace")
	if err != nil {
		n.t.Skip("needs strace in PATH (Debian package strace)")
	}
	file := filepath.Join(n.t.TempDir(), "trace")
	args = append([]string{"-f", "-y", "-s", "256", "-o", file, "-e", "signal=none", "-p", strconv.Itoa(n.PID())}, args...)
	ctx, cancel := context.WithCancel(n.t.Context())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it writes what it has
	cmd.WaitDelay = 3 * time.Second                                       // it may wait for a thread that is no more
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		cancel()
		n.t.Fatal(err)
	}
	ended := sync.OnceFunc(func() {
		cancel()
		_ = cmd.Wait() // ends by the signal, or as the agent did
	})
	n.t.Cleanup(ended)
	eventually(n.t, 10*time.Second, "strace to attach", func() error { return traced(n.PID()) })
	return func() []string {
		ended()
		text, err := os.ReadFile(file)
		if err != nil {
			n.t.Fatalf("tracing: %v\n%s", err, stderr.String())
		}
		return strings.Split(string(text), "\n")
	}
}

// traced tells whether all threads of a process are traced.
func traced(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		f, err := os.Open(task)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if lines.Text() == "TracerPid:\t0" {
				err = errNotYet
			}
		}
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// requireOnlyMounting checks what a warm publish does. The store's health is
// looked at every five seconds by a connection to the daemon, publish or not.
func (n node) requireOnlyMounting(calls []string, took time.Duration) {
	n.t.Helper()
	const healthEvery = 5 * time.Second
	store := filepath.Join(n.StateDir(), "nix/store")
	thread := regexp.MustCompile(`clone3?\(.*CLONE_THREAD`)
	call := regexp.MustCompile(`^\d+ +(\w+)\(`)
	health, read := 0, 0
	for _, line := range calls {
		m := call.FindStringSubmatch(line)
		if m == nil || strings.Contains(line, "resumed>") { // its first half has the arguments
			continue
		}
		switch name := m[1]; {
		case strings.HasPrefix(name, "clone"), strings.HasSuffix(name, "fork"), strings.HasPrefix(name, "exec"):
			if !thread.MatchString(line) {
				n.t.Errorf("a warm publish starts a process: %s", line)
			}
		case name == "connect" && strings.Contains(line, n.daemonSocket()):
			health++
		case name == "connect":
			n.t.Errorf("a warm publish connects: %s", line)
		case strings.HasPrefix(name, "open") && strings.Contains(line, store) && !strings.Contains(line, "O_PATH"):
			n.t.Errorf("a warm publish opens a file of the store: %s", line)
		case strings.Contains(line, store+"/"):
			n.t.Errorf("a warm publish reads a file of the store: %s", line)
		default:
			read++
		}
	}
	if most := int(took/healthEvery) + 1; health > most {
		n.t.Errorf("the daemon was asked %d times, want at most %d", health, most)
	}
	if read == 0 {
		n.t.Error("the trace holds nothing: this test shows nothing")
	}
}
