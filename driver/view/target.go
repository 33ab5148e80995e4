package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// Target is the place of a volume: a name in a folder that was opened without
// following any symlink, and that all later acts go through. Whoever renames or
// replaces the folders above it meanwhile changes nothing.
//
// A Target is used by one goroutine at a time.
type Target struct {
	path   string // as asked for
	real   string // where that is in this mount namespace
	name   string // last element
	parent int    // O_PATH descriptor of the folder that holds name
}

// OpenTarget opens the folder above path beneath base, which is the operator's
// word and may itself hold symlinks; an empty base is "/". Both are absolute and
// clean. path itself need not exist. Close the target after use.
//
// Errors: ErrInvalid when path is malformed, not below base, or leads through a
// symlink or a file; ErrNotFound when the folder above it is missing.
func OpenTarget(base, path string) (*Target, error) {
	if base == "" {
		base = "/"
	}
	rel, err := below(base, path)
	if err != nil {
		return nil, err
	}
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, targetError(path, fmt.Errorf("opening %s: %w", base, err))
	}
	defer closeFD(root)
	parent, err := beneath.Open(root, filepath.Dir(rel), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, targetError(path, err)
	}
	dir, err := os.Readlink(fdPath(parent))
	if err != nil {
		closeFD(parent)
		return nil, fmt.Errorf("finding the place of %s: %w", nixstore.Quote(path), err)
	}
	name := filepath.Base(rel)
	return &Target{path: path, real: filepath.Join(dir, name), name: name, parent: parent}, nil
}

// below gives path relative to base, after a look at the form of both.
func below(base, path string) (string, error) {
	switch {
	case strings.IndexByte(path, 0) >= 0:
		return "", invalid("send a plain path", "the target path %s holds a NUL", nixstore.Quote(path))
	case len(path) >= unix.PathMax:
		return "", invalid("send a shorter path", "the target path %s is too long", nixstore.Quote(path))
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return "", invalid("send an absolute path without . and .. and without a slash at its end",
			"the target path %s is not absolute and clean", nixstore.Quote(path))
	case !filepath.IsAbs(base) || filepath.Clean(base) != base:
		return "", invalid("give an absolute, clean folder", "the folder of targets %s is not absolute and clean", nixstore.Quote(base))
	}
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/")
	if !ok || rel == "" {
		return "", invalid("is the kubelet folder right for this node?",
			"the target path %s is not below %s", nixstore.Quote(path), base)
	}
	return rel, nil
}

// targetError gives the meaning of an errno of walking to a target.
func targetError(path string, err error) error {
	q := nixstore.Quote(path)
	switch {
	case isGone(err):
		return nixstore.Fail(nixstore.ErrNotFound, "make it first", "the folder above the target path %s does not exist", q)
	case errors.Is(err, unix.ELOOP):
		return invalid("use the path without symlinks", "the target path %s leads through a symlink", q)
	case errors.Is(err, unix.EXDEV):
		return invalid("use a path below the kubelet folder", "the target path %s leads out of its folder", q)
	case errors.Is(err, unix.ENOTDIR):
		return invalid("use a folder", "the target path %s leads through something that is not a folder", q)
	case errors.Is(err, unix.ENAMETOOLONG):
		return invalid("use shorter names", "the target path %s is too long", q)
	case errors.Is(err, unix.ENOSYS):
		return nixstore.Fail(errors.ErrUnsupported, "use Linux 5.10 or newer", "this kernel has no openat2")
	}
	return fmt.Errorf("opening the folder above %s: %w", q, err)
}

// Path gives the path that the target was opened with.
func (t *Target) Path() string { return t.path }

// Close gives back the target's descriptor. Further calls do nothing.
func (t *Target) Close() error {
	fd := t.parent
	t.parent = -1
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// place is a path that leads to the target's name through its descriptor only,
// for the calls that take no descriptor.
func (t *Target) place() string { return fdPath(t.parent) + "/" + t.name }

// open opens what is at the target, on top of all mounts there.
func (t *Target) open() (int, error) {
	return unix.Openat(t.parent, t.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// make makes the target's folder, unless it is there, and opens it. made tells
// whether it was made here.
func (t *Target) make() (fd int, made bool, err error) {
	const mode = 0o750 // nobody but root and kubelet has business here
	err = unix.Mkdirat(t.parent, t.name, mode)
	made = err == nil
	if isGone(err) {
		return -1, false, targetError(t.path, err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, false, failed(err, "making the folder %s", nixstore.Quote(t.path))
	}
	fd, err = t.open()
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, made, invalid("remove it", "the target path %s is a symlink or a file, not a folder", nixstore.Quote(t.path))
	}
	if err != nil {
		return -1, made, failed(err, "opening %s", nixstore.Quote(t.path))
	}
	return fd, made, nil
}

// remove removes the target's folder, or a symlink that somebody put in its place;
// when it is gone already, that is fine.
func (t *Target) remove() error {
	err := unix.Unlinkat(t.parent, t.name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTDIR) && t.isSymlink() {
		err = unix.Unlinkat(t.parent, t.name, 0)
	}
	if isGone(err) {
		return nil
	}
	return err
}

func (t *Target) isSymlink() bool {
	var st unix.Stat_t
	err := unix.Fstatat(t.parent, t.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// isMountRoot tells whether a mount is at the target. Errors are errnos.
func (t *Target) isMountRoot() (bool, error) {
	return isMountRoot(t.parent, t.name, unix.AT_SYMLINK_NOFOLLOW)
}

// isMountRoot needs Linux 5.8 (STATX_ATTR_MOUNT_ROOT).
func isMountRoot(dir int, name string, flags int) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, flags|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return false, err
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, nixstore.Fail(errors.ErrUnsupported, "use Linux 5.10 or newer", "this kernel does not tell mount roots")
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// fdPath is a path to what fd refers to. /proc must be mounted.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// closeFD closes fd if it is one. Descriptors here are O_PATH, or were only read:
// closing them can lose nothing.
func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// isGone tells whether err says that a thing is not there.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTCONN)
}

// failed wraps an errno of a call; a full disk and a full mount table get their kind.
func failed(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nixstore.Fail(nixstore.ErrNoSpace, "free space on the node, or raise fs.mount-max", "%s: %v", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
