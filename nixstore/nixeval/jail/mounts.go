package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// source is a thing of the host that is held open while the root is built, so
// that the mount which hides its name does not matter.
type source struct {
	bind Bind
	file *os.File // opened with O_PATH
	mode uint32   // of stat(2)
}

// buildRoot makes the jail's root and moves into it. It runs in a mount
// namespace of its own, which ends with the jail: nothing here has to be undone.
func buildRoot(spec *Spec) error {
	// Otherwise mounts below a shared mount would appear on the host.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	sources, err := openSources(spec)
	if err != nil {
		return err
	}
	root, err := mountRoot(spec)
	if err != nil {
		return err
	}
	if err := mountOwn(root, spec); err != nil {
		return err
	}
	for _, s := range sources {
		if err := s.attach(root); err != nil {
			return fmt.Errorf("showing %s as %s: %w", s.bind.From, s.bind.To, err)
		}
		s.file.Close()
	}
	if err := writeFiles(root, spec); err != nil {
		return err
	}
	return enter(root)
}

// devices are all that a jail may show in /dev; none of them can be harmed.
var devices = [...]string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}

func openSources(spec *Spec) ([]source, error) {
	binds := slices.Clone(spec.Binds)
	if spec.Devs {
		for _, d := range devices {
			binds = append(binds, Bind{From: d, To: d})
		}
	}
	sources := make([]source, 0, len(binds))
	for _, b := range binds {
		s, err := openSource(b)
		if err != nil {
			return nil, fmt.Errorf("opening %s: %w", b.From, err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

func openSource(b Bind) (source, error) {
	var how unix.OpenHow
	how.Flags = unix.O_PATH | unix.O_CLOEXEC
	if b.NoSymlinks {
		how.Resolve = unix.RESOLVE_NO_SYMLINKS
	}
	fd := -1
	open := func() (err error) { fd, err = unix.Openat2(unix.AT_FDCWD, b.From, &how); return err }
	if err := retry(open); err != nil {
		return source{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return source{}, err
	}
	return source{bind: b, file: os.NewFile(uintptr(fd), b.From), mode: st.Mode}, nil
}

// mountRoot mounts the tmpfs that becomes the root, over any folder there is:
// only this mount namespace sees it.
func mountRoot(spec *Spec) (string, error) {
	options := fmt.Sprintf("mode=0755,size=%d", spec.rootBytes())
	var errs []error
	for _, dir := range []string{"/tmp", "/run", "/var", "/dev", "/usr"} {
		err := mount("jail", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, fmt.Errorf("mounting a tmpfs on %s: %w", dir, err))
	}
	return "", errors.Join(errs...)
}

// attach binds the source below root. The bind is made first and restricted
// second: nothing runs in this mount namespace in between.
func (s source) attach(root string) error {
	target := filepath.Join(root, s.bind.To)
	if err := makeTarget(target, s.mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(s.file.Fd()))
	if err := mount(from, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID)
	if !s.bind.Writable {
		flags |= unix.MS_RDONLY
	}
	if kind := s.mode & unix.S_IFMT; kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		flags |= unix.MS_NODEV
	}
	return mount("", target, "", flags|keptFlags(st.Flags), "")
}

// keptFlags are the mount flags that a remount must repeat, because a mount may
// be locked to them (mount_namespaces(7)).
func keptFlags(have int64) uintptr {
	var flags uintptr
	for _, f := range []struct {
		st int64
		ms uintptr
	}{
		{unix.ST_RDONLY, unix.MS_RDONLY},
		{unix.ST_NODEV, unix.MS_NODEV},
		{unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME},
		{unix.ST_NODIRATIME, unix.MS_NODIRATIME},
		{unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if have&f.st != 0 {
			flags |= f.ms
		}
	}
	return flags
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func writeFiles(root string, spec *Spec) error {
	for name, data := range spec.Files {
		target := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("making the folder of %s: %w", name, err)
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	for name, to := range spec.Links {
		target := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("making the folder of %s: %w", name, err)
		}
		if err := os.Symlink(to, target); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
	}
	return nil
}

// mountOwn mounts /tmp, which belongs to the jail's user, and proc.
func mountOwn(root string, spec *Spec) error {
	size := spec.TmpBytes
	if size == 0 {
		size = defaultTmpBytes
	}
	tmp := filepath.Join(root, "tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return fmt.Errorf("making /tmp: %w", err)
	}
	options := fmt.Sprintf("mode=0700,uid=%d,gid=%d,size=%d", spec.UID, spec.GID, size)
	if err := mount("tmp", tmp, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting /tmp: %w", err)
	}
	if !spec.Proc {
		return nil
	}
	proc := filepath.Join(root, "proc")
	if err := os.MkdirAll(proc, 0o755); err != nil {
		return fmt.Errorf("making /proc: %w", err)
	}
	// subset=pid leaves only the processes of the jail; Linux 5.8.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", proc, "proc", flags, "subset=pid,hidepid=2"); err == nil {
		return nil
	}
	if err := mount("proc", proc, "proc", flags, "hidepid=2"); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

// enter makes root the root of this mount namespace, lets go of the old one
// with everything below it, and makes the new one read-only.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("entering the jail: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	// The old root is now stacked on the new one (pivot_root(2), "pivot_root(".", ".")").
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
	if err := mount("", "/", "", flags, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// mount is mount(2), repeated when a signal interrupts it.
func mount(from, target, fsType string, flags uintptr, data string) error {
	return retry(func() error { return unix.Mount(from, target, fsType, flags, data) })
}
