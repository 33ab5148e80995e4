package beneath_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
)

func Example() {
	store, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(store) }()
	err = errors.Join(
		os.WriteFile(filepath.Join(store, "hello"), []byte("hello\n"), 0o444),
		os.Symlink("/etc/passwd", filepath.Join(store, "passwd")),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	dir, err := beneath.Root(store)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer beneath.Close(dir)
	fd, info, err := beneath.File(dir, "hello")
	fmt.Println(info.Size, info.Program, err)
	beneath.Close(fd)
	_, _, err = beneath.File(dir, "passwd")
	fmt.Println(errors.Is(err, unix.ELOOP))
	// Output:
	// 6 false <nil>
	// true
}
