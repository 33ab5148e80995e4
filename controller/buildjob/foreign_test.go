package buildjob_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/closured/closured/controller/buildjob"
)

// asked gives the pod that a Job asks for, with the API server's defaults.
func asked() *corev1.PodSpec {
	i := image()
	spec := buildjob.New(i, key(i, "x86_64-linux"), buildjob.Settings{Image: "closured:1"}).Spec.Template.Spec
	spec.Containers[0].TerminationMessagePath = corev1.TerminationMessagePathDefault
	return &spec
}

func TestForeignPods(t *testing.T) {
	t.Parallel()
	extra := func(name, volume string) corev1.Container {
		return corev1.Container{Name: name, VolumeMounts: []corev1.VolumeMount{{Name: volume, MountPath: "/x"}}}
	}
	mount := func(name, path string) func(*corev1.PodSpec) {
		return func(p *corev1.PodSpec) {
			p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
		}
	}
	env := func(name string) func(*corev1.PodSpec) {
		return func(p *corev1.PodSpec) {
			p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: name, Value: "/x"})
		}
	}
	for name, test := range map[string]struct {
		edit func(*corev1.PodSpec)
		says string // empty: it is believed
	}{
		"as it was asked for": {func(*corev1.PodSpec) {}, ""},
		"a sidecar": {func(p *corev1.PodSpec) {
			p.Containers = append([]corev1.Container{extra("proxy", "token")}, p.Containers...)
		}, ""},
		"another toleration":          {func(p *corev1.PodSpec) { p.Tolerations = []corev1.Toleration{{Key: "a"}} }, ""},
		"resources of a LimitRange":   {func(p *corev1.PodSpec) { p.Containers[0].Resources.Limits["cpu"] = resource.MustParse("1") }, ""},
		"a token":                     {mount("token", "/var/run/secrets/eks.amazonaws.com/serviceaccount"), ""},
		"a variable":                  {env("HTTPS_PROXY"), ""},
		"another pull policy":         {func(p *corev1.PodSpec) { p.Containers[0].ImagePullPolicy = "Always" }, ""},
		"another image":               {func(p *corev1.PodSpec) { p.Containers[0].Image = "evil:1" }, "image is evil:1 instead of closured:1"},
		"another program":             {func(p *corev1.PodSpec) { p.Containers[0].Command = []string{"sh"} }, "another command"},
		"other arguments":             {func(p *corev1.PodSpec) { p.Containers[0].Args[1] = "--volume=/x" }, "another command"},
		"another folder to run in":    {func(p *corev1.PodSpec) { p.Containers[0].WorkingDir = "/x" }, "another command"},
		"a search path":               {env("PATH"), "environment"},
		"a preloaded library":         {env("LD_PRELOAD"), "environment"},
		"an environment of elsewhere": {func(p *corev1.PodSpec) { p.Containers[0].EnvFrom = []corev1.EnvFromSource{{}} }, "environment"},
		"a hook":                      {func(p *corev1.PodSpec) { p.Containers[0].Lifecycle = &corev1.Lifecycle{} }, "hooks"},
		"a probe":                     {func(p *corev1.PodSpec) { p.Containers[0].LivenessProbe = &corev1.Probe{} }, "hooks or probes"},
		"another message":             {func(p *corev1.PodSpec) { p.Containers[0].TerminationMessagePath = "/x" }, "another file"},
		"other packages":              {func(p *corev1.PodSpec) { p.Volumes[0].CSI.VolumeAttributes = map[string]string{"packages": "x"} }, "volume nix"},
		"another driver":              {func(p *corev1.PodSpec) { p.Volumes[0].CSI.Driver = "x" }, "volume nix"},
		"a volume that is no closure": {func(p *corev1.PodSpec) { p.Volumes[0].VolumeSource = p.Volumes[1].VolumeSource }, "volume nix"},
		"digests of elsewhere": {func(p *corev1.PodSpec) {
			p.Volumes[1].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}
		}, "volume cache"},
		"a volume too little":                    {func(p *corev1.PodSpec) { p.Volumes = p.Volumes[:1] }, "volume cache"},
		"a mount over the volume":                {mount("x", "/nix/store"), "/nix/store"},
		"a mount over the programs":              {mount("x", "/bin"), "/bin"},
		"a mount that only looks like a token's": {mount("x", "/var/run/secrets/../../../bin"), "bin"},
		"a mount too little":                     {func(p *corev1.PodSpec) { p.Containers[0].VolumeMounts = p.Containers[0].VolumeMounts[1:] }, "/nix"},
		"an init container's digests":            {func(p *corev1.PodSpec) { p.InitContainers = []corev1.Container{extra("init", "cache")} }, "container init mounts the volume cache"},
		"a sidecar's digests":                    {func(p *corev1.PodSpec) { p.Containers = append(p.Containers, extra("side", "cache")) }, "container side mounts"},
		"processes that are shared":              {func(p *corev1.PodSpec) { p.ShareProcessNamespace = new(true) }, "each other's processes"},
		"an ephemeral container":                 {func(p *corev1.PodSpec) { p.EphemeralContainers = []corev1.EphemeralContainer{{}} }, "ephemeral"},
		"no container of the name":               {func(p *corev1.PodSpec) { p.Containers[0].Name = "x"; p.Containers[0].VolumeMounts = nil }, "no container report"},
	} {
		pod := asked()
		test.edit(pod)
		got := buildjob.Foreign(pod, asked())
		if test.says == "" && got != "" || !strings.Contains(got, test.says) {
			t.Errorf("%s: %q, want %q", name, got, test.says)
		}
	}
}
