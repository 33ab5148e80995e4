//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	imageHost   = "nix.internal/"
	registryAt  = "127.0.0.1:5858" // on the node
	certsDir    = "/etc/containerd/certs.d"
	hostsFile   = certsDir + "/nix.internal/hosts.toml"
	redisImage  = imageHost + "pkgs/redis:latest"
	redisVolume = imageHost + "volume/pkgs/redis:latest"
)

// imagePod gives a pod that is an image and nothing else.
func imagePod(name, reference string, command ...string) *corev1.Pod {
	pod := newPod(plain, name, nil)
	pod.Spec.Volumes = nil
	c := &pod.Spec.Containers[0]
	c.Image, c.ImagePullPolicy, c.Command, c.VolumeMounts = reference, corev1.PullIfNotPresent, command, nil
	return pod
}

// imageVolumePod gives the pod of newPod, with an image as its volume.
func imageVolumePod(name, reference string) *corev1.Pod {
	pod := newPod(plain, name, nil)
	pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{
		Image: &corev1.ImageVolumeSource{Reference: reference, PullPolicy: corev1.PullIfNotPresent},
	}
	return pod
}

// redisCommand is the server for all who reach the pod.
func redisCommand(folder string) []string {
	return []string{folder + "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"}
}

// TestPodOfAnImage: redis runs out of its image, another pod talks to it; and how
// long each way to redis takes.
func TestPodOfAnImage(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	removeImages(t, redisImage)
	client := ready(t, create(t, newPod(plain, "image-client", attributes{"packages": "redis one"})), 8*time.Minute) // builds
	volume := newPod(plain, "image-warm", attributes{"packages": "redis"})
	volume.Spec.Containers[0].Command = redisCommand(bin)
	remove(t, ready(t, create(t, volume), 5*time.Minute))

	volume = newPod(plain, "image-csi", attributes{"packages": "redis"})
	volume.Spec.Containers[0].Command = redisCommand(bin)
	asVolume, volume := timeToReady(t, volume)
	cold, server := timeToReady(t, imagePod("image-cold", redisImage, redisCommand("/bin/")...))
	for _, ask := range [][2]string{{"PING", "PONG"}, {"SET greeting hello", "OK"}, {"GET greeting", "hello"}} {
		command := append([]string{bin + "redis-cli", "-h", server.Status.PodIP}, strings.Fields(ask[0])...)
		if says := in(t, client, command...); says != ask[1] {
			t.Errorf("%s said %q, want %q", ask[0], says, ask[1])
		}
	}
	there, second := timeToReady(t, imagePod("image-second", redisImage, redisCommand("/bin/")...))
	size := sizeOfImage(t, redisImage)
	remove(t, volume, server, second, client)

	removeImages(t, redisImage)
	again, server := timeToReady(t, imagePod("image-again", redisImage, redisCommand("/bin/")...))
	remove(t, server)
	figure("redis as an image", "created to Ready, closure in the store, %.0f MB: CSI volume %s; image pulled first %s, once more %s, on the node already %s",
		float64(size)/1e6, ms(asVolume), ms(cold), ms(again), ms(there))
}

// TestImageVolume: a pod without the driver has the closure at /nix.
func TestImageVolume(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	removeImages(t, redisVolume)
	pod := imageVolumePod("image-volume", redisVolume)
	pod.Spec.Containers[0].Command = redisCommand(bin)
	took, pod := timeToReady(t, pod)
	for _, ask := range [][2]string{{"PING", "PONG"}, {"SET greeting hello", "OK"}, {"GET greeting", "hello"}} {
		if says := in(t, pod, append([]string{bin + "redis-cli"}, strings.Fields(ask[0])...)...); says != ask[1] {
			t.Errorf("%s said %q, want %q", ask[0], says, ask[1])
		}
	}
	remove(t, pod)
	figure("redis as an image volume", "created to Ready, closure in the store, pulled first %s", ms(took))
}

// TestImagesEqualVolumes: three pods see one closure in three ways, and the same.
func TestImagesEqualVolumes(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	pods := []*corev1.Pod{
		create(t, newPod(plain, "equal-csi", attributes{"packages": "one redis"})),
		create(t, imagePod("equal-image", imageHost+"pkgs/one/redis", "/bin/sleep", "1000000")),
		create(t, imageVolumePod("equal-image-volume", imageHost+"volume/pkgs/one/redis")),
	}
	var manifests, listings []string
	for _, pod := range pods {
		pod = ready(t, pod, 8*time.Minute)
		manifests = append(manifests, in(t, pod, bin+"cat", "/nix/var/closure.json"))
		// Type, mode, owner, time, link, and of files the sum of their content.
		listings = append(listings, in(t, pod, bin+"sh", "-c", "PATH="+bin+`
			cd /nix
			find store var -exec stat -c '%A %u:%g %Y %N' {} + | sort -k 4
			find store var -type f -exec md5sum {} + | sort -k 2`))
	}
	for i, pod := range pods {
		if manifests[i] != manifests[0] {
			t.Errorf("closure.json of %s:\n%s\nof %s:\n%s", pod.Name, manifests[i], pods[0].Name, manifests[0])
		}
		if diff := firstDifference(listings[0], listings[i]); diff != "" {
			t.Errorf("%s against %s: %s", pods[0].Name, pod.Name, diff)
		}
	}
	if n := strings.Count(listings[0], "\n"); n < 1000 {
		t.Errorf("only %d lines were compared", n)
	}
}

// firstDifference gives the first line that differs, and "" where none does.
func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("line %d is %q and %q", i+1, as[i], bs[i])
		}
	}
	if len(as) != len(bs) {
		return fmt.Sprintf("there are %d lines and %d", len(as), len(bs))
	}
	return ""
}

// TestFailedPulls: events of the pod say why, as far as containerd passes it on;
// and a pod starts when there is something to pull.
func TestFailedPulls(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	sleep := []string{"/bin/sleep", "1000000"}
	removeImages(t, imageHost+"pkgs/late:latest") // of an earlier run
	late := create(t, imagePod("pull-late", imageHost+"pkgs/late", sleep...))
	broken := create(t, imagePod("pull-broken", imageHost+"pkgs/broken", sleep...))
	named := create(t, imagePod("pull-named", imageHost+"image/e2e/nobody:1", sleep...))
	tag := create(t, imagePod("pull-tag", imageHost+"pkgs/one:1.0", sleep...))
	t.Log(event(t, late, 2*time.Minute, "Failed", "pkgs/late", "not found"))
	t.Log(event(t, named, 2*time.Minute, "Failed", "image/e2e/nobody", "rule 2 of the policy")) // what "*" may
	t.Log(event(t, tag, 2*time.Minute, "Failed", "pkgs/one:1.0", "not found"))
	t.Log(event(t, broken, 3*time.Minute, "Failed", "pkgs/broken", "422"))
	remove(t, broken, named, tag)

	set := filepath.Join(w.dir, "packages", "default.nix")
	before := read(t, set)
	t.Cleanup(func() { write(t, set, before) })
	write(t, set, strings.Replace(before, "\n  broken", "\n  late = tools \"late\" \"\";\n  broken", 1))
	late = ready(t, late, 5*time.Minute)
	if says := in(t, late, "/bin/cat", "/share/name"); says != "late" {
		t.Errorf("the package is %q", says)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRegistryIsTheNodesOwn: the node's processes reach it, pods do not, whatever
// address they try. That of the metrics they do reach.
func TestRegistryIsTheNodesOwn(t *testing.T) {
	deployed(t)
	t.Cleanup(func() { requireClean(t) })
	agent, err := agentPod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := get(t.Context(), "http://"+registryAt+"/v2/"); err != nil {
		t.Errorf("the node does not reach the registry: %v", err)
	}
	pod := ready(t, create(t, newPod(plain, "reaches", attributes{"packages": "curl one"})), 5*time.Minute) // builds
	ask := func(address, path string) (string, error) {
		return try(t, pod, "", bin+"curl", "--silent", "--max-time", "10", "http://"+address+path)
	}
	const notConnected = "exit code 7" // of curl(1)
	for _, ip := range []string{agent.Status.PodIP, agent.Status.HostIP, "127.0.0.1"} {
		if out, err := ask(net.JoinHostPort(ip, "5858"), "/v2/"); err == nil || !strings.Contains(out, notConnected) {
			t.Errorf("of %s a pod gets %q (%v), want no connection", ip, out, err)
		}
	}
	if out, err := ask(net.JoinHostPort(agent.Status.PodIP, "9858"), "/metrics"); err != nil || !strings.Contains(out, "closured_") {
		t.Errorf("of the metrics a pod gets %q (%v)", out, err)
	}
}
