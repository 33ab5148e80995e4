package ociindex_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/closured/closured/internal/ociindex"
	"github.com/closured/closured/nixstore"
)

var (
	arm = ociindex.Image{System: "aarch64-linux", Digest: "sha256:" + strings.Repeat("a", 64), Size: 7}
	x86 = ociindex.Image{System: "x86_64-linux", Digest: "sha256:" + strings.Repeat("b", 64), Size: 8}
)

// TestBytesNeverChange: digests of indexes are in statuses and in pods.
func TestBytesNeverChange(t *testing.T) {
	t.Parallel()
	want := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + x86.Digest + `","size":8,"platform":{"architecture":"amd64","os":"linux"}},` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + arm.Digest + `","size":7,"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}`
	for _, images := range [][]ociindex.Image{{x86, arm}, {arm, x86}} {
		if got, err := ociindex.Of(images...); err != nil || string(got) != want {
			t.Errorf("the index is %v\n%s\nwant\n%s", err, got, want)
		}
	}
}

func TestWhatIsNoIndex(t *testing.T) {
	t.Parallel()
	for name, images := range map[string][]ociindex.Image{
		"no image": nil, "two for one platform": {x86, arm, x86}, "another kernel": {{System: "x86_64-darwin"}},
	} {
		if _, err := ociindex.Of(images...); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func ExamplePlatform() {
	p, err := ociindex.Platform("aarch64-linux")
	fmt.Println(p, err)
	// Output: linux/arm64/v8 <nil>
}
