package attributes_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/closured/closured/driver/attributes"
	"github.com/closured/closured/nixstore"
)

// FuzzParse gives one value to each known key in turn, and one pair beside it.
// Whatever is accepted keeps the promises of the package comment.
func FuzzParse(f *testing.F) {
	f.Add("storePath", curl, "writable", "true")
	f.Add("storePath", "/nix/store/../../etc", "hostUsers", "false")
	f.Add("packages", "a,b --option c", "sizeLimit", "10Gi")
	f.Add("flakeRef", "github:o/r/../x?dir=..&host=evil#-x", "", "")
	f.Add("nixExpr", "\x00", "csi.storage.k8s.io/pod.uid", "../x")
	f.Add("image", "a.b", "csi.storage.k8s.io/pod.namespace", "web")
	f.Add("aarch64-linux", curl+" "+jq, "x86_64-linux", drv)
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		in := map[string]string{key1: value1, key2: value2}
		got, err := attributes.Parse(in, x86)
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) || got.Source.Kind != "" {
				t.Errorf("Parse(%q) = %+v, %v", in, got, err)
			}
			return
		}
		checkAccepted(t, got)
		again, err := attributes.Parse(in, x86)
		if err != nil || again.Source.Key() != got.Source.Key() {
			t.Errorf("Parse(%q) gives another answer the second time", in)
		}
	})
}

func checkAccepted(t *testing.T, a attributes.Attributes) {
	t.Helper()
	checkSource(t, a.Source)
	if a.Writable && a.UserNamespace {
		t.Error("writable with a user namespace")
	}
	if a.SizeLimitBytes != 0 && (!a.Writable || a.SizeLimitBytes < 1<<20 || a.SizeLimitBytes > 1<<50) {
		t.Errorf("size limit %d, writable %v", a.SizeLimitBytes, a.Writable)
	}
	for _, s := range []string{a.Pod.Namespace, a.Pod.Name, a.Pod.UID, a.Pod.ServiceAccount} {
		if strings.ContainsAny(s, "/\\\x00\n *") || strings.HasPrefix(s, "-") || strings.Contains(s, "..") {
			t.Errorf("pod identity %q", s)
		}
	}
}

func checkSource(t *testing.T, src nixstore.Source) {
	t.Helper()
	set := 0
	words := append([]string{src.Flake, src.Image}, src.Packages...)
	for _, filled := range []bool{len(src.Paths) > 0, len(src.Packages) > 0, src.Flake != "", src.Expr != "", src.Image != ""} {
		if filled {
			set++
		}
	}
	if set != 1 || src.Kind == "" {
		t.Errorf("%d sources in %+v", set, src)
	}
	if len(src.Paths) > attributes.MaxRoots || len(src.Packages) > attributes.MaxRoots {
		t.Errorf("%d paths, %d packages", len(src.Paths), len(src.Packages))
	}
	for _, p := range src.Paths {
		if p.IsZero() || p.IsDerivation() {
			t.Errorf("path %q", p)
		}
	}
	for _, w := range words {
		if strings.HasPrefix(w, "-") || strings.ContainsFunc(w, unicode.IsControl) || strings.Contains(w, " ") {
			t.Errorf("word %q", w)
		}
	}
	if strings.Contains(src.Expr, "\x00") || strings.HasPrefix(strings.TrimSpace(src.Expr), "-") || len(src.Expr) > 4096 {
		t.Errorf("expression %q", src.Expr)
	}
	if src.Image != "" && strings.Count(src.Image, "/") != 1 {
		t.Errorf("image %q", src.Image)
	}
}

func BenchmarkParse(b *testing.B) {
	in := map[string]string{
		"packages": "redis curl", "csi.storage.k8s.io/pod.namespace": "web", "csi.storage.k8s.io/pod.name": "shop-1",
		"csi.storage.k8s.io/pod.uid": "0a1b2c3d-0000-1111-2222-333344445555", "csi.storage.k8s.io/ephemeral": "true",
	}
	for b.Loop() {
		if _, err := attributes.Parse(in, x86); err != nil {
			b.Fatal(err)
		}
	}
}
