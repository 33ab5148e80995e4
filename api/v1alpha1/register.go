package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group is the name of the API group.
const Group = "closured.dev"

// Kind is the kind of the objects.
const Kind = "NixImage"

// GroupVersion gives the group and version of this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: "v1alpha1"}
}

// AddToScheme makes the types known to a scheme, so that clients can read and
// write them.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion(), &NixImage{}, &NixImageList{})
	metav1.AddToGroupVersion(scheme, GroupVersion())
	return nil
}
