package view

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/closured/closured/nixstore"
)

// mountEntry is one line of mountinfo, proc(5).
type mountEntry struct {
	device  string // major:minor
	root    string // what of the file system is shown
	point   string // where
	fsType  string
	source  string
	options string // of the super block
}

// readMounts reads the mount table of this namespace.
func readMounts() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts skips lines that it does not understand: they are not ours.
func parseMounts(r io.Reader) ([]mountEntry, error) {
	var mounts []mountEntry
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if e, ok := parseMount(strings.TrimSuffix(line, "\n")); ok {
			mounts = append(mounts, e)
		}
		if errors.Is(err, io.EOF) {
			return mounts, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the mount table: %w", err)
		}
	}
}

// parseMount parses "id parent major:minor root point options [tags] - type source super".
func parseMount(line string) (mountEntry, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return mountEntry{}, false
	}
	head, tail := strings.Split(before, " "), strings.Split(after, " ")
	const headMin, tailLen = 6, 3
	if len(head) < headMin || len(tail) != tailLen {
		return mountEntry{}, false
	}
	return mountEntry{
		device:  head[2],
		root:    unescape(head[3]),
		point:   unescape(head[4]),
		fsType:  tail[0],
		source:  unescape(tail[1]),
		options: unescape(tail[2]),
	}, true
}

// unescape undoes the kernel's \ooo (fs/proc_namespace.c, mangle).
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	const escapeLen = 4
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+escapeLen <= len(s) && isOctal(s[i+1:i+escapeLen]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += escapeLen - 1
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isOctal tells whether the three digits are a byte in octal.
func isOctal(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '7' {
			return false
		}
	}
	return s[0] <= '3'
}

// option gives a value of the super block's options.
func (e mountEntry) option(name string) (string, bool) {
	for o := range strings.SplitSeq(e.options, ",") {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// Mounted is a mount of ours.
type Mounted struct {
	Path string             // where, in this mount namespace
	Root nixstore.StorePath // what it shows; zero when that cannot be told
	Kind Kind
	// Own says that it was made on this state directory. Another agent may have its
	// volumes on the same machine, below the same kubelet folder even.
	Own bool
}

// Volumes gives every volume that this mount namespace has and that is not a
// helper below the state directory, also those of earlier lives, and those of
// other agents; a stack of mounts at one place as often as it is high. Parts of volumes mounted elsewhere, as kubelet does for
// subPath, are not among them. It reads the whole mount table: call it at start,
// not for each request.
func (m *Manager) Volumes() ([]Mounted, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	var ours []Mounted
	for _, e := range mounts {
		if v, ok := m.overlayVolume(e); ok && !m.isInside(e.point) {
			ours = append(ours, v)
		}
	}
	for _, e := range m.linkMounts(mounts) {
		root, err := readResult(filepath.Join(m.links, e.name, viewName))
		if err != nil {
			root = nixstore.StorePath{} // its tree was removed; the mount is ours all the same
		}
		ours = append(ours, Mounted{Path: e.mount.point, Root: root, Kind: KindHardLink, Own: true})
	}
	return ours, nil
}

// isInside tells whether a path lies where our helper mounts are.
func (m *Manager) isInside(path string) bool {
	return path == m.views || strings.HasPrefix(path, m.views+"/")
}

// overlayVolume tells whether e is a whole view of an overlay of ours.
func (m *Manager) overlayVolume(e mountEntry) (Mounted, bool) {
	if e.fsType != "overlay" || e.source != mountSource || e.root != "/"+viewName {
		return Mounted{}, false
	}
	kind := KindRedirect
	if _, writable := e.option("upperdir"); writable {
		kind = KindWritable
	}
	return Mounted{Path: e.point, Root: m.rootOfLayers(e), Kind: kind, Own: m.hasLayer(e)}, true
}

// hasLayer tells whether the overlay's first lower layer is below our state directory.
func (m *Manager) hasLayer(e mountEntry) bool {
	lower, _ := e.option("lowerdir")
	return strings.HasPrefix(lower, m.views+"/") || strings.HasPrefix(lower, m.links+"/")
}

// rootOfLayers finds the root in the name of the overlay's first lower layer: the
// meta layer bears it; a hard link view tells it.
func (m *Manager) rootOfLayers(e mountEntry) nixstore.StorePath {
	lower, _ := e.option("lowerdir")
	first, _, _ := strings.Cut(lower, ":")
	if root, err := nixstore.ParseBaseName(filepath.Base(first)); err == nil {
		return root
	}
	root, err := readResult(filepath.Join(m.links, filepath.Base(first), viewName))
	if err != nil {
		return nixstore.StorePath{}
	}
	return root
}

// linkMount is a volume that shows a hard link view.
type linkMount struct {
	name  string // folder below linkviews
	mount mountEntry
}

// linkMounts picks the volumes of hard link views: mounts of <linkviews>/<name>/view,
// known by the device and by the path inside the file system.
func (m *Manager) linkMounts(mounts []mountEntry) []linkMount {
	home, ok := holder(mounts, m.links)
	if !ok {
		return nil
	}
	var found []linkMount
	for _, e := range mounts {
		if e.device != home.device || m.isInside(e.point) {
			continue
		}
		rest, below := strings.CutPrefix(e.root, home.root+"/")
		name, last := filepath.Split(rest)
		name = strings.TrimSuffix(name, "/")
		if below && last == viewName && name != "" && !strings.Contains(name, "/") {
			found = append(found, linkMount{name: name, mount: e})
		}
	}
	return found
}

// holder finds the mount that path lies on; its root is made that of path itself.
func holder(mounts []mountEntry, path string) (mountEntry, bool) {
	var best mountEntry
	found := false
	for _, e := range mounts {
		rel, err := filepath.Rel(e.point, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if !found || len(e.point) >= len(best.point) { // later lines cover earlier ones
			best, found = e, true
		}
	}
	if found {
		rel, _ := filepath.Rel(best.point, path)
		best.root = filepath.Join(best.root, rel)
	}
	return best, found
}
