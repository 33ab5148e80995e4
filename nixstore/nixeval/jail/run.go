package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Outcome says how a jail ended.
type Outcome int

// The outcomes.
const (
	// Exited: the program ended by itself; see Result.ExitCode.
	Exited Outcome = iota
	// Deadline: Spec.Timeout passed and everything was killed.
	Deadline
	// OutOfMemory: the kernel killed the program for want of memory. A program
	// that meets Spec.MemoryBytes is not killed: its allocations fail, and what
	// it makes of that is its own matter.
	OutOfMemory
	// OutputLimit: the program wrote more than the limit to its standard output
	// and everything was killed.
	OutputLimit
	// Signaled: the program died of Result.Signal, as of a segmentation fault.
	Signaled
)

// String names the outcome.
func (o Outcome) String() string {
	return [...]string{"exited", "deadline", "out of memory", "output limit", "signaled"}[o]
}

// Result is what came of a program that was started.
type Result struct {
	Outcome  Outcome
	ExitCode int            // of Exited
	Signal   syscall.Signal // of Signaled
	Stdout   []byte         // at most the limit
	Stderr   []byte         // the last bytes, at most the limit
}

// ErrSetup is the error of a jail that could not be made, so that the program
// never started.
var ErrSetup = errors.New("setting up the jail")

var (
	errDeadline    = errors.New("jail: deadline")
	errOutputLimit = errors.New("jail: output limit")
)

const (
	childName  = "closured-jail"  // argv[0] of the child; see MaybeChild
	selfExe    = "/proc/self/exe" // this very program, also when its file was replaced
	waitDelay  = 2 * time.Second  // from the end of the program to giving up on its pipes
	reasonMax  = 4 << 10          // bytes of the child's reason for a failed setup
	namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
)

// Run runs spec and waits until every process of the jail is gone. stdin may be
// nil for an empty one. More than stdoutLimit bytes of standard output end the
// jail; of standard error the last stderrLimit bytes are kept.
//
// How the program ended is in the Result, also when it was killed at its
// deadline. Errors: ErrSpec, ErrSetup, and ctx's when it ends first.
func Run(ctx context.Context, spec Spec, stdin io.Reader, stdoutLimit, stderrLimit int) (Result, error) {
	if err := spec.validate(); err != nil {
		return Result{}, err
	}
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if spec.Timeout > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeoutCause(run, spec.Timeout, errDeadline)
		defer cancel()
	}
	stdout := &headBuffer{limit: stdoutLimit, full: func() { stop(errOutputLimit) }}
	stderr := &tailBuffer{limit: stderrLimit}
	cmd := command(run, spec.Network)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	err := runChild(cmd, &spec)
	result := Result{Stdout: stdout.data, Stderr: stderr.bytes()}
	if cmd.ProcessState == nil || errors.Is(err, ErrSetup) {
		if ctx.Err() != nil {
			return Result{}, context.Cause(ctx)
		}
		if errors.Is(context.Cause(run), errDeadline) {
			result.Outcome = Deadline
			return result, nil
		}
		return Result{}, err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return Result{}, fmt.Errorf("%w: no wait status: %w", ErrSetup, err)
	}
	if status.Signaled() && ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	result.classify(status, context.Cause(run))
	return result, nil
}

// classify sets how the program ended. cause is why the jail was killed, if we did.
func (r *Result) classify(status syscall.WaitStatus, cause error) {
	switch {
	case errors.Is(cause, errOutputLimit):
		r.Outcome = OutputLimit
	case status.Exited():
		r.Outcome, r.ExitCode = Exited, status.ExitStatus()
	case errors.Is(cause, errDeadline):
		r.Outcome = Deadline
	case status.Signal() == syscall.SIGKILL:
		// Nothing in the jail can kill the first process of its pid namespace, and
		// we did not: it was the kernel's out-of-memory killer.
		r.Outcome = OutOfMemory
	default:
		r.Outcome, r.Signal = Signaled, status.Signal()
	}
}

// command is this program started as the jail's child. Its environment, which
// the program does not get, keeps Go from interrupting system calls for its scheduler.
func command(ctx context.Context, network bool) *exec.Cmd {
	cmd := exec.CommandContext(ctx, selfExe)
	cmd.Args = []string{childName}
	cmd.Env = []string{"GODEBUG=asyncpreemptoff=1"}
	cmd.Dir = "/"
	cmd.WaitDelay = waitDelay
	flags := uintptr(namespaces)
	if !network {
		flags |= syscall.CLONE_NEWNET
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: flags,
		Setsid:     true, // no controlling terminal to push input into
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// runChild starts cmd, hands it the spec, and waits for its end.
func runChild(cmd *exec.Cmd, spec *Spec) error {
	// The parent-death signal comes when the *thread* that started the child
	// ends (prctl(2)), so this thread must stay ours until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer specWrite.Close() // its end tells the child that we are gone
	reasonRead, reasonWrite, err := os.Pipe()
	if err != nil {
		specRead.Close()
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer reasonRead.Close()
	cmd.ExtraFiles = []*os.File{specRead, reasonWrite} // the child's descriptors 3 and 4
	err = cmd.Start()
	specRead.Close()
	reasonWrite.Close()
	if err != nil {
		return fmt.Errorf("%w: starting it again as %s: %w", ErrSetup, childName, err)
	}
	sendErr := json.NewEncoder(specWrite).Encode(spec)
	// The child's end of this pipe closes when it becomes the program, or dies.
	reason, readErr := io.ReadAll(io.LimitReader(reasonRead, reasonMax))
	waitErr := cmd.Wait()
	switch {
	case len(reason) > 0:
		return fmt.Errorf("%w: %s", ErrSetup, reason)
	case sendErr != nil:
		return fmt.Errorf("%w: sending the specification: %w (%w)", ErrSetup, sendErr, errors.Join(waitErr, readErr))
	case readErr != nil:
		return fmt.Errorf("%w: %w", ErrSetup, readErr)
	}
	return waitErr
}
