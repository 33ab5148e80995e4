package view

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Attributes of volumes, mount_setattr(2). They repeat what the source's mount has,
// so that a volume is safe even if the source were not. Programs run from volumes,
// and closures are full of symlinks: neither noexec nor nosymfollow.
const (
	writableAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	readOnlyAttrs = writableAttrs | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOATIME
)

// hasMountAPI tells whether the kernel has open_tree (Linux 5.2) and mount_setattr
// (5.12), and whether nothing like seccomp keeps us from them.
func hasMountAPI() bool {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return false
	}
	defer closeFD(fd)
	// An empty change of nothing: ENOSYS or EPERM where it cannot be had.
	err = unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM)
}

// bind attaches a clone of source's mount at dir, the opened folder of t. The clone
// has its flags before anybody can see it. It becomes a peer of whatever dir's
// mount propagates to, as kubelet's folder does to the host; source itself lies on
// a private mount.
func (m *Manager) bind(source int, t *Target, dir int, attrs uint64) error {
	if m.classic {
		return m.bindClassic(source, t, dir, attrs)
	}
	tree, err := unix.OpenTree(source, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return failed(err, "cloning the view")
	}
	defer closeFD(tree)
	attr := unix.MountAttr{Attr_set: attrs}
	if attrs&unix.MOUNT_ATTR_NOATIME != 0 {
		attr.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return failed(err, "restricting the mount")
	}
	err = unix.MoveMount(tree, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return failed(err, "mounting at %s", nixstore.Quote(t.path))
	}
	return nil
}

// bindClassic does it by mount(2): a bind mount takes over the flags of the mount
// that it clones, so that here, too, there is no moment without them.
func (m *Manager) bindClassic(source int, t *Target, dir int, attrs uint64) error {
	if err := checkFlags(source, attrs); err != nil {
		return err
	}
	if err := unix.Mount(fdPath(source), fdPath(dir), "", unix.MS_BIND, ""); err != nil {
		return failed(err, "mounting at %s", nixstore.Quote(t.path))
	}
	return nil
}

// checkFlags makes sure that the mount of fd has at least the flags of attrs.
func checkFlags(fd int, attrs uint64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return fmt.Errorf("looking at the flags of a mount: %w", err)
	}
	want := int64(unix.ST_NOSUID | unix.ST_NODEV)
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		want |= unix.ST_RDONLY
	}
	if st.Flags&want != want {
		return fmt.Errorf("the view's mount has the flags %#x and not all of %#x", st.Flags, want)
	}
	return nil
}
