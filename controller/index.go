package controller

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/ociindex"
)

// Digest gives what a reference to the images leads to: the digest of the only
// image, or of the index of several, sorted by platform.
func Digest(images []v1alpha1.SystemImage) (string, error) {
	if len(images) == 1 {
		return images[0].Digest, nil
	}
	listed := make([]ociindex.Image, 0, len(images))
	for _, i := range images {
		listed = append(listed, ociindex.Image{System: string(i.System), Digest: i.Digest, Size: i.ManifestSize})
	}
	raw, err := ociindex.Of(listed...)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
