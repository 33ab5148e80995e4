package jail

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// limit sets every resource limit but the one of memory. Each is both soft and
// hard, and none is raised: that would need CAP_SYS_RESOURCE.
func limit(spec *Spec) error {
	files := spec.OpenFiles
	if files == 0 {
		files = defaultOpenFiles
	}
	limits := []struct {
		what     string
		resource int
		max      uint64
		set      bool
	}{
		{"core dumps", unix.RLIMIT_CORE, 0, true},
		{"open files", unix.RLIMIT_NOFILE, files, true},
		{"locked memory", unix.RLIMIT_MEMLOCK, 0, true},
		{"message queues", unix.RLIMIT_MSGQUEUE, 0, true},
		{"file sizes", unix.RLIMIT_FSIZE, spec.FileBytes, spec.FileBytes > 0},
		{"processes", unix.RLIMIT_NPROC, spec.Processes, spec.Processes > 0},
	}
	for _, l := range limits {
		if !l.set {
			continue
		}
		if err := lowerLimit(l.resource, &syscall.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("bounding %s: %w", l.what, err)
		}
	}
	return nil
}

// lowerLimit sets a limit, or leaves it when it is lower already. It uses
// syscall's call, which tells the Go runtime not to put its own limit of open
// files back at exec.
func lowerLimit(resource int, want *syscall.Rlimit) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(resource, &now); err != nil {
		return err
	}
	want.Max = min(want.Max, now.Max)
	want.Cur = min(want.Cur, want.Max)
	return syscall.Setrlimit(resource, want)
}

// dropPower gives up every privilege of this thread, which execve(2) then keeps
// for the program: no groups, no capability in any set, another user, and
// nothing that could give any of it back.
func dropPower(spec *Spec) error {
	// A session keyring of its own: keys are possessed by session, not by user.
	// Kernels and containers without keyrings have nothing to leave behind.
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil &&
		!errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("leaving the session keyring: %w", err)
	}
	if err := dropBoundingSet(); err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("leaving all groups: %w", err)
	}
	if err := syscall.Setresgid(int(spec.GID), int(spec.GID), int(spec.GID)); err != nil {
		return fmt.Errorf("changing the group: %w", err)
	}
	if err := syscall.Setresuid(int(spec.UID), int(spec.UID), int(spec.UID)); err != nil {
		return fmt.Errorf("changing the user: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none := [2]unix.CapUserData{} // permitted and effective fell with the user, the inheritable did not
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	return nil
}

func dropBoundingSet() error {
	for c := range uintptr(64) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // past the kernel's last capability
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	return nil
}
