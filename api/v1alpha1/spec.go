package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// System is the name of a Nix system, such as "x86_64-linux".
//
// +kubebuilder:validation:Enum=x86_64-linux;aarch64-linux
type System string

// The systems that a node can have.
const (
	SystemX86 System = "x86_64-linux"
	SystemARM System = "aarch64-linux"
)

// PackageName is the name of an attribute of the operator's package set; dots
// lead into nested sets, as in python3Packages.numpy.
//
// +kubebuilder:validation:MaxLength=255
// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_'-]*(\.[A-Za-z0-9_][A-Za-z0-9_'-]*)*$`
type PackageName string

// NixImageSpec is what shall be in an image, and how it is built. Exactly one of
// contents, flakeRef, expression and storePaths is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.contents), has(self.flakeRef), has(self.expression), has(self.storePaths)].filter(x, x).size() == 1",message="set exactly one of contents, flakeRef, expression and storePaths"
// +kubebuilder:validation:XValidation:rule="!has(self.storePaths) || !has(self.systems) || self.systems.all(s, s in self.storePaths)",message="storePaths must have a path for each of systems"
// +kubebuilder:validation:XValidation:rule="!has(self.storePaths) || !has(self.refreshInterval)",message="refreshInterval is of no use with storePaths, which never change"
// +kubebuilder:validation:XValidation:rule="!has(self.flakeRef) || !has(self.refreshInterval) || !self.refreshInterval.matches('^([0-9]{1,6}[hms])+$') || duration(self.refreshInterval) >= duration('2h')",message="refreshInterval must be at least 2h with flakeRef: each node, and Nix on it, remembers a flake for an hour"
type NixImageSpec struct {
	// Tag is the tag of the image's reference.
	// +optional
	// +kubebuilder:default=latest
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`
	// +kubebuilder:validation:MaxLength=128
	Tag string `json:"tag,omitempty"`

	// Contents are packages of the operator's package set.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.join(' ').size() <= 4000",message="the names are longer than 4000 characters together; make a set of them in the package set"
	Contents []PackageName `json:"contents,omitempty"`

	// FlakeRef is a flake reference with an attribute, such as
	// github:owner/repository#package.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^[!-~]+$`
	FlakeRef string `json:"flakeRef,omitempty"`

	// Expression is a Nix expression that gives a derivation, or a list of them, or a
	// function of the operator's package set that does, such as pkgs: [ pkgs.curl ].
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4000
	Expression string `json:"expression,omitempty"`

	// StorePaths are finished store paths, one for each system.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=2
	// +kubebuilder:validation:XValidation:rule="self.all(s, s in ['x86_64-linux', 'aarch64-linux'])",message="the known systems are x86_64-linux and aarch64-linux"
	// +kubebuilder:validation:XValidation:rule="self.all(s, !self[s].endsWith('.drv'))",message="name what the derivation builds, not the derivation"
	StorePaths map[string]StorePath `json:"storePaths,omitempty"`

	// Systems are the Nix systems to build for. Left out: those of storePaths, or
	// x86_64-linux.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	Systems []System `json:"systems,omitempty"`

	// Config is what the image says to its runtime. It has no effect on volumes.
	// +optional
	Config ImageConfig `json:"config,omitempty,omitzero"`

	// RefreshInterval is how long after a build the source is looked at again,
	// because packages and branches move, such as 24h or 1h30m. Left out: what was
	// resolved stays until the spec changes.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}[hms])+$') && duration(self) >= duration('1m') && duration(self) <= duration('8760h')",message="refreshInterval must be at least 1m, and at most 8760h, in words such as 24h or 1h30m"
	RefreshInterval *metav1.Duration `json:"refreshInterval,omitempty"`

	// HistoryLimit is how many earlier versions are still served by digest.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	HistoryLimit *int32 `json:"historyLimit,omitempty"`

	// Build bounds and places the Jobs that build.
	// +optional
	Build BuildSettings `json:"build,omitempty,omitzero"`
}

// StorePath is the absolute path of an object in the Nix store.
//
// +kubebuilder:validation:MaxLength=255
// +kubebuilder:validation:Pattern=`^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+._?=-]{1,211}$`
type StorePath string

// ImageConfig is what an image says to its runtime, in OCI's words. Every version
// of an image repeats it in the object's status, so that it is bounded as a whole.
//
// +kubebuilder:validation:XValidation:rule="(has(self.entrypoint) ? self.entrypoint.map(x, size(bytes(x))).sum() : 0) + (has(self.cmd) ? self.cmd.map(x, size(bytes(x))).sum() : 0) + (has(self.env) ? self.env.map(x, size(bytes(x))).sum() : 0) + (has(self.labels) ? self.labels.map(k, size(k) + size(bytes(self.labels[k]))).sum() : 0) <= 32768",message="config is longer than 32 KiB together"
type ImageConfig struct {
	// Entrypoint is the program, and its first arguments.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^[^\x00]*$`
	Entrypoint []string `json:"entrypoint,omitempty"`
	// Cmd are the arguments that a pod's args replace.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^[^\x00]*$`
	Cmd []string `json:"cmd,omitempty"`
	// Env are variables, each as NAME=value.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z_][A-Za-z0-9_.-]*=[^\x00]*$`
	Env []string `json:"env,omitempty"`
	// User is a user, or user:group, by number or by name.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^([A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?)?$`
	User string `json:"user,omitempty"`
	// WorkingDir is the folder that the program starts in.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(/[^\x00\n]*)?$`
	WorkingDir string `json:"workingDir,omitempty"`
	// ExposedPorts are ports, such as 8080 or 53/udp.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=10
	// +kubebuilder:validation:items:Pattern=`^[1-9][0-9]{0,4}(/(tcp|udp|sctp))?$`
	ExposedPorts []string `json:"exposedPorts,omitempty"`
	// Labels are the image's labels.
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k != '')",message="a label needs a name"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 255)",message="the name of a label has at most 255 characters"
	Labels map[string]LabelValue `json:"labels,omitempty"`
}

// LabelValue is the value of an image's label.
//
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:Pattern=`^[^\x00]*$`
type LabelValue string

// BuildSettings bound and place the Jobs that build an image. What is left out
// is the operator's default.
type BuildSettings struct {
	// Resources are those of the build pod. They bound the pod, which waits and
	// then reads; Nix itself builds in the node's agent.
	// +optional
	Resources BuildResources `json:"resources,omitempty,omitzero"`
	// NodeSelector narrows the nodes that may build. The node's architecture is
	// selected by the system.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="!('kubernetes.io/arch' in self) && !('kubernetes.io/os' in self)",message="the system selects kubernetes.io/arch and kubernetes.io/os"
	NodeSelector map[string]SelectorValue `json:"nodeSelector,omitempty"`
	// Tolerations are taints that the build pod accepts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// Deadline ends an attempt that takes longer, waiting for a node included, such
	// as 90m.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}[hms])+$') && duration(self) >= duration('10s') && duration(self) <= duration('168h')",message="deadline must be between 10s and 168h, in words such as 90m or 1h30m"
	Deadline *metav1.Duration `json:"deadline,omitempty"`
}

// SelectorValue is the value of a node's label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`
type SelectorValue string

// BuildResources are the resources of the build pod's one container. Quantities have
// no exponents, as 1e9: Kubernetes takes memory and time as great as the exponent
// to read one.
type BuildResources struct {
	// Requests is what the scheduler keeps free.
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	// +kubebuilder:validation:XValidation:rule="self.all(k, type(self[k]) == int ? self[k] >= 0 : size(self[k]) <= 16 && !self[k].startsWith('-') && !self[k].contains('e') && !self[k].contains('E'))",message="write a quantity as 500m, 2 or 1.5Gi, in at most 16 characters and with no exponent"
	Requests corev1.ResourceList `json:"requests,omitempty"`
	// Limits is what the container may use.
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	// +kubebuilder:validation:XValidation:rule="self.all(k, type(self[k]) == int ? self[k] >= 0 : size(self[k]) <= 16 && !self[k].startsWith('-') && !self[k].contains('e') && !self[k].contains('E'))",message="write a quantity as 500m, 2 or 1.5Gi, in at most 16 characters and with no exponent"
	Limits corev1.ResourceList `json:"limits,omitempty"`
}

// EffectiveSystems gives the systems to build for, in their order: those of the
// spec, or of the store paths (the x86 one first), or x86_64-linux.
func (s *NixImageSpec) EffectiveSystems() []System {
	if len(s.Systems) > 0 {
		return s.Systems
	}
	var systems []System
	for _, system := range []System{SystemX86, SystemARM} {
		if _, ok := s.StorePaths[string(system)]; ok {
			systems = append(systems, system)
		}
	}
	if systems == nil {
		systems = []System{SystemX86}
	}
	return systems
}
