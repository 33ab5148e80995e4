package registry_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry"
)

func ExampleListen() {
	// The registry asks for no password: it serves the node itself only.
	_, err := registry.Listen(context.Background(), registry.ServerConfig{Address: "0.0.0.0:5858"})
	fmt.Println(errors.Is(err, nixstore.ErrInvalid))
	// Output: true
}
