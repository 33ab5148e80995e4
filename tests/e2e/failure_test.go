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
)

// TestEventsSayWhatToDo: what a stranger reads in `kubectl describe pod`.
func TestEventsSayWhatToDo(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	for _, test := range []struct {
		name       string
		attributes attributes
		words      []string
	}{
		{"failing-build", attributes{"packages": "broken"}, []string{"broken-1.0", "FailedPrecondition"}},
		{"refused-by-policy", attributes{"nixExpr": "pkgs: pkgs.one"}, []string{"PermissionDenied", "nixExpr", plain}},
		{"unknown-attribute", attributes{"package": "one"}, []string{"InvalidArgument", "package", `packages`}},
		{"unknown-package", attributes{"packages": "onne"}, []string{"onne"}},
		{"two-sources", attributes{"packages": "one", "storePath": "/nix/store/00000000000000000000000000000000-none"}, []string{"InvalidArgument"}},
		{"no-such-path", attributes{"storePath": "/nix/store/00000000000000000000000000000000-none"}, []string{"00000000000000000000000000000000-none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := create(t, newPod(plain, test.name, test.attributes))
			event := failedMount(t, pod, time.Minute, test.words...)
			t.Log(event)
			remove(t, pod) // it never had a volume, and must go all the same
		})
	}
}

// TestLongBuild takes longer than a call of kubelet may.
func TestLongBuild(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	begin := time.Now()
	pod := ready(t, create(t, newPod(plain, "long", attributes{"packages": "slow"})), 6*time.Minute)
	took := time.Since(begin)
	if took < 150*time.Second {
		t.Errorf("it was ready after %s, before the build can have ended", took)
	}
	t.Logf("ready %s after it was created, %s after the build", took.Round(time.Second), (took - 150*time.Second).Round(time.Second))
	if says := in(t, pod, bin+"cat", "/nix/var/result/share/name"); says != "slow" {
		t.Errorf("the package is %q", says)
	}
}

// TestDeletedInMidBuild: the pod goes at once, its build soon after.
func TestDeletedInMidBuild(t *testing.T) {
	t.Cleanup(func() { requireClean(t) })
	pod := create(t, newPod(plain, "endless", attributes{"packages": "endless"}))
	err := wait(t.Context(), time.Minute, "the build", func() error {
		if builders(t) == 0 {
			return fmt.Errorf("nothing builds")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	remove(t, pod)
	t.Logf("the pod was gone after %s", time.Since(begin).Round(100*time.Millisecond))
	err = wait(t.Context(), 2*time.Minute, "the end of the build", func() error {
		if n := builders(t); n > 0 {
			return fmt.Errorf("%d processes build", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("the build ended after %s", time.Since(begin).Round(100*time.Millisecond))
}

// builders counts the processes that build the endless package.
func builders(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(data, []byte("closured-e2e-endless")) {
			found++
		}
	}
	return found
}
