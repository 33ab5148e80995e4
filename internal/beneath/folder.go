package beneath

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrTooManyNames is the error of ReadFolder for a folder that needs more memory
// than it may have.
var ErrTooManyNames = errors.New("it has too many names")

// Entry is one of a folder.
type Entry struct {
	Name string
	Kind byte // unix.DT_REG, DT_DIR, DT_LNK, or that of something no store holds
}

// Layout of struct linux_dirent64 (getdents64(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// ReadFolder gives the entries of an open folder in no order, and how many bytes of
// memory their names take; ErrTooManyNames when these are more than room. buf is
// scratch space, of 4 KiB or more; the larger it is, the fewer are the system calls.
func ReadFolder(fd int, buf []byte, room int) (all []Entry, used int, err error) {
	for {
		n, err := again(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil {
			return nil, 0, err
		}
		if n <= 0 {
			break
		}
		if used += n; used > room {
			return nil, 0, ErrTooManyNames
		}
		all = appendEntries(all, string(buf[:n]))
	}
	for i, e := range all {
		if e.Kind != unix.DT_UNKNOWN { // some file systems never tell
			continue
		}
		info, err := Stat(fd, e.Name)
		if err != nil {
			return nil, 0, err
		}
		all[i].Kind = info.Kind
	}
	return all, used, nil
}

// appendEntries takes apart what getdents64 gave. The names share its memory.
func appendEntries(all []Entry, records string) []Entry {
	for len(records) > direntName {
		size := int(binary.NativeEndian.Uint16([]byte(records[direntLen : direntLen+2])))
		if size <= direntName || size > len(records) {
			return all // the kernel does not do this
		}
		name, _, _ := strings.Cut(records[direntName:size], "\x00")
		if name != "." && name != ".." {
			all = append(all, Entry{name, records[direntType]})
		}
		records = records[size:]
	}
	return all
}
