package binarycache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// beneath keeps each opening below the folder it starts from and off all symlinks
// (openat2(2), Linux 5.6): nothing but the store is read, whatever stands in it.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

const (
	folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	// O_NONBLOCK: a FIFO that takes a file's place must not hold us up.
	fileFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
)

// openBeneath opens a name in the folder dir.
func openBeneath(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags, Resolve: beneath}
	return again(func() (int, error) { return unix.Openat2(dir, name, &how) })
}

// again repeats a system call that a signal interrupted, or whose walk a rename made
// uncertain (EAGAIN of openat2).
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
}

// openStore opens the physical folder of the store, which may be reached by symlinks.
func openStore(dir string) (int, error) {
	fd, err := again(func() (int, error) { return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, fmt.Errorf("opening the store's folder %s: %w", dir, err)
	}
	return fd, nil
}

func closeFD(fd int) { _ = unix.Close(fd) } // it was only read

// child is an entry of a folder.
type child struct {
	name string
	kind byte // unix.DT_REG, DT_DIR, DT_LNK, or something that is refused
}

// Layout of struct linux_dirent64 (getdents64(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// readFolder gives the entries of an open folder, sorted by their bytes, and how
// many bytes of memory their names take, which is no more than room. buf is
// scratch space.
func readFolder(fd int, buf []byte, room int) (all []child, used int, err error) {
	for {
		n, err := again(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil {
			return nil, 0, err
		}
		if n <= 0 {
			break
		}
		if used += n; used > room {
			return nil, 0, unix.E2BIG
		}
		all = appendChildren(all, string(buf[:n]))
	}
	for i, c := range all {
		if c.kind != unix.DT_UNKNOWN { // some file systems never tell
			continue
		}
		if all[i].kind, err = kindAt(fd, c.name); err != nil {
			return nil, 0, err
		}
	}
	slices.SortFunc(all, func(a, b child) int { return strings.Compare(a.name, b.name) })
	return all, used, nil
}

// appendChildren takes apart what getdents64 gave. The names share its memory.
func appendChildren(all []child, records string) []child {
	for len(records) > direntName {
		size := int(binary.NativeEndian.Uint16([]byte(records[direntLen : direntLen+2])))
		if size <= direntName || size > len(records) {
			return all // the kernel does not do this
		}
		name, _, _ := strings.Cut(records[direntName:size], "\x00")
		if name != "." && name != ".." {
			all = append(all, child{name, records[direntType]})
		}
		records = records[size:]
	}
	return all
}

// kindAt gives the DT_* constant of what stands at a name (IFTODT of dirent.h).
func kindAt(dir int, name string) (byte, error) {
	var st unix.Stat_t
	_, err := again(func() (int, error) { return 0, unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return byte(st.Mode & unix.S_IFMT >> 12), err
}

// unreadable explains an error of a system call on something of the store. What is
// missing or of another type than a moment ago was collected, or is damage.
func unreadable(err error, what string) error {
	for _, damage := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.EISDIR, unix.ENXIO, unix.E2BIG} {
		if errors.Is(err, damage) {
			return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store (nix-store --verify --check-contents --repair)",
				"%s is not what the store's database says: %v", nixstore.Quote(what), err)
		}
	}
	return fmt.Errorf("reading %s: %w", nixstore.Quote(what), err)
}
