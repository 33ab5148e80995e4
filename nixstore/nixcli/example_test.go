package nixcli_test

import (
	"fmt"

	"github.com/closured/closured/nixstore/nixcli"
)

func ExampleParseOption() {
	name, value, err := nixcli.ParseOption("stalled-download-timeout = 60")
	fmt.Println(name, value, err)
	_, _, err = nixcli.ParseOption("require-sigs=false")
	fmt.Println(err)
	// Output:
	// stalled-download-timeout 60 <nil>
	// reading a Nix option: the Nix option require-sigs cannot be changed: builds are sandboxed, paths are signed and only root is trusted; next: remove it
}

func ExampleClient_Remote() {
	client := nixcli.Client{Socket: "/var/lib/closured/run/nix/socket", StoreRoot: "/var/lib/closured"}
	fmt.Println("NIX_REMOTE=" + client.Remote())
	// Output:
	// NIX_REMOTE=unix:///var/lib/closured/run/nix/socket?root=/var/lib/closured
}
