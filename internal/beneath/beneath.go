// Package beneath opens and lists what stands below a folder, such as the physical
// store, without following a symlink or leaving the folder: openat2(2), Linux 5.6.
// Whatever stands there, and whoever changes it meanwhile, nothing else is read.
//
// It deals in descriptors and gives the bare errors of the kernel, which
// Unreadable puts into words for things of a store. It does not walk, order or
// remember anything: both archives that are made of store paths, the NAR and the
// tar, want an order of their own.
//
// All functions may be called concurrently, though one descriptor is listed by one
// goroutine at a time. Descriptors belong to the caller and are closed on execve(2);
// nothing is written, so that nothing remains after a crash.
package beneath

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// ErrNotFile is the error of File when something else stands at the name.
var ErrNotFile = errors.New("it is not a regular file")

// Info is what the makers of archives need to know of a thing.
type Info struct {
	// Kind is unix.DT_REG, DT_DIR, DT_LNK, or that of something no store holds.
	Kind byte
	// Size is that of a file in bytes.
	Size int64
	// Program tells whether the owner may execute it, the bit that Nix looks at
	// (libutil/archive.cc).
	Program bool
}

// attempts bounds how often Open begins again when the kernel is not sure.
const attempts = 16

// Open opens name, which may be a path, below the folder dir with flags of open(2);
// the descriptor is closed on execve(2). Symlinks anywhere in name give ELOOP, also
// as its last element unless flags hold O_PATH and O_NOFOLLOW; leaving dir gives EXDEV.
func Open(dir int, name string, flags uint64) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range attempts {
		fd, err = again(func() (int, error) { return unix.Openat2(dir, name, &how) })
		if !errors.Is(err, unix.EAGAIN) { // something was renamed meanwhile
			break
		}
	}
	return fd, err
}

// Root opens a folder to look below. path is the operator's word, and may lead
// through symlinks.
func Root(path string) (int, error) {
	return again(func() (int, error) { return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
}

// Folder opens the folder at name below dir for ReadFolder. ENOTDIR: it is none.
func Folder(dir int, name string) (int, error) {
	return Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// File opens the file at name below dir for reading. ErrNotFile: it is none; a FIFO
// holds nobody up.
func File(dir int, name string) (int, Info, error) {
	fd, err := Open(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return -1, Info{}, err
	}
	info, err := StatFD(fd)
	if err == nil && info.Kind != unix.DT_REG {
		err = ErrNotFile
	}
	if err != nil {
		Close(fd)
		return -1, Info{}, err
	}
	return fd, info, nil
}

// Close closes a descriptor that was only read; a negative one is none.
func Close(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // there is nothing that could be lost
	}
}

// Stat tells what stands at a name in the folder dir.
func Stat(dir int, name string) (Info, error) {
	var st unix.Stat_t
	_, err := again(func() (int, error) { return 0, unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return infoOf(&st), err
}

// StatFD tells what is open as fd.
func StatFD(fd int) (Info, error) {
	var st unix.Stat_t
	_, err := again(func() (int, error) { return 0, unix.Fstat(fd, &st) })
	return infoOf(&st), err
}

func infoOf(st *unix.Stat_t) Info {
	return Info{
		Kind:    byte(st.Mode & unix.S_IFMT >> 12), // IFTODT of dirent.h
		Size:    st.Size,
		Program: st.Mode&unix.S_IXUSR != 0,
	}
}

// ReadLink gives the target of the symlink at a name in the folder dir, or of the
// symlink that is open as dir when name is empty. buf is scratch space; targets of
// Linux are shorter than unix.PathMax bytes.
func ReadLink(dir int, name string, buf []byte) (string, error) {
	n, err := again(func() (int, error) { return unix.Readlinkat(dir, name, buf) })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Read reads an open file into p; 0 is its end.
func Read(fd int, p []byte) (int, error) {
	return again(func() (int, error) { return unix.Read(fd, p) })
}

// again repeats a system call that a signal interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Unreadable explains an error of this package on what, a thing of a Nix store.
// What is missing or otherwise than the moment before, or than Nix makes it, is
// damage: nixstore.ErrCorrupt. All else is wrapped.
func Unreadable(err error, what string) error {
	for _, damage := range []error{
		unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.EISDIR, unix.ENXIO, ErrNotFile, ErrTooManyNames,
	} {
		if errors.Is(err, damage) {
			return nixstore.Fail(nixstore.ErrCorrupt, "repair the node's store (nix-store --verify --check-contents --repair)",
				"%s is not what the store's database says: %v", nixstore.Quote(what), err)
		}
	}
	return fmt.Errorf("reading %s: %w", nixstore.Quote(what), err)
}
