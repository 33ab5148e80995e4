package buildjob

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// webhookDir is where webhooks mount tokens in all containers.
const webhookDir = "/var/run/secrets/"

// Foreign says why a pod's report on its volume need not be true: the pod is not as
// it was asked for in what its report depends on. "" is no reason. What webhooks
// add commonly does not matter: sidecars, tolerations, resources, tokens.
func Foreign(got, want *corev1.PodSpec) string {
	if len(got.EphemeralContainers) > 0 {
		return "it has an ephemeral container"
	}
	if got.HostPID || got.ShareProcessNamespace != nil && *got.ShareProcessNamespace {
		return "its containers see each other's processes"
	}
	for _, v := range want.Volumes {
		i := slices.IndexFunc(got.Volumes, func(o corev1.Volume) bool { return o.Name == v.Name })
		if i < 0 || !equality.Semantic.DeepEqual(got.Volumes[i].VolumeSource, v.VolumeSource) {
			return "its volume " + v.Name + " is another one"
		}
	}
	problem := "it has no container " + container
	for _, c := range slices.Concat(got.InitContainers, got.Containers) {
		if c.Name == container {
			problem = foreignReporter(&c, &want.Containers[0])
			continue
		}
		for _, m := range c.VolumeMounts {
			if m.Name == volumeNix || m.Name == volumeTmp {
				return fmt.Sprintf("its container %s mounts the volume %s", c.Name, m.Name)
			}
		}
	}
	return problem
}

// foreignReporter is Foreign of the container that reports.
func foreignReporter(got, want *corev1.Container) string {
	switch {
	case got.Image != want.Image:
		return fmt.Sprintf("its image is %s instead of %s", got.Image, want.Image)
	case !slices.Equal(got.Command, want.Command), !slices.Equal(got.Args, want.Args), got.WorkingDir != want.WorkingDir:
		return "it runs another command"
	case got.Lifecycle != nil, got.LivenessProbe != nil, got.ReadinessProbe != nil, got.StartupProbe != nil:
		return "it runs hooks or probes"
	case got.TerminationMessagePath != corev1.TerminationMessagePathDefault:
		return "its report is another file"
	case len(got.EnvFrom) > 0, slices.ContainsFunc(got.Env, choosesPrograms):
		return "its environment chooses programs"
	}
	for _, m := range got.VolumeMounts {
		if !mounts(want, m) && !strings.HasPrefix(path.Clean(m.MountPath), webhookDir) {
			return "something else is mounted at " + m.MountPath
		}
	}
	for _, m := range want.VolumeMounts {
		if !mounts(got, m) {
			return "its volume is not mounted at " + m.MountPath
		}
	}
	return ""
}

func mounts(c *corev1.Container, mount corev1.VolumeMount) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return equality.Semantic.DeepEqual(m, mount) })
}

func choosesPrograms(e corev1.EnvVar) bool {
	return e.Name == "PATH" || strings.HasPrefix(e.Name, "LD_")
}
