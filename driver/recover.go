package driver

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// Recover brings pins, mounts and private layers in agreement again after the
// agent ended in whatever way: mounts that no pin stands for are taken away, and
// so are pins and private layers of volumes that are gone. A pin whose volume
// kubelet still wants is kept, also when nothing is mounted, as after a reboot:
// kubelet is going to publish it again. Only mounts of views on our own state directory are touched.
//
// Call it once, before the first RPC. It does what it can, and gives everything
// that failed; none of that keeps the driver from serving.
func (d *Driver) Recover(ctx context.Context) error {
	mounts, err := d.mountsByDigest()
	if err != nil {
		return err // without the mount table every pin would look abandoned
	}
	wanted, err := d.wantedTargets()
	if err != nil {
		return err
	}
	s := sweep{d: d, mounts: mounts, wanted: wanted, pinned: map[string]bool{}, kept: map[string]bool{}}
	for _, p := range d.cfg.Pins.List(nixstore.HolderVolume) {
		s.pin(ctx, p)
	}
	for digest, m := range s.mounts {
		switch {
		case s.pinned[digest]:
		case m.Own:
			s.unmount(ctx, m)
		default:
			s.mountsForeign++ // its pin is in the store of another agent
		}
	}
	if err := d.cfg.Views.SweepWritable(func(id string) bool { return s.kept[id] }); err != nil {
		s.problems = append(s.problems, err)
	}
	d.log.Info("recovered", slog.Int("pinsKept", s.pinsKept), slog.Int("pinsReleased", s.pinsReleased),
		slog.Int("mountsKept", len(s.pinned)), slog.Int("mountsRemoved", s.mountsRemoved),
		slog.Int("mountsForeign", s.mountsForeign), slog.Int("failures", len(s.problems)))
	return errors.Join(s.problems...)
}

// sweep is one run of Recover.
type sweep struct {
	d        *Driver
	mounts   map[string]view.Mounted // by digest of the target
	wanted   map[string]bool         // digests of targets whose volume kubelet still has
	pinned   map[string]bool         // digests of targets whose mount has its pin
	kept     map[string]bool         // ids of volumes that keep their pin
	problems []error

	pinsKept, pinsReleased, mountsRemoved, mountsForeign int
}

// pin keeps or releases one pin. A name that is not of our making is an accident
// in our own folder; nobody would ever release it.
func (s *sweep) pin(ctx context.Context, p pins.Pin) {
	name, ok := parseVolumeName(p.Holder.Name)
	if ok {
		m, mounted := s.mounts[name.target]
		// A root that cannot be told is as good as the right one: a pin too many is
		// waste, a pin too few takes a running pod's files.
		mounted = mounted && (m.Root == p.Root || m.Root.IsZero())
		if mounted {
			s.pinned[name.target] = true
		}
		if mounted || s.wanted[name.target] {
			s.kept[name.id] = true
			s.pinsKept++
			return
		}
	}
	if err := s.d.cfg.Provider.Release(ctx, p.Holder); err != nil {
		s.problems = append(s.problems, err)
		return
	}
	s.pinsReleased++
}

// unmount takes a mount away that has no pin, so that nothing can disappear
// below a pod that still looks at it.
func (s *sweep) unmount(ctx context.Context, m view.Mounted) {
	t, err := view.OpenTarget(s.d.cfg.KubeletDir, m.Path)
	if err == nil {
		defer t.Close()
		err = s.d.cfg.Views.Unmount(ctx, "", t)
	}
	if err != nil {
		s.problems = append(s.problems, err)
		return
	}
	s.mountsRemoved++
}

// wantedTargets gives the digests of the targets of all CSI volumes that kubelet
// knows: it makes a volume's folder before it publishes, and removes it after it
// has unpublished.
func (d *Driver) wantedTargets() (map[string]bool, error) {
	wanted := map[string]bool{}
	if d.cfg.KubeletDir == "" {
		return wanted, nil
	}
	pods := filepath.Join(d.cfg.KubeletDir, podsDir)
	entries, err := readDirIfThere(pods)
	if err != nil {
		return nil, err
	}
	for _, pod := range entries {
		folder := filepath.Join(pods, pod.Name(), volumesDir, pluginDir)
		volumes, err := readDirIfThere(folder)
		if err != nil {
			return nil, err
		}
		for _, volume := range volumes {
			wanted[targetDigest(filepath.Join(folder, volume.Name(), mountDir))] = true
		}
	}
	return wanted, nil
}

func readDirIfThere(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}
