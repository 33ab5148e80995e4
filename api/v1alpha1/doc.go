// Package v1alpha1 is the Go form of the API group closured.dev/v1alpha1: one
// kind, NixImage, which describes a set of Nix packages that the cluster builds
// and serves as an image and as a volume.
//
// It holds types, the words of conditions, and nothing that acts. What the API
// server checks of an object is written here as markers; controller-gen makes
// the deep copies of them, and the CRD in deploy/components/niximage (see api/gen).
//
// Values are plain data: share them between goroutines only when nobody writes.
// Nothing here has a life of its own that a crash could end.
//
// +kubebuilder:object:generate=true
// +groupName=closured.dev
package v1alpha1
