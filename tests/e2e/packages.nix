# The package set of the end-to-end tests. It is a folder with this file as
# default.nix, deb-closure.nix and text-closure.nix, busybox/ (made by
# mk-busybox.sh) and debs/ (made by deb-fetch.sh).
let
  debian = import ./deb-closure.nix { busybox = ./busybox; debs = ./debs; };
  bb = builtins.path { path = ./busybox; name = "busybox-tree"; };
  run = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "${bb}/bin/sh";
    args = [ "-euc" script ];
    PATH = "${bb}/bin";
  };
  # the programs of busybox, and a file that tells one package from another
  tools = name: script: run name ''
    mkdir -p $out/share
    ln -s ${bb}/bin $out/bin
    echo ${name} > $out/share/name
    ${script}
  '';
  paths = (import ./text-closure.nix { n = 1500; seed = "e2e"; }).root;
  first = i: tools "first-${toString i}" "ln -s ${paths} $out/share/many";
  # a package that does what a test wrote in a file, so that it can be another one
  told = name: tools name (let file = ./. + "/${name}.sh"; in if builtins.pathExists file then builtins.readFile file else "");
  part = i: tools "part-${toString i}" "head -c 33554432 /dev/urandom > $out/share/data";
in
{
  inherit (debian) bash curl jq;
  redis = debian.env "redis" [ "redis-server" "redis-tools" ];
  one = tools "one" "";
  two = tools "two" "";
  nested.deep = tools "deep" "";
  moving = told "moving";
  slowly = told "slowly";
  ready = tools "ready" "head -c 33554432 /dev/urandom > $out/share/data";
  # 256 MiB in eight paths that are not the same when they are built again
  bulk = tools "bulk" (builtins.concatStringsSep "\n"
    (builtins.genList (i: "ln -s ${part i} $out/share/part-${toString i}") 8));
  many = tools "many" "ln -s ${paths} $out/share/many";
  # ten closures of 1,500 paths, which are in the store when this one is
  firsts = tools "firsts" (builtins.concatStringsSep "\n"
    (builtins.genList (i: "ln -s ${first i} $out/share/first-${toString i}") 10));
  slow = tools "slow" ''
    for i in $(seq 150); do echo "step $i of 150"; sleep 1; done
  '';
  # no test waits for its end
  sluggish = tools "sluggish" "sleep 600";
  endless = tools "endless" ''
    while :; do echo closured-e2e-endless; sleep 1; done
  '';
  # tail keeps what it has read of a line that does not end
  hungry = tools "hungry" "tail -n 1 /dev/zero > $out/share/zero";
  broken = run "broken-1.0" ''
    echo "cc -c main.c"
    echo "main.c:1:10: fatal error: frobnicate.h: No such file or directory" >&2
    exit 1
  '';
  # says 10 MiB in 40,000 lines, and fails
  noisy = run "noisy-1.0" ''
    yes "make[1]: $(seq -s ' ' 80)" | head -n 43000
    echo "noisy.c:2:1: error: unknown type name 'imt'" >&2
    exit 1
  '';
}
