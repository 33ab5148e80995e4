//go:build privileged

package integration_test

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/closured/closured/tests/agent"
)

// TestFault02FiftyPullsOneBuild pulls one image that has to be built fifty times at
// once, by names that mean the same, and mounts it as a volume meanwhile.
func TestFault02FiftyPullsOneBuild(t *testing.T) {
	t.Parallel()
	const pulls = 50
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `herd = run "pulled-herd" "sleep 4; mkdir $out; echo herd > $out/f";`),
		Args:       offline(), Binary: raceBinary(t),
	})
	built := watch(t, "pulled-herd")
	var mu sync.Mutex // guards digests
	digests := map[string]int{}
	var all sync.WaitGroup
	for i := range pulls {
		all.Go(func() {
			image, err := n.image(t.Context(), []string{"pkgs/herd", "pkgs/herd/herd"}[i%2])
			if err != nil {
				t.Errorf("pull %d: %v", i, err)
				return
			}
			digest, err := image.Digest()
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			digests[digest.String()]++
		})
	}
	v := agent.Packages(1, "herd")
	all.Go(func() { n.publish(v) })
	all.Wait()
	if got := built(); got != 1 {
		t.Errorf("there were %d builders, want 1", got)
	}
	n.requireWork(1, 1)
	if len(digests) != 1 {
		t.Errorf("the digests are %v, want one", digests)
	}
	requireBlobs(t, n.pull("pkgs/herd"))
	n.unpublish(v)
}

// TestFault01PullLongerThanTheHold pulls an image whose build takes longer than a
// request waits: the answer says why and when to come again, the build goes on,
// and the next pull joins it.
func TestFault01PullLongerThanTheHold(t *testing.T) {
	t.Parallel()
	if os.Getenv("CLOSURED_LONG") == "" {
		t.Skip("takes 40 seconds, and package registry tries the same with a short hold; set CLOSURED_LONG=1 to run it")
	}
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `slow = run "pulled-slowly" "sleep 32; mkdir $out; echo slow > $out/f";`), Args: offline(),
	})
	built := watch(t, "pulled-slowly")
	r := n.request(http.MethodGet, "/v2/pkgs/slow/manifests/latest")
	text := requireError(t, r, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if !strings.Contains(text, "pkgs/slow is not ready yet") || r.header.Get("Retry-After") == "" {
		t.Errorf("the answer says %q, and to come again after %q", text, r.header.Get("Retry-After"))
	}
	if running := builders("name=pulled-slowly"); len(running) != 1 {
		t.Errorf("after the answer the builders are %q, want one", running)
	}
	requireBlobs(t, n.pull("pkgs/slow"))
	if got := built(); got != 1 {
		t.Errorf("there were %d builders, want 1", got)
	}
	n.requireWork(1, 1)
}
