package driver

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/driver/attributes"
	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/internal/logkey"
	"github.com/closured/closured/nixstore"
)

// publish is NodePublishVolume with errors of our own. After a final error the
// volume has neither mount nor pin nor interest, unless an earlier call has
// published it.
func (d *Driver) publish(ctx context.Context, req *csi.NodePublishVolumeRequest) error {
	r, err := d.parsePublish(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := d.locks.try(r.id, r.target, cancel)
	if err != nil {
		return err
	}
	defer release()

	mounted, err := d.alreadyMounted(ctx, r)
	if mounted || err != nil {
		return err
	}
	if err := d.bring(ctx, r); err != nil {
		return d.undo(ctx, r, err)
	}
	d.interest.drop(r.id, r.holder) // from now on the pin tells
	return nil
}

// alreadyMounted tells whether the volume is published with exactly this
// request; it needs neither network nor store. A volume that is published with
// another request is ErrConflict. What unfinished calls with other requests left
// is given up: the newest call says what the volume is to be.
func (d *Driver) alreadyMounted(ctx context.Context, r request) (bool, error) {
	for _, have := range d.holdersOf(r.id) {
		name, _ := parseVolumeName(have.Name)
		switch mounted, err := d.isMounted(r, name, have); {
		case err != nil:
			return false, err
		case have == r.holder && mounted:
			return true, nil
		case have == r.holder:
			// Its work goes on, or the node was restarted: this call finishes it.
		case mounted && name.target != targetDigest(r.target):
			return false, nixstore.Fail(nixstore.ErrConflict, "unpublish it there first",
				"volume %s is already published at another target path", r.id)
		case mounted:
			return false, nixstore.Fail(nixstore.ErrConflict, "unpublish it first",
				"volume %s is already published at this target with other attributes or another readOnly", r.id)
		default:
			if err := d.release(ctx, r.id, have); err != nil {
				return false, d.stuck(r, errReplaced, err)
			}
		}
	}
	return false, nil
}

// errReplaced is why a publish gives up what another request of its volume left.
var errReplaced = errors.New("the volume was asked for with other attributes before")

// isMounted tells whether the volume of the pin is mounted at its target.
func (d *Driver) isMounted(r request, name volumeName, have nixstore.Holder) (bool, error) {
	root, pinned := d.cfg.Pins.Get(have)
	if !pinned {
		return false, nil // a pin comes before its mount
	}
	if name.target != targetDigest(r.target) {
		return d.mountedAtDigest(name.target)
	}
	t, err := view.OpenTarget(d.cfg.KubeletDir, r.target)
	if errors.Is(err, nixstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer t.Close()
	v := view.Volume{ID: r.id, Root: root}
	if have == r.holder {
		// That the words parse was seen when the volume was published, perhaps by an
		// agent that knew more of them.
		v.Writable = r.context[attributes.KeyWritable] == "true"
	}
	state, err := d.cfg.Views.Mounted(t, v)
	if err != nil {
		return false, err
	}
	if state == view.Other && have == r.holder {
		return false, nixstore.Fail(nixstore.ErrConflict, "unmount it",
			"something else is mounted at the target of volume %s", r.id)
	}
	return state != view.Absent, nil
}

// mountedAtDigest looks for a volume by the digest of its path. It reads the
// whole mount table: only for volumes that are asked for at a second place.
func (d *Driver) mountedAtDigest(digest string) (bool, error) {
	mounts, err := d.mountsByDigest()
	_, mounted := mounts[digest]
	return mounted, err
}

// bring makes the volume: it validates, asks the policy, and then realises, pins
// and mounts.
func (d *Driver) bring(ctx context.Context, r request) error {
	attrs, build, err := d.admit(r)
	if err != nil {
		return err
	}
	if err := d.checkOpens(r.target); err != nil {
		return err // before the work, not after it
	}
	n := d.narrate(r, attrs)
	defer n.stop() // also when the work panics
	root, err := d.realiseAndMount(ctx, r, attrs, build)
	n.end(ctx, root, err)
	return err
}

// realiseAndMount is what may take time of bring.
func (d *Driver) realiseAndMount(ctx context.Context, r request, attrs attributes.Attributes, build bool) (nixstore.StorePath, error) {
	realised, err := d.provide(ctx, r, attrs.Source, build)
	if err != nil {
		return nixstore.StorePath{}, err
	}
	if ctx.Err() != nil {
		return nixstore.StorePath{}, interrupted(ctx, r)
	}
	return realised.Root, d.mount(ctx, r, view.Volume{
		ID:             r.id,
		Root:           realised.Root,
		Registration:   realised.Registration,
		Writable:       attrs.Writable,
		SizeLimitBytes: attrs.SizeLimitBytes,
		UserNamespace:  d.userNamespace(ctx, r, attrs),
	})
}

// mount shows the volume at its target. A mount that fails undoes itself; but the
// pin must not go as long as there is any doubt about that.
func (d *Driver) mount(ctx context.Context, r request, v view.Volume) error {
	t, err := view.OpenTarget(d.cfg.KubeletDir, r.target)
	if err != nil {
		return err
	}
	defer t.Close()
	err = d.cfg.Views.Mount(ctx, v, t)
	if err == nil || errors.Is(err, nixstore.ErrConflict) { // a conflict is not of this call's making
		return err
	}
	state, lookErr := d.cfg.Views.Mounted(t, v)
	if lookErr != nil || state != view.Absent {
		return d.stuck(r, err, errors.Join(errors.New("a mount that failed is still there"), lookErr))
	}
	if ctx.Err() != nil && !final(err) {
		return interrupted(ctx, r)
	}
	return err
}

// admit parses the attributes and tells whether the pod may have them, and may build.
func (d *Driver) admit(r request) (attributes.Attributes, bool, error) {
	attrs, err := attributes.Parse(r.context, d.cfg.System)
	if err != nil {
		return attrs, false, err
	}
	if err := d.checkPod(r, attrs.Pod); err != nil {
		return attrs, false, err
	}
	if attrs.Writable && r.readonly {
		return attrs, false, invalid(`remove writable, or remove readOnly: true`,
			`the attribute writable: "true" contradicts readOnly: true`)
	}
	decision, err := d.cfg.Policy.Check(attrs.Pod.Namespace, attrs.Source)
	if err != nil {
		return attrs, false, err
	}
	return attrs, decision.Build, nil
}

// checkPod makes sure that it was kubelet who wrote the pod's identity. Without
// podInfoOnMount a user's own attributes would pass for it; but nobody knows a
// pod's uid before the pod is made, and the target path holds the true one. With
// no kubelet folder the caller of the socket is believed: it is root, and there
// is nothing to compare with.
func (d *Driver) checkPod(r request, pod attributes.Pod) error {
	const next = "set podInfoOnMount: true in the CSIDriver object"
	switch {
	case d.cfg.KubeletDir == "":
		return nil
	case pod.UID == "":
		return invalid(next, "%spod.uid is missing, so that the pod is unknown", podInfoPrefix)
	case pod.UID != r.podUID:
		return invalid(next, "%spod.uid %s is not the uid in the target path, %s",
			podInfoPrefix, nixstore.Quote(pod.UID), nixstore.Quote(r.podUID))
	}
	return nil
}

func (d *Driver) checkOpens(target string) error {
	t, err := view.OpenTarget(d.cfg.KubeletDir, target)
	if err != nil {
		return err
	}
	return t.Close()
}

// provide realises and pins the closure, within the call's time less a reserve to
// answer in. Unfinished work is ErrBusy, with a text that stays the same, so that
// kubelet's events are merged.
func (d *Driver) provide(ctx context.Context, r request, src nixstore.Source, build bool) (nixstore.Realised, error) {
	waitCtx, cancel := context.WithTimeout(ctx, budget(ctx))
	defer cancel()
	d.interest.set(r.id, r.holder)

	// The pin of an unfinished call, or of a volume that a reboot unmounted, says
	// what the words came to: that needs no evaluation, no network, and the pod
	// gets what it had.
	if root, ok := d.cfg.Pins.Get(r.holder); ok {
		pinned := nixstore.Source{Kind: nixstore.SourceStorePath, Paths: []nixstore.StorePath{root}}
		realised, err := d.cfg.Provider.Provide(waitCtx, nixstore.Request{Source: pinned, Holder: r.holder})
		if err == nil {
			return realised, nil
		}
		if !final(err) {
			return nixstore.Realised{}, whileWaiting(ctx, waitCtx, r, err)
		}
		d.log.Warn("pinned closure cannot be had any more, realising its source again",
			slog.String(logkey.VolumeID, r.id), slog.String(logkey.Root, root.String()), slog.String(logkey.Error, message(err)))
		if err := d.cfg.Provider.Release(ctx, r.holder); err != nil {
			return nixstore.Realised{}, err // the pin would conflict with another root
		}
	}
	realised, err := d.cfg.Provider.Provide(waitCtx, nixstore.Request{Source: src, Build: build, Holder: r.holder})
	if err != nil {
		return nixstore.Realised{}, whileWaiting(ctx, waitCtx, r, err)
	}
	return realised, nil
}

// whileWaiting tells the end of the wait from the failure of the work.
func whileWaiting(ctx, waitCtx context.Context, r request, err error) error {
	unfinished := errors.Is(err, nixstore.ErrBusy) || (waitCtx.Err() != nil && !final(err))
	if !unfinished {
		return err
	}
	return interrupted(ctx, r)
}

// interrupted gives the reason for which a call ends before its work.
func interrupted(ctx context.Context, r request) error {
	if errors.Is(context.Cause(ctx), errUnpublished) {
		return nixstore.Fail(nixstore.ErrBusy, "nothing", "volume %s was unpublished while its closure was being realised", r.id)
	}
	return nixstore.Fail(nixstore.ErrBusy, "wait, the next attempt joins the running work",
		"the closure of volume %s is still being realised", r.id)
}

// budget is how long a call may wait for its closure: all its time but what it
// needs for the mount and the answer.
func budget(ctx context.Context) time.Duration {
	left := kubeletTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	if left < shortCall {
		return left / 2
	}
	return left - answerReserve
}

// userNamespace tells whether the pod has a user namespace of its own. The pod's
// own word comes first; the cluster is asked for the others. When it does not
// answer, the pod gets the redirect overlay: the view that promises more, and
// that at worst a container runtime refuses to map.
func (d *Driver) userNamespace(ctx context.Context, r request, attrs attributes.Attributes) bool {
	if _, said := r.context[attributes.KeyHostUsers]; said || d.cfg.HostUsers == nil || attrs.Pod.Name == "" {
		return attrs.UserNamespace
	}
	ctx, cancel := context.WithTimeout(ctx, hostUsersTimeout)
	defer cancel()
	known, hostUsers, err := d.cfg.HostUsers.HostUsers(ctx, attrs.Pod.Namespace, attrs.Pod.Name)
	if err != nil {
		d.log.Warn("cannot tell whether the pod has a user namespace, assuming that it has none",
			slog.String(logkey.Namespace, attrs.Pod.Namespace), slog.String(logkey.Pod, attrs.Pod.Name),
			slog.String(logkey.Error, message(err)))
		return false
	}
	return known && !hostUsers
}
