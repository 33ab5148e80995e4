# Closures of any shape with real builds and real references, made offline: the
# only builder is a static busybox (mk-busybox.sh).
#
#   nix-build synthetic-closure.nix --argstr busybox TREE -A c100
#   nix-build synthetic-closure.nix --argstr busybox TREE --arg n 500 --arg files 20 -A root
#
# The closure of `root` has n paths and the busybox tree. Node i refers to its
# heap children 2i+1 and 2i+2, so that every node is reached and builds can run
# side by side, and to `extra` nodes of a higher index picked by a hash, which
# makes it a graph with shared nodes. Equal arguments give equal store paths.
#
# files, sizeKiB: how many files each node has, and what they hold together.
# blob, blobMiB: a file to cut the contents out of, so that they compress like
# real software; without it they are repeated text.
# delay: seconds that each build sleeps.
{ busybox
, n ? 100
, sizeKiB ? 16
, files ? 2
, extra ? 2
, seed ? "s"
, blob ? null
, blobMiB ? 0
, delay ? 0
, system ? builtins.currentSystem
}:
let
  bb = builtins.path { path = busybox; name = "busybox-tree"; };
  blobPath = if blob == null then "" else "${builtins.path { path = blob; name = "blob"; }}";

  digits = { "0" = 0; "1" = 1; "2" = 2; "3" = 3; "4" = 4; "5" = 5; "6" = 6; "7" = 7; "8" = 8; "9" = 9; a = 10; b = 11; c = 12; d = 13; e = 14; f = 15; };
  # the first 7 hex digits of s's hash as a number
  number = s:
    let h = builtins.hashString "sha256" s;
    in builtins.foldl' (acc: i: acc * 16 + digits.${builtins.substring i 1 h}) 0 [ 0 1 2 3 4 5 6 ];
  mod = a: b: a - b * (a / b);

  make = { n, seed, sizeKiB ? 16, files ? 2 }:
    let
      childrenOf = i: builtins.filter (j: j < n) [ (2 * i + 1) (2 * i + 2) ];
      othersOf = i:
        let rest = n - i - 1; in
        if rest < 1 then [ ]
        else builtins.genList (k: i + 1 + mod (number "${seed}-${toString i}-${toString k}") rest) extra;
      node = i: derivation {
        name = "syn-${seed}-${toString n}-${toString i}";
        inherit system files delay;
        deps = map (builtins.elemAt nodes) (childrenOf i ++ othersOf i);
        builder = "${bb}/bin/sh";
        PATH = "${bb}/bin";
        blob = blobPath;
        kib = sizeKiB / files;
        skip = if blobMiB == 0 then 0 else mod (number "${seed}-off-${toString i}") (blobMiB * 1024 - sizeKiB);
        args = [ "-c" ''
          [ "$delay" = 0 ] || sleep $delay
          mkdir -p $out/share $out/bin
          k=0
          while [ $k -lt $files ]; do
            if [ -n "$blob" ]; then
              dd if=$blob of=$out/share/f$k bs=1024 skip=$((skip + k * kib)) count=$kib 2>/dev/null
            else
              yes "$name $k" | head -c $((kib * 1024)) > $out/share/f$k
            fi
            k=$((k + 1))
          done
          for d in $deps; do echo $d; done > $out/share/refs
          set -- $deps
          if [ $# -gt 0 ]; then ln -s $1/share/refs $out/share/first; fi
          printf '#!${bb}/bin/sh\necho %s\n' $name > $out/bin/run
          chmod 755 $out/bin/run
        '' ];
      };
      nodes = builtins.genList node n;
    in
    builtins.elemAt nodes 0;
in
rec {
  root = make { inherit n seed sizeKiB files; };
  c10 = make { n = 10; seed = "c"; };
  c100 = make { n = 100; seed = "c"; };
  c1000 = make { n = 1000; seed = "c"; };
  all = [ c10 c100 c1000 ];
}
