package closureimage

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
)

// openStore opens the physical folder of the store, which may be reached by symlinks.
func openStore(dir string) (int, error) {
	fd, err := beneath.Root(dir)
	if err != nil {
		return -1, fmt.Errorf("opening the store's folder %s: %w", dir, err)
	}
	return fd, nil
}

// readFolder gives the children of an open folder in the order of the archive. buf
// is scratch space.
func readFolder(fd int, buf []byte) ([]beneath.Entry, error) {
	all, _, err := beneath.ReadFolder(fd, buf, math.MaxInt)
	slices.SortFunc(all, compare)
	return all, err
}

// compare orders children so that the names in the tar are sorted by their bytes:
// those of folders end with a slash there.
func compare(c, d beneath.Entry) int {
	n := min(len(c.Name), len(d.Name))
	if v := strings.Compare(c.Name[:n], d.Name[:n]); v != 0 {
		return v
	}
	return int(byteAt(c, n)) - int(byteAt(d, n))
}

// byteAt gives a byte of the child's name in the archive, or 0 behind its end.
func byteAt(c beneath.Entry, i int) byte {
	if i < len(c.Name) {
		return c.Name[i]
	}
	if i == len(c.Name) && c.Kind == unix.DT_DIR {
		return '/'
	}
	return 0
}
