package niximages_test

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/nixstore"
)

const (
	x86 = v1alpha1.SystemX86
	arm = v1alpha1.SystemARM
)

// root gives the store path of a version.
func root(name string) nixstore.StorePath {
	return nixstore.MustParseStorePath("/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-" + name)
}

// digest gives a digest that ends in a word of base 16.
func digest(word string) string { return "sha256:" + strings.Repeat("0", 64-len(word)) + word }

func image(system v1alpha1.System, name, word, node string) v1alpha1.SystemImage {
	return v1alpha1.SystemImage{
		System: system, StorePath: v1alpha1.StorePath(root(name).String()), Digest: digest(word), ManifestSize: 1, ClosureSize: "1", Paths: 1, Node: node,
	}
}

// object makes a NixImage with versions, the newest first.
func object(namespace, name string, change func(*v1alpha1.NixImage), versions ...v1alpha1.Version) *v1alpha1.NixImage {
	n := &v1alpha1.NixImage{TypeMeta: metav1.TypeMeta{Kind: v1alpha1.Kind, APIVersion: "closured.dev/v1alpha1"}}
	n.Namespace, n.Name, n.Generation = namespace, name, 1
	n.Spec.Tag = "latest"
	if len(versions) > 0 {
		versions = slices.Clone(versions)
		versions[0].Generation = n.Generation
		n.Spec.Tag = versions[0].Tag
		n.Status = v1alpha1.NixImageStatus{ObservedGeneration: 1, Digest: versions[0].Digest, Images: versions[0].Images, History: versions}
	}
	if change != nil {
		change(n)
	}
	return n
}

func version(tag string, images ...v1alpha1.SystemImage) v1alpha1.Version {
	v := v1alpha1.Version{Tag: tag, Digest: images[0].Digest, Images: images}
	if len(images) > 1 {
		v.Digest = digest("d" + strings.TrimLeft(strings.TrimPrefix(images[0].Digest, "sha256:"), "0"))
	}
	v.Config.User = tag
	return v
}

// condition sets one condition of an object.
func condition(kind, reason, message string) func(*v1alpha1.NixImage) {
	return func(n *v1alpha1.NixImage) {
		n.Status.ObservedGeneration = n.Generation
		n.Status.Conditions = append(n.Status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: n.Generation,
		})
	}
}
