package view

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// State is what is at a target, compared with a volume.
type State int

// The states of a target.
const (
	Absent State = iota // no mount
	Same                // a mount of ours that shows the volume's root in its mode
	Other               // any other mount
)

// String gives the state as a word.
func (s State) String() string {
	switch s {
	case Absent:
		return "absent"
	case Same:
		return "same"
	case Other:
		return "other"
	}
	return "unknown"
}

// Mounted compares what is at t with v, in a handful of system calls, however many
// mounts the node has. A read-only volume is the same in either kind of view,
// unless it needs the one for user namespaces.
func (m *Manager) Mounted(t *Target, v Volume) (State, error) {
	p, err := m.probe(t)
	if err != nil || !p.mounted {
		return Absent, err
	}
	defer p.close()
	wanted := v.Writable == (p.kind == KindWritable) && (!v.UserNamespace || p.kind == KindHardLink)
	if p.kind == "" || !wanted {
		return Other, nil
	}
	root := p.result
	if v.Writable {
		// Whoever may write may also write var/result.
		root = m.resultOfLayer(v.ID, t)
	}
	if root != v.Root.String() || v.Root.IsZero() {
		return Other, nil
	}
	return Same, nil
}

// probed is what a look at a target found.
type probed struct {
	mounted bool
	kind    Kind // empty: not ours
	fd      int  // the mount's root; -1 when it cannot be opened
	statfs  unix.Statfs_t
	result  string // what var/result says; empty for writable ones
}

func (p *probed) close() { closeFD(p.fd) }

// probe looks at a target. Nothing of a foreign mount is opened but its root.
func (m *Manager) probe(t *Target) (*probed, error) {
	p := &probed{fd: -1}
	var err error
	p.mounted, err = t.isMountRoot()
	switch {
	case errors.Is(err, unix.ENOENT):
		return p, nil
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ESTALE):
		p.mounted = true // a dead one
		return p, nil
	case err != nil:
		return p, failed(err, "looking at %s", nixstore.Quote(t.path))
	case !p.mounted:
		return p, nil
	}
	if p.fd, err = t.open(); err != nil {
		return p, nil //nolint:nilerr // a mount that cannot be opened is not ours
	}
	if err := unix.Fstatfs(p.fd, &p.statfs); err != nil {
		return p, nil //nolint:nilerr // the same
	}
	p.kind = m.kindOf(p)
	if p.kind == KindRedirect || p.kind == KindHardLink {
		p.result = readLinkBeneath(p.fd, varName+"/"+resultName)
		if p.result == "" {
			p.kind = ""
		}
	}
	return p, nil
}

// kindOf tells what kind of ours the mount can be, by its file system and flags.
func (m *Manager) kindOf(p *probed) Kind {
	readOnly := p.statfs.Flags&unix.ST_RDONLY != 0
	if p.statfs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		if readOnly {
			return KindRedirect
		}
		return KindWritable
	}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err == nil && readOnly && st.Dev == m.linkDev {
		return KindHardLink
	}
	return ""
}

// readLinkBeneath reads a symlink below dir, or gives "".
func readLinkBeneath(dir int, path string) string {
	fd, err := beneath.Open(dir, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return ""
	}
	defer closeFD(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// Usage measures a volume. Inodes are 0 when they are not known.
type Usage struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64
}

// Usage measures the volume at t. A read-only one is as large as its closure (the
// sum of NAR sizes) and full; a writable one is its private layer. It is
// ErrNotFound when no volume of ours is there.
func (m *Manager) Usage(t *Target, v Volume) (Usage, error) {
	p, err := m.probe(t)
	if err != nil {
		return Usage{}, err
	}
	defer p.close()
	switch p.kind {
	case KindWritable:
		return usageOf(&p.statfs), nil
	case KindRedirect, KindHardLink:
		size, err := m.closureSize(p, t)
		return Usage{TotalBytes: size, UsedBytes: size}, err
	}
	return Usage{}, nixstore.Fail(nixstore.ErrNotFound, "publish it first",
		"volume %s is not mounted at %s", nixstore.Quote(v.ID), nixstore.Quote(t.path))
}

// usageOf gives the numbers of a file system. Overlayfs gives those of its upper layer.
func usageOf(st *unix.Statfs_t) Usage {
	return Usage{
		TotalBytes:      int64(st.Blocks) * st.Bsize,          //nolint:gosec // below 2^63 for any disk
		UsedBytes:       int64(st.Blocks-st.Bfree) * st.Bsize, //nolint:gosec // the same
		AvailableBytes:  int64(st.Bavail) * st.Bsize,          //nolint:gosec // the same
		TotalInodes:     int64(st.Files),                      //nolint:gosec // the same
		UsedInodes:      int64(st.Files) - int64(st.Ffree),    //nolint:gosec // the same
		AvailableInodes: int64(st.Ffree),                      //nolint:gosec // the same
	}
}

// closureSize gives the sum of the closure that a volume shows: kept in the view,
// or, for volumes of an earlier life, read from the volume's own closure.json,
// which the pod cannot write.
func (m *Manager) closureSize(p *probed, t *Target) (int64, error) {
	m.mu.Lock()
	h, ok := m.holds[t.real]
	m.mu.Unlock()
	if ok && h.view.narSize > 0 {
		return h.view.narSize, nil
	}
	fd, err := beneath.Open(p.fd, varName+"/"+manifestName, unix.O_RDONLY)
	if err != nil {
		return 0, fmt.Errorf("opening closure.json: %w", err)
	}
	f := os.NewFile(uintptr(fd), manifestName)
	defer f.Close()
	var doc struct {
		Paths []struct {
			NarSize int64 `json:"narSize"`
		} `json:"paths"`
	}
	if err := json.NewDecoder(f).Decode(&doc); err != nil {
		return 0, fmt.Errorf("reading closure.json: %w", err)
	}
	var sum int64
	for _, path := range doc.Paths {
		sum += path.NarSize
	}
	return sum, nil
}
