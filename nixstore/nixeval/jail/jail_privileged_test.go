//go:build privileged

package jail_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/closured/closured/nixstore/nixeval/jail"
)

// shell is a jail that runs a script with busybox, which is all it holds.
func shell(t *testing.T, script string) jail.Spec {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a jail is made of mounts and namespaces")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox in PATH (Debian package busybox-static)")
	}
	return jail.Spec{
		Args:    []string{"/bin/sh", "-c", script},
		Binds:   []jail.Bind{{From: busybox, To: "/bin/sh"}, {From: busybox, To: "/bin/busybox"}},
		Devs:    true,
		UID:     65534,
		GID:     65534,
		Timeout: 20 * time.Second,
	}
}

func run(t *testing.T, spec jail.Spec) jail.Result {
	t.Helper()
	result, err := jail.Run(t.Context(), spec, nil, 1<<20, 1<<16)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return result
}

// words runs a script that must succeed and gives what it wrote.
func words(t *testing.T, spec jail.Spec) []string {
	t.Helper()
	result := run(t, spec)
	if result.Outcome != jail.Exited || result.ExitCode != 0 {
		t.Fatalf("the script ended as %v %d %v: %s", result.Outcome, result.ExitCode, result.Signal, result.Stderr)
	}
	return strings.Fields(string(result.Stdout))
}

func TestTheRootHoldsOnlyWhatWasNamed(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox find / -xdev | busybox sort; busybox ls /dev")
	spec.Files = map[string][]byte{"/etc/passwd": []byte("x")}
	spec.Links = map[string]string{"/usr/bin": "../bin"}
	want := []string{
		"/", "/bin", "/bin/busybox", "/bin/sh", "/dev", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero",
		"/etc", "/etc/passwd", "/tmp", "/usr", "/usr/bin", "null", "random", "urandom", "zero",
	}
	spec.Args[2] = "cd /; busybox find / -xdev | busybox sort; busybox ls /dev"
	if diff := cmp.Diff(want, words(t, spec)); diff != "" {
		t.Errorf("the jail's root (-want +got):\n%s", diff)
	}
}

func TestNoMountOfTheHostIsLeft(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox awk '{print $5} $5 != \"/tmp\" && $5 != \"/proc\" && $6 !~ /^ro,nosuid/' /proc/self/mountinfo; busybox ls /.. | busybox wc -l")
	spec.Proc, spec.Devs = true, false
	want := []string{"/", "/tmp", "/bin/sh", "/bin/busybox", "/proc", "3"} // bin, proc, tmp
	less := func(a, b string) bool { return a < b }
	if diff := cmp.Diff(want, words(t, spec), cmpopts.SortSlices(less)); diff != "" {
		t.Errorf("mounts, and names above the root (-want +got):\n%s", diff)
	}
}

func TestNothingIsLeftOfPower(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox cat /proc/self/status")
	spec.Proc = true
	result := run(t, spec)
	status := map[string]string{}
	for line := range strings.Lines(string(result.Stdout)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	const none = "0000000000000000"
	want := map[string]string{
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "Groups": "", "PPid": "0",
	}
	for name, value := range want {
		if status[name] != value {
			t.Errorf("%s is %q, want %q", name, status[name], value)
		}
	}
}

func TestTheEnvironmentIsOnlyWhatWasGiven(t *testing.T) {
	t.Setenv("CANARY", "of the host")
	spec := shell(t, "busybox cat /proc/self/environ | busybox tr '\\0' ' '")
	spec.Proc = true
	spec.Env = []string{"A=1"}
	// The shell adds PWD and such; "env" of the program itself is what counts.
	spec.Args = []string{"/bin/busybox", "env"}
	if diff := cmp.Diff([]string{"A=1"}, words(t, spec)); diff != "" {
		t.Errorf("the environment (-want +got):\n%s", diff)
	}
}

func TestWritesFailOutsideTmp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	spec := shell(t, `echo x >/tmp/f && busybox cat /tmp/f
for f in /f /etc/f /ro/f /dev/f; do echo x >$f && echo wrote $f; done 2>/dev/null
busybox mount -t tmpfs t /tmp 2>/dev/null && echo mounted
busybox chroot / /bin/sh -c true 2>/dev/null && echo chrooted
exit 0`)
	spec.Files = map[string][]byte{"/etc/passwd": nil}
	spec.Binds = append(spec.Binds, jail.Bind{From: dir, To: "/ro"})
	if diff := cmp.Diff([]string{"x"}, words(t, spec)); diff != "" {
		t.Errorf("what the script could do (-want +got):\n%s", diff)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("the read-only bind was written: %v", entries)
	}
}

func TestAWritableBindIsWrittenAsTheUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	spec := shell(t, "echo kept >/home/f")
	spec.Binds = append(spec.Binds, jail.Bind{From: dir, To: "/home", Writable: true})
	words(t, spec)
	if data, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(data) != "kept\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
}

func TestThereIsNoNetworkUnlessAsked(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	// bash and its /dev/tcp: busybox asks for names, which a static program cannot do here.
	spec := shell(t, "")
	spec.Binds = append(spec.Binds, jail.Bind{From: "/usr", To: "/usr"})
	spec.Links = map[string]string{"/lib": "usr/lib", "/lib64": "usr/lib64"}
	spec.Args = []string{"/usr/bin/bash", "-c", `(: <>/dev/tcp/${0%:*}/${0##*:}) 2>/dev/null && echo reached; exit 0`, listener.Addr().String()}
	if got := words(t, spec); len(got) != 0 {
		t.Errorf("without Network: %q", got)
	}
	spec.Network = true
	if diff := cmp.Diff([]string{"reached"}, words(t, spec)); diff != "" {
		t.Errorf("with Network (-want +got):\n%s", diff)
	}
}

func TestOtherProcessesAreNotSeen(t *testing.T) {
	t.Parallel()
	spec := shell(t, "cd /proc; echo [0-9]*; echo $$")
	spec.Proc = true
	if diff := cmp.Diff([]string{"1", "1"}, words(t, spec)); diff != "" {
		t.Errorf("processes, and the shell's own number (-want +got):\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script string
		change func(*jail.Spec)
		want   string
	}{
		"memory":     {"ulimit -v", func(s *jail.Spec) { s.MemoryBytes = 64 << 20 }, "65536"},
		"core dumps": {"ulimit -c; ulimit -H -c", func(*jail.Spec) {}, "0 0"},
		"file size":  {"ulimit -f", func(s *jail.Spec) { s.FileBytes = 1 << 20 }, "2048"},
		"processes": {"busybox grep 'Max processes' /proc/self/limits", func(s *jail.Spec) {
			s.Processes, s.Proc = 777, true
		}, "Max processes 777 777 processes"},
		"open files":            {"ulimit -n; ulimit -H -n", func(s *jail.Spec) { s.OpenFiles = 33 }, "33 33"},
		"default of open files": {"ulimit -n", func(*jail.Spec) {}, "1024"},
		"a limit in force": {
			"busybox dd if=/dev/zero of=/tmp/f bs=4096 count=4 2>/dev/null; busybox stat -c %s /tmp/f",
			func(s *jail.Spec) { s.FileBytes = 8192 }, "8192",
		},
		"size of /tmp": {
			"busybox dd if=/dev/zero of=/tmp/f bs=4096 count=40 2>/dev/null; busybox stat -c %s /tmp/f",
			func(s *jail.Spec) { s.TmpBytes = 65536 }, "65536",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, test.script)
			test.change(&spec)
			if got := strings.Join(words(t, spec), " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script string
		want   jail.Result
	}{
		"an exit code":                      {"exit 7", jail.Result{Outcome: jail.Exited, ExitCode: 7}},
		"a deadline ends children as well":  {"busybox sleep 100 & busybox sleep 100", jail.Result{Outcome: jail.Deadline}},
		"too much output ends the program":  {"busybox yes", jail.Result{Outcome: jail.OutputLimit}},
		"the end of standard error is kept": {"echo abcdefgh >&2", jail.Result{Stderr: []byte("efgh\n")}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, test.script)
			spec.Timeout = 2 * time.Second
			got, err := jail.Run(t.Context(), spec, nil, 1000, 5)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Stdout) > 1000 {
				t.Errorf("%d bytes of output were kept, want at most 1000", len(got.Stdout))
			}
			got.Stdout = nil
			if diff := cmp.Diff(string(test.want.Stderr), string(got.Stderr)); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
			got.Stderr, test.want.Stderr = nil, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAKilledProgramWasOutOfMemory(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox sleep 77.25")
	spec.Args = []string{"/bin/busybox", "sleep", "77.25"}
	done := make(chan jail.Result, 1)
	go func() {
		result, err := jail.Run(t.Context(), spec, nil, 100, 100)
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- result
	}()
	pids := waitProcesses(t, "77.25", 1)
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil { // as the kernel would
		t.Fatal(err)
	}
	if result := <-done; result.Outcome != jail.OutOfMemory {
		t.Errorf("the outcome is %v, want %v", result.Outcome, jail.OutOfMemory)
	}
}

func TestStandardInputReachesTheProgram(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox wc -c")
	result, err := jail.Run(t.Context(), spec, strings.NewReader("12345"), 100, 100)
	if err != nil || strings.TrimSpace(string(result.Stdout)) != "5" {
		t.Errorf("got %q, %v", result.Stdout, err)
	}
}

func TestTheCallersContextEndsTheJail(t *testing.T) {
	t.Parallel()
	spec := shell(t, "busybox sleep 88.5")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := jail.Run(ctx, spec, nil, 100, 100)
		done <- err
	}()
	waitProcesses(t, "88.5", 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	waitProcesses(t, "88.5", 0)
}

func TestASourceThatIsALinkIsRefusedWhenAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, link := range []string{"link", "real/link"} {
		if err := os.MkdirAll(filepath.Join(dir, "real"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc", filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
		spec := shell(t, "true")
		spec.Binds = append(spec.Binds, jail.Bind{From: filepath.Join(dir, link), To: "/x", NoSymlinks: true})
		if _, err := jail.Run(t.Context(), spec, nil, 100, 100); !errors.Is(err, jail.ErrSetup) {
			t.Errorf("%s: got %v, want %v", link, err, jail.ErrSetup)
		}
	}
	spec := shell(t, "true")
	spec.Binds = append(spec.Binds, jail.Bind{From: filepath.Join(dir, "real", "link", "ssl"), To: "/x", NoSymlinks: true})
	if _, err := jail.Run(t.Context(), spec, nil, 100, 100); !errors.Is(err, jail.ErrSetup) {
		t.Errorf("a link on the way: got %v, want %v", err, jail.ErrSetup)
	}
}

func TestSetupErrorsNameTheirCause(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*jail.Spec)
		want   string
	}{
		"a program that is not there": {func(s *jail.Spec) { s.Args[0] = "/bin/none" }, "starting /bin/none: no such file"},
		"a source that is not there": {func(s *jail.Spec) {
			s.Binds = append(s.Binds, jail.Bind{From: "/none/such", To: "/x"})
		}, "opening /none/such: no such file"},
		"a folder that is not there": {func(s *jail.Spec) { s.Dir = "/none" }, "entering the working directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := shell(t, "true")
			test.change(&spec)
			_, err := jail.Run(t.Context(), spec, nil, 100, 100)
			if !errors.Is(err, jail.ErrSetup) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %v with %q", err, jail.ErrSetup, test.want)
			}
		})
	}
}

// TestKill9OfTheCallerLeavesNoProcess starts this test binary as a caller of
// its own, kills it, and looks for what its jail held.
func TestKill9OfTheCallerLeavesNoProcess(t *testing.T) {
	const mark = "99.125"
	if os.Getenv("JAIL_TEST_CALLER") != "" {
		spec := shell(t, "busybox sleep "+mark+" & busybox sleep "+mark)
		_, err := jail.Run(t.Context(), spec, nil, 100, 100)
		t.Fatalf("the jail ended before its caller: %v", err)
	}
	spec := shell(t, "") // for its skips
	_ = spec
	caller := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKill9OfTheCallerLeavesNoProcess$")
	caller.Env = append(os.Environ(), "JAIL_TEST_CALLER=1")
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caller.Process.Kill(); _ = caller.Wait() })
	waitProcesses(t, mark, 2)
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitProcesses(t, mark, 0)
}

// waitProcesses waits until n processes have mark as their last argument, and
// gives them.
func waitProcesses(t *testing.T, mark string, n int) []int {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := processes(t, mark)
		if len(pids) == n {
			return pids
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes have the argument %s, want %d", len(pids), mark, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func processes(t *testing.T, mark string) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil || !strings.HasSuffix(string(data), "\x00"+mark+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// BenchmarkRun is the price of a jail: the program does nothing.
func BenchmarkRun(b *testing.B) {
	busybox, err := exec.LookPath("busybox")
	if err != nil || os.Geteuid() != 0 {
		b.Skip("needs root and a static busybox")
	}
	spec := jail.Spec{
		Args: []string{"/bin/busybox", "true"}, Binds: []jail.Bind{{From: busybox, To: "/bin/busybox"}},
		Devs: true, Proc: true, UID: 65534, GID: 65534,
	}
	for b.Loop() {
		if _, err := jail.Run(b.Context(), spec, nil, 1, 1); err != nil {
			b.Fatal(err)
		}
	}
}
