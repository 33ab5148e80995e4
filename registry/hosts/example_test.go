package hosts_test

import (
	"fmt"
	"os"

	"github.com/closured/closured/registry/hosts"
)

// The agent tells containerd of its registry, and finds it told.
func Example() {
	certs, err := os.MkdirTemp("", "certs.d")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(certs) }()

	file, err := hosts.New(hosts.Config{CertsDir: certs, Host: "nix.internal", Address: "127.0.0.1:5858"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(file.Put())
	fmt.Println(file.Put())
	text, err := os.ReadFile(file.Path())
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// true <nil>
	// false <nil>
	// # Written by closured.
	// # Images of this host are on the node itself. The agent puts this file back when it
	// # is changed or removed; it goes with deploy/cleanup.
	// server = "http://127.0.0.1:5858"
	// capabilities = ["push"]
	//
	// [host."http://127.0.0.1:5858"]
	//   capabilities = ["pull", "resolve"]
	// <nil>
}
