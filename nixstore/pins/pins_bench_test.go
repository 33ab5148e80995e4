package pins_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/pins"
)

// BenchmarkPutDrop tells what a pin costs a warm publish. ext4 keeps the target
// of a link of up to 59 bytes in the inode, and a longer one in a block; pinned: an
// other holder pins the same root.
func BenchmarkPutDrop(b *testing.B) {
	for _, name := range []string{"curl", "a-name-of-usual-length-1.2.3"} {
		for _, pinned := range []bool{false, true} {
			for _, flushed := range []bool{false, true} {
				b.Run(fmt.Sprintf("name=%d/pinned=%t/flushed=%t", len(name), pinned, flushed),
					func(b *testing.B) { putDrop(b, name, pinned, flushed) })
			}
		}
	}
}

func putDrop(b *testing.B, name string, pinned, flushed bool) {
	b.Helper()
	dir := b.TempDir()
	p, err := pins.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	folder, err := os.Open(filepath.Join(dir, string(nixstore.HolderVolume)))
	if err != nil {
		b.Fatal(err)
	}
	defer folder.Close()
	root := nixstore.MustParseStorePath(nixstore.Dir + "/" + strings.Repeat("0", 32) + "-" + name)
	if pinned {
		if err := p.Put(nixstore.Holder{Kind: nixstore.HolderVolume, Name: "csi-0"}, root); err != nil {
			b.Fatal(err)
		}
	}
	h := nixstore.Holder{Kind: nixstore.HolderVolume, Name: "csi-1"}
	for b.Loop() {
		if err := p.Put(h, root); err != nil {
			b.Fatal(err)
		}
		if flushed {
			if err := folder.Sync(); err != nil {
				b.Fatal(err)
			}
		}
		if err := p.Drop(h); err != nil {
			b.Fatal(err)
		}
	}
}
