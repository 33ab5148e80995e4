package controller

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/closured/closured/api/v1alpha1"
)

// The documents of an OCI image index (image specification 1.1), in the very
// bytes that the registries write; a test in cmd compares the two.

type indexDocument struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     []indexManifest `json:"manifests"`
}

type indexManifest struct {
	MediaType string        `json:"mediaType"`
	Digest    string        `json:"digest"`
	Size      int64         `json:"size"`
	Platform  indexPlatform `json:"platform"`
}

type indexPlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// Digest gives what a reference to the images leads to: the digest of the only
// image, or of the index of several, sorted by platform.
func Digest(images []v1alpha1.SystemImage) (string, error) {
	if len(images) == 1 {
		return images[0].Digest, nil
	}
	raw, err := Index(images)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Index gives the bytes of the OCI image index of images.
func Index(images []v1alpha1.SystemImage) ([]byte, error) {
	platforms := map[v1alpha1.System]indexPlatform{
		v1alpha1.SystemX86: {Architecture: "amd64", OS: "linux"},
		v1alpha1.SystemARM: {Architecture: "arm64", OS: "linux", Variant: "v8"},
	}
	doc := indexDocument{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json"}
	for _, image := range images {
		platform, ok := platforms[image.System]
		if !ok {
			return nil, fmt.Errorf("writing an index: the system %q has no platform", image.System)
		}
		doc.Manifests = append(doc.Manifests, indexManifest{
			MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: image.Digest, Size: image.ManifestSize, Platform: platform,
		})
	}
	slices.SortFunc(doc.Manifests, func(a, b indexManifest) int {
		return cmp.Compare(a.Platform.Architecture, b.Platform.Architecture)
	})
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing an index: %w", err)
	}
	return raw, nil
}
