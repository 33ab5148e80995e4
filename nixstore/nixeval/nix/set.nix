# The package set: a list of attribute sets, in which names are looked up in turn.
let
  request = builtins.fromJSON (builtins.readFile ./request.json);
  given = { inherit (request) system; config = { }; overlays = [ ]; };
  # A function gets what it takes of that, so that plain sets, nixpkgs and
  # functions without arguments all do.
  open = value:
    if builtins.isFunction value
    then value (builtins.intersectAttrs (builtins.functionArgs value) given)
    else value;
  flake = builtins.getFlake request.flake;
in
if request.flake == ""
then [ (open (import <pkgs>)) ]
else [ (flake.legacyPackages.${request.system} or { }) (flake.packages.${request.system} or { }) ]
