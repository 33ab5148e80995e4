#!/bin/sh
# Makes OUT/bin with a static busybox and a relative link for each applet, to be
# put in a store as one tree. Busybox chooses the applet by the name it is called
# by, so that a lone binary called <hash>-busybox would be no builder.
# use: mk-busybox.sh OUT [BUSYBOX]
set -eu
out=$1
bb=${2:-/bin/busybox}
mkdir -p "$out/bin"
cp "$bb" "$out/bin/busybox"
chmod 0755 "$out/bin/busybox"
for applet in $("$bb" --list); do
  [ "$applet" = busybox ] || ln -sf busybox "$out/bin/$applet"
done
