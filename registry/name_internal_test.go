package registry

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

const hash = "0123456789abcdfghijklmnpqrsvwxyz"

func TestParseName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, canonical string }{
		{"a store path", "store/" + hash, "store/" + hash},
		{"a package", "pkgs/redis", "pkgs/redis"},
		{"packages in any order", "pkgs/redis/curl/jq", "pkgs/curl/jq/redis"},
		{"a package twice", "pkgs/jq/curl/jq", "pkgs/curl/jq"},
		{"a nested package", "pkgs/python3packages.numpy", "pkgs/python3packages.numpy"},
		{"every separator", "pkgs/a.b_c__d-e--f---g", "pkgs/a.b_c__d-e--f---g"},
		{"a digit in front", "pkgs/7zip", "pkgs/7zip"},
		{"the words of end points", "pkgs/manifests/blobs/tags", "pkgs/blobs/manifests/tags"},
		{"an image", "image/tools/curl-and-jq.v1", "image/tools/curl-and-jq.v1"},
		{"packages as a volume", "volume/pkgs/b/a", "volume/pkgs/a/b"},
		{"a store path as a volume", "volume/store/" + hash, "volume/store/" + hash},
		{"an image as a volume", "volume/image/a/b", "volume/image/a/b"},
		{"a package called volume", "pkgs/volume", "pkgs/volume"},
	} {
		n, err := parseName(c.text)
		if err != nil || n.canonical() != c.canonical {
			t.Errorf("%s: %q is %q, %v, want %q", c.name, c.text, n.canonical(), err, c.canonical)
		}
		if wantForm := strings.HasPrefix(c.text, "volume/"); (n.form == closureimage.Volume) != wantForm {
			t.Errorf("%s has the form %d", c.name, n.form)
		}
	}
}

func TestHoldersOfNames(t *testing.T) {
	t.Parallel()
	a, b := nixstore.MustParseStorePath("/nix/store/"+hash+"-a"), nixstore.MustParseStorePath("/nix/store/1"+hash[1:]+"-a")
	seen := map[string]bool{}
	for _, h := range []nixstore.Holder{
		holderOf("pkgs/a", a), holderOf("pkgs/a", b), holderOf("pkgs/b", a), holderOfPull("pkgs/a latest true"), holderOfPull("pkgs/a latest false"),
	} {
		if seen[h.Name] || h.Kind != nixstore.HolderImage || len(h.Name) > 100 {
			t.Errorf("the holder %+v is not its own", h)
		}
		seen[h.Name] = true
	}
	if !strings.HasPrefix(holderOf("pkgs/a", a).Name, prefixOf("pkgs/a")) {
		t.Error("the pins of a name are not found by their prefix")
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"store/" + hash, "pkgs/redis/curl", "image/a/b", "volume/pkgs/x", "pkgs/../x", "pkgs//", "a__b", "a_.b", "", "pkgs/a---b", "PKGS/x"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseName(s)
		if valid := grammar.MatchString(s) && len(s) <= repositoryMax; valid == errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%q is valid: %t, and was judged %v", s, valid, err)
		}
		if err != nil {
			return
		}
		again, err := parseName(n.canonical())
		if err != nil || again.canonical() != n.canonical() || again.form != n.form || again.kind != n.kind {
			t.Errorf("%q is %q, which is %q, %v", s, n.canonical(), again.canonical(), err)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=-5", "bytes=1-2", "bytes=1-2,3-4", "bytes=9223372036854775807-9223372036854775808", "x", "bytes= 1-2"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		s, err := parseRange(header, size)
		if err != nil {
			return
		}
		if s.offset < 0 || s.length < 0 || s.offset+s.length > size || s.partial && s.length == 0 || !s.partial && s.length != size {
			t.Errorf("%q of %d bytes is %+v", header, size, s)
		}
	})
}
