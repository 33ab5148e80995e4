// Package view shows exactly one closure of the node's store at a directory: as
// an inline volume of a pod, with one mount, made in microseconds when the view
// exists.
//
// A view is made once for a closure and shared by all its volumes; a volume is
// one bind mount of its view. There are two kinds of views, and one variant:
//
//   - The redirect overlay: an overlayfs of two read-only layers. The upper one
//     (the meta layer, on a private tmpfs) holds, below view/store, an empty
//     directory for each path of the closure with the xattr
//     trusted.overlay.redirect=/<hash-name>; the lower one is the store. Names that
//     are not in the meta layer do not exist. Its super block is read-only and has
//     no upper layer, so that no remount, by whomever, makes it writable. Making it
//     is work for each path of the closure, not for each file.
//   - The hard link view: a tree of hard links to the closure's files. It serves
//     pods with a user namespace, because overlayfs cannot be idmapped, and nodes
//     whose kernel fails the self-test. Its files are the store's own inodes: a
//     process with CAP_SYS_ADMIN over the mount could make it writable and so reach
//     the store, which is why it is never the first choice.
//   - A writable volume puts a private layer over the same lower layers: an ext4 of
//     bounded size in a sparse file, gone with the volume. What is written stays in
//     it. A privileged pod (one with CAP_SYS_ADMIN in the host's user namespace) may
//     set trusted.overlay.* xattrs there, but overlayfs stores them escaped
//     (trusted.overlay.overlay.*, Linux 6.7) or refuses them (before), so that it
//     cannot make redirects of its own; and it may open the loop device raw, as it
//     may open the node's disk.
//
// What it is not: it knows no CSI, realises nothing, and pins nothing. The caller
// keeps a volume's closure from being collected while the volume is mounted.
//
// A volume is mounted at a target, which is opened beneath kubelet's folder first:
//
//	target, err := view.OpenTarget(kubeletDir, targetPath)
//	if err != nil {
//		return err
//	}
//	defer target.Close()
//	volume := view.Volume{ID: id, Root: realised.Root, Registration: realised.Registration}
//	if state, err := manager.Mounted(target, volume); err != nil || state == view.Same {
//		return err // kubelet asks again for running pods
//	}
//	return manager.Mount(ctx, volume, target)
//
// All methods may be called concurrently. Two calls for one target exclude each
// other: the later one gets nixstore.ErrBusy.
//
// The kernel's mount table is the state. kill -9 at any instruction loses nothing:
// volumes stay readable without this process, since each bind mount keeps its
// overlay with all layers alive; New takes down what an earlier life left below
// the state directory. Stopping never unmounts a volume.
package view
