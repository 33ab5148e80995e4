#!/bin/sh
# Downloads Debian packages and the libraries they need into OUT, from the
# mirrors that apt is configured with, and writes OUT/debs.nix for
# deb-closure.nix: a set without cycles of
#   name = { file = ./x.deb; version = "1.2"; deps = [ "libc6" ]; }
# use: deb-fetch.sh OUT PACKAGE...
# DEB_SKIP: an extended regular expression of the packages not to follow. By
# default those of which nothing is linked: set-up tools and documentation.
set -eu
out=$1; shift
skip=${DEB_SKIP:-'^(base-files|debconf.*|debianutils|dpkg|perl.*|adduser|passwd|init-system-helpers|lsb-base|sysvinit-utils|systemd.*|ucf|sensible-utils|tar|procps|gcc-.*-base|install-info|multiarch-support|cdebconf|media-types|iproute2|.*-common|mount|coreutils|sed|grep|bash|dash|login|util-linux)$'}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$out"
# an own package cache: some images are set to keep none, and each call of apt
# then takes seconds
mkdir -p .apt/archives/partial
apt="-o Dir::Cache=$out/.apt -o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin -o APT::Sandbox::User=root"
apt-cache $apt dumpavail | sed -n 's/^Package: //p' | sort -u > .apt/names
todo="$*"
seen=' '
: > edges
while [ -n "$todo" ]; do
  round=''
  for p in $todo; do
    case "$seen" in *" $p "*) continue ;; esac
    seen="$seen$p "
    round="$round $p"
  done
  want=''
  for p in $round; do
    ls "${p}"_*.deb >/dev/null 2>&1 || want="$want $p"
  done
  [ -z "$want" ] || apt-get $apt download -qq $want
  next=''
  for p in $round; do
    f=$(ls "${p}"_*.deb | head -n1)
    # first alternative of each relation, without version or architecture
    deps=$(dpkg-deb -f "$f" Pre-Depends Depends | sed 's/^[A-Za-z-]*: //' | tr ',' '\n' |
      sed 's/|.*//; s/([^)]*)//; s/:any//; s/[[:space:]]//g' | grep -v '^$' | grep -Ev "$skip" | sort -u |
      grep -Fx -f .apt/names || true)
    echo "$p|$f|$(dpkg-deb -f "$f" Version)|$(echo $deps)" >> edges
    next="$next $deps"
  done
  todo=$(echo $next)
done
rm -rf .apt
# cut cycles: libc6 needs nothing (its links to libgcc-s1 are for unwinding
# only); any other edge that closes a cycle is left out, depth first
awk -F'|' '
  { file[$1]=$2; ver[$1]=$3; dep[$1]=$4; order[++n]=$1 }
  function visit(p,   a,k,i) {
    state[p]=1; k=split(dep[p],a," "); kept[p]=""
    for (i=1;i<=k;i++) {
      if (p=="libc6" || !(a[i] in file) || state[a[i]]==1) continue
      if (state[a[i]]=="") visit(a[i])
      kept[p]=kept[p] " \"" a[i] "\""
    }
    state[p]=2
  }
  END {
    if ("libc6" in file) visit("libc6")
    for (i=1;i<=n;i++) if (state[order[i]]=="") visit(order[i])
    print "{"
    for (i=1;i<=n;i++) printf "  \"%s\" = { file = ./%s; version = \"%s\"; deps = [%s ]; };\n", order[i], "\"@\"", ver[order[i]], kept[order[i]]
    print "}"
  }' edges > debs.tmp
# file names may hold characters a Nix path literal cannot (%3a, ~): take them by string
awk -F'|' 'NR==FNR { f[$1]=$2; next } { if (match($0, /^  "[^"]*"/)) { p=substr($0,4,RLENGTH-4); sub(/\.\/"@"/, "./. + \"/" f[p] "\"") } print }' FS='|' edges debs.tmp > debs.nix
rm -f debs.tmp edges
