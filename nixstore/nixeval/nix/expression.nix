# Evaluates source.nix, which a user wrote.  A function is called with the
# package set, or with those of its arguments that the package set has.
let
  value = import ./source.nix;
  set = builtins.head (import ./set.nix);
  wanted = builtins.functionArgs value;
in
import ./outputs.nix (
  if ! builtins.isFunction value then value
  else if wanted == { } then value set
  else value (builtins.intersectAttrs wanted ({ pkgs = set; } // set))
)
