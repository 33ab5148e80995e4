//go:build privileged

package view_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inNamespace says that the tests already have a mount namespace of their own.
const inNamespace = "CLOSURED_TEST_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own, so that whatever a
// failing test leaves mounted goes with it. Tests of restarts run this program
// again in a role.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	if os.Getenv(inNamespace) == "" {
		os.Exit(reexec())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "making the mounts private:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if !strings.HasPrefix(err.Error(), "exit status") {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	}
	return 0
}
