#!/bin/sh
# Another version of Nix beside the machine's own: a Debian tree, entered by
# pivot_root in a private mount namespace. A chroot would not do (no user
# namespaces inside it, so no sandbox), nor would the tree's ld.so alone (Nix
# starts itself again by /proc/self/exe). The machine's /nix, /tmp, /dev and /sys
# are seen inside.
# use: newer-nix.sh make ROOT SUITE     trixie has Nix 2.26.3, sid had 2.34.8
#      newer-nix.sh run ROOT COMMAND...
set -eu
verb=$1; root=$2; shift 2
case $verb in
make)
  mirror=$(grep -h '^URIs:' /etc/apt/sources.list.d/debian.sources | head -n1 | awk '{print $2}')
  debootstrap --variant=minbase "$1" "$root" "$mirror"
  chroot "$root" sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get install -y --no-install-recommends nix-bin; apt-get clean'
  ;;
run)
  mkdir -p /nix "$root/nix" "$root/oldroot"
  exec unshare -m --propagation private sh -ec '
    root=$1; shift
    mount --bind "$root" "$root"; cd "$root"
    mount -t proc proc proc
    for d in nix tmp dev sys; do mount --rbind "/$d" "$d"; done
    pivot_root . oldroot; cd /; umount -l /oldroot
    exec "$@"' sh "$root" "$@"
  ;;
esac
