package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NixImageStatus is what the controller found.
type NixImageStatus struct {
	// ObservedGeneration is the generation of the spec that the rest speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Reference is what a pod writes as its image. It is there once there is
	// something to serve.
	// +optional
	Reference string `json:"reference,omitempty"`
	// Digest is what the reference leads to: the digest of the only system's
	// manifest, or of the index of several.
	// +optional
	Digest string `json:"digest,omitempty"`
	// Size is the size of the greatest closure, for people, such as "123.4 MiB".
	// +optional
	Size string `json:"size,omitempty"`
	// Images are what is served under digest, one for each system.
	// +optional
	// +listType=map
	// +listMapKey=system
	// +kubebuilder:validation:MaxItems=8
	Images []SystemImage `json:"images,omitempty"`
	// Resolved is what the source led to when it was last built, for each system.
	// It stays until the spec changes or refreshInterval has passed, and becomes
	// part of images when all systems that can be built are.
	// +optional
	// +listType=map
	// +listMapKey=system
	// +kubebuilder:validation:MaxItems=8
	Resolved []Resolution `json:"resolved,omitempty"`
	// History are the versions that are served by digest, the newest, which is the
	// one of digest, first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=11
	History []Version `json:"history,omitempty"`
	// Conditions are Ready, Building and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SystemImage is the image of one system.
type SystemImage struct {
	// System is the Nix system.
	System System `json:"system"`
	// StorePath is the root of the closure.
	StorePath StorePath `json:"storePath"`
	// Digest is the digest of the image's manifest.
	Digest string `json:"digest"`
	// ManifestSize is the size of the manifest in bytes. An index states it.
	// +optional
	ManifestSize int64 `json:"manifestSize,omitempty"`
	// ClosureSize is the sum of the NAR sizes of the closure's paths in bytes, as a
	// decimal number.
	ClosureSize string `json:"closureSize"`
	// Paths is how many store paths the closure has.
	Paths int32 `json:"paths"`
	// Inputs identifies the source and config that it was built of.
	// +optional
	Inputs string `json:"inputs,omitempty"`
	// Node is where it was built, and so a node that has it.
	// +optional
	Node string `json:"node,omitempty"`
}

// Resolution is the result of one build Job.
type Resolution struct {
	SystemImage `json:",inline"`

	// Round counts how often this system was resolved, from 1.
	Round int64 `json:"round"`
	// Time is when the controller saw that the build had ended.
	Time metav1.Time `json:"time"`
}

// Version is one version that was published.
type Version struct {
	// Digest is the digest of the manifest, or of the index.
	Digest string `json:"digest"`
	// Tag is the tag that it was published under.
	Tag string `json:"tag"`
	// Generation is the generation of the spec that it was made of.
	Generation int64 `json:"generation"`
	// Time is when it was published.
	Time metav1.Time `json:"time"`
	// Images are its images. With config they are all that a node needs to serve
	// the version again.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Images []SystemImage `json:"images"`
	// Config is the config that the images were made with.
	// +optional
	Config ImageConfig `json:"config,omitempty,omitzero"`
}
