# The quickest closure with references: evaluation alone makes all its paths
# (builtins.toFile), so it needs no builder, no sandbox and no build users. Each
# path is one plain file, addressed by its content.
#
#   nix-instantiate --eval --read-write-mode text-closure.nix --arg n 1000 -A root
#
# Node i names its heap children 2i+1 and 2i+2, so that the root reaches all n.
{ n ? 100, seed ? "s" }:
let
  childrenOf = i: builtins.filter (j: j < n) [ (2 * i + 1) (2 * i + 2) ];
  node = i: builtins.toFile "text-${seed}-${toString n}-${toString i}"
    (builtins.concatStringsSep "\n"
      ([ "node ${toString i}" ] ++ map (builtins.elemAt nodes) (childrenOf i)));
  nodes = builtins.genList node n;
in
{ root = builtins.elemAt nodes 0; }
