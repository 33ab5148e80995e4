package niximages

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/closureimage"
)

// object is what is kept of one NixImage. It never changes.
type object struct {
	tag      string
	systems  []string // that the spec asks for
	images   []image  // that are served now
	versions []version
	resolved []image          // built, and perhaps not served yet: another system may lack
	origin   *nixstore.Origin // of images; nil of store paths, and while those of an earlier spec are served
	stuck    bool             // somebody has to change something
	why      string           // what is waited for, one line
}

// image is the image of one system.
type image struct {
	system string
	digest string
	size   int64 // of the manifest, in bytes
	root   nixstore.StorePath
	node   string // one that has it; may be empty
}

// version is one version that is served.
type version struct {
	digest, tag string
	images      []image
	config      *v1alpha1.ImageConfig // shared by versions with equal ones
}

// compact keeps what is needed of an object.
func compact(from *v1alpha1.NixImage) *object {
	o := &object{tag: from.Spec.Tag, images: imagesOf(from.Status.Images)}
	if isOfSpec(&from.Status, from.Generation) {
		o.origin = originOf(&from.Spec)
	}
	for _, r := range from.Status.Resolved {
		o.resolved = append(o.resolved, imagesOf([]v1alpha1.SystemImage{r.SystemImage})...)
	}
	for _, s := range from.Spec.EffectiveSystems() {
		o.systems = append(o.systems, string(s))
	}
	for i := range from.Status.History {
		v := &from.Status.History[i]
		config := &v.Config
		if n := len(o.versions); n > 0 && sameConfig(o.versions[n-1].config, config) {
			config = o.versions[n-1].config
		}
		o.versions = append(o.versions, version{digest: v.Digest, tag: v.Tag, images: imagesOf(v.Images), config: config})
	}
	o.why, o.stuck = explain(from)
	return o
}

// isOfSpec tells whether what is served was made of the spec of a generation. After
// a change that built nothing the history has an earlier one, and nothing to build.
func isOfSpec(status *v1alpha1.NixImageStatus, generation int64) bool {
	if len(status.History) > 0 && status.History[0].Generation == generation {
		return true
	}
	c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionBuilding)
	return c != nil && c.ObservedGeneration == generation && c.Reason == v1alpha1.ReasonFinished
}

// originOf gives the source that a spec names; nil for store paths. Whether it may
// be used, and built, is for the policy to say.
func originOf(spec *v1alpha1.NixImageSpec) *nixstore.Origin {
	switch {
	case len(spec.Contents) > 0:
		names := make([]string, 0, len(spec.Contents))
		for _, name := range spec.Contents {
			names = append(names, string(name))
		}
		return &nixstore.Origin{Source: nixstore.Source{Kind: nixstore.SourcePackages, Packages: names}}
	case spec.FlakeRef != "":
		return &nixstore.Origin{Source: nixstore.Source{Kind: nixstore.SourceFlake, Flake: spec.FlakeRef}}
	case spec.Expression != "":
		return &nixstore.Origin{Source: nixstore.Source{Kind: nixstore.SourceExpr, Expr: spec.Expression}}
	}
	return nil
}

// imagesOf reads images, but for those that no agent can have written: a status is
// the controller's, and still foreign.
func imagesOf(from []v1alpha1.SystemImage) []image {
	var images []image
	for _, i := range from {
		root, err := nixstore.ParseStorePath(string(i.StorePath))
		if err != nil || root.IsDerivation() {
			continue
		}
		images = append(images, image{system: string(i.System), digest: i.Digest, size: i.ManifestSize, root: root, node: i.Node})
	}
	return images
}

// of gives the image of a system.
func of(images []image, system string) (image, bool) {
	i := slices.IndexFunc(images, func(i image) bool { return i.system == system })
	if i < 0 {
		return image{}, false
	}
	return images[i], true
}

// whyMax bounds what an error repeats of a condition, in bytes: cause and next
// step must fit in its first 200 characters.
const whyMax = 90

// explain says what an object that is not ready waits for, and whether that needs
// somebody's hand.
func explain(from *v1alpha1.NixImage) (why string, stuck bool) {
	for _, kind := range []string{v1alpha1.ConditionStalled, v1alpha1.ConditionBuilding} {
		c := meta.FindStatusCondition(from.Status.Conditions, kind)
		if c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == from.Generation {
			return clip(c.Reason + ": " + c.Message), kind == v1alpha1.ConditionStalled
		}
	}
	if from.Status.ObservedGeneration != from.Generation {
		return "the controller has not seen it yet", false
	}
	return "it is not built yet", false
}

// clip makes one short line of a condition's words.
func clip(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) <= whyMax {
		return text
	}
	return strings.ToValidUTF8(text[:whyMax], "") + "…"
}

// Settings gives the settings of the image that a config describes: what the build
// pod computes the digest of, and what each node serves.
func Settings(config *v1alpha1.ImageConfig) closureimage.Settings {
	s := closureimage.Settings{
		Entrypoint: config.Entrypoint, Cmd: config.Cmd, Env: config.Env, ExposedPorts: config.ExposedPorts,
		User: config.User, WorkingDir: config.WorkingDir,
	}
	if len(config.Labels) > 0 {
		s.Labels = make(map[string]string, len(config.Labels))
		for key, value := range config.Labels {
			s.Labels[key] = string(value)
		}
	}
	return s
}

func sameConfig(a, b *v1alpha1.ImageConfig) bool {
	return slices.Equal(a.Entrypoint, b.Entrypoint) && slices.Equal(a.Cmd, b.Cmd) && slices.Equal(a.Env, b.Env) &&
		slices.Equal(a.ExposedPorts, b.ExposedPorts) && a.User == b.User && a.WorkingDir == b.WorkingDir &&
		maps.Equal(a.Labels, b.Labels)
}
