package closureimage_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

var (
	allCompressions = []closureimage.Compression{closureimage.None, closureimage.Gzip, closureimage.Zstd}
	allForms        = []closureimage.Form{closureimage.Root, closureimage.Volume}
)

func compressed(c closureimage.Compression) func(*closureimage.Config) {
	return func(cfg *closureimage.Config) { cfg.Compression = c }
}

func TestBlobsAreWhatTheManifestSays(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	for _, c := range allCompressions {
		for _, form := range allForms {
			i := mustImage(t, s.builder(t, compressed(c)), spec(root, form))
			image, err := i.V1(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			m, err := image.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			checkBlob(t, i, m.Config.Digest.String(), m.Config.Size, string(m.Config.MediaType))
			for _, l := range m.Layers {
				checkBlob(t, i, l.Digest.String(), l.Size, string(l.MediaType))
			}
			for n, l := range layersOf(t, i) {
				checkDiffID(t, i, n, l)
			}
			entries(t, i) // they are archives, and sorted
		}
	}
}

func checkBlob(t *testing.T, i *closureimage.Image, digest string, size int64, mediaType string) {
	t.Helper()
	b, ok := i.Blob(digest)
	if !ok {
		t.Fatalf("there is no blob %s", digest)
	}
	data, err := readBlob(t, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); got != digest || got != b.Digest() {
		t.Errorf("%s has the digest %s, and says %s", digest, got, b.Digest())
	}
	if int64(len(data)) != size || size != b.Size() || mediaType != b.MediaType() {
		t.Errorf("%s has %d bytes, want %d; types %s and %s", digest, len(data), size, mediaType, b.MediaType())
	}
}

func checkDiffID(t *testing.T, i *closureimage.Image, n int, blob closureimage.Blob) {
	t.Helper()
	image, err := i.V1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	want, err := layers[n].DiffID()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[n].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want.Hex {
		t.Errorf("%s is %s uncompressed, and the configuration says %s", blob.Digest(), got, want.Hex)
	}
}

func TestABlobCanBeReadFromEachOffset(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	for _, c := range allCompressions {
		i := mustImage(t, s.builder(t, compressed(c)), spec(root, closureimage.Root))
		blobs := layersOf(t, i)
		if sbom, ok := i.Blob(sbomDigest(t, i)); ok {
			blobs = append(blobs, sbom)
		}
		for _, b := range blobs {
			whole, err := readBlob(t, b, 0)
			if err != nil {
				t.Fatal(err)
			}
			for offset := int64(1); offset <= b.Size(); offset += 1 + b.Size()/29 {
				checkRest(t, b, whole, offset)
			}
			for _, offset := range []int64{511, 512, 513, 1024, 1536, 1537, b.Size() - 1025, b.Size() - 1024, b.Size() - 1, b.Size()} {
				checkRest(t, b, whole, offset)
			}
		}
	}
}

func checkRest(t *testing.T, b closureimage.Blob, whole []byte, offset int64) {
	t.Helper()
	if offset < 0 || offset > b.Size() {
		return
	}
	rest, err := readBlob(t, b, offset)
	if err != nil || !bytes.Equal(rest, whole[offset:]) {
		t.Errorf("%s from %d of %d on: %d bytes, %v", b.MediaType(), offset, b.Size(), len(rest), err)
	}
}

func TestOffsetsOutsideOfABlobAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	i := mustImage(t, s.builder(t), spec(sample(t, s), closureimage.Root))
	for _, b := range layersOf(t, i) {
		for _, offset := range []int64{-1, b.Size() + 1, 1 << 62} {
			if _, err := readBlob(t, b, offset); !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("offset %d gave %v", offset, err)
			}
		}
	}
}

func TestABlobIsTheSameInPiecesOfAnySize(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	i := mustImage(t, s.builder(t), spec(sample(t, s), closureimage.Root))
	for _, b := range layersOf(t, i) {
		r, err := b.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, iotest.HalfReader(iotest.OneByteReader(struct{ io.Reader }{r}))); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("sha256:%x", h.Sum(nil)); got != b.Digest() {
			t.Errorf("%s became %s", b.Digest(), got)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Error("a closed blob can be read")
		}
	}
}

// damage is what can happen to a path that is valid in the database.
var damage = []struct {
	name string
	do   func(file string) error
}{
	{"a byte differs", func(f string) error {
		data, err := os.ReadFile(f)
		if err == nil {
			data[len(data)/2] ^= 1
			err = os.WriteFile(f, data, 0o644)
		}
		return err
	}},
	{"a file is shorter", func(f string) error { return os.Truncate(f, 10) }},
	{"a file is longer", func(f string) error { return os.Truncate(f, 1<<20) }},
	{"a file is gone", os.Remove},
	{"a file became a folder", func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o755)) }},
	{"a file became a symlink", func(f string) error { return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f)) }},
	{"a file became a FIFO", func(f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o644)) }},
	{"a file became a socket", func(f string) error {
		return errors.Join(os.Remove(f), unix.Mknod(f, unix.S_IFSOCK|0o644, 0))
	}},
	{"a file became a program", func(f string) error { return os.Chmod(f, 0o755) }},
	{"there is one file more", func(f string) error { return os.WriteFile(f+"-more", nil, 0o644) }},
	{"the whole path is gone", func(f string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(f))) }},
}

func TestDamageOfTheStoreNeverBecomesAWholeBlob(t *testing.T) {
	t.Parallel()
	for _, d := range damage {
		for _, c := range allCompressions {
			t.Run(d.name+" with "+c.String(), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				b := s.builder(t, compressed(c))
				lib := s.add(t, "lib", files{"lib/libx.so": strings.Repeat("x", 300_000)})
				root := s.add(t, "root", files{"bin/x*": "x"}, lib)
				i := mustImage(t, b, spec(root, closureimage.Root))
				if err := d.do(filepath.Join(s.real(lib), "lib/libx.so")); err != nil {
					t.Fatal(err)
				}
				checkDamaged(t, i)
			})
		}
	}
}

// checkDamaged wants exactly one layer to fail, before its last byte.
func checkDamaged(t *testing.T, i *closureimage.Image) {
	t.Helper()
	bad := 0
	for _, blob := range layersOf(t, i) {
		data, err := readBlob(t, blob, 0)
		if err == nil {
			continue
		}
		bad++
		if !errors.Is(err, nixstore.ErrCorrupt) {
			t.Errorf("reading gave %v, want ErrCorrupt", err)
		}
		if int64(len(data)) >= blob.Size() {
			t.Errorf("all %d bytes were given before the error", len(data))
		}
		var whole bytes.Buffer
		r, err := blob.Open(t.Context(), 0)
		if err != nil {
			continue
		}
		if n, err := io.Copy(&whole, r); err == nil || n >= blob.Size() {
			t.Errorf("copying gave %d of %d bytes and %v", n, blob.Size(), err)
		}
		_ = r.Close()
	}
	if bad != 1 {
		t.Errorf("%d layers failed, want 1", bad)
	}
}

func TestAfterDamageTheImageIsComputedAgain(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	b := s.builder(t)
	root := s.add(t, "root", files{"bin/x*": "right"})
	i := mustImage(t, b, spec(root, closureimage.Root))
	file := filepath.Join(s.real(root), "bin/x")
	rewrite(t, file, "wrong") // as long as it was
	if _, err := readBlob(t, layersOf(t, i)[0], 0); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Fatalf("reading gave %v", err)
	}
	if again := mustImage(t, b, spec(root, closureimage.Root)); again.Digest() == i.Digest() {
		t.Error("the old digests are still used")
	}
	rewrite(t, file, "much too long")
	if _, err := readBlob(t, layersOf(t, mustImage(t, b, spec(root, closureimage.Root)))[0], 0); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Fatalf("reading gave %v", err)
	}
	if _, err := b.Image(t.Context(), spec(root, closureimage.Root)); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("an image was made of a path with another size than its archive has: %v", err)
	}
	rewrite(t, file, "right")
	if again := mustImage(t, b, spec(root, closureimage.Root)); again.Digest() != i.Digest() {
		t.Error("after a repair the digest is another one")
	}
}

func rewrite(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestNothingOutsideOfTheClosureIsRead(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	secret := s.add(t, "secret", files{"bin/secret*": "secret", "etc/ssl/certs/ca-bundle.crt": "not ours"})
	root := s.add(t, "root", files{
		"bin@": secret.String() + "/bin", "lib@": "../../../../../../../../../../etc", "a@": "b", "b@": "a",
		"share@": "../" + secret.BaseName() + "/bin", "libexec@": "/etc", "opt@": "/nix/store", "up@": "../../store",
		"good@": "./real/../real/", "real/x": "x", "etc@": secret.String() + "/etc", "srv@": "/nix/store/../store",
	})
	i := mustImage(t, s.builder(t), spec(root, closureimage.Root))
	names, headers, content := entries(t, i)
	for _, n := range names {
		if strings.Contains(content[n], "secret") || strings.Contains(n, secret.BaseName()) {
			t.Errorf("%s is of a path outside of the closure", n)
		}
	}
	var links []string
	for n, h := range headers {
		if h.Linkname != "" && !strings.Contains(n, "/") {
			links = append(links, n)
		}
	}
	if slices.Sort(links); !slices.Equal(links, []string{"good", "real"}) {
		t.Errorf("linked at / are %q", links)
	}
	if bytes.Contains(i.Config(), []byte("SSL_CERT_FILE")) {
		t.Error("certificates outside of the closure are named")
	}
}

func TestSpecialFilesAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := s.add(t, "root", files{"x": "x"})
	if err := unix.Mkfifo(filepath.Join(s.real(root), "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.builder(t).Image(t.Context(), spec(root, closureimage.Volume)); !errors.Is(err, nixstore.ErrCorrupt) {
		t.Errorf("got %v, want ErrCorrupt", err)
	}
}
