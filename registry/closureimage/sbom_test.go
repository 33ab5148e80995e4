package closureimage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// sbomDigest gives the digest of the referrer's one layer.
func sbomDigest(t *testing.T, i *closureimage.Image) string {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(i.Referrer().Manifest(), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 1 {
		t.Fatalf("the referrer has %d layers", len(m.Layers))
	}
	return m.Layers[0].Digest.String()
}

func TestAReferrerDescribesTheClosure(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	i := mustImage(t, s.builder(t), spec(root, closureimage.Root))
	var m struct {
		v1.Manifest
		ArtifactType string `json:"artifactType"`
	}
	if err := json.Unmarshal(i.Referrer().Manifest(), &m); err != nil {
		t.Fatal(err)
	}
	if m.ArtifactType != closureimage.ArtifactType || m.MediaType != types.OCIManifestSchema1 {
		t.Errorf("the referrer is a %s of the type %s", m.MediaType, m.ArtifactType)
	}
	if m.Subject == nil || m.Subject.Digest != i.Digest() || m.Subject.Size != int64(len(i.Manifest())) {
		t.Errorf("the subject is %v, want %s", m.Subject, i.Digest())
	}
	checkBlob(t, i, m.Config.Digest.String(), 2, "application/vnd.oci.empty.v1+json")
	checkBlob(t, i, m.Layers[0].Digest.String(), m.Layers[0].Size, closureimage.ArtifactType)
	blob, _ := i.Blob(sbomDigest(t, i))
	data, err := readBlob(t, blob, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"spdxVersion":"SPDX-2.3"`, `"created":"1970-01-01T00:00:01Z"`, `"name":"lib","versionInfo":"1.2.3"`,
		`"referenceLocator":"` + root.String() + `"`, `"documentNamespace":"https://closured.dev/spdx/` + root.Hash() + `"`,
		`"relationshipType":"DEPENDS_ON"`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the SBOM lacks %s: %s", want, data)
		}
	}
}

func TestTheSBOMIsTheSameForAllImagesOfAClosure(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	b := s.builder(t)
	other := spec(root, closureimage.Volume)
	other.Settings.User = "nobody"
	if first, second := sbomDigest(t, mustImage(t, b, spec(root, closureimage.Root))), sbomDigest(t, mustImage(t, b, other)); first != second {
		t.Errorf("there are two: %s and %s", first, second)
	}
}

func TestAnIndexNamesEachPlatformOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	root := sample(t, s)
	b := s.builder(t)
	intel, arm := spec(root, closureimage.Root), spec(root, closureimage.Root)
	arm.System = "aarch64-linux"
	one, two := mustImage(t, b, intel), mustImage(t, b, arm)
	raw, digest, err := closureimage.Index(one, two)
	if err != nil {
		t.Fatal(err)
	}
	reversed, again, err := closureimage.Index(two, one)
	if err != nil || again != digest || string(raw) != string(reversed) {
		t.Errorf("another order gives %s, %v", again, err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 || m.Manifests[0].Platform.Architecture != "amd64" || m.Manifests[1].Platform.String() != "linux/arm64/v8" {
		t.Errorf("the index is %s", raw)
	}
	if m.Manifests[0].Digest != one.Digest() || m.Manifests[1].Digest != two.Digest() {
		t.Errorf("the index names %v", m.Manifests)
	}
	for _, bad := range [][]*closureimage.Image{nil, {one, one}} {
		if _, _, err := closureimage.Index(bad...); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("an index of %d images: %v", len(bad), err)
		}
	}
}
