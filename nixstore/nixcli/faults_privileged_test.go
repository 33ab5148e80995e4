//go:build privileged

package nixcli_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/nixcli"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// script gives a derivation whose builder is a shell script.
func script(t *testing.T, dir, name, text string) (drv, out string) {
	t.Helper()
	return nixtest.Instantiate(t, dir, "--argstr", "busybox", nixtest.Busybox(t), "--argstr", "name", name, "--argstr", "text", text, "--expr", `
{ busybox, name, text }:
let bb = builtins.path { path = busybox; name = "busybox-tree"; };
in derivation { inherit name; system = builtins.currentSystem; builder = "${bb}/bin/sh"; PATH = "${bb}/bin"; args = [ "-c" text ]; }`)
}

// processes gives the ids of the processes whose command line holds all words.
func processes(tb testing.TB, words ...string) []int {
	tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		tb.Fatal(err)
	}
	var found []int
next:
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for _, w := range words {
			if !bytes.Contains(data, []byte(w)) {
				continue next
			}
		}
		if pid, err := strconv.Atoi(strings.Split(file, "/")[2]); err == nil && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	return found
}

// daemonOf gives the daemon that this process has started over dir.
func daemonOf(tb testing.TB, dir string) int {
	tb.Helper()
	for _, pid := range processes(tb, "nix-daemon") {
		env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil || !bytes.Contains(env, []byte("NIX_DAEMON_SOCKET_PATH="+dir+"/")) {
			continue
		}
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err == nil && strings.Fields(string(stat))[3] == strconv.Itoa(os.Getpid()) {
			return pid
		}
	}
	return 0
}

func TestEndingTheContextEndsTheBuilder(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	marker := strconv.Itoa(100_000_000 + rand.IntN(100_000_000))
	drv, out := script(t, dir, "sleeps", "sleep "+marker)
	store := open(t, offline(dir))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- store.Realise(ctx, []nixstore.Output{output(drv, out)}, build) }()
	eventually(t, "the builder runs", func() bool { return len(processes(t, "sleep", marker)) > 0 })
	cancelled := time.Now()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Realise gave %v", err)
	}
	eventually(t, "the builder is gone", func() bool { return len(processes(t, "sleep", marker)) == 0 })
	t.Logf("the builder was gone after %s", time.Since(cancelled))
}

func TestFault15DaemonThatHangs(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	drv, out := nixtest.SyntheticDerivation(t, dir, 2, "hang")
	store := open(t, offline(dir))
	pid := daemonOf(t, dir)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatalf("stopping the daemon %d: %v", pid, err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	wantKind(t, store.Healthy(t.Context()), nixstore.ErrUnavailable)
	wantKind(t, store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build), nixstore.ErrUnavailable)
	_, err := store.Merge(t.Context(), []nixstore.StorePath{path("/nix/store/00000000000000000000000000000000-x")})
	wantKind(t, err, nixstore.ErrNotFound) // the database needs no daemon
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build); err != nil {
		t.Errorf("after it went on: %v", err)
	}
}

func TestFault15DaemonThatHangsInTheMiddleOfABuild(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	marker := strconv.Itoa(100_000_000 + rand.IntN(100_000_000))
	drv, out := script(t, dir, "sleeps", "sleep "+marker)
	store := open(t, offline(dir))
	ended := make(chan error, 1)
	go func() { ended <- store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build) }()
	eventually(t, "the builder runs", func() bool { return len(processes(t, "sleep", marker)) > 0 })
	pid := daemonOf(t, dir)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	wantKind(t, <-ended, nixstore.ErrUnavailable)
	eventually(t, "the builder is gone", func() bool { return len(processes(t, "sleep", marker)) == 0 })
}

func TestFault15DaemonThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	drv, out := nixtest.SyntheticDerivation(t, dir, 2, "dies")
	store := open(t, offline(dir))
	for range 3 {
		pid := daemonOf(t, dir)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another daemon answers", func() bool {
			return daemonOf(t, dir) != pid && store.Healthy(t.Context()) == nil
		})
	}
	if err := store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build); err != nil {
		t.Error(err)
	}
}

func TestDaemonEndsWithItsContext(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	var pid int
	t.Cleanup(func() { // after that of open, which waits for the end
		if err := syscall.Kill(pid, 0); pid == 0 || !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the daemon %d is still there: %v", pid, err)
		}
	})
	open(t, offline(dir))
	pid = daemonOf(t, dir)
}

// unprivileged gives a folder of Nix's programs whose daemon is refused
// namespaces, as in a container without privilege.
func unprivileged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"nix-store", "nix-instantiate", "nix-daemon"} {
		installed, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, program)
		if program != "nix-daemon" {
			if err := os.Symlink(installed, to); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text := "#!/bin/sh\nexec unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; " +
			"exec setpriv --bounding-set -sys_admin --inh-caps -all " + installed + "'\n"
		if err := os.WriteFile(to, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFault39BuildsAreRefusedWithoutASandbox(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 2, true, nil)
	dir := nixtest.StateDir(t)
	drv, out := nixtest.SyntheticDerivation(t, dir, 2, "unboxed")
	cfg := nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent", BinDir: unprivileged(t), Substituters: []string{cache.url}, TrustedPublicKeys: []string{cache.key}}
	store := open(t, cfg)
	failure := wantKind(t, store.SelfTest(t.Context()), nixstore.ErrBuild)
	if !strings.Contains(failure.Error(), "CAP_SYS_ADMIN") || len(store.Problems()) != 1 {
		t.Errorf("the self-test gave %q, the problems are %q", failure, store.Problems())
	}
	err := store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build)
	if failure := wantKind(t, err, nixstore.ErrBuild); !strings.Contains(failure.Error(), "refused") {
		t.Errorf("the build gave %q", failure)
	}
	if _, err := os.Stat(dir + out); !os.IsNotExist(err) {
		t.Errorf("something was built: %v", err)
	}
	if err := store.Realise(t.Context(), cache.output(), build); err != nil {
		t.Errorf("substituting gave %v", err)
	}
}

func TestFault40SelfTestTellsThatBuildsWork(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	store := open(t, offline(nixtest.StateDir(t)))
	for range 2 { // the second time the output is there already
		if err := store.SelfTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if store.Version() == "" || store.BuildsRefused() != nil || store.Problems() != nil {
		t.Errorf("version %q, refused %v, problems %q", store.Version(), store.BuildsRefused(), store.Problems())
	}
}

func TestFault40NoBuildUsers(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	cfg := offline(nixtest.StateDir(t))
	cfg.Options["build-users-group"] = "nogroup" // exists, without members
	err := open(t, cfg).SelfTest(t.Context())
	if failure := wantKind(t, err, nixstore.ErrBuild); !strings.Contains(failure.Error(), "nixbld") {
		t.Errorf("the failure is %q, want it to name the group", failure)
	}
}

// disk mounts a small ext4 and gives its folder.
func disk(t *testing.T, inodes string) string {
	t.Helper()
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4 in PATH (Debian package e2fsprogs)")
	}
	dir := nixtest.StateDir(t)
	image, at := filepath.Join(dir, "i"), filepath.Join(dir, "m")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"truncate", "-s", "64M", image}, {"mkfs.ext4", "-q", "-N", inodes, image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) })
	return at
}

func TestFault20DiskFull(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 8, true, nil) // 8 times 16 KiB, and busybox of about 2 MiB
	dir := disk(t, "8192")
	drv, out := nixtest.SyntheticDerivation(t, dir, 10, "full", "--arg", "sizeKiB", "16384", "--arg", "files", "1")
	store := open(t, nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent", Substituters: []string{cache.url}, TrustedPublicKeys: []string{cache.key}})
	wantKind(t, store.Realise(t.Context(), []nixstore.Output{output(drv, out)}, build), nixstore.ErrNoSpace)

	nixtest.Run(t, dir, "nix-store", "--gc")
	ballast := filepath.Join(dir, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{})
	wantKind(t, err, nixstore.ErrNoSpace)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
	nixtest.Run(t, dir, "nix-store", "--verify", "--check-contents")
}

// fill writes a file until 1 MiB is left.
func fill(name string) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(name), &stat); err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return syscall.Fallocate(int(file.Fd()), 0, 0, int64(stat.Bavail)*stat.Bsize-1<<20)
}

func TestFault21InodesExhausted(t *testing.T) {
	t.Parallel()
	cache := newCache(t, 30, true, nil) // busybox alone has about 400 links
	dir := disk(t, "256")
	store := open(t, nixcli.Config{StateDir: dir, OperatorConf: "/nonexistent", Substituters: []string{cache.url}, TrustedPublicKeys: []string{cache.key}})
	wantKind(t, store.Realise(t.Context(), cache.output(), nixstore.RealiseOptions{}), nixstore.ErrNoSpace)
}

// TestFault17BarrierAgainstCollectors: under a hold a root may be made for a path
// that was found valid, although a collector runs in a loop.
func TestFault17BarrierAgainstCollectors(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	store := open(t, offline(dir))
	root := path(nixtest.TextClosure(t, dir, 3, "gc"))
	pins := filepath.Join(dir, "nix", "var", "nix", "gcroots", "test")
	if err := os.MkdirAll(pins, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var rounds atomic.Int64
	var collector sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			cmd := nixtest.Command(t, dir, "nix-store", "--gc")
			if out, err := cmd.CombinedOutput(); err != nil && t.Context().Err() == nil {
				t.Errorf("collecting: %v\n%s", err, out)
			}
			rounds.Add(1)
		}
	})
	defer collector.Wait()
	defer cancel()
	pinned := 0
	for i := 0; rounds.Load() < 15; i++ {
		pin := filepath.Join(pins, strconv.Itoa(i))
		if pinIfValid(t, store, root, pin) {
			pinned++
			time.Sleep(20 * time.Millisecond)
			if _, err := store.Closure(t.Context(), root); err != nil {
				t.Errorf("a pinned path was collected: %v", err)
			}
			if err := os.Remove(pin); err != nil {
				t.Fatal(err)
			}
		}
		nixtest.TextClosure(t, dir, 3, "gc")
	}
	t.Logf("%d collections, %d pins", rounds.Load(), pinned)
}

func pinIfValid(t *testing.T, store *nixcli.Store, root nixstore.StorePath, pin string) bool {
	t.Helper()
	release, err := store.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := store.Registration(t.Context(), root); err != nil {
		return false
	}
	time.Sleep(30 * time.Millisecond) // a slow disk: time for a collector that the hold does not stop
	if err := os.Symlink(root.String(), pin); err != nil {
		t.Fatal(err)
	}
	return true
}

func TestHoldIsSharedAndWaitsForACollector(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	dir := nixtest.StateDir(t)
	store := open(t, offline(dir))
	one, err := store.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two, err := store.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one()
	one() // a second time does nothing
	lock, err := os.OpenFile(filepath.Join(dir, "nix", "var", "nix", "gc.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("a collector got the lock in spite of the second hold: %v", err)
	}
	two()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = store.Hold(limited)
	wantKind(t, err, nixstore.ErrBusy)
}

func TestUnprivilegedClientsReachTheDaemon(t *testing.T) {
	t.Parallel()
	nixtest.Require(t)
	store := open(t, offline(nixtest.StateDir(t)))
	client := store.Client()
	cmd := exec.CommandContext(t.Context(), "nix-instantiate", "--eval", "--strict", "--read-write-mode", "-E", `toString (builtins.toFile "x" "y")`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "NIX_REMOTE=" + client.Remote(), "NIX_CONF_DIR=" + client.ConfDir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/nix/store/") {
		t.Errorf("as uid 65534: %v\n%s", err, out)
	}
}
