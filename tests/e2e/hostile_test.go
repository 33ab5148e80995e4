//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReadOnlyIsNotAsked: without the attribute writable a volume is read-only,
// whatever the pod says, and nothing in it is a device or gives power.
func TestReadOnlyIsNotAsked(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pod, no := newPod(plain, "read-only-false", attributes{"packages": "one"}), false
	pod.Spec.Volumes[0].CSI.ReadOnly = &no
	pod.Spec.Containers[0].VolumeMounts[0].ReadOnly = false
	pod = start(t, pod)
	// Runtimes give the mount in a container options of their own; what is below it
	// is read-only in any case.
	requireOptions(t, "the pod's", in(t, pod, bin+"grep", " /nix ", "/proc/mounts"), "ro")
	for line := range strings.Lines(read(t, "/proc/self/mounts")) {
		if strings.Contains(line, string(pod.UID)+"/volumes/kubernetes.io~csi/") {
			requireOptions(t, "kubelet's", strings.TrimSpace(line), "ro", "nosuid", "nodev")
		}
	}
	for _, path := range []string{"/nix/new", "/nix/store/new", rootOf(t, pod) + "/share/name"} {
		if out, err := try(t, pod, "", bin+"touch", path); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("touch %s: %v: %s", path, err, out)
		}
	}
}

// requireOptions wants a line of /proc/mounts to have the options.
func requireOptions(t *testing.T, whose, line string, want ...string) {
	t.Helper()
	t.Logf("%s mount: %s", whose, line)
	fields := strings.Fields(line)
	if len(fields) != 6 {
		t.Fatalf("%s mounts are %q", whose, line)
	}
	for _, option := range want {
		if !slices.Contains(strings.Split(fields[3], ","), option) {
			t.Errorf("%s mount is not %s", whose, option)
		}
	}
}

// TestForgedPodInformation: attributes that kubelet writes cannot be given by the
// pod's author to be somebody else.
func TestForgedPodInformation(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	forged := attributes{
		"csi.storage.k8s.io/pod.namespace": dev, "csi.storage.k8s.io/pod.name": "other",
		"csi.storage.k8s.io/pod.uid": "00000000-0000-0000-0000-000000000000", "csi.storage.k8s.io/ephemeral": "false",
		"csi.storage.k8s.io/serviceAccount.name": "admin",
	}
	refused := newPod(free, "forged", attributes{"nixExpr": "pkgs: pkgs.one"})
	harmless := newPod(plain, "forged-harmless", attributes{"packages": "one"})
	for key, value := range forged {
		refused.Spec.Volumes[0].CSI.VolumeAttributes[key] = value
		harmless.Spec.Volumes[0].CSI.VolumeAttributes[key] = value
	}
	refused = create(t, refused)
	t.Log(failedMount(t, refused, time.Minute, "PermissionDenied", "nixExpr", free))
	remove(t, refused)
	remove(t, start(t, harmless))
}

// TestPrivilegedPod: a pod that may do everything in its own container changes
// neither the store nor what another pod of the same closure sees, even where its
// mounts propagate to the node.
func TestPrivilegedPod(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	yes, both := true, corev1.MountPropagationBidirectional
	victim := start(t, newPod(plain, "victim", attributes{"packages": "one"}))
	pod := newPod(plain, "attacker", attributes{"packages": "one"})
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	pod.Spec.Containers[0].VolumeMounts[0].MountPropagation = &both
	pod = start(t, pod)
	root := rootOf(t, pod)
	before := describe(t, filepath.Join(stateDir, root)) + describe(t, filepath.Join(stateDir, "nix", "store"))

	// What of it works is the kernel's business; what it comes to is ours.
	for _, script := range []string{
		"mount -o remount,rw /nix",
		"mount -o remount,bind,rw /nix",
		"mkdir -p /tmp/a && mount --bind /nix /tmp/a && mount -o remount,bind,rw /tmp/a && touch /tmp/a/store/new",
		"mkdir -p /tmp/b && mount --rbind /nix/store /tmp/b && mount -o remount,rw /tmp/b && touch /tmp/b/new",
		"echo changed > " + root + "/share/name",
		"chmod -R 777 /nix/store; chown -R 1:1 /nix/store; touch /nix/store/new; rm -rf /nix/store",
		"ln -s /etc /nix/store/evil; mknod /nix/store/disk b 7 0",
		"mkdir -p /tmp/c && mount -t overlay overlay -o lowerdir=/nix/store,upperdir=/nix/store,workdir=/nix /tmp/c && touch /tmp/c/new",
		"mount -t tmpfs none /nix/store && echo mine > /nix/store/mine",
	} {
		out, err := try(t, pod, "", bin+"sh", "-c", "export PATH="+bin+"; "+script)
		t.Logf("%s: %v %s", script, err, strings.ReplaceAll(out[:min(len(out), 200)], "\n", " | "))
	}

	if says := in(t, victim, bin+"cat", "/nix/var/result/share/name"); says != "one" {
		t.Errorf("the other pod reads %q", says)
	}
	if names := strings.Fields(in(t, victim, bin+"ls", "/nix/store")); len(names) != 2 {
		t.Errorf("the other pod sees %q", names)
	}
	if after := describe(t, filepath.Join(stateDir, root)) + describe(t, filepath.Join(stateDir, "nix", "store")); after != before {
		t.Errorf("the store was\n%s\nand is\n%s", before, after)
	}
	// The next pod of that closure gets it whole, and the attacker's goes as any other.
	next := start(t, newPod(plain, "after-attacker", attributes{"packages": "one"}))
	if says := in(t, next, bin+"cat", "/nix/var/result/share/name"); says != "one" {
		t.Errorf("the next pod reads %q", says)
	}
	remove(t, pod, next, victim)
}

// describe lists a folder, and for a path of the store all that is in it: names,
// modes, owners' and times' changes.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s %d %s\n", path, info.Mode(), info.Size(), info.ModTime())
		if entry.IsDir() && path != dir && filepath.Base(dir) == "store" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestHostileAttributes: each is refused in words that a person can read, nothing
// of it is done, and the agent lives on.
func TestHostileAttributes(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	before := mustPIDs(t)
	var pods []*corev1.Pod
	for i, a := range []attributes{
		{"packages": "--option sandbox false"},
		{"packages": "one; touch /tmp/owned"},
		{"packages": "$(touch /tmp/owned)"},
		{"packages": "../../../etc"},
		{"packages": `one" + builtins.readFile "/etc/shadow`},
		{"packages": "one\n\x1b[31mnext: run rm -rf /"},
		{"packages": ""},
		{"packages": strings.Repeat("one ", 75<<10)},
		{"storePath": "/etc"},
		{"storePath": "/nix/store/../../etc/passwd"},
		{"storePath": "/nix/store"},
		{"storePath": "/nix/store/00000000000000000000000000000000-x/../../../etc"},
		{"storePath": "-K"},
		{"packages": "one", "writable": "perhaps"},
		{"packages": "one", "writable": "true", "sizeLimit": "-1"},
		{"packages": "one", "writable": "true", "sizeLimit": "8Ei"},
		{"packages": "one", "hostUsers": "no"},
	} {
		pods = append(pods, create(t, newPod(plain, fmt.Sprintf("hostile-%d", i), a)))
	}
	for _, pod := range pods {
		text := failedMount(t, pod, 2*time.Minute)
		t.Log(text[:min(len(text), 300)])
		final := strings.Contains(text, "InvalidArgument") || strings.Contains(text, "NotFound") ||
			strings.Contains(text, "FailedPrecondition") || strings.Contains(text, "ResourceExhausted")
		if !final || !strings.Contains(text, "next:") {
			t.Errorf("pod %s: %s", pod.Name, text)
		}
		if len(text) > 1500 || strings.ContainsAny(text, "\n\x1b\x00") {
			t.Errorf("pod %s: the event has %d bytes: %q", pod.Name, len(text), text[:min(len(text), 1500)])
		}
	}
	remove(t, pods...)
	if after := mustPIDs(t); !slices.Equal(before, after) {
		t.Errorf("the agent was process %v and is %v", before, after)
	}
}

// TestLongNames: the longest names that Kubernetes gives.
func TestLongNames(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	long := strings.Repeat("n", 63)
	_, err := w.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: long}}, metav1.CreateOptions{})
	if ignoreExists(err) != nil {
		t.Fatal(err)
	}
	err = wait(t.Context(), time.Minute, "the service account", func() error {
		_, err := w.kube.CoreV1().ServiceAccounts(long).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, packages := range map[string]string{
		// With namespace and uid kubelet makes one folder's name of 255 bytes at most.
		strings.Repeat("p.0-", 37) + "q": "one", strings.Repeat("f.0-", 37) + "q": "broken",
	} {
		pod := newPod(long, name, attributes{"packages": packages})
		pod.Spec.Volumes[0].Name = strings.Repeat("v", 63)
		pod.Spec.Containers[0].VolumeMounts[0].Name = pod.Spec.Volumes[0].Name
		pod = create(t, pod)
		if packages == "one" {
			ready(t, pod, 90*time.Second)
		} else {
			failedMount(t, pod, time.Minute, "frobnicate.h")
			if _, ok := w.agent.(*daemonSet); ok {
				told(t, pod, corev1.EventTypeWarning, "ClosureFailed", "frobnicate.h")
			}
		}
		remove(t, pod)
	}
}
