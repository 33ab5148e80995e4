package buildjob

import (
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
)

// Settings are the operator's part of a Job. What an object says itself wins, but
// for where builds may run.
type Settings struct {
	// Image is the image that has closured-controller; required.
	Image string
	// PullPolicy is that of the image; empty: Kubernetes' default.
	PullPolicy corev1.PullPolicy
	// PullSecrets name the Secrets that the image is pulled with; they are looked up
	// in the object's namespace.
	PullSecrets []string
	// Command is the program in the image; empty: closured-controller.
	Command []string
	// Driver is the name of the CSI driver; empty: csi.closured.dev.
	Driver string
	// Compression is that of the registry's layers, on which digests depend; empty: none.
	Compression string
	// Requests and Limits are the container's; empty: 10m CPU and 64Mi, and at most 512Mi.
	Requests, Limits corev1.ResourceList
	// NodeSelector are the nodes that may build; an object can only narrow them.
	NodeSelector map[string]string
	// Tolerations are added to the object's.
	Tolerations []corev1.Toleration
	// Deadline ends an attempt; 0: an hour.
	Deadline time.Duration
}

// Places in the build pod.
const (
	container  = "report"
	volumeNix  = "nix"
	volumeTmp  = "cache"
	mountNix   = "/nix"
	mountCache = "/cache"
	user       = 65532 // nobody in particular, and not root
)

func (s Settings) withDefaults() Settings {
	if len(s.Command) == 0 {
		s.Command = []string{"closured-controller"}
	}
	if s.Driver == "" {
		s.Driver = "csi." + v1alpha1.Group
	}
	if s.Requests == nil {
		s.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
		}
	}
	if s.Limits == nil {
		s.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}
	}
	if s.Deadline == 0 {
		s.Deadline = time.Hour
	}
	return s
}

// New gives the Job with key of image. Two calls give equal Jobs.
func New(image *v1alpha1.NixImage, key Key, settings Settings) *batchv1.Job {
	s := settings.withDefaults()
	labels := key.labels(image)
	deadline := s.Deadline
	if d := image.Spec.Build.Deadline; d != nil {
		deadline = d.Duration
	}
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name: Name(image, key), Namespace: image.Namespace, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(image, v1alpha1.GroupVersion().WithKind(v1alpha1.Kind)),
			},
		},
		Spec: batchv1.JobSpec{
			// One pod and no second try: the controller tries again, ever more slowly. A pod
			// that was moved off its node is no try (see Disrupted).
			BackoffLimit:          new(int32),
			PodFailurePolicy:      &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{ignoreDisrupted()}},
			ActiveDeadlineSeconds: new(int64(deadline.Seconds())),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(labels)},
				Spec:       podSpec(&image.Spec, key.System, s),
			},
		},
	}
}

// ignoreDisrupted has the Job controller make another pod at once ("Pod failure
// policy", Kubernetes' documentation of Jobs).
func ignoreDisrupted() batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{
		Action: batchv1.PodFailurePolicyActionIgnore,
		OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
		},
	}
}

func podSpec(spec *v1alpha1.NixImageSpec, system v1alpha1.System, s Settings) corev1.PodSpec {
	return corev1.PodSpec{
		RestartPolicy:                corev1.RestartPolicyNever,
		ImagePullSecrets:             pullSecrets(s.PullSecrets),
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		NodeSelector:                 nodeSelector(spec, system, s),
		Tolerations:                  append(slices.Clone(s.Tolerations), spec.Build.Tolerations...),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(user)), RunAsGroup: new(int64(user)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{reporter(spec, system, s)},
		Volumes: []corev1.Volume{
			{Name: volumeNix, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
				Driver: s.Driver, ReadOnly: new(true), VolumeAttributes: attributes(spec, system),
			}}},
			{Name: volumeTmp, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
				SizeLimit: new(resource.MustParse("64Mi")),
			}}},
		},
	}
}

func pullSecrets(names []string) []corev1.LocalObjectReference {
	var secrets []corev1.LocalObjectReference
	for _, name := range names {
		secrets = append(secrets, corev1.LocalObjectReference{Name: name})
	}
	return secrets
}

func reporter(spec *v1alpha1.NixImageSpec, system v1alpha1.System, s Settings) corev1.Container {
	requests, limits := s.Requests, s.Limits
	if r := spec.Build.Resources; r.Requests != nil || r.Limits != nil {
		requests, limits = r.Requests, r.Limits // both: a limit of ours may be below a request of theirs
	}
	return corev1.Container{
		Name: container, Image: s.Image, ImagePullPolicy: s.PullPolicy,
		Command: s.Command, Args: Args(spec.Config, system, s.Compression),
		Env: []corev1.EnvVar{{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"},
		}}},
		Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
		// What the container says when it ends without a report, as when it is killed.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeNix, MountPath: mountNix, ReadOnly: true},
			{Name: volumeTmp, MountPath: mountCache},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// attributes gives the volume's attributes.
func attributes(spec *v1alpha1.NixImageSpec, system v1alpha1.System) map[string]string {
	switch {
	case len(spec.Contents) > 0:
		words := make([]string, 0, len(spec.Contents))
		for _, name := range spec.Contents {
			words = append(words, string(name))
		}
		slices.Sort(words) // the order says nothing, so that changing it builds nothing
		return map[string]string{"packages": strings.Join(words, " ")}
	case spec.FlakeRef != "":
		return map[string]string{"flakeRef": spec.FlakeRef}
	case spec.Expression != "":
		return map[string]string{"nixExpr": spec.Expression}
	}
	return map[string]string{string(system): string(spec.StorePaths[string(system)])}
}

// nodeSelector joins the object's, the operator's and the system's words; the
// later win.
func nodeSelector(spec *v1alpha1.NixImageSpec, system v1alpha1.System, s Settings) map[string]string {
	selector := map[string]string{}
	for key, value := range spec.Build.NodeSelector {
		selector[key] = string(value)
	}
	maps.Copy(selector, s.NodeSelector)
	selector[corev1.LabelOSStable] = "linux"
	selector[corev1.LabelArchStable] = map[v1alpha1.System]string{
		v1alpha1.SystemX86: "amd64", v1alpha1.SystemARM: "arm64",
	}[system]
	return selector
}
