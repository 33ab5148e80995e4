package closureimage

import (
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/closured/closured/internal/ociindex"
)

// The documents of the OCI image specification 1.1, with just the fields that we
// write, in an order that no library's update changes: these bytes have digests.

type descriptor struct {
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType,omitempty"`
	Digest       string `json:"digest"`
	Size         int64  `json:"size"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
	Subject       *descriptor  `json:"subject,omitempty"`
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

// layer is one layer's two records; without compression they are the same.
type layer struct {
	plain record // uncompressed: diff_id
	blob  record // as it is pulled
}

// configOf writes the configuration. env are the image's own variables.
func configOf(s Spec, env []string, layers []layer) ([]byte, error) {
	platform, err := ociindex.Platform(s.System)
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

// Index gives an OCI image index of images for several systems, sorted by
// platform, and its digest. It is ErrInvalid when there is none, or two for one platform.
func Index(images ...*Image) ([]byte, v1.Hash, error) {
	listed := make([]ociindex.Image, 0, len(images))
	for _, i := range images {
		d := i.descriptor()
		listed = append(listed, ociindex.Image{System: i.spec.System, Digest: d.Digest, Size: d.Size})
	}
	raw, err := ociindex.Of(listed...)
	if err != nil {
		return nil, v1.Hash{}, err
	}
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
