package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// manifest is one document that is served.
type manifest struct {
	body      []byte
	digest    string
	mediaType string
}

// served is an image as it is served under one name: its own manifest, and that of
// the bill of materials that refers to it. It never changes.
type served struct {
	canonical  string
	holder     nixstore.Holder // whose pin keeps the closure
	image      *closureimage.Image
	own        manifest
	index      manifest // that lists it; without a body: none
	bill       manifest
	billType   string          // artifactType
	descriptor json.RawMessage // of the bill, for the list of referrers
}

// newServed describes an image once, so that answering for it costs no hash.
func newServed(canonical string, holder nixstore.Holder, image *closureimage.Image) (*served, error) {
	r := image.Referrer()
	s := &served{
		canonical: canonical, holder: holder, image: image,
		own:  manifest{image.Manifest(), image.Digest().String(), mediaTypeManifest},
		bill: manifest{r.Manifest(), r.Digest().String(), mediaTypeManifest},
	}
	// A descriptor in the list has the manifest's artifactType and annotations
	// (distribution specification 1.1, "Listing Referrers").
	var doc struct {
		ArtifactType string            `json:"artifactType"`
		Annotations  map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(s.bill.body, &doc); err != nil {
		return nil, fmt.Errorf("reading the manifest of a bill of materials: %w", err)
	}
	s.billType = doc.ArtifactType
	var err error
	s.descriptor, err = json.Marshal(struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int               `json:"size"`
		ArtifactType string            `json:"artifactType,omitempty"`
		Annotations  map[string]string `json:"annotations,omitempty"`
	}{mediaTypeManifest, s.bill.digest, len(s.bill.body), doc.ArtifactType, doc.Annotations})
	return s, err
}

// manifest gives the manifest with a digest.
func (s *served) manifest(digest string) (manifest, bool) {
	switch digest {
	case s.own.digest:
		return s.own, true
	case s.bill.digest:
		return s.bill, true
	case s.index.digest:
		return s.index, len(s.index.body) > 0
	}
	return manifest{}, false
}

// tagged gives what the name's tag leads to.
func (s *served) tagged() manifest {
	if len(s.index.body) > 0 {
		return s.index
	}
	return s.own
}

// described gives the image as its description has it, or ErrCorrupt when the
// description speaks of another one: the bytes of a closure's image depend on the
// release and its compression.
func (s *served) described(d Description) (*served, error) {
	if d.Digest != "" && d.Digest != s.own.digest {
		return nil, nixstore.Fail(nixstore.ErrCorrupt, differs,
			"the image of %s is %s on this node, and %s by its description", s.canonical, s.own.digest, d.Digest)
	}
	return s.withIndex(d.Index)
}

// differs is what to do about an image that is another one here than elsewhere.
const differs = "use the same release and --registry-compression on all nodes and in the controller, which builds it anew after a change"

// withIndex gives the image as one of several in an index.
func (s *served) withIndex(body []byte) (*served, error) {
	if len(body) == 0 {
		return s, nil
	}
	var doc struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("reading the index of %s: %w", s.canonical, err)
	}
	for _, m := range doc.Manifests {
		if m.Digest == s.own.digest {
			sum := sha256.Sum256(body)
			s.index = manifest{body: body, digest: "sha256:" + hex.EncodeToString(sum[:]), mediaType: mediaTypeIndex}
			return s, nil
		}
	}
	return nil, nixstore.Fail(nixstore.ErrCorrupt, differs,
		"the image of %s is %s on this node, which its index does not list", s.canonical, s.own.digest)
}

// blob gives the configuration, layer or bill with a digest.
func (s *served) blob(digest string) (closureimage.Blob, bool) { return s.image.Blob(digest) }
