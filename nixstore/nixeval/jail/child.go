package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The child's inherited descriptors.
const (
	specFD   = 3 // the Spec as JSON; its other end lives as long as the caller
	reasonFD = 4 // takes the reason when the setup fails; closed by exec
)

// MaybeChild returns at once unless this process was started by Run as the
// first process of a jail; then it sets the jail up, becomes the jailed program,
// and never returns. Programs that use Run call it first thing in main, and
// tests in TestMain, before they start goroutines or parse arguments.
func MaybeChild() {
	if len(os.Args) != 1 || os.Args[0] != childName {
		return
	}
	runtime.LockOSThread() // credentials belong to threads, and exec takes those of its caller
	err := becomeProgram()
	reason := os.NewFile(reasonFD, "reason")
	fmt.Fprint(reason, err)
	os.Exit(exitSetup) //nolint:revive // this process exists only for the jail, and main must not go on in it
}

const exitSetup = 125 // as of env(1) and others: the program was not started

// becomeProgram does everything between the start of the child and the
// program's first instruction. It returns only the reason why it failed.
func becomeProgram() error {
	// From here on nothing inherited may reach the program, whatever the caller
	// or its libraries left open.
	if err := unix.CloseRange(specFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(specFD) // before Linux 5.11; Go's own files are all close-on-exec
		unix.CloseOnExec(reasonFD)
	}
	var spec Spec
	if err := json.NewDecoder(os.NewFile(specFD, "spec")).Decode(&spec); err != nil {
		return fmt.Errorf("reading the specification: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return fmt.Errorf("making the jail the first to be killed for memory: %w", err)
	}
	if err := buildRoot(&spec); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("jail")); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	dir := spec.Dir
	if dir == "" {
		dir = "/"
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("entering the working directory: %w", err)
	}
	if err := limit(&spec); err != nil {
		return err
	}
	if err := dropPower(&spec); err != nil {
		return err
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	return execute(&spec)
}

// dieWithParent asks for the parent-death signal again, because the change of
// user cleared it (prctl(2)), and then looks whether the caller is still there:
// it may have died in between.
func dieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking for the parent-death signal: %w", err)
	}
	life := []unix.PollFd{{Fd: specFD}}
	poll := func() error { _, err := unix.Poll(life, 0); return err }
	if err := retry(poll); err != nil {
		return fmt.Errorf("looking for the caller: %w", err)
	}
	if life[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return errors.New("the caller is gone")
	}
	return nil
}

// retry repeats a system call that a signal interrupted: Go's runtime sends
// itself some.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// execute sets the bound of the address space and becomes the program. Nothing
// may be allocated between the two: this runtime has already mapped more than
// small bounds allow.
func execute(spec *Spec) error {
	program, err := unix.BytePtrFromString(spec.Args[0])
	if err != nil {
		return fmt.Errorf("naming the program: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(spec.Args)
	if err != nil {
		return fmt.Errorf("naming the arguments: %w", err)
	}
	envv, err := syscall.SlicePtrFromStrings(spec.Env)
	if err != nil {
		return fmt.Errorf("naming the environment: %w", err)
	}
	bound := syscall.Rlimit{Cur: spec.MemoryBytes, Max: spec.MemoryBytes}
	debug.SetGCPercent(-1)
	if spec.MemoryBytes > 0 {
		if err := lowerLimit(unix.RLIMIT_AS, &bound); err != nil {
			return fmt.Errorf("bounding the memory: %w", err)
		}
	}
	//nolint:gosec // G103: pointers to Go's memory in the arguments of a system call, the fourth rule of unsafe.Pointer
	_, _, errno := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(program)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])))
	return fmt.Errorf("starting %s: %w", spec.Args[0], errno)
}
