//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEventsSayWhatToDo: what a stranger reads in `kubectl describe pod`, or, where
// the admission policy is installed and knows better, when the pod is created.
func TestEventsSayWhatToDo(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	const nowhere = "/nix/store/00000000000000000000000000000000-none"
	for _, test := range []struct {
		name, namespace string
		attributes      attributes
		event           []string // words of the event
		admission       []string // words of the refusal; nil: admission lets it pass
	}{
		{"failing-build", plain, attributes{"packages": "broken"}, []string{"FailedPrecondition", "broken-1.0", "frobnicate.h", "next:"}, nil},
		{"refused-at-creation", plain, attributes{"nixExpr": "pkgs: pkgs.one"}, []string{"PermissionDenied", "nixExpr", plain, "next:"}, []string{"nixExpr", "next:"}},
		{"refused-by-policy", free, attributes{"nixExpr": "pkgs: pkgs.one"}, []string{"PermissionDenied", "nixExpr", free, "next:"}, nil},
		{"unknown-attribute", plain, attributes{"package": "one"}, []string{"InvalidArgument", `did you mean "packages"`}, []string{"package", "next:"}},
		{"unknown-package", plain, attributes{"packages": "onne"}, []string{"NotFound", "onne", "next:"}, nil},
		{"two-sources", plain, attributes{"packages": "one", "storePath": nowhere}, []string{"InvalidArgument", "next:"}, []string{"exactly one source", "next:"}},
		{"no-such-path", plain, attributes{"storePath": nowhere}, []string{"NotFound", nowhere, "next:"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := newPod(test.namespace, test.name, test.attributes)
			if _, deployed := w.agent.(*daemonSet); deployed && test.admission != nil {
				made, err := w.kube.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
				if err == nil {
					remove(t, made)
					t.Fatal("the pod was admitted")
				}
				if t.Log(err); !containsAll(err.Error(), test.admission) {
					t.Errorf("the refusal lacks %q", test.admission)
				}
				return
			}
			pod = create(t, pod)
			t.Log(failedMount(t, pod, time.Minute, test.event...))
			remove(t, pod) // it never had a volume, and must go all the same
		})
	}
}

// TestLongBuilds: one takes longer than a call of kubelet may, another one's pod
// is deleted meanwhile. That pod goes at once; kubelet unpublishes its volume when
// the call that it waits for ends, and the build goes after the agent's grace.
func TestLongBuilds(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	begin := time.Now()
	long := create(t, newPod(plain, "long", attributes{"packages": "slow"}))
	endless := create(t, newPod(plain, "endless", attributes{"packages": "endless"}))
	err := wait(t.Context(), time.Minute, "the build", func() error {
		if len(builders(t, "endless")) == 0 {
			return fmt.Errorf("nothing builds")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	remove(t, endless)
	t.Logf("the deleted pod was gone after %s", time.Since(deleted).Round(100*time.Millisecond))

	long = ready(t, long, 6*time.Minute)
	took := time.Since(begin)
	if took < 150*time.Second {
		t.Errorf("it was ready after %s, before the build can have ended", took)
	}
	t.Logf("ready %s after it was created", took.Round(time.Second))
	if says := in(t, long, bin+"cat", "/nix/var/result/share/name"); says != "slow" {
		t.Errorf("the package is %q", says)
	}
	requireStory(t, long, "slow")
	err = wait(t.Context(), 2*time.Minute, "the end of the other build", func() error {
		if pids := builders(t, "endless"); len(pids) > 0 {
			return fmt.Errorf("processes %v build", pids)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// builders gives the processes that build one of the packages that say so in
// their scripts.
func builders(t *testing.T, name string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(data, []byte("closured-e2e-"+name)) {
			found = append(found, pid)
		}
	}
	return found
}
