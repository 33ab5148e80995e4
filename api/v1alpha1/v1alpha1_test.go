package v1alpha1_test

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/closured/closured/api/v1alpha1"
)

func TestEffectiveSystems(t *testing.T) {
	t.Parallel()
	x86, arm := v1alpha1.SystemX86, v1alpha1.SystemARM
	paths := map[string]v1alpha1.StorePath{string(arm): "a", string(x86): "b"}
	for name, test := range map[string]struct {
		spec v1alpha1.NixImageSpec
		want []v1alpha1.System
	}{
		"none named":             {v1alpha1.NixImageSpec{}, []v1alpha1.System{x86}},
		"those that are named":   {v1alpha1.NixImageSpec{Systems: []v1alpha1.System{arm, x86}}, []v1alpha1.System{arm, x86}},
		"those of store paths":   {v1alpha1.NixImageSpec{StorePaths: paths}, []v1alpha1.System{x86, arm}},
		"fewer than store paths": {v1alpha1.NixImageSpec{StorePaths: paths, Systems: []v1alpha1.System{arm}}, []v1alpha1.System{arm}},
	} {
		if got := test.spec.EffectiveSystems(); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestScheme(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{v1alpha1.Kind, v1alpha1.Kind + "List"} {
		if !scheme.Recognizes(v1alpha1.GroupVersion().WithKind(kind)) {
			t.Errorf("%s is not known", kind)
		}
	}
}

func ExampleNixImageSpec_EffectiveSystems() {
	spec := v1alpha1.NixImageSpec{Contents: []v1alpha1.PackageName{"curl"}}
	fmt.Println(spec.EffectiveSystems())
	// Output: [x86_64-linux]
}
