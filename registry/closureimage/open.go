package closureimage

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
// (openat2(2), Linux 5.6): whatever stands in the store, nothing outside of it is read.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

const (
	folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	// O_NONBLOCK: a FIFO that takes a file's place must not hold us up.
	fileFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
)

// openBeneath opens a name below the folder dir.
func openBeneath(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags, Resolve: beneath}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		// EAGAIN: something was renamed meanwhile, and the kernel cannot be sure.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// openStore opens the physical folder of the store, which may be reached by symlinks.
func openStore(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the store's folder %s: %w", dir, err)
	}
	return fd, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // it was only read
	}
}

// child is an entry of a folder of the store.
type child struct {
	name string
	kind byte // unix.DT_REG, DT_DIR, DT_LNK or something that is refused
}

// compare orders children so that the names in the tar are sorted by their bytes:
// those of folders end with a slash there.
func (c child) compare(d child) int {
	n := min(len(c.name), len(d.name))
	if v := strings.Compare(c.name[:n], d.name[:n]); v != 0 {
		return v
	}
	return int(c.at(n)) - int(d.at(n))
}

func (c child) at(i int) byte {
	if i < len(c.name) {
		return c.name[i]
	}
	if i == len(c.name) && c.kind == unix.DT_DIR {
		return '/'
	}
	return 0
}

// Layout of struct linux_dirent64 (getdents64(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// readFolder gives the children of an open folder, sorted. buf is scratch space.
func readFolder(fd int, buf []byte) ([]child, error) {
	var all []child
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		all = appendChildren(all, string(buf[:n]))
	}
	for i, c := range all {
		if c.kind != unix.DT_UNKNOWN {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, c.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
		all[i].kind = kindOf(&st)
	}
	slices.SortFunc(all, child.compare)
	return all, nil
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

// kindOf gives the DT_* constant of a file's type (see IFTODT in dirent.h).
func kindOf(st *unix.Stat_t) byte { return byte(st.Mode & unix.S_IFMT >> 12) }

// readLink reads a symlink. Those of Nix have at most PATH_MAX bytes, as Linux has.
func readLink(dir int, name string, buf []byte) (string, error) {
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func wrongType(what string) error {
	return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
		"%s is neither a folder nor a file nor a symlink", nixstore.Quote(what))
}

// unreadable explains an error of a system call on something of the store. What is
// missing or of another type than a moment ago is damage.
func unreadable(err error, what string) error {
	for _, damage := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.EISDIR, unix.ENXIO} {
		if errors.Is(err, damage) {
			return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store",
				"%s is not what the store's database says: %v", nixstore.Quote(what), err)
		}
	}
	return fmt.Errorf("reading %s: %w", nixstore.Quote(what), err)
}
