package closureimage

import (
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/nixstore"
)

// The documents of the OCI image specification 1.1, with just the fields that we
// write, in an order that no library's update changes: these bytes have digests.

type descriptor struct {
	MediaType    string       `json:"mediaType"`
	ArtifactType string       `json:"artifactType,omitempty"`
	Digest       string       `json:"digest"`
	Size         int64        `json:"size"`
	Platform     *v1.Platform `json:"platform,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Subject       *descriptor  `json:"subject,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type configuration struct {
	Created      string    `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Variant      string    `json:"variant,omitempty"`
	Config       execution `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
	History      []history `json:"history"`
}

// execution is the part that settings fill.
type execution struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

const (
	// created is the time of everything: that of all files of a store.
	created   = "1970-01-01T00:00:01Z"
	createdBy = "closured"
)

// layerType gives the media type of layers.
func (c Compression) layerType() string {
	switch c {
	case Gzip:
		return string(types.OCILayer)
	case Zstd:
		return string(types.OCILayerZStd)
	case None:
	}
	return string(types.OCIUncompressedLayer)
}

// platformOf knows the Nix systems that Linux images can say.
func platformOf(system string) (v1.Platform, error) {
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

// layer is one layer's two records; without compression they are the same.
type layer struct {
	plain record // uncompressed: diff_id
	blob  record // as it is pulled
}

// configOf writes the configuration. env are the image's own variables.
func configOf(s Spec, env []string, layers []layer) ([]byte, error) {
	platform, err := platformOf(s.System)
	if err != nil {
		return nil, err
	}
	doc := configuration{
		Created: created, Architecture: platform.Architecture, OS: platform.OS, Variant: platform.Variant,
		Config: execution{
			User: s.Settings.User, Env: mergeEnv(s.Settings.Env, env), Entrypoint: s.Settings.Entrypoint,
			Cmd: s.Settings.Cmd, WorkingDir: s.Settings.WorkingDir, Labels: s.Settings.Labels,
		},
		RootFS: rootFS{Type: "layers"},
	}
	for _, p := range s.Settings.ExposedPorts {
		if doc.Config.ExposedPorts == nil {
			doc.Config.ExposedPorts = map[string]struct{}{}
		}
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		doc.Config.ExposedPorts[p] = struct{}{}
	}
	for _, l := range layers {
		doc.RootFS.DiffIDs = append(doc.RootFS.DiffIDs, l.plain.sum.String())
		doc.History = append(doc.History, history{created, createdBy})
	}
	return marshal(doc), nil
}

// mergeEnv puts the image's own variables in front of the user's, but for those
// that the user sets.
func mergeEnv(user, own []string) []string {
	var env []string
	for _, e := range own {
		name, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(user, func(u string) bool { return strings.HasPrefix(u, name+"=") }) {
			env = append(env, e)
		}
	}
	return append(env, user...)
}

// manifestOf writes the manifest.
func manifestOf(c Compression, config []byte, layers []layer) []byte {
	doc := manifest{
		SchemaVersion: 2, MediaType: string(types.OCIManifestSchema1),
		Config: descriptorOf(string(types.OCIConfigJSON), describe(config)),
	}
	for _, l := range layers {
		doc.Layers = append(doc.Layers, descriptorOf(c.layerType(), l.blob))
	}
	return marshal(doc)
}

func descriptorOf(mediaType string, r record) descriptor {
	return descriptor{MediaType: mediaType, Digest: r.sum.String(), Size: r.size}
}

// Listed is one image of an index.
type Listed struct {
	System string // Nix system
	Digest string // of the manifest
	Size   int64  // of the manifest in bytes
}

// Index gives an OCI image index of images for several systems, sorted by
// platform, and its digest. It is ErrInvalid when there is none, or two for one platform.
func Index(images ...*Image) ([]byte, v1.Hash, error) {
	listed := make([]Listed, 0, len(images))
	for _, i := range images {
		d := i.descriptor()
		listed = append(listed, Listed{System: i.spec.System, Digest: d.Digest, Size: d.Size})
	}
	return IndexOf(listed...)
}

// IndexOf is Index for images that other nodes made.
func IndexOf(images ...Listed) ([]byte, v1.Hash, error) {
	doc := index{SchemaVersion: 2, MediaType: string(types.OCIImageIndex)}
	for _, i := range images {
		platform, err := platformOf(i.System)
		if err != nil {
			return nil, v1.Hash{}, err
		}
		doc.Manifests = append(doc.Manifests, descriptor{
			MediaType: string(types.OCIManifestSchema1), Digest: i.Digest, Size: i.Size, Platform: &platform,
		})
	}
	slices.SortFunc(doc.Manifests, func(a, b descriptor) int {
		return strings.Compare(a.Platform.String(), b.Platform.String())
	})
	for n := 1; n < len(doc.Manifests); n++ {
		if p := doc.Manifests[n].Platform; p.Equals(*doc.Manifests[n-1].Platform) {
			return nil, v1.Hash{}, nixstore.Fail(nixstore.ErrInvalid, "give each system once", "two images are for %s", p)
		}
	}
	if len(images) == 0 {
		return nil, v1.Hash{}, nixstore.Fail(nixstore.ErrInvalid, "give an image", "an index needs images")
	}
	raw := marshal(doc)
	return raw, describe(raw).sum.hash(), nil
}

// marshal writes a document. None of ours can fail: they are made of strings and
// numbers, and values that are not UTF-8 were refused.
func marshal(doc any) []byte {
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil
	}
	return raw
}
