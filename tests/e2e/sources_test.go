//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRedisOutOfAnEmptyImage: the whole pod is its volume, and another pod that
// has curl only talks to it.
func TestRedisOutOfAnEmptyImage(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	server := newPod(plain, "redis", attributes{"packages": "redis"})
	server.Spec.Containers[0].Command = []string{bin + "redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"}
	server = ready(t, create(t, server), 5*time.Minute) // builds
	if says := in(t, server, bin+"redis-cli", "SET", "greeting", "hello from a closure"); says != "OK" {
		t.Errorf("SET said %q", says)
	}
	client := newPod(plain, "client", attributes{"packages": "curl jq one"})
	client = ready(t, create(t, client), 3*time.Minute)
	says := in(t, client, bin+"curl", "--silent", "--max-time", "5",
		"gopher://"+server.Status.PodIP+":6379/_GET%20greeting%0D%0AQUIT%0D%0A")
	if !strings.Contains(says, "hello from a closure") {
		t.Errorf("GET said %q", says)
	}
	if root := in(t, client, bin+"jq", "-r", ".root", "/nix/var/closure.json"); root != rootOf(t, client) {
		t.Errorf("closure.json says %q, var/result %q", root, rootOf(t, client))
	}
	if all := in(t, server, bin+"redis-cli", "--version"); !strings.HasPrefix(all, "redis-cli") {
		t.Errorf("redis-cli said %q", all)
	}
}

// TestEverySource runs a command out of a volume of each source.
func TestEverySource(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	root := rootOf(t, start(t, newPod(plain, "root", attributes{"packages": "one"})))
	system := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
	for _, test := range []struct {
		name, namespace string
		attributes      attributes
		says            string
	}{
		{"packages", plain, attributes{"packages": "one"}, "one"},
		{"several-packages", plain, attributes{"packages": "nested.deep, jq"}, "deep"},
		{"store-path", plain, attributes{"storePath": root}, "one"},
		{"system", plain, attributes{system: root, "storePath": "/nix/store/00000000000000000000000000000000-none"}, "one"},
		{"expression", dev, attributes{"nixExpr": "pkgs: pkgs.two"}, "two"},
		{"flake", dev, attributes{"flakeRef": "path:" + flakeDir() + "#flaked"}, "flaked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := start(t, newPod(test.namespace, test.name, test.attributes))
			if says := in(t, pod, bin+"cat", "/nix/var/result/share/name"); says != test.says {
				t.Errorf("the package is %q, want %q", says, test.says)
			}
		})
	}
}

// flakeDir is the flake's folder as the agent sees it.
func flakeDir() string { return filepath.Join(w.agent.packages(), "flake") }

// TestTwoClosuresAreIsolated: neither pod sees a path of the other, in no way.
func TestTwoClosuresAreIsolated(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	a := start(t, newPod(plain, "a", attributes{"packages": "one"}))
	b := start(t, newPod(plain, "b", attributes{"packages": "two"}))
	for _, pair := range [][2]*corev1.Pod{{a, b}, {b, a}} {
		other := rootOf(t, pair[1])
		if out, err := try(t, pair[0], "", bin+"ls", "-d", other); err == nil {
			t.Errorf("pod %s sees %s: %s", pair[0].Name, other, out)
		}
		names := strings.Fields(in(t, pair[0], bin+"ls", "/nix/store"))
		if len(names) != 2 { // the package and busybox
			t.Errorf("pod %s sees %q", pair[0].Name, names)
		}
	}
}

// TestSharedClosure: two containers and two pods, one file in the page cache.
func TestSharedClosure(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	requireViews(t, 0)
	first := newPod(plain, "first", attributes{"packages": "ready"})
	second := first.Spec.Containers[0]
	second.Name = "d"
	first.Spec.Containers = append(first.Spec.Containers, second)
	first = start(t, first)
	other := start(t, newPod(plain, "other", attributes{"packages": "ready"}))

	if mounts, roots, _, err := count(); err != nil || mounts != 2 || roots != 2 {
		t.Errorf("%d mounts and %d pins (%v), want 2 of each", mounts, roots, err)
	}
	requireViews(t, 1)
	const file = "/nix/var/result/share/data"
	var sums []string
	for _, where := range []struct {
		pod       *corev1.Pod
		container string
	}{{first, "c"}, {first, "d"}, {other, "c"}} {
		sum, err := try(t, where.pod, where.container, bin+"md5sum", file)
		if err != nil {
			t.Fatalf("%v: %s", err, sum)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] || sums[1] != sums[2] {
		t.Errorf("the containers read %q", sums)
	}
	inStore := filepath.Join(stateDir, rootOf(t, first), "share", "data")
	drop(t, inStore)
	if pages := resident(t, inStore); pages != 0 {
		t.Logf("%d pages stay resident after fadvise", pages)
	}
	in(t, first, bin+"md5sum", file)
	for _, path := range []string{inStore, inVolume(t, first, "share/data"), inVolume(t, other, "share/data")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if want, got := int(info.Size())/os.Getpagesize(), resident(t, path); got != want {
			t.Errorf("after one pod has read it %d of %d pages of %s are resident", got, want, path)
		}
	}
}

// inVolume gives the node's path of a file below the root of a pod's closure.
func inVolume(t *testing.T, pod *corev1.Pod, name string) string {
	t.Helper()
	return filepath.Join(mountOf(pod), strings.TrimPrefix(rootOf(t, pod), "/nix/"), name)
}

// requireViews waits until the agent counts that many views. Those that nobody
// uses stay for half a minute.
func requireViews(t *testing.T, want float64) {
	t.Helper()
	err := wait(t.Context(), 2*time.Minute, "the views", func() error {
		if have := metric(t, "closured_views"); have != want {
			return fmt.Errorf("there are %.0f, want %.0f", have, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
