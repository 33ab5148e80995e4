package binarycache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/closured/closured/nixstore"
)

// thing is a file, a program, a symlink or a folder of a test.
type thing struct {
	text   string // of a file, or the target of a symlink
	kind   byte   // 'f', 'x', 'l' or 'd'
	folder map[string]thing
}

func file(text string) thing                { return thing{text: text, kind: 'f'} }
func program(text string) thing             { return thing{text: text, kind: 'x'} }
func link(target string) thing              { return thing{text: target, kind: 'l'} }
func folder(entries map[string]thing) thing { return thing{kind: 'd', folder: entries} }

// put writes the thing to the disk.
func (g thing) put(tb testing.TB, path string) {
	tb.Helper()
	var err error
	switch g.kind {
	case 'f':
		err = os.WriteFile(path, []byte(g.text), 0o444)
	case 'x':
		err = os.WriteFile(path, []byte(g.text), 0o555)
	case 'l':
		err = os.Symlink(g.text, path)
	default:
		err = os.Mkdir(path, 0o755)
		for name, entry := range g.folder {
			entry.put(tb, path+"/"+name)
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// nar gives the NAR of the thing, written straight from the manual and by other
// code than the one that is tested.
func (g thing) nar() []byte {
	var b bytes.Buffer
	narString(&b, "nix-archive-1")
	g.node(&b)
	return b.Bytes()
}

func (g thing) node(b *bytes.Buffer) {
	narString(b, "(")
	narString(b, "type")
	switch g.kind {
	case 'l':
		narString(b, "symlink")
		narString(b, "target")
		narString(b, g.text)
	case 'd':
		narString(b, "directory")
		for _, name := range slices.Sorted(maps.Keys(g.folder)) {
			for _, s := range []string{"entry", "(", "name", name, "node"} {
				narString(b, s)
			}
			g.folder[name].node(b)
			narString(b, ")")
		}
	default:
		narString(b, "regular")
		if g.kind == 'x' {
			narString(b, "executable")
			narString(b, "")
		}
		narString(b, "contents")
		narString(b, g.text)
	}
	narString(b, ")")
}

func narString(b *bytes.Buffer, s string) {
	_ = binary.Write(b, binary.LittleEndian, uint64(len(s)))
	b.WriteString(s)
	for b.Len()%8 != 0 {
		b.WriteByte(0)
	}
}

var examplePath = nixstore.MustParseStorePath("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-example")

// infoOf describes a NAR as the database would.
func infoOf(nar []byte) nixstore.PathInfo {
	sum := sha256.Sum256(nar)
	return nixstore.PathInfo{
		Path: examplePath, NarHash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]), NarSize: int64(len(nar)),
	}
}

// dump writes the NAR of the example path in the store's folder dir, of which the
// database says what fits want, with a buffer of the given size.
func dump(ctx context.Context, tb testing.TB, dir string, want []byte, buffer int) ([]byte, error) {
	tb.Helper()
	d, err := describe(infoOf(want))
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	err = writeNAR(ctx, newChecked(&out, d, make([]byte, buffer)), dir, examplePath)
	return out.Bytes(), err
}

// storeWith gives a store's folder that holds g as the example path.
func storeWith(tb testing.TB, g thing) string {
	tb.Helper()
	dir := tb.TempDir()
	g.put(tb, filepath.Join(dir, examplePath.BaseName()))
	return dir
}
