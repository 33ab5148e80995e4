package closureimage

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// hopsMax bounds the symlinks of one look-up, as the kernel does (path_resolution(7)).
const hopsMax = 40

// finder looks things up in a closure's files as a process in its container would,
// following symlinks, but never out of the closure.
type finder struct {
	store   int // descriptor of the physical store
	closure nixstore.Closure
	scratch []byte
}

// place is where something really is: a name below the store without symlinks.
type place struct {
	name string
	kind byte // unix.DT_*
}

// find looks up an absolute path below /nix/store. Whatever leads nowhere, in a
// circle, or out of the closure is not found.
func (f *finder) find(logical string) (place, bool, error) {
	rest, ok := strings.CutPrefix(logical, nixstore.Dir+"/")
	todo := strings.Split(rest, "/")
	at := place{kind: unix.DT_DIR}
	for hops := 0; ok && len(todo) > 0 && hops <= hopsMax; {
		name := todo[0]
		todo = todo[1:]
		next, valid := f.step(at.name, name)
		if !valid {
			return place{}, false, nil
		}
		if next == "" || next == at.name {
			at.name = next
			continue
		}
		kind, target, err := f.look(next)
		if err != nil || kind == unix.DT_UNKNOWN {
			return place{}, false, err
		}
		if kind != unix.DT_LNK {
			at = place{next, kind}
			continue
		}
		hops++
		if strings.HasPrefix(target, "/") {
			at = place{kind: unix.DT_DIR}
			target, ok = strings.CutPrefix(path.Clean(target), nixstore.Dir+"/")
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, ok && len(todo) == 0 && at.name != "", nil
}

// step joins a name to a place. valid is false for what is outside of the closure.
func (f *finder) step(at, name string) (next string, valid bool) {
	switch {
	case name == "" || name == ".":
		return at, true
	case name == "..":
		// The parent of a store path is the store, which only a name below it leaves again.
		return strings.TrimPrefix(path.Dir("/"+at), "/"), at != ""
	case at != "":
		return at + "/" + name, true
	}
	p, err := nixstore.ParseBaseName(name)
	return name, err == nil && f.closure.Has(p)
}

// look gives type and target of a name below the store; DT_UNKNOWN when it is missing.
func (f *finder) look(name string) (kind byte, target string, err error) {
	fd, err := beneath.Open(f.store, name, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) {
		return unix.DT_UNKNOWN, "", nil
	}
	if err != nil {
		return 0, "", beneath.Unreadable(err, nixstore.Dir+"/"+name)
	}
	defer beneath.Close(fd)
	info, err := beneath.StatFD(fd)
	if err == nil && info.Kind == unix.DT_LNK {
		target, err = beneath.ReadLink(fd, "", f.scratch)
	}
	if err != nil {
		return 0, "", beneath.Unreadable(err, nixstore.Dir+"/"+name)
	}
	return info.Kind, target, nil
}

// children lists the folder at a logical path; nil when there is none.
func (f *finder) children(logical string) ([]beneath.Entry, error) {
	at, ok, err := f.find(logical)
	if err != nil || !ok || at.kind != unix.DT_DIR {
		return nil, err
	}
	fd, err := beneath.Folder(f.store, at.name)
	if err != nil {
		return nil, beneath.Unreadable(err, logical)
	}
	defer beneath.Close(fd)
	all, err := readFolder(fd, f.scratch)
	if err != nil {
		return nil, beneath.Unreadable(err, logical)
	}
	return all, nil
}
