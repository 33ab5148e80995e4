package binarycache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/internal/beneath"
	"github.com/closured/closured/nixstore"
)

// oddThings are trees that NARs could get wrong.
func oddThings() map[string]thing {
	deep := file("at the bottom")
	for range 200 {
		deep = folder(map[string]thing{"d": deep})
	}
	many := map[string]thing{}
	for i := range 3000 {
		many[fmt.Sprintf("%04d", (i*7919)%3000)] = file(fmt.Sprint(i))
	}
	lengths := map[string]thing{}
	for i := range 18 {
		name := strings.Repeat("n", i+1)
		lengths[name] = file(strings.Repeat("x", i))
		lengths["x"+name] = program(strings.Repeat("y", i))
		lengths["l"+name] = link(strings.Repeat("z", i+1))
	}
	return map[string]thing{
		"a file":              file("hello\n"),
		"an empty file":       file(""),
		"a program":           program("#!/bin/sh\n"),
		"an empty program":    program(""),
		"a symlink":           link("/nix/store/elsewhere"),
		"a long symlink":      link(strings.Repeat("t/", 2000)),
		"an empty folder":     folder(nil),
		"folders in folders":  deep,
		"many files":          folder(many),
		"paddings":            folder(lengths),
		"a dangling symlink":  folder(map[string]thing{"l": link("nowhere"), "m": link("..")}),
		"links out of it":     folder(map[string]thing{"etc": link("/etc"), "passwd": link("../../../etc/passwd")}),
		"a file of 1 MiB":     file(strings.Repeat("0123456789abcde\n", 1<<16)),
		"sorted by bytes":     folder(map[string]thing{"a": folder(nil), "a.b": file(""), "a-b": file(""), "B": file(""), "ä": file("")}),
		"names of odd bytes":  folder(map[string]thing{"\xff\xfe": file("1"), "a\nb": file("2"), " ": file("3"), "\x01": link("\xff"), "-rf": file(""), "...": file("4")}),
		"the longest name":    folder(map[string]thing{strings.Repeat("n", 255): file("")}),
		"holes in a big file": file(strings.Repeat("\x00", 3<<20) + "end"),
	}
}

func TestNARsOfOddThings(t *testing.T) {
	t.Parallel()
	for name, odd := range oddThings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, want := storeWith(t, odd), odd.nar()
			for _, buffer := range []int{1, 7, 64, 4096, bufferSize} {
				if buffer < 64 && len(want) > 1<<20 {
					continue
				}
				got, err := dump(t.Context(), t, dir, want, buffer)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("with a buffer of %d: %d bytes, want %d (%v)", buffer, len(got), len(want), err)
				}
			}
		})
	}
}

func TestWrongContentNeverLooksWhole(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789abcde\n", 1000)
	claimed := folder(map[string]thing{"f": file(text), "g": program("x")}).nar()
	for name, there := range map[string]thing{
		"a byte differs":          folder(map[string]thing{"f": file(text[:500] + "X" + text[501:]), "g": program("x")}),
		"the last file differs":   folder(map[string]thing{"f": file(text), "g": program("y")}),
		"a file is missing":       folder(map[string]thing{"f": file(text)}),
		"there is one more":       folder(map[string]thing{"f": file(text), "g": program("x"), "h": file("")}),
		"a program became a file": folder(map[string]thing{"f": file(text), "g": file("x")}),
		"a file is longer":        folder(map[string]thing{"f": file(text + text), "g": program("x")}),
		"a file is empty":         folder(map[string]thing{"f": file(""), "g": program("x")}),
		"it is a file":            file(text),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := storeWith(t, there)
			for _, buffer := range []int{1, 64, 4096, len(claimed), bufferSize} {
				got, err := dump(t.Context(), t, dir, claimed, buffer)
				if !errors.Is(err, nixstore.ErrCorrupt) || len(got) >= len(claimed) {
					t.Errorf("with a buffer of %d: %d bytes of %d and %v", buffer, len(got), len(claimed), err)
				}
				if buffer >= len(claimed) && len(got) > 0 {
					t.Errorf("it was begun although it fits into the buffer of %d: %d bytes", buffer, len(got))
				}
			}
		})
	}
}

func TestNARsOfWhatIsNoStorePath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inside := filepath.Join(dir, examplePath.BaseName())
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(inside, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := dump(t.Context(), t, dir, make([]byte, 4096), 64); !errors.Is(err, nixstore.ErrCorrupt) || !strings.Contains(err.Error(), "fifo") {
		t.Errorf("a FIFO: %v", err)
	}
	if _, err := dump(t.Context(), t, t.TempDir(), []byte("x"), 64); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("a path that is not there: %v", err)
	}
	deep := folder(nil)
	for range depthMax {
		deep = folder(map[string]thing{"d": deep})
	}
	if got, err := dump(t.Context(), t, storeWith(t, deep), deep.nar(), 64); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("folders deeper than %d: %d bytes, %v", depthMax, len(got), err)
	}
}

// TestWhatChangesWhileItIsRead calls the steps of the walk with what they found a
// moment ago.
func TestWhatChangesWhileItIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder(map[string]thing{"to-etc": link("/etc"), "to-passwd": link("/etc/passwd"), "f": file("x")}).put(t, dir+"/now")
	if err := unix.Mkfifo(dir+"/now/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir+"/now", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close(fd)
	for name, was := range map[string]beneath.Entry{
		"a folder became a symlink": {Name: "to-etc", Kind: unix.DT_DIR},
		"a file became a symlink":   {Name: "to-passwd", Kind: unix.DT_REG},
		"a file became a FIFO":      {Name: "fifo", Kind: unix.DT_REG},
		"a folder became a file":    {Name: "f", Kind: unix.DT_DIR},
		"a file was collected":      {Name: "gone", Kind: unix.DT_REG},
		"a folder was collected":    {Name: "gone", Kind: unix.DT_DIR},
		"a symlink was collected":   {Name: "gone", Kind: unix.DT_LNK},
		"it leads out of the store": {Name: "../../etc", Kind: unix.DT_DIR},
		"it leads to the host":      {Name: "/etc/passwd", Kind: unix.DT_REG},
	} {
		d, err := describe(infoOf(make([]byte, 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := &narWriter{out: newChecked(&out, d, make([]byte, 64)), path: examplePath, room: namesMax, scratch: make([]byte, scratchSize)}
		if err := w.node(t.Context(), fd, was); !errors.Is(err, nixstore.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFoldersAreReadInBoundedMemory(t *testing.T) {
	t.Parallel()
	many := map[string]thing{}
	for i := range 2000 {
		many[fmt.Sprintf("%0100d", i)] = file("")
	}
	g := folder(map[string]thing{"in": folder(many), "then": folder(map[string]thing{"f": file("")})})
	for _, room := range []int{100 << 10, 1 << 20} {
		d, err := describe(infoOf(g.nar()))
		if err != nil {
			t.Fatal(err)
		}
		w := &narWriter{
			out: newChecked(io.Discard, d, make([]byte, 64)), path: examplePath, room: room, scratch: make([]byte, scratchSize),
		}
		store, err := beneath.Root(storeWith(t, g))
		if err != nil {
			t.Fatal(err)
		}
		defer beneath.Close(store)
		err = errors.Join(w.strings("nix-archive-1"), w.node(t.Context(), store, beneath.Entry{Name: examplePath.BaseName(), Kind: unix.DT_DIR}))
		if small := room < 2000*100; errors.Is(err, nixstore.ErrCorrupt) != small || err == nil == small {
			t.Errorf("in %d bytes: %v", room, err)
		}
		if err == nil && w.room != room {
			t.Errorf("of %d bytes %d are free at the end", room, w.room)
		}
	}
}

func TestNAREndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := folder(map[string]thing{"f": file("x")})
	if _, err := dump(ctx, t, storeWith(t, g), g.nar(), 64); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestAReaderThatLeavesIsNoDamage(t *testing.T) {
	t.Parallel()
	g := file(strings.Repeat("x", 1000))
	d, err := describe(infoOf(g.nar()))
	if err != nil {
		t.Fatal(err)
	}
	err = writeNAR(t.Context(), newChecked(brokenPipe{}, d, make([]byte, 64)), storeWith(t, g), examplePath)
	if !errors.Is(err, errOutput) || errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("the error is %v", err)
	}
}

// grow makes a tree of fuzzed bytes: each takes some of them.
func grow(data []byte, depth int) (thing, []byte) {
	next := func() byte {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return b
	}
	take := func(n int) string {
		n = min(n, len(data))
		s := string(data[:n])
		data = data[n:]
		return s
	}
	switch kind := next(); {
	case kind%4 == 0:
		return file(take(int(next()))), data
	case kind%4 == 1:
		return program(take(int(next()))), data
	case kind%4 == 2 || depth > 6:
		target := strings.ReplaceAll(take(int(next())), "\x00", "0")
		if target == "" {
			target = "x"
		}
		return link(target), data
	}
	entries := map[string]thing{}
	for range next() % 8 {
		name := strings.NewReplacer("\x00", "0", "/", "_").Replace(take(int(next()) % 64))
		if name == "" || name == "." || name == ".." {
			name = "n" + name
		}
		entries[name], data = grow(data, depth+1)
	}
	return folder(entries), data
}

func FuzzNAR(f *testing.F) {
	f.Add([]byte("\x03\x05\x01a\x00\x05hello\x01b\x01\x00\x02\xff\xfe\x02\x03xyz\x01c\x03\x00\x01d\x02\x00"), 9)
	f.Add([]byte("\x03\x02\x01a\x03\x01\x01a\x03\x01\x01a\x00\xff"), 64)
	f.Add([]byte{}, 1)
	f.Fuzz(func(t *testing.T, data []byte, buffer int) {
		g, _ := grow(data, 0)
		want := g.nar()
		buffer = 1 + (buffer&0xffff)%4096
		got, err := dump(t.Context(), t, storeWith(t, g), want, buffer)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d (%v)", len(got), len(want), err)
		}
	})
}

func BenchmarkNAR(b *testing.B) {
	small := map[string]thing{}
	for i := range 1000 {
		small[fmt.Sprint(i)] = file(strings.Repeat("x", 4000))
	}
	for name, g := range map[string]thing{
		"one-64MiB":  file(strings.Repeat("0123456789abcdef", 4<<20)),
		"1000-of-4k": folder(small),
	} {
		b.Run(name, func(b *testing.B) {
			dir := storeWith(b, g)
			d, err := describe(infoOf(g.nar()))
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, bufferSize)
			b.SetBytes(d.NarSize)
			b.ReportAllocs()
			for b.Loop() {
				if err := writeNAR(b.Context(), newChecked(io.Discard, d, buf), dir, examplePath); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
