package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NixImage describes an image by what is in it. The cluster builds it with Nix,
// and every node serves it under status.reference, and as a volume by its name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=niximages,singular=niximage,shortName=nixi,categories={closured,all}
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reference",type=string,JSONPath=`.status.reference`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Digest",type=string,priority=1,JSONPath=`.status.digest`
// +kubebuilder:printcolumn:name="Node",type=string,priority=1,JSONPath=`.status.images[*].node`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the name is part of the image's reference: at most 63 characters"
type NixImage struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says what shall be in the image, and how it is built. Exactly one of
	// contents, flakeRef, expression and storePaths is set.
	// +required
	Spec NixImageSpec `json:"spec"`
	// Status is what the controller found. Nobody else writes it.
	// +optional
	Status NixImageStatus `json:"status,omitempty"`
}

// NixImageList is a list of NixImages.
//
// +kubebuilder:object:root=true
type NixImageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the objects.
	Items []NixImage `json:"items"`
}
