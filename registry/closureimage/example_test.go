package closureimage_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/storetest"
	"github.com/closured/closured/registry/closureimage"
)

func Example() {
	ctx := context.Background() // a server's is that of the request
	dir, err := os.MkdirTemp("", "closureimage-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store := storetest.NewMemory() // an agent's is a nixcli.Store
	root := store.AddText("hello", "hello, world\n\n\n\n")
	if err := os.WriteFile(filepath.Join(dir, root.BaseName()), []byte("hello, world\n\n\n\n"), 0o444); err != nil {
		fmt.Println(err)
		return
	}

	builder, err := closureimage.New(closureimage.Config{StoreDir: dir, CacheDir: filepath.Join(dir, "cache"), Closures: store})
	if err != nil {
		fmt.Println(err)
		return
	}
	registration, err := store.Registration(ctx, root)
	if err != nil {
		fmt.Println(err)
		return
	}
	image, err := builder.Image(ctx, closureimage.Spec{
		Root: root, Registration: registration, System: "x86_64-linux", Form: closureimage.Volume,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(image.Digest())
	_, known := image.Blob("sha256:unknown")
	fmt.Println(known, nixstore.Dir)
	// Output:
	// sha256:8542e24e2b09d445c6e4aad6efaea1daa5d9ec79164b699978689245b982df37
	// false /nix/store
}
