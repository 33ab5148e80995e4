# Fetches the flake of the package set, so that expressions can import its files.
let
  request = builtins.fromJSON (builtins.readFile ./request.json);
in
{ source = "${(builtins.getFlake request.flake).outPath}"; }
