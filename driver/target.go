package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/closured/closured/driver/view"
	"github.com/closured/closured/nixstore"
)

// targetMax is the longest path that the kernel takes, in bytes (PATH_MAX less its NUL).
const targetMax = 4095

// checkTarget checks the form of a target path and gives the uid of the pod that
// it belongs to; without a kubelet folder any absolute path will do and the uid
// is empty. Only names are looked at: that no symlink is on the way is checked
// where the path is opened.
func checkTarget(kubeletDir, target string) (podUID string, err error) {
	switch {
	case target == "":
		return "", invalid("the caller must send one", "the target path is missing")
	case len(target) > targetMax:
		return "", invalid("use a shorter path", "the target path %s is too long", nixstore.Quote(target))
	case strings.IndexByte(target, 0) >= 0:
		return "", invalid("send a plain path", "the target path %s holds a NUL", nixstore.Quote(target))
	case !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/":
		return "", invalid("send an absolute path without . and .. and without a slash at its end",
			"the target path %s is not absolute and clean", nixstore.Quote(target))
	}
	if kubeletDir == "" {
		return "", nil
	}
	uid, ok := kubeletTarget(kubeletDir, target)
	if !ok {
		return "", invalid("is --kubelet-dir right for this node? It is "+kubeletDir+", and kubelet's targets are pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount below it",
			"the target path %s is not one of kubelet's", nixstore.Quote(target))
	}
	return uid, nil
}

// Names that kubelet makes (pkg/kubelet/config/defaults.go, pkg/volume/csi).
const (
	podsDir    = "pods"
	volumesDir = "volumes"
	pluginDir  = "kubernetes.io~csi"
	mountDir   = "mount"
)

// kubeletTarget takes kubelet's path of an inline volume apart.
func kubeletTarget(kubeletDir, target string) (podUID string, ok bool) {
	rest, ok := strings.CutPrefix(target, kubeletDir+"/")
	if !ok {
		return "", false
	}
	e := strings.Split(rest, "/")
	const elements = 6 // pods, uid, volumes, plugin, volume, mount
	if len(e) != elements || e[0] != podsDir || e[2] != volumesDir || e[3] != pluginDir || e[5] != mountDir {
		return "", false
	}
	return e[1], true
}

// mountsByDigest gives the mounts of our views that are at targets, by the digest
// of their target. The same mount may be seen at a second path, as where a
// container has the node's root below its own: only where kubelet has it is it a
// volume. The mount table says where the kubelet folder really is, and callers
// may say it with symlinks.
func (d *Driver) mountsByDigest() (map[string]view.Mounted, error) {
	mounts, err := d.cfg.Views.Volumes()
	if err != nil {
		return nil, err
	}
	realDir := d.cfg.KubeletDir
	if realDir != "" {
		realDir, err = filepath.EvalSymlinks(realDir)
		if errors.Is(err, fs.ErrNotExist) {
			return map[string]view.Mounted{}, nil // a kubelet that has never run has no volumes
		}
		if err != nil {
			return nil, fmt.Errorf("finding the kubelet folder: %w", err)
		}
	}
	byDigest := make(map[string]view.Mounted, len(mounts))
	for _, m := range mounts {
		if rest, ok := strings.CutPrefix(m.Path, realDir+"/"); ok && realDir != "" {
			m.Path = d.cfg.KubeletDir + "/" + rest
		}
		if _, err := checkTarget(d.cfg.KubeletDir, m.Path); err == nil {
			byDigest[targetDigest(m.Path)] = m
		}
	}
	return byDigest, nil
}
