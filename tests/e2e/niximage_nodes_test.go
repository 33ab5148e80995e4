//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	cachePort    = "5859"
	buildsOnNode = "build: {nodeSelector: {kubernetes.io/hostname: " + nodeName + "}}"
)

// TestTwoNodesNixImage: the first node builds what NixImages describe, the second one
// serves it as well and has it from the first, believed by its signature alone. There
// is no other cache.
func TestTwoNodesNixImage(t *testing.T) {
	twoNodes(t)
	t.Cleanup(func() {
		requireNothingOn(t, otherNode)
		requireClean(t)
	})
	installNixImage(t)
	agentOn(t, nodeName)
	agentOn(t, otherNode)
	requireNoCaches(t)
	t.Run("fetch", nodesFetch)
	t.Run("password", nodesPassword)
	describeOnFirst(t, "bulk", "contents: [bulk]")
	t.Run("tampered", nodesTampered)
	t.Run("away", nodesAway)
	t.Run("speed", nodesSpeed)
}

// requireNoCaches wants the daemons of both nodes to know no cache but other nodes.
func requireNoCaches(t *testing.T) {
	t.Helper()
	for _, node := range []string{nodeName, otherNode} {
		var last string
		for line := range strings.Lines(read(t, filepath.Join(storeOf(node), "etc", "nix", "nix.conf"))) {
			if name, value, _ := strings.Cut(line, "="); strings.TrimSpace(name) == "substituters" {
				last = strings.TrimSpace(value)
			}
		}
		conf := must(t, "exec", "-n", agentNamespace, agentOn(t, node).Name, "-c", "nix-daemon", "--", "cat", "/etc/nix/nix.conf")
		if !strings.Contains(conf+"\n", "substituters =\n") || last != "" {
			t.Fatalf("the daemon of %s has the caches %q: %s", node, last, conf)
		}
	}
}

// nodesFetch: pods on the second node, by volume and by image, of what the first one built.
func nodesFetch(t *testing.T) {
	fresh := freshPackage(t)
	tag := "run-" + strconv.FormatInt(time.Now().Unix(), 10)
	describeOnFirst(t, "three", "tag: "+tag, "contents: [curl, jq, "+fresh+"]", `config: {cmd: [/bin/sleep, "1000000"]}`)
	root := builtOnFirst(t, "three")
	closure := storeTool(t, nodeName, "nix-store", "-qR", root)
	lacks := invalid(t, otherNode, closure)
	if !slices.Contains(lacks, root) || len(lacks) < 2 {
		t.Fatalf("of %q the second node lacks %q", closure, lacks)
	}

	const served = `closured_binarycache_requests_total{code="200",kind="nar"}`
	given, evaluated := sample(t, nodeName, served), sample(t, otherNode, "closured_evaluations_total")
	begin := time.Now()
	asImage := createOnOther(t, "as-image", "image: "+describedImage+":"+tag, "")
	asVolume := createOnOther(t, "as-volume", sleeps, closureVolume("three"))
	asVolume, asImage = ready(t, asVolume, 4*time.Minute), ready(t, asImage, 4*time.Minute)
	figure("NixImage on a node that lacks it", "pods of its image and its volume Ready %s after they were created, %d paths from the node that built it",
		ms(time.Since(begin)), len(lacks))

	if n := sample(t, nodeName, served) - given; int(n) != len(lacks) {
		t.Errorf("the first node gave %.0f contents for %d paths that the second one lacked", n, len(lacks))
	}
	if n := sample(t, otherNode, "closured_evaluations_total") - evaluated; n != 0 {
		t.Errorf("the second node evaluated %.0f times", n)
	}
	requireFetched(t, lacks)
	for pod, program := range map[*corev1.Pod]string{asImage: "/bin/jq", asVolume: bin + "jq"} {
		if says := in(t, pod, program, "--version"); !strings.Contains(says, "jq-") {
			t.Errorf("in pod %s jq says %q", pod.Name, says)
		}
	}
	digest := requireServed(t, tag)
	if id := asImage.Status.ContainerStatuses[0].ImageID; !strings.HasSuffix(id, "@"+digest) {
		t.Errorf("the pod on the second node runs %s, the status says %s", id, digest)
	}
	for _, reference := range []string{tag, digest} {
		if there := manifestOnOther(t, root, reference); there != digest {
			t.Errorf("the second node's registry serves %s as %s, the status says %s", reference, there, digest)
		}
	}
	remove(t, asImage, asVolume)
}

// freshPackage adds a package to the set that nobody has, and that is not the same
// when it is built again. It gives its name.
func freshPackage(t *testing.T) string {
	t.Helper()
	set := filepath.Join(w.dir, "packages", "default.nix")
	before := read(t, set)
	t.Cleanup(func() { write(t, set, before) })
	name := "fresh-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	write(t, set, strings.Replace(before, "\n  broken", "\n  "+name+" = tools \""+name+"\" \"head -c 33554432 /dev/urandom > $out/share/data\";\n  broken", 1))
	return name
}

// requireFetched wants paths on the second node to be those of the first, signed
// with the installation's key, and not built.
func requireFetched(t *testing.T, paths []string) {
	t.Helper()
	for _, line := range storeTool(t, otherNode, "nix", append([]string{"path-info", "--sigs"}, paths...)...) {
		if !strings.Contains(line, " closured-1:") && !strings.Contains(line, "\tclosured-1:") {
			t.Errorf("no signature of the installation: %q", line)
		}
		if strings.Contains(line, "ultimate") {
			t.Errorf("the second node built it: %q", line)
		}
	}
	hashes := func(node string) []string {
		return storeTool(t, node, "nix-store", append([]string{"-q", "--hash"}, paths...)...)
	}
	if theirs, ours := hashes(nodeName), hashes(otherNode); !slices.Equal(theirs, ours) {
		t.Errorf("the first node has the contents %q, the second one %q", theirs, ours)
	}
	storeTool(t, otherNode, "nix-store", append([]string{"--verify-path"}, paths...)...)
}

// manifestOnOther gives the digest of what the registry of the second node serves on
// that node's loopback, which a pod in the node's network asks with curl of a closure.
func manifestOnOther(t *testing.T, root, reference string) string {
	t.Helper()
	pod := on(otherNode, busybox(newPod(plain, "asks-registry", attributes{"storePath": root})))
	pod.Spec.HostNetwork = true
	pod = start(t, pod)
	defer remove(t, pod)
	url := "http://" + registryAt + "/v2/" + strings.TrimPrefix(describedImage, imageHost) + "/manifests/" + reference
	sum := in(t, pod, "sh", "-c", bin+"curl -sS --fail --max-time 50 -H 'Accept: application/vnd.oci.image.manifest.v1+json' "+url+" >/tmp/it && sha256sum /tmp/it")
	return "sha256:" + strings.Fields(sum)[0]
}

// nodesPassword: who is no node of the installation gets nothing.
func nodesPassword(t *testing.T) {
	root := builtOnFirst(t, "three")
	hash := strings.TrimPrefix(root, "/nix/store/")[:32]
	nar := "nar/" + hash + "-" + strings.TrimPrefix(storeTool(t, nodeName, "nix-store", "-q", "--hash", root)[0], "sha256:") + ".nar"
	asks := createOnOther(t, "asks", sleeps, closureVolume("three"))
	asks = ready(t, asks, 2*time.Minute)
	address := agentOn(t, nodeName).Status.PodIP + ":" + cachePort + "/"
	for _, user := range []string{"", "closured:wrong@", "closured:@"} {
		for _, path := range []string{"nix-cache-info", hash + ".narinfo", nar, "metrics", ""} {
			out := in(t, asks, bin+"curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", "http://"+user+address+path)
			if code, size, _ := strings.Cut(out, " "); code != "401" || len(size) > 3 {
				t.Errorf("a pod that asks as %q for %q gets the code %s and %s bytes", user, path, code, size)
			}
		}
	}
	remove(t, asks)
}

// nodesSpeed compares a fetch with a copy by Nix itself between two stores on the
// same disk, by turns.
func nodesSpeed(t *testing.T) {
	root := builtOnFirst(t, "bulk")
	var size int64
	for _, n := range storeTool(t, nodeName, "nix-store", append([]string{"-q", "--size"}, storeTool(t, nodeName, "nix-store", "-qR", root)...)...) {
		bytes, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		size += bytes
	}
	var fetches, copies []time.Duration
	for i := range 3 {
		forget(t)
		unix.Sync()
		before := publishingOn(t, otherNode)
		pod := createOnOther(t, fmt.Sprintf("bulk-%d", i), sleeps, closureVolume("bulk"))
		pod = ready(t, pod, 4*time.Minute)
		fetches = append(fetches, publishingOn(t, otherNode)-before)
		remove(t, pod)
		copies = append(copies, copyByNix(t, root))
	}
	fetch, _ := median(fetches)
	byNix, _ := median(copies)
	speed := func(d time.Duration) string { return fmt.Sprintf("%.0f MB/s", float64(size)/1e6/d.Seconds()) }
	figure("fetch from another node", "%.0f MB, median of %d: %s from another node (%s, with checks and mount), %s by nix copy between two stores on the same disk, ratio %s",
		float64(size)/1e6, len(fetches), speed(fetch), ms(fetch), speed(byNix), ratio(byNix, fetch))
}

// copyByNix copies a closure of the first node to a new store beside it, by the Nix
// of the agents and within the limits of their daemon, and gives the time.
func copyByNix(t *testing.T, root string) time.Duration {
	t.Helper()
	script := `set -e
		export HOME=/run/closured NIX_CONF_DIR=/run/closured/etc NIX_USER_CONF_FILES=/dev/null NIX_STATE_DIR=/run/closured/state TMPDIR=/var/lib/closured/tmp
		to=$TMPDIR/copied
		rm -rf $to
		sync
		begin=$(date +%s%N)
		nix --extra-experimental-features nix-command copy --no-check-sigs --from local?root=/var/lib/closured --to local?root=$to ` + root + `
		end=$(date +%s%N)
		rm -rf $to
		echo $((end - begin))`
	out := must(t, "exec", "-n", agentNamespace, agentOn(t, nodeName).Name, "-c", "nix-daemon", "--", "sh", "-c", script)
	nanoseconds, err := strconv.ParseInt(out[strings.LastIndexByte(out, '\n')+1:], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(nanoseconds)
}

// publishingOn gives the time that all calls took by which volumes were published.
func publishingOn(t *testing.T, node string) time.Duration {
	t.Helper()
	return time.Duration(sample(t, node, "closured_publish_seconds_sum") * float64(time.Second))
}

// nodesAway: while the only node that has a closure is away, pods on the other wait
// and say for what, and start by themselves when it is back.
func nodesAway(t *testing.T) {
	root := builtOnFirst(t, "bulk")
	forget(t)
	if len(invalid(t, otherNode, []string{root})) == 0 {
		t.Fatalf("the second node has %s", root)
	}
	describeStored(t, "stored", root)
	// Not releaseNode, which would install the base anew, without the component.
	release := func() {
		if err := os.Remove(kubeletHold()); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	t.Cleanup(release)
	holdNode(t)
	pod := createOnOther(t, "waits", sleeps, closureVolume("stored"))
	t.Log(failedMount(t, pod, 3*time.Minute, "does not serve /nix/store/", "next:"))
	release()
	pod = ready(t, pod, 5*time.Minute)
	remove(t, pod)
	agentOn(t, nodeName)
}

// describeOnFirst applies a NixImage that the first node builds.
func describeOnFirst(t *testing.T, name string, spec ...string) {
	t.Helper()
	apply(t, describedObject(name, append(spec, buildsOnNode)...))
	must(t, "wait", "-n", describedNamespace, "--for=condition=Ready", "nixi/"+name, "--timeout=5m")
}

// describeStored applies a NixImage of a path that the first node has, so that no
// node can build it.
func describeStored(t *testing.T, name, root string) {
	t.Helper()
	describeOnFirst(t, name, "storePaths: {x86_64-linux: "+root+"}")
}

// builtOnFirst gives the store path of a NixImage, which the first node has built.
func builtOnFirst(t *testing.T, name string) string {
	t.Helper()
	says := must(t, "get", "nixi", "-n", describedNamespace, name, "-o", "jsonpath={.status.images[0].node} {.status.images[0].storePath}")
	node, root, _ := strings.Cut(says, " ")
	if node != nodeName || !strings.HasPrefix(root, "/nix/store/") {
		t.Fatalf("%s was built by %q: %q", name, node, root)
	}
	return root
}

// sleeps is a container of its own image; closureVolume adds the volume of a NixImage.
const sleeps = `image: ` + busyboxImage + `, command: [sleep, "1000000"]`

func closureVolume(image string) string {
	return "volumes: [{name: nix, csi: {driver: " + driverName + ", readOnly: true, volumeAttributes: {image: " + image + "}}}]"
}

// createOnOther makes a pod on the second node; a volume is mounted at /nix.
func createOnOther(t *testing.T, name, container, volumes string) *corev1.Pod {
	t.Helper()
	if volumes != "" {
		container += ", volumeMounts: [{name: nix, mountPath: /nix}]"
		volumes = "\n" + volumes
	}
	apply(t, describedPod(name, container, "nodeSelector: {"+corev1.LabelHostname+": "+otherNode+"}"+volumes))
	pod, err := w.kube.CoreV1().Pods(describedNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events of %s:\n%s", name, strings.Join(events(pod), "\n"))
		}
		remove(t, pod)
	})
	return pod
}

// forget has the second node collect all that no pod uses.
func forget(t *testing.T) {
	t.Helper()
	requireNothingOn(t, otherNode)
	must(t, "exec", "-n", agentNamespace, agentOn(t, otherNode).Name, "-c", "nix-daemon", "--", "sh", "-c", collect)
}

// sample gives a metric of a node's agent, the sum of all its series when the name has
// no labels. What was not counted yet is 0.
func sample(t *testing.T, node, name string) float64 {
	t.Helper()
	var sum float64
	for line := range strings.Lines(pageAt(t, agentOn(t, node).Status.PodIP+":9858", "/metrics")) {
		series, text, _ := strings.Cut(line, " ")
		if base, _, _ := strings.Cut(series, "{"); series != name && base != name {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += value
	}
	return sum
}

// storeOf is the state directory of a node, which holds its store.
func storeOf(node string) string { return filepath.Join(w.dir, node, "state") }

// invalid gives those of some paths that a node lacks.
func invalid(t *testing.T, node string, paths []string) []string {
	t.Helper()
	return storeTool(t, node, "nix-store", append([]string{"--check-validity", "--print-invalid"}, paths...)...)
}

// storeTool runs a program of Nix on the store of a node, and gives its lines.
func storeTool(t *testing.T, node, program string, args ...string) []string {
	t.Helper()
	args = append([]string{"--store", "local?root=" + storeOf(node)}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// Without a group of build users, whose number is another one in the agent's image.
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(w.dir, "run"), "NIX_REMOTE=", "NIX_CONF_DIR=/nonexistent",
		"NIX_CONFIG=build-users-group =\nsubstituters =\nexperimental-features = nix-command")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, stderr.String())
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}
