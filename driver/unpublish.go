package driver

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// unpublish is NodeUnpublishVolume with errors of our own. When it returns nil,
// nothing is mounted at the target on behalf of the volume, and it holds neither
// pin nor interest there.
func (d *Driver) unpublish(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) error {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	if err := checkVolumeID(id); err != nil {
		return err
	}
	if _, err := checkTarget(d.cfg.KubeletDir, target); err != nil {
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, budget(ctx))
	defer cancel()
	unlock, err := d.locks.wait(waitCtx, id, target)
	if err != nil {
		return err
	}
	defer unlock()

	ours, another := d.ownersOf(id, targetDigest(target))
	if another {
		return nil // then nothing of this volume can be there
	}
	if err := d.takeAway(ctx, id, target); err != nil {
		return err
	}
	// Last, so that what might still be mounted is never collected.
	for _, h := range ours {
		if err := d.release(ctx, id, h); err != nil {
			return err
		}
	}
	d.stories.drop(id)
	return nil
}

// ownersOf gives the volume's holders at a target. another tells that it has
// none and that some other volume does: the mount there is not this volume's to take.
func (d *Driver) ownersOf(id, target string) (ours []nixstore.Holder, another bool) {
	for _, h := range d.holdersOf(id) {
		if name, _ := parseVolumeName(h.Name); name.target == target {
			ours = append(ours, h)
		}
	}
	if len(ours) > 0 {
		return ours, false
	}
	for _, p := range d.cfg.Pins.List(nixstore.HolderVolume) {
		if name, ok := parseVolumeName(p.Holder.Name); ok && name.target == target {
			return nil, true
		}
	}
	return nil, false
}

// takeAway unmounts, also when no pin tells of the mount, and looks that it is gone.
func (d *Driver) takeAway(ctx context.Context, id, target string) error {
	t, err := view.OpenTarget(d.cfg.KubeletDir, target)
	if errors.Is(err, nixstore.ErrNotFound) {
		return d.cfg.Views.Unmount(ctx, id, nil) // the mount went with the folder above it
	}
	if err != nil {
		return err
	}
	defer t.Close()
	if err := d.cfg.Views.Unmount(ctx, id, t); err != nil {
		return err
	}
	state, err := d.cfg.Views.Mounted(t, view.Volume{ID: id})
	if err != nil {
		return err
	}
	if state != view.Absent {
		return nixstore.Fail(nixstore.ErrBusy, "see what is mounted there on the node",
			"something is still mounted at the target of volume %s", id)
	}
	return nil
}

// holdersOf gives the holders of a volume: its pins, and the one that an
// unfinished publish asked for.
func (d *Driver) holdersOf(id string) []nixstore.Holder {
	var holders []nixstore.Holder
	for _, p := range d.cfg.Pins.Find(nixstore.HolderVolume, id+".") {
		// "a." also begins the pins of volume "a.b".
		if name, ok := parseVolumeName(p.Holder.Name); ok && name.id == id {
			holders = append(holders, p.Holder)
		}
	}
	h, ok := d.interest.get(id)
	if slices.Contains(holders, h) {
		return holders
	}
	if ok {
		holders = append(holders, h)
	}
	return holders
}

// release gives up a holder's pin and interest.
func (d *Driver) release(ctx context.Context, id string, h nixstore.Holder) error {
	if err := d.cfg.Provider.Release(ctx, h); err != nil {
		return err
	}
	d.interest.drop(id, h)
	return nil
}

// undo leaves nothing behind when a publish ends with a final error, as nobody
// will unpublish the volume then. Other errors pass: the work goes on.
func (d *Driver) undo(ctx context.Context, r request, cause error) error {
	if !final(cause) {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, h := range d.holdersOf(r.id) {
		if err := d.release(ctx, r.id, h); err != nil {
			return d.stuck(r, cause, err)
		}
	}
	return cause
}

// stuck makes the error of a publish that ends but cannot be undone: one after
// which kubelet does come again.
func (d *Driver) stuck(r request, cause, err error) error {
	d.log.Error("cannot undo a publish", slog.String(logkey.VolumeID, r.id), slog.String(logkey.Error, message(err)))
	return nixstore.Fail(nixstore.ErrBusy, "look at the agent's log", "%s (and undoing it failed)", message(cause))
}
