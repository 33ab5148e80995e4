{
  description = "a package of the end-to-end tests, of no other input";
  outputs = { self }:
    let
      package = system: rec {
        flaked = derivation {
          name = "flaked";
          inherit system;
          builder = "${./busybox}/bin/sh";
          PATH = "${./busybox}/bin";
          args = [ "-euc" "mkdir -p $out/share; ln -s ${./busybox}/bin $out/bin; echo flaked > $out/share/name" ];
        };
        default = flaked;
      };
    in
    {
      packages.x86_64-linux = package "x86_64-linux";
      packages.aarch64-linux = package "aarch64-linux";
    };
}
