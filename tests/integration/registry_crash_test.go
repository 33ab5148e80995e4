//go:build privileged

package integration_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// bigSet has one package with a file of noise, too large for the buffers of sockets.
const bigSet = `big = run "big" "mkdir -p $out/lib; yes 'some words of no use' | head -c 96000000 > $out/lib/big; echo end > $out/lib/zz";`

// TestFault17CollectingAfterAPull runs Nix's collector after a pull, and again after
// a restart: nothing of what was pulled lately may go, while what nobody has does.
func TestFault17CollectingAfterAPull(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, `tree = synthetic { n = 9; files = 3; };`), Args: offline()})
	kept := n.textClosure(20, "pulled")
	image, tree := n.pull("store/"+hashOf(kept)), n.pull("volume/pkgs/tree")
	for _, when := range []string{"running", "restarted"} {
		lost := n.textClosure(20, "lost")
		nixtest.Run(t, n.StateDir(), "nix-store", "--gc")
		n.requireAbsent(lost)
		nixtest.Run(t, n.StateDir(), "nix-store", "--verify", "--check-contents")
		requireBlobs(t, image)
		requireBlobs(t, tree)
		if t.Failed() {
			t.Fatalf("that was with the agent %s", when)
		}
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		image, tree = n.pull("store/"+hashOf(kept)), n.pull("volume/pkgs/tree")
	}
	links, err := os.ReadDir(n.StateDir() + "/nix/var/nix/gcroots/closured/images")
	if err != nil || len(links) != 2 {
		t.Errorf("there are the pins %v (%v), want one for each image", links, err)
	}
}

// TestFault08KillInMidPull kills the agent while a client reads a layer. The client
// goes on by a range where it was, and gets the layer of that digest.
func TestFault08KillInMidPull(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, bigSet), Args: offline()})
	layer := largestLayer(t, n.pull("pkgs/big"))
	path := "/v2/pkgs/big/blobs/" + layer.Digest.String()
	var whole []byte
	for range 2 {
		res := n.open(t.Context(), http.MethodGet, path, "Range", fmt.Sprintf("bytes=%d-", len(whole)))
		part, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil || res.StatusCode != http.StatusPartialContent {
			t.Fatalf("the answer is %s (%v)", res.Status, err)
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		onItsWay, err := io.ReadAll(res.Body) // as much as sockets hold
		_ = res.Body.Close()
		if err == nil {
			t.Fatal("the blob was over before the agent was killed: this test shows nothing")
		}
		whole = append(append(whole, part...), onItsWay...)
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	res := n.open(t.Context(), http.MethodGet, path, "Range", fmt.Sprintf("bytes=%d-", len(whole)))
	rest, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	whole = append(whole, rest...)
	if got := sha256Of(whole); got != layer.Digest.String() {
		t.Errorf("the layer in pieces has the digest %s, want %s", got, layer.Digest)
	}
}

// TestKnownManifestReadsNoFile traces the agent, restarted, while images are asked
// for that were pulled before: no file of their closures may be opened.
func TestKnownManifestReadsNoFile(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, `tree = synthetic { n = 10; files = 3; };`), Args: offline()})
	byPath := n.textClosure(100, "known")
	var paths []string
	for _, repository := range []string{"store/" + hashOf(byPath), "pkgs/tree", "volume/pkgs/tree"} {
		digest := n.digestOf(repository)
		paths = append(paths, "/v2/"+repository+"/manifests/latest", "/v2/"+repository+"/manifests/"+digest)
	}
	if err := n.Restart(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the end of the self-test", n.onlyTheDaemon)
	trace := n.strace("-e", "trace="+tracedCalls)
	for range 2 {
		for _, path := range paths {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				if r := n.request(method, path); r.status != http.StatusOK {
					t.Errorf("%s %s gives %d: %s", method, path, r.status, r.body)
				}
			}
		}
	}
	requireNoFile(t, trace(), n.StateDir()+"/nix/store", n.imagesDir())
}

// requireNoFile checks that no file of the store was opened for reading. That the
// small files of images were shows that the trace has what it should.
func requireNoFile(t *testing.T, calls []string, store, images string) {
	t.Helper()
	inside := regexp.MustCompile(regexp.QuoteMeta(store) + `/[0-9a-z]{32}-`)
	known := 0
	for _, line := range calls {
		switch {
		case strings.Contains(line, images):
			known++
		case !inside.MatchString(line) || strings.Contains(line, "O_PATH") || strings.Contains(line, ".drv"):
		default:
			t.Errorf("a known manifest opens a file: %s", line)
		}
	}
	if known == 0 {
		t.Error("the trace holds nothing: this test shows nothing")
	}
}
