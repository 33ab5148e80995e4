# Real programs as closures, without nixpkgs: each Debian package becomes one
# store path. Interpreter and RUNPATH of its ELF files are patched, so that they
# run where /nix/store is all there is, and the references between the paths are
# those of the real libraries.
#
#   mk-busybox.sh bb; deb-fetch.sh debs redis-server patchelf
#   nix-build deb-closure.nix --argstr busybox $PWD/bb --argstr debs $PWD/debs -A redis-server
#
# patchelf must be among the packages. It runs out of its unpacked package by the
# ld.so of the unpacked libc6, which works in the sandbox too.
{ busybox, debs, system ? builtins.currentSystem }:
let
  bb = builtins.path { path = busybox; name = "busybox-tree"; };
  set = import (debs + "/debs.nix");
  lib64 = { x86_64-linux = "ld-linux-x86-64.so.2"; aarch64-linux = "ld-linux-aarch64.so.1"; }.${system};
  clean = builtins.replaceStrings [ "+" "~" ":" "%" ] [ "-" "-" "-" "-" ];

  sh = attrs: script: derivation ({
    inherit system;
    builder = "${bb}/bin/sh";
    PATH = "${bb}/bin";
    args = [ "-euc" script ];
  } // attrs);

  # the package as it is, in one tree: bin, lib, share, etc, …
  raw = builtins.mapAttrs (name: p: sh {
    name = clean "${name}-raw-${p.version}";
    src = builtins.path { path = p.file; name = clean "${name}-${p.version}.deb"; };
  } ''
    mkdir t; cd t
    ar x $src
    mkdir d; cd d
    for f in ../data.tar*; do
      case $f in
        *.xz) unxz -c $f ;;
        *.gz) gunzip -c $f ;;
        *.tar) cat $f ;;
        *) echo "cannot unpack $f" >&2; exit 1 ;;
      esac | tar x
    done
    mkdir -p $out/bin $out/lib
    mv_in() { # FROM TO: moves what is in FROM, folders merged
      [ -d $1 ] || return 0
      mkdir -p $2
      cp -a $1/. $2/
      rm -rf $1
    }
    for m in x86_64-linux-gnu aarch64-linux-gnu; do
      mv_in usr/lib/$m $out/lib; mv_in lib/$m $out/lib
    done
    mv_in usr/lib $out/lib; mv_in lib $out/lib; rm -rf lib64 # lib64: only the link to ld.so
    mv_in usr/bin $out/bin; mv_in bin $out/bin; mv_in usr/sbin $out/bin; mv_in sbin $out/bin
    rm -rf usr/share/doc usr/share/man usr/share/lintian usr/share/locale
    mv_in usr/share $out/share; mv_in usr $out; mv_in etc $out/etc
    rmdir $out/bin $out/lib 2>/dev/null || true
    chmod -R u+w,a-s $out || true
  '') set;

  libsOf = names: builtins.concatStringsSep ":" (map (n: "${raw.${n}}/lib") names);
  libc = raw.libc6;
  patchelf = "${libc}/lib/${lib64} --library-path ${libsOf [ "libc6" "libstdc++6" "libgcc-s1" ]} ${raw.patchelf}/bin/patchelf";

  # a package declares what it links itself, and that is what its RUNPATH has to
  # name (it is not inherited: each library has its own)
  built = builtins.mapAttrs (name: p:
    if name == "libc6" then libc else sh {
      name = clean "${name}-${p.version}";
      raw = raw.${name};
      rpath = builtins.concatStringsSep ":" (map (d: "${built.${d}}/lib") p.deps ++ (if builtins.elem "libc6" p.deps || !(set ? libc6) then [ ] else [ "${libc}/lib" ]));
      interp = "${libc}/lib/${lib64}";
      deps = map (d: built.${d}) p.deps;
    } ''
      cp -a $raw $out
      chmod -R u+w $out
      # links made by Debian into its own file system, to the same name here
      find $out -type l | while read -r l; do
        t=$(readlink $l)
        case $t in
          /usr/lib/*-linux-gnu/*|/lib/*-linux-gnu/*) ln -sfn $out/lib/''${t##*-linux-gnu/} $l; continue ;;
        esac
        # a link into another package (redis-server's program is redis-tools')
        [ -e $l ] || for d in $deps; do
          r=''${l#$out/}
          r=''${r%/*}/$t
          if [ -e $d/$r ]; then ln -sfn $d/$r $l; break; fi
        done
      done
      find $out -type f | while read -r f; do
        case $(head -c 4 $f | od -An -c | tr -d ' \n') in 177ELF) ;; *) continue ;; esac
        if ${patchelf} --print-interpreter $f >/dev/null 2>&1; then
          ${patchelf} --set-interpreter $interp $f
        fi
        if ${patchelf} --print-needed $f >/dev/null 2>&1; then
          ${patchelf} --set-rpath $out/lib:$rpath $f
        fi
      done
      # the raw package must not stay in the closure
      find $out -type l | while read -r l; do
        t=$(readlink $l)
        case $t in $raw/*) ln -sfn $out''${t#$raw} $l ;; esac
      done
    '') set;

  # one tree of links over some packages, to mount or to use as a PATH
  env = name: names: sh {
    inherit name;
    paths = map (n: built.${n}) names;
  } ''
    mkdir -p $out
    for p in $paths; do
      (cd $p && find . -type d) | while read -r d; do mkdir -p $out/$d; done
      (cd $p && find . ! -type d) | while read -r f; do [ -e $out/$f ] || ln -s $p/$f $out/$f; done
    done
  '';
in
built // { inherit raw env; }
