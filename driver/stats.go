package driver

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// stats measures the volume that is published at path. Whatever is not a
// published volume is ErrNotFound, also a path that could never be one.
func (d *Driver) stats(id, path string) ([]*csi.VolumeUsage, error) {
	switch {
	case id == "":
		return nil, invalid("the caller must send one", "the volume id is missing")
	case path == "":
		return nil, invalid("the caller must send one", "the volume path is missing")
	}
	notFound := nixstore.Fail(nixstore.ErrNotFound, "publish it first",
		"volume %s is not published at %s", nixstore.Quote(id), nixstore.Quote(path))
	if _, err := checkTarget(d.cfg.KubeletDir, path); err != nil || checkVolumeID(id) != nil {
		return nil, notFound
	}
	root, ok := d.pinnedAt(id, targetDigest(path))
	if !ok {
		return nil, notFound
	}
	t, err := view.OpenTarget(d.cfg.KubeletDir, path)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	v := view.Volume{ID: id, Root: root}
	state, err := d.cfg.Views.Mounted(t, v)
	if err != nil {
		return nil, err
	}
	if state == view.Absent {
		return nil, notFound
	}
	usage, err := d.cfg.Views.Usage(t, v)
	if err != nil {
		return nil, err
	}
	return csiUsage(usage), nil
}

// pinnedAt gives the root of the volume's pin at a target.
func (d *Driver) pinnedAt(id, target string) (nixstore.StorePath, bool) {
	for _, p := range d.cfg.Pins.Find(nixstore.HolderVolume, id+".") {
		name, ok := parseVolumeName(p.Holder.Name)
		if ok && name.id == id && name.target == target {
			return p.Root, true
		}
	}
	return nixstore.StorePath{}, false
}

// csiUsage gives usage in CSI's units. What shows a closure only has no inodes to count.
func csiUsage(u view.Usage) []*csi.VolumeUsage {
	usage := []*csi.VolumeUsage{{
		Unit: csi.VolumeUsage_BYTES, Total: u.TotalBytes, Used: u.UsedBytes, Available: u.AvailableBytes,
	}}
	if u.TotalInodes == 0 {
		return usage
	}
	return append(usage, &csi.VolumeUsage{
		Unit: csi.VolumeUsage_INODES, Total: u.TotalInodes, Used: u.UsedInodes, Available: u.AvailableInodes,
	})
}
