# The package set of the demo: real programs out of Debian packages, no nixpkgs.
# It is a folder with this file as default.nix, deb-closure.nix, busybox/ (made
# by mk-busybox.sh) and debs/ (made by deb-fetch.sh).
let
  debian = import ./deb-closure.nix { busybox = ./busybox; debs = ./debs; };
in
{
  inherit (debian) curl jq;
  # Debian's redis-server is a link into redis-tools, which has redis-cli as well
  redis = debian.env "redis" [ "redis-server" "redis-tools" ];
}
