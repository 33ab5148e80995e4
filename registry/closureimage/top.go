package closureimage

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// Files of the form Root that an image must have, when the root has none of its own.
const (
	users  = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
	groups = "root:x:0:\nnobody:x:65534:\n"
)

// Modes of folders that programs in a container may want to write to.
const (
	etcMode = 0o755
	tmpMode = 0o1777
)

// bundle is where packages of certificates keep them, below their store path.
const bundle = "etc/ssl/certs/ca-bundle.crt"

// top is the last layer: all that is not a store path. It is small enough to be
// made in memory.
type top struct {
	entries []topEntry
	env     []string // variables that follow from the closure
}

type topEntry struct {
	entry
	data []byte
}

// makeTop reads the root's folders, as they are linked, and nothing else.
func makeTop(storeDir string, spec Spec, c nixstore.Closure) (*top, error) {
	t := &top{}
	doc, err := c.Manifest(spec.System)
	if err != nil {
		return nil, err
	}
	folder := spec.Form.folder()
	if folder != "" {
		t.folder(folder, folderMode)
	}
	t.folder(folder+"var/", folderMode)
	t.file(folder+"var/closure.json", doc)
	t.link(folder+"var/result", c.Root.String())
	if spec.Form == Root {
		fd, err := openStore(storeDir)
		if err != nil {
			return nil, err
		}
		defer beneath.Close(fd)
		if err := t.root(&finder{fd, c, make([]byte, scratchSize)}); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(t.entries, func(a, b topEntry) int { return strings.Compare(a.name, b.name) })
	return t, nil
}

func (t *top) folder(name string, mode uint32) {
	t.entries = append(t.entries, topEntry{entry: entry{name: name, kind: typeFolder, mode: mode}})
}

func (t *top) link(name, target string) {
	t.entries = append(t.entries, topEntry{entry: entry{name: name, kind: typeLink, mode: linkMode, target: target}})
}

func (t *top) file(name string, data []byte) {
	e := entry{name: name, kind: typeFile, mode: fileMode, size: int64(len(data))}
	t.entries = append(t.entries, topEntry{e, data})
}

// root adds what only an ordinary image has.
func (t *top) root(f *finder) error {
	t.folder("tmp/", tmpMode)
	children, err := f.children(f.closure.Root.String())
	if err != nil {
		return err
	}
	path := "/bin"
	for _, c := range children {
		linked, err := t.linkable(f, c)
		if err != nil {
			return err
		}
		if linked {
			t.link(c.Name, f.closure.Root.String()+"/"+c.Name)
		}
		if linked && c.Name == "sbin" {
			path = "/bin:/sbin"
		}
	}
	t.env = append(t.env, "PATH="+path)
	if err := t.etc(f); err != nil {
		return err
	}
	return t.certificates(f)
}

// linkable tells whether the image links a child of the root at /: folders, and
// links to folders, as trees of several packages have them. Runtimes mount over
// some names, and /etc is made otherwise.
func (t *top) linkable(f *finder, c beneath.Entry) (bool, error) {
	if slices.Contains([]string{"nix", "tmp", "proc", "sys", "dev", "etc"}, c.Name) {
		return false, nil
	}
	if c.Kind != unix.DT_LNK {
		return c.Kind == unix.DT_DIR, nil
	}
	at, ok, err := f.find(f.closure.Root.String() + "/" + c.Name)
	return ok && at.kind == unix.DT_DIR, err
}

// etc makes a folder with links to all that the root's etc has, and with the files
// that it lacks.
func (t *top) etc(f *finder) error {
	t.folder("etc/", etcMode)
	from := f.closure.Root.String() + "/etc"
	children, err := f.children(from)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, c := range children {
		has[c.Name] = true
		t.link("etc/"+c.Name, from+"/"+c.Name)
	}
	for _, file := range []struct{ name, data string }{{"passwd", users}, {"group", groups}} {
		if !has[file.name] {
			t.file("etc/"+file.name, []byte(file.data))
		}
	}
	return nil
}

// certificates names the closure's bundle of certificates: the root's, or else that
// of the first path that has one.
func (t *top) certificates(f *finder) error {
	candidates := []nixstore.StorePath{f.closure.Root}
	for _, p := range f.closure.Paths {
		candidates = append(candidates, p.Path)
	}
	for _, p := range candidates {
		file := p.String() + "/" + bundle
		at, ok, err := f.find(file)
		if err != nil {
			return err
		}
		if ok && at.kind == unix.DT_REG {
			t.env = append(t.env, "SSL_CERT_FILE="+file)
			return nil
		}
	}
	return nil
}

// tar gives the layer's bytes.
func (t *top) tar() []byte {
	var b []byte
	for _, e := range t.entries {
		b = appendHeader(b, e.entry)
		b = append(b, e.data...)
		b = append(b, make([]byte, padding(e.size))...)
	}
	return append(b, make([]byte, trailerSize)...)
}
