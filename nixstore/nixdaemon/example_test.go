package nixdaemon_test

import (
	"context"
	"fmt"

	"github.com/closured/closured/nixstore/nixdaemon"
)

func ExampleGreet() {
	_, err := nixdaemon.Greet(context.Background(), "/nonexistent/socket")
	fmt.Println(err)
	// Output: the Nix daemon at /nonexistent/socket does not answer (dial unix /nonexistent/socket: connect: no such file or directory); next: look at the daemon's log; the agent tries again by itself
}
