package view

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Sizes of private layers.
const (
	defaultLayerBytes = 1 << 30
	minLayerBytes     = 1 << 20 // below, ext4 has no room for its own tables
	maxLayerBytes     = 8 << 40 // ext4 with blocks of 4 KiB ends at 16 TiB
	blockBytes        = 4096
)

// Names in the folder of a private layer, and on its disk.
const (
	diskName  = "disk.img"
	upperName = "upper"
	workName  = "work"
)

const (
	idMax     = 200 // bytes of a writable volume's id, so that the folder's name fits in 255
	digestLen = 16  // hex digits of the target's digest in the folder's name
)

// topMode is the mode of the top folders of a writable volume: whatever user the
// pod runs as may add to them, and only remove what is its own.
const topMode = 0o1777

func (v Volume) validateLayer() error {
	switch {
	case !isPlainID(v.ID):
		return invalid("use letters, digits, dots, dashes and underscores",
			"the id %s of a writable volume is no file name", nixstore.Quote(v.ID))
	case v.SizeLimitBytes != 0 && v.SizeLimitBytes < minLayerBytes:
		return invalid("give at least 1Mi", "the size limit of %d bytes is too small", v.SizeLimitBytes)
	case v.SizeLimitBytes > maxLayerBytes:
		return invalid("give at most 8Ti", "the size limit of %d bytes is too large", v.SizeLimitBytes)
	}
	return nil
}

// isPlainID tells whether a volume id can be part of a file name.
func isPlainID(id string) bool {
	if id == "" || len(id) > idMax || id[0] == '.' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		digit := c >= '0' && c <= '9'
		if !letter && !digit && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}

// layerDir is the folder of the private layer of a volume at a target.
func (m *Manager) layerDir(id string, t *Target) string {
	sum := sha256.Sum256([]byte(t.real))
	return filepath.Join(m.layers, id+"."+hex.EncodeToString(sum[:])[:digestLen])
}

// attachWritable puts a private layer over the base view's layers and mounts the
// result. The helper mounts are detached after that: the volume's own mount keeps
// overlay, ext4 and loop device alive, and they go with it.
func (m *Manager) attachWritable(ctx context.Context, v Volume, t *Target, dir int, base *view, u *undo) error {
	layer := m.layerDir(v.ID, t)
	if err := os.RemoveAll(layer); err != nil { // of a Mount that was killed
		return failed(err, "removing an old private layer")
	}
	u.add(func() error { return os.RemoveAll(layer) })
	if err := m.makeDisk(ctx, layer, v); err != nil {
		return err
	}
	helper, err := m.newDir()
	if err != nil {
		return err
	}
	u.add(func() error { return m.removeDir(helper) })
	if err := m.mountLayer(helper, layer, base); err != nil {
		return err
	}
	source, err := openDir(filepath.Join(helper, "ov", viewName))
	if err != nil {
		return err
	}
	defer closeFD(source)
	if err := m.attach(source, t, dir, writableAttrs, u); err != nil {
		return err
	}
	return m.removeDir(helper)
}

// makeDisk makes the layer's folder with the sparse file and an ext4 in it. The
// link beside it says which root the volume shows, out of the pod's reach.
func (m *Manager) makeDisk(ctx context.Context, layer string, v Volume) error {
	if err := m.step(stepLayer); err != nil {
		return err
	}
	if err := unix.Mkdir(layer, mountDirMode); err != nil {
		return failed(err, "making the folder of a private layer")
	}
	if err := unix.Symlink(v.Root.String(), filepath.Join(layer, resultName)); err != nil {
		return failed(err, "describing a private layer")
	}
	size := v.SizeLimitBytes
	if size == 0 {
		size = defaultLayerBytes
	}
	return makeExt4(ctx, filepath.Join(layer, diskName), size/blockBytes*blockBytes)
}

// mountLayer mounts disk and overlay in the folder helper.
func (m *Manager) mountLayer(helper, layer string, base *view) error {
	if err := m.step(stepDisk); err != nil {
		return err
	}
	disk := filepath.Join(helper, "disk")
	if err := unix.Mkdir(disk, mountDirMode); err != nil {
		return failed(err, "making a mount point")
	}
	if err := mountImage(helper, filepath.Join(layer, diskName), disk); err != nil {
		return err
	}
	if err := makeUpper(disk); err != nil {
		return failed(err, "preparing a private layer")
	}
	if err := m.step(stepOverlay); err != nil {
		return err
	}
	at, err := mountPoint(helper)
	if err != nil {
		return err
	}
	return m.mountWritable(at, disk, base)
}

// mountWritable mounts the overlay of base's layers with the upper one on disk.
func (m *Manager) mountWritable(at, disk string, base *view) error {
	lower := base.meta
	if base.key.kind == KindRedirect {
		lower += ":" + m.cfg.StoreDir
	}
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(disk, upperName) +
		",workdir=" + filepath.Join(disk, workName) + ",redirect_dir=on,metacopy=on,xino=on"
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	// volatile (Linux 5.10): the layer never outlives its mount, so syncing it is waste.
	err := unix.Mount(mountSource, at, "overlay", flags, options+",volatile")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount(mountSource, at, "overlay", flags, options)
	}
	if err != nil {
		return failed(err, "mounting the writable view of %s", base.key.root)
	}
	return nil
}

// makeUpper makes the folders of the upper layer. It has the view's top folders, so
// that they can have another mode than in the shared layer.
func makeUpper(disk string) error {
	upper := filepath.Join(disk, upperName)
	view := filepath.Join(upper, viewName)
	for _, d := range []string{filepath.Join(disk, workName), upper} {
		if err := unix.Mkdir(d, mountDirMode); err != nil {
			return err
		}
	}
	for _, d := range []string{view, filepath.Join(view, storeName), filepath.Join(view, varName)} {
		if err := unix.Mkdir(d, mountDirMode); err != nil {
			return err
		}
		if err := unix.Chmod(d, topMode); err != nil {
			return err
		}
	}
	return nil
}

// resultOfLayer gives the root of the private layer of a volume at a target, or "".
func (m *Manager) resultOfLayer(id string, t *Target) string {
	if !isPlainID(id) {
		return ""
	}
	root, err := os.Readlink(filepath.Join(m.layerDir(id, t), resultName))
	if err != nil {
		return ""
	}
	return root
}

// removeLayer removes the private layer of a volume at a target, if there is one.
func (m *Manager) removeLayer(id string, t *Target) error {
	if !isPlainID(id) {
		return nil
	}
	if err := os.RemoveAll(m.layerDir(id, t)); err != nil {
		return fmt.Errorf("removing the private layer of volume %s: %w", id, err)
	}
	return nil
}

// removeLayers removes the private layers of a volume at all targets.
func (m *Manager) removeLayers(id string) error {
	return m.SweepWritable(func(other string) bool { return other != id })
}

// SweepWritable removes the private layers of volumes that keep refuses. Their
// mounts, if any are left, stay usable until they are unmounted.
func (m *Manager) SweepWritable(keep func(id string) bool) error {
	entries, err := os.ReadDir(m.layers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the folder of private layers: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id := idOfLayer(e.Name())
		if id != "" && keep(id) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(m.layers, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("removing a private layer: %w", err))
			continue
		}
		m.log.Info("private layer removed", slog.String("volumeId", id))
	}
	return errors.Join(errs...)
}

// idOfLayer gives the volume id in the name of a layer's folder, or "".
func idOfLayer(name string) string {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 || len(name)-i-1 != digestLen {
		return ""
	}
	return name[:i]
}
