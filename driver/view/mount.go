package view

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
)

// Volume is what one target shows.
type Volume struct {
	// ID names the volume, in logs and as the name of its private layer.
	ID string
	// Root is the root of the closure to show. The caller keeps it from being collected.
	Root nixstore.StorePath
	// Registration is the closure's, see nixstore.Closure.
	Registration int64
	// Writable puts a private layer over the closure.
	Writable bool
	// SizeLimitBytes bounds the private layer, with what its file system needs for
	// itself; 0: 1 GiB.
	SizeLimitBytes int64
	// UserNamespace says that the pod has one, so that the volume must be idmappable.
	UserNamespace bool
}

// Kind is how a volume shows its closure.
type Kind string

// The kinds of volumes; views are of the first two.
const (
	KindRedirect Kind = "redirect"
	KindHardLink Kind = "hardlink"
	KindWritable Kind = "writable"
)

// Limits of unmounting.
const (
	// busyAttempts and busyDelay bound the wait for a mount in use to become free
	// before it is detached: 20+40+80+160 ms.
	busyAttempts = 5
	busyDelay    = 20 * time.Millisecond
	// stackMax bounds the number of mounts on one target that one call takes down.
	stackMax = 10000
)

// Steps of a Mount, in order, at which tests fail it.
const (
	stepFolder  = "folder"
	stepView    = "view"
	stepLayer   = "layer"
	stepDisk    = "disk"
	stepOverlay = "overlay"
	stepBind    = "bind"
	stepDone    = "done"
)

// Mount shows v at t: it makes the target's folder and exactly one mount there.
// After an error nothing is left of what it did. It makes the closure's view when
// there is none; otherwise it starts no process and its work does not depend on
// the closure.
//
// Errors: ErrInvalid when v makes no sense, ErrConflict when something is mounted
// at t, ErrBusy when another call works on t, ErrCorrupt when a path of the
// closure is missing in the store, ErrNoSpace, ErrUnavailable after Close, and those of Config.Closures.
func (m *Manager) Mount(ctx context.Context, v Volume, t *Target) error {
	if err := v.validate(); err != nil {
		return err
	}
	done, err := m.begin()
	if err != nil {
		return err
	}
	defer done()
	leave, err := m.enter(t)
	if err != nil {
		return err
	}
	defer leave()

	var u undo
	if err := m.mount(ctx, v, t, &u); err != nil {
		return errors.Join(err, u.run())
	}
	return nil
}

// begin counts a call, so that Close can wait for it.
func (m *Manager) begin() (done func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, nixstore.Fail(nixstore.ErrUnavailable, "try again", "the agent is stopping")
	}
	m.calls.Add(1)
	return m.calls.Done, nil
}

func (v Volume) validate() error {
	switch {
	case v.ID == "":
		return invalid("name the volume", "the volume has no id")
	case v.Root.IsZero():
		return invalid("name a closure", "volume %s has no root", nixstore.Quote(v.ID))
	case v.Writable && v.UserNamespace:
		return invalid("remove writable, or hostUsers: false",
			"volume %s cannot be writable in a pod with a user namespace: overlayfs cannot be idmapped", nixstore.Quote(v.ID))
	case v.Writable:
		return v.validateLayer()
	}
	return nil
}

// mount does Mount's work and notes in u how to undo it.
func (m *Manager) mount(ctx context.Context, v Volume, t *Target, u *undo) error {
	dir, made, err := t.make()
	if made {
		u.add(t.remove)
	}
	if err != nil {
		return err
	}
	defer closeFD(dir)
	if err := refuseStacking(t, dir); err != nil {
		return err
	}
	if err := m.step(stepFolder); err != nil {
		return err
	}
	base, err := m.acquire(ctx, m.keyOf(v), t.real, v.ID)
	if err != nil {
		return err
	}
	u.add(func() error { m.release(t.real); return nil })
	if err := m.step(stepView); err != nil {
		return err
	}
	if v.Writable {
		return m.attachWritable(ctx, v, t, dir, base, u)
	}
	return m.attach(base.source, t, dir, readOnlyAttrs, u)
}

// keyOf gives the view that v needs.
func (m *Manager) keyOf(v Volume) viewKey {
	kind := KindRedirect
	if v.UserNamespace || m.mode == ModeHardLink {
		kind = KindHardLink
	}
	return viewKey{root: v.Root, registration: v.Registration, kind: kind}
}

func refuseStacking(t *Target, dir int) error {
	mounted, err := isMountRoot(dir, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return failed(err, "looking at %s", nixstore.Quote(t.path))
	}
	if mounted {
		return nixstore.Fail(nixstore.ErrConflict, "unmount it first", "something is already mounted at %s", nixstore.Quote(t.path))
	}
	return nil
}

// attach binds source at dir, as the last step of a Mount.
func (m *Manager) attach(source int, t *Target, dir int, attrs uint64, u *undo) error {
	if err := m.step(stepBind); err != nil {
		return err
	}
	if err := m.bind(source, t, dir, attrs); err != nil {
		return err
	}
	u.add(func() error { return unix.Unmount(t.place(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	return m.step(stepDone)
}

// Unmount takes away all mounts at t, t's folder, and the private layer of volume
// id there, and gives up the view. What is absent is fine. A mount that stays in
// use for a moment is detached, which is logged. When it returns nil, nothing is
// mounted at t and the folder is gone.
//
// A nil t stands for a target whose parent folder is gone, and its mount with it:
// then all that the volume holds, wherever, is given up.
func (m *Manager) Unmount(ctx context.Context, id string, t *Target) error {
	if t == nil {
		m.releaseVolume(id)
		return m.removeLayers(id)
	}
	leave, err := m.enter(t)
	if err != nil {
		return err
	}
	defer leave()
	if err := m.unmountAll(ctx, id, t); err != nil {
		return err
	}
	if err := m.removeTarget(ctx, t); err != nil {
		return err
	}
	m.release(t.real)
	return m.removeLayer(id, t)
}

// unmountAll takes down the mounts at t, the topmost first.
func (m *Manager) unmountAll(ctx context.Context, id string, t *Target) error {
	for range stackMax {
		mounted, err := t.isMountRoot()
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ESTALE):
			// A dead file system cannot even be looked at; it can be unmounted.
		case err != nil:
			return failed(err, "looking at %s", nixstore.Quote(t.path))
		case !mounted:
			return nil
		}
		if err := m.unmountOne(ctx, id, t); err != nil {
			return err
		}
	}
	return nixstore.Fail(nixstore.ErrBusy, "see who mounts there", "more than %d mounts were at %s", stackMax, nixstore.Quote(t.path))
}

// unmountOne takes down the topmost mount at t.
func (m *Manager) unmountOne(ctx context.Context, id string, t *Target) error {
	delay := busyDelay
	for attempt := range busyAttempts {
		err := unix.Unmount(t.place(), unix.UMOUNT_NOFOLLOW)
		// EINVAL: it is no mount any more.
		if err == nil || isGone(err) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return failed(err, "unmounting %s", nixstore.Quote(t.path))
		}
		if attempt == busyAttempts-1 {
			break
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		delay *= 2
	}
	m.log.Warn("mount is in use, detaching it", slog.String("volumeId", id), slog.String("targetPath", t.path))
	err := unix.Unmount(t.place(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !isGone(err) {
		return failed(err, "detaching %s", nixstore.Quote(t.path))
	}
	return nil
}

// removeTarget removes t's folder and looks that it is gone.
func (m *Manager) removeTarget(ctx context.Context, t *Target) error {
	delay := busyDelay
	var err error
	for range busyAttempts {
		err = t.remove()
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		delay *= 2
	}
	if err != nil {
		return failed(err, "removing the folder %s", nixstore.Quote(t.path))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// undo is what takes back the steps of a Mount, the last one first.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

func (u *undo) run() error {
	var errs []error
	for i := range slices.Backward(*u) {
		errs = append(errs, (*u)[i]())
	}
	return errors.Join(errs...)
}
