package statedir_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/internal/statedir"
	"github.com/closured/closured/nixstore"
)

// helperEnv makes the test program a second agent: it takes the lock of the
// directory that the variable names, says so, and waits for its end.
const helperEnv = "STATEDIR_TEST_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := statedir.Acquire(context.Background(), dir); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println("locked")
	select {} // until it is killed
}

// startAgent starts a second process that takes dir's lock, and gives the first
// line that it says.
func startAgent(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, cmd) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the second process said nothing: %v", err)
	}
	return cmd, strings.TrimSpace(line)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if cmd.ProcessState != nil {
		return
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = cmd.Wait() // it ends by the signal, which Wait calls an error
}

func TestFault14SecondAgentExitsNamingTheFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, said := startAgent(t, dir)
	if said != "locked" {
		t.Fatalf("the first agent did not get the lock: %s", said)
	}

	_, err := statedir.Acquire(t.Context(), dir)
	if !errors.Is(err, nixstore.ErrConflict) {
		t.Fatalf("Acquire beside a living agent: %v, want ErrConflict", err)
	}
	for _, want := range []string{"pid " + strconv.Itoa(first.Process.Pid), dir, "--state-dir"} {
		if text := err.Error(); !strings.Contains(text[:min(200, len(text))], want) {
			t.Errorf("the first 200 characters of %q do not say %q", text, want)
		}
	}

	kill(t, first) // kill -9: nothing is cleaned up by the process
	lock, err := statedir.Acquire(t.Context(), dir)
	if err != nil {
		t.Fatalf("Acquire after the first agent was killed: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// A child that a killed agent was starting holds the lock until it runs its program.
func TestOwnerMayTakeAMomentToEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, said := startAgent(t, dir)
	if said != "locked" {
		t.Fatalf("the first agent did not get the lock: %s", said)
	}
	ending := time.AfterFunc(200*time.Millisecond, func() { _ = first.Process.Kill() })
	t.Cleanup(func() { ending.Stop() })
	lock, err := statedir.Acquire(t.Context(), dir)
	if err != nil {
		t.Fatalf("Acquire while the first agent ends: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

func TestFault14SecondProcessIsRefusedByThisOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := statedir.Acquire(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, said := startAgent(t, dir); !strings.Contains(said, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("the second agent said %q", said)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, said := startAgent(t, dir); said != "locked" {
		t.Errorf("after Close the second agent said %q", said)
	}
}

func TestAcquireIsExclusiveAlsoInARace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "by", "acquire")
	var won sync.Map
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if lock, err := statedir.Acquire(t.Context(), dir); err == nil {
				won.Store(i, lock)
			}
		})
	}
	wg.Wait()
	count := 0
	won.Range(func(_, v any) bool {
		count++
		if lock, ok := v.(*statedir.Lock); ok {
			t.Cleanup(func() { _ = lock.Close() })
		}
		return true
	})
	if count != 1 {
		t.Errorf("%d callers own the directory, want 1", count)
	}
}

func TestAcquireRefuses(t *testing.T) {
	t.Parallel()
	linked := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(linked, "lock")); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"a relative path":               "state",
		"no path":                       "",
		"a path below a file":           filepath.Join(victim, "state"),
		"a lock that is a link outside": linked,
	}
	for name, dir := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := statedir.Acquire(t.Context(), dir); err == nil {
				t.Error("the directory was accepted")
			}
		})
	}
	t.Cleanup(func() {
		if data, err := os.ReadFile(victim); err != nil || string(data) != "content" {
			t.Errorf("the file behind the link now holds %q (%v)", data, err)
		}
	})
}

func ExampleAcquire() {
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lock, err := statedir.Acquire(ctx, dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	cancel()                            // else the next would wait a moment for the first to end
	_, err = statedir.Acquire(ctx, dir) // flock also tells two openings of one process apart
	fmt.Println(errors.Is(err, nixstore.ErrConflict))
	fmt.Println(lock.Close())
	// Output:
	// true
	// <nil>
}
