//go:build e2e

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestUsers: the volume is the same for root, for another user, for a group that
// kubelet would give volumes to, and under the distribution's runc.
func TestUsers(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	user, group, yes := int64(1000), int64(1234), true
	always := corev1.FSGroupChangeAlways
	for _, test := range []struct {
		name   string
		change func(*corev1.PodSpec)
		id     string
	}{
		{"root", func(*corev1.PodSpec) {}, "0"},
		{"user-1000", func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsNonRoot: &yes}
		}, "1000"},
		{"fsgroup-1234", func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, FSGroup: &group, FSGroupChangePolicy: &always}
		}, "1000"},
		{"privileged", func(s *corev1.PodSpec) {
			s.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
		}, "0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := newPod(plain, test.name, attributes{"packages": "one"})
			test.change(&pod.Spec)
			pod = start(t, pod)
			if id := in(t, pod, bin+"id", "-u"); id != test.id {
				t.Errorf("the pod runs as %s, want %s", id, test.id)
			}
			for _, command := range [][]string{
				{bin + "touch", "/nix/store/new"},
				{bin + "touch", rootOf(t, pod) + "/share/name"},
				{bin + "mount", "-o", "remount,rw", "/nix"},
			} {
				if out, err := try(t, pod, "", command...); err == nil {
					t.Errorf("%s worked: %s", strings.Join(command, " "), out)
				}
			}
			requireOwners(t, filepath.Join(stateDir, rootOf(t, pod)))
			requireOwners(t, filepath.Join(stateDir, "nix", "store"))
		})
	}
}

// requireOwners wants everything below dir to be root's and unwritable, as Nix
// left it. The store itself has the group that Nix gave it.
func requireOwners(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if dir == filepath.Join(stateDir, "nix", "store") && path != dir && entry.IsDir() {
			return fs.SkipDir
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok || s.Uid != 0 || s.Gid == 1234 || s.Gid == 1000 {
			t.Errorf("%s belongs to %d:%d", path, s.Uid, s.Gid)
		}
		if path != dir && info.Mode().Type() != fs.ModeSymlink && info.Mode()&0o222 != 0 && !strings.HasSuffix(path, ".lock") && !strings.HasSuffix(path, ".links") {
			t.Errorf("%s has the mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestUserNamespace: a pod of which root is nobody on the node.
func TestUserNamespace(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	no := false
	pod := newPod(plain, "userns", attributes{"packages": "one", "hostUsers": "false"})
	pod.Spec.HostUsers = &no
	pod = start(t, pod)
	mapping := strings.Fields(in(t, pod, bin+"cat", "/proc/self/uid_map"))
	if len(mapping) != 3 || mapping[0] != "0" || mapping[1] == "0" {
		t.Errorf("the pod's users are mapped as %q", mapping)
	}
	if owner := in(t, pod, bin+"stat", "-L", "-c", "%u:%g", "/nix/var/result/share/name"); owner != "0:0" {
		t.Errorf("the pod sees a file of the closure as %s's", owner)
	}
	if out, err := try(t, pod, "", bin+"touch", "/nix/store/new"); err == nil {
		t.Errorf("the pod wrote into the store: %s", out)
	}
	requireOwners(t, filepath.Join(stateDir, rootOf(t, pod)))
}

// TestWritableVolume: a pod may write up to its limit, and nobody else sees it.
func TestWritableVolume(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pod := newPod(plain, "writable", attributes{"packages": "one", "writable": "true", "sizeLimit": "16Mi"})
	no := false
	pod.Spec.Volumes[0].CSI.ReadOnly = &no
	pod = start(t, pod)
	other := start(t, newPod(plain, "beside", attributes{"packages": "one"}))

	in(t, pod, bin+"sh", "-c", "echo changed > /nix/var/result/share/name && echo new > /nix/store/new")
	out, err := try(t, pod, "", bin+"dd", "if=/dev/zero", "of=/nix/store/full", "bs=1M", "count=64")
	if err == nil || !strings.Contains(out, "No space left") {
		t.Errorf("64 MiB in a volume of 16 MiB: %v, %s", err, out)
	}
	in(t, pod, bin+"rm", "/nix/store/full")
	in(t, pod, bin+"dd", "if=/dev/zero", "of=/nix/store/less", "bs=1M", "count=8")
	if says := in(t, pod, bin+"cat", "/nix/var/result/share/name"); says != "changed" {
		t.Errorf("the pod reads %q after it wrote", says)
	}
	if says := in(t, other, bin+"cat", "/nix/var/result/share/name"); says != "one" {
		t.Errorf("another pod reads %q", says)
	}
	if out, err := try(t, other, "", bin+"ls", "/nix/store/new"); err == nil {
		t.Errorf("another pod sees what was written: %s", out)
	}
}
