// Package ociindex writes the OCI image index of images for several systems. The
// registries of all nodes and the controller must write the very same bytes, since
// the index is named by its digest; this is the one place that does.
//
// Its functions are pure and keep nothing.
package ociindex

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
)

// Image is one image of an index.
type Image struct {
	System string // Nix system
	Digest string // of the manifest
	Size   int64  // of the manifest in bytes
}

// The document of the OCI image specification 1.1, with just the fields that we
// write, in an order that no library's update changes.

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType string      `json:"mediaType"`
	Digest    string      `json:"digest"`
	Size      int64       `json:"size"`
	Platform  v1.Platform `json:"platform"`
}

// Of gives the bytes of the index of images, sorted by platform. It is ErrInvalid
// when there is none, two for one platform, or one for no platform.
func Of(images ...Image) ([]byte, error) {
	if len(images) == 0 {
		return nil, nixstore.Fail(nixstore.ErrInvalid, "give an image", "an index needs images")
	}
	doc := index{SchemaVersion: 2, MediaType: string(types.OCIImageIndex)}
	for _, i := range images {
		platform, err := Platform(i.System)
		if err != nil {
			return nil, err
		}
		doc.Manifests = append(doc.Manifests, descriptor{
			MediaType: string(types.OCIManifestSchema1), Digest: i.Digest, Size: i.Size, Platform: platform,
		})
	}
	slices.SortFunc(doc.Manifests, func(a, b descriptor) int {
		return strings.Compare(a.Platform.String(), b.Platform.String())
	})
	for n := 1; n < len(doc.Manifests); n++ {
		if p := doc.Manifests[n].Platform; p.Equals(doc.Manifests[n-1].Platform) {
			return nil, nixstore.Fail(nixstore.ErrInvalid, "give each system once", "two images are for %s", p)
		}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing an index: %w", err)
	}
	return raw, nil
}

// Platform gives what OCI calls a Nix system. It is ErrInvalid when Linux images
// cannot say it.
func Platform(system string) (v1.Platform, error) {
	platforms := map[string]v1.Platform{
		"x86_64-linux":      {Architecture: "amd64"},
		"aarch64-linux":     {Architecture: "arm64", Variant: "v8"},
		"i686-linux":        {Architecture: "386"},
		"armv6l-linux":      {Architecture: "arm", Variant: "v6"},
		"armv7l-linux":      {Architecture: "arm", Variant: "v7"},
		"riscv64-linux":     {Architecture: "riscv64"},
		"powerpc64le-linux": {Architecture: "ppc64le"},
		"s390x-linux":       {Architecture: "s390x"},
		"loongarch64-linux": {Architecture: "loong64"},
	}
	p, ok := platforms[system]
	if !ok {
		return p, nixstore.Fail(nixstore.ErrInvalid, "use a Linux system of Nix, such as x86_64-linux",
			"there are no images for the system %s", nixstore.Quote(system))
	}
	p.OS = "linux"
	return p, nil
}
