package closureimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/closured/closured/internal/beneath"
)

// headerCases are names, targets and sizes at the edges of what the fields hold.
func headerCases() []entry {
	deep := strings.Repeat("d/", 77)
	return []entry{
		{name: "nix/", kind: typeFolder, mode: folderMode},
		{name: strings.Repeat("n", 100), kind: typeFile, mode: fileMode},
		{name: strings.Repeat("n", 101), kind: typeFile, mode: fileMode},
		{name: "a/" + strings.Repeat("n", 100), kind: typeFile, mode: fileMode},
		{name: "a/" + strings.Repeat("n", 101), kind: typeFile, mode: fileMode},
		{name: strings.Repeat("a", 155) + "/" + strings.Repeat("n", 100), kind: typeFile, mode: programMode},
		{name: strings.Repeat("a", 156) + "/" + strings.Repeat("n", 99), kind: typeFile, mode: programMode},
		{name: strings.Repeat("a", 99) + "/", kind: typeFolder, mode: folderMode},
		{name: strings.Repeat("a", 100) + "/", kind: typeFolder, mode: folderMode},
		{name: "x/" + strings.Repeat("a", 100) + "/", kind: typeFolder, mode: folderMode},
		{name: deep + strings.Repeat("n", 100), kind: typeFile, mode: fileMode},
		{name: strings.Repeat("d/", 500) + "end", kind: typeFile, mode: fileMode},
		{name: "/" + strings.Repeat("n", 100), kind: typeFile, mode: fileMode},
		{name: "ünï/cöde", kind: typeFile, mode: fileMode},
		{name: "bad\xff\xfe", kind: typeFile, mode: fileMode},
		{name: "line\nbreak", kind: typeFile, mode: fileMode},
		{name: "l", kind: typeLink, mode: linkMode, target: strings.Repeat("t", 100)},
		{name: "l", kind: typeLink, mode: linkMode, target: strings.Repeat("t", 101)},
		{name: strings.Repeat("l", 300), kind: typeLink, mode: linkMode, target: strings.Repeat("t/", 2000)},
		{name: "l", kind: typeLink, mode: linkMode, target: "zïel"},
		{name: "tmp/", kind: typeFolder, mode: tmpMode},
	}
}

func TestHeadersAreReadByGo(t *testing.T) {
	t.Parallel()
	for _, e := range append(headerCases(), entry{name: "f", kind: typeFile, mode: fileMode, size: sizeMax - 1},
		entry{name: "f", kind: typeFile, mode: fileMode, size: sizeMax}, entry{name: "f", kind: typeFile, mode: fileMode, size: 1 << 50}) {
		h, err := tar.NewReader(bytes.NewReader(appendHeader(nil, e))).Next()
		if err != nil {
			t.Errorf("%+v: %v", e, err)
			continue
		}
		if h.Name != e.name || h.Linkname != e.target || h.Size != e.size || h.Typeflag != e.kind || h.Mode != int64(e.mode) || h.ModTime.Unix() != 1 {
			t.Errorf("%+v came back as %+v", e, h)
		}
		// What has no attributes is plain ustar, which everybody reads.
		if len(h.PAXRecords) == 0 && h.Format != tar.FormatUSTAR {
			t.Errorf("%+v has the format %s", e, h.Format)
		}
	}
}

func TestHeadersAreReadByTar(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("needs tar in PATH")
	}
	var archive []byte
	var want strings.Builder
	for _, e := range headerCases() {
		if strings.HasPrefix(e.name, "/") {
			continue // tar takes the slash away
		}
		archive = appendHeader(archive, e)
		want.WriteString(e.name + "\n")
	}
	cmd := exec.CommandContext(t.Context(), program, "-tf", "-", "--quoting-style=literal")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(append(archive, make([]byte, trailerSize)...))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != want.String() {
		t.Errorf("tar says %v and %q, want %q", err, out, want.String())
	}
}

func FuzzHeader(f *testing.F) {
	for _, e := range headerCases() {
		f.Add(e.name, e.target, e.size)
	}
	f.Fuzz(func(t *testing.T, name, target string, size int64) {
		// What Linux has as a name: no NUL, not empty, no empty element.
		if strings.ContainsRune(name+target, 0) || name == "" || strings.HasSuffix(name, "/") || size < 0 || len(name)+len(target) > 8192 {
			return
		}
		for _, e := range []entry{
			{name: name, kind: typeFile, mode: fileMode, size: size},
			{name: name + "/", kind: typeFolder, mode: folderMode},
			{name: name, kind: typeLink, mode: linkMode, target: "t" + target},
		} {
			b := appendHeader(nil, e)
			if len(b)%blockSize != 0 {
				t.Errorf("%+v has %d bytes", e, len(b))
			}
			h, err := tar.NewReader(bytes.NewReader(b)).Next()
			if err != nil || h.Name != e.name || h.Linkname != e.target || h.Size != e.size {
				t.Errorf("%+v came back as %+v, %v", e, h, err)
			}
		}
	})
}

func TestChildrenAreSortedAsTheirNamesInTheArchive(t *testing.T) {
	t.Parallel()
	const dir, file = 4, 8 // DT_DIR, DT_REG
	sorted := []beneath.Entry{
		{Name: "a", Kind: file},
		{Name: "a-b", Kind: dir},
		{Name: "a-b", Kind: file},
		{Name: "a.b", Kind: file},
		{Name: "a", Kind: dir},
		{Name: "a0", Kind: file},
		{Name: "ab", Kind: dir},
		{Name: "b", Kind: file},
	}
	name := func(c beneath.Entry) string {
		if c.Kind == dir {
			return c.Name + "/"
		}
		return c.Name
	}
	for i, c := range sorted {
		for j, d := range sorted {
			want := strings.Compare(name(c), name(d))
			if got := compare(c, d); (got < 0) != (want < 0) || (got > 0) != (want > 0) {
				t.Errorf("%v against %v (%d, %d): %d, want %d", c, d, i, j, got, want)
			}
		}
	}
}

func TestVersionsAreSplitAsNixDoes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][2]string{
		"hello-2.12.1": {"hello", "2.12.1"}, "hello": {"hello", ""}, "openssl-3.0.14-bin": {"openssl-bin", "3.0.14"},
		"python3-3.12.4": {"python3", "3.12.4"}, "nss-cacert-3.101": {"nss-cacert", "3.101"}, "bash-5.2p37": {"bash", "5.2p37"},
		"gtk+-2.24": {"gtk+", "2.24"}, "x-": {"x-", ""}, "source-2024-01-02": {"source", "2024-01-02"}, "glibc-2.40-66": {"glibc", "2.40-66"},
		"-1": {"-1", ""}, "1": {"1", ""},
	} {
		if name, version := splitVersion(s); name != want[0] || version != want[1] {
			t.Errorf("%s is split into %q and %q", s, name, version)
		}
	}
}

// errReader gives some bytes and then an error.
type errReader struct{ left int }

var errTest = errors.New("broken")

func (r *errReader) Read(p []byte) (int, error) {
	n := min(len(p), r.left)
	if r.left -= n; n == 0 {
		return 0, errTest
	}
	return n, nil
}

func (r *errReader) Close() error { return nil }

func TestReadingAheadPassesErrorsOnAndEnds(t *testing.T) {
	t.Parallel()
	var lend chunks
	a := readAhead(&errReader{left: 3 * chunkSize}, &lend)
	data, err := io.ReadAll(struct{ io.Reader }{a})
	if len(data) != 3*chunkSize || !errors.Is(err, errTest) {
		t.Errorf("got %d bytes and %v", len(data), err)
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	b := readAhead(&errReader{left: 1 << 40}, &lend)
	if _, err := b.Read(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil { // in the middle; TestMain looks for the goroutine
		t.Error(err)
	}
	if _, err := b.Read(make([]byte, 10)); err == nil {
		t.Error("a closed reader can be read")
	}
}
