//go:build privileged

package integration_test

import (
	"context"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/nixtest"
	"github.com/closured/closured/tests/agent"
)

// TestImageAndVolumeAreTheSameFiles publishes a closure as a volume and pulls it
// under each of its names as an image: names, types, modes, owners, times, link
// targets and content must be the same.
func TestImageAndVolumeAreTheSameFiles(t *testing.T) { //nolint:tparallel // one agent, and each looks at what is left
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, sourceSet+`tree = synthetic { n = 12; files = 5; };`), Args: offline()})
	for i, test := range []struct {
		name, packages string
		names          []string
	}{
		{"real software and a graph", "tree", []string{"pkgs/tree"}},
		{"all types of files", "hello", []string{"pkgs/hello"}},
		{"a path that is one file", "file", []string{"pkgs/file"}},
		{
			"several packages in any order", "hello other nested.deep.tool",
			[]string{"pkgs/hello/nested.deep.tool/other", "pkgs/other/hello/nested.deep.tool"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := n.as(t)
			v := agent.Packages(i, test.packages)
			n.publish(v)
			want := withoutTop(describeTree(t, n.Target(v)))
			digests := map[string]bool{}
			for _, repository := range append(test.names, "store/"+hashOf(n.result(v))) {
				n.requireImage(repository, want)
				digests[n.digestOf(repository)] = true
			}
			if len(digests) != 1 {
				t.Errorf("the names of one closure have the digests %v", digests)
			}
			n.unpublish(v)
		})
	}
	n.requireNothing()
}

// requireImage checks both forms of an image against the tree of a volume.
func (n node) requireImage(repository string, want map[string]string) {
	n.t.Helper()
	for form, folder := range map[string]string{"": "nix", "volume/": "."} {
		dir := filepath.Join(n.t.TempDir(), "root")
		unpack(n.t, n.pull(form+repository), dir)
		got := withoutTop(describeTree(n.t, filepath.Join(dir, folder)))
		if diff := cmp.Diff(want, got); diff != "" {
			n.t.Errorf("%s%s differs from the volume (-volume +image):\n%.3000s", form, repository, diff)
		}
		if form == "" {
			requireRunnable(n.t, dir)
		}
	}
}

// requireRunnable checks what an image has beside the closure.
func requireRunnable(t *testing.T, dir string) {
	t.Helper()
	tree := describeTree(t, dir)
	for path, mode := range map[string]string{"tmp": "dtrwxrwxrwx 0:0", "etc/passwd": "-r--r--r-- 0:0", "etc/group": "-r--r--r-- 0:0"} {
		if !strings.HasPrefix(tree[path], mode) {
			t.Errorf("%s of the image is %q, want %q", path, tree[path], mode)
		}
	}
}

// withoutTop forgets the folder itself, which an image of the form volume lacks.
func withoutTop(tree map[string]string) map[string]string {
	delete(tree, ".")
	return tree
}

// TestFault53TwoNodesOneDigest gives two nodes the same closure in another order,
// with other paths beside it. Whichever answers, the manifest is the same.
func TestFault53TwoNodesOneDigest(t *testing.T) {
	t.Parallel()
	const rounds = 3
	set := packageSet(t, `one = synthetic { n = 9; files = 4; seed = "one"; }; two = synthetic { n = 7; seed = "two"; };`)
	digests := map[string]int{}
	for i, order := range [][]string{{"pkgs/one", "pkgs/two"}, {"pkgs/two", "pkgs/one"}} {
		n := start(t, agent.Config{PackageSet: set, Args: offline()})
		for range i {
			n.textClosure(200, "beside") // shifts inodes and the rows of the database
		}
		for round := range rounds {
			for _, repository := range order {
				digests[repository+"@"+n.digestOf(repository)]++
			}
			nixtest.Run(t, n.StateDir(), "nix-store", "--optimise") // hard links between equal files
			if round == 0 {
				n.forgetImages()
			}
			if err := n.Restart(context.WithoutCancel(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(digests) != 2 {
		t.Errorf("there are the digests %v, want one for each closure", digests)
	}
}

// forgetImages removes what the agent keeps of images, so that it computes them anew.
func (n node) forgetImages() {
	n.t.Helper()
	if out, err := exec.CommandContext(n.t.Context(), "rm", "-r", n.imagesDir()).CombinedOutput(); err != nil {
		n.t.Fatalf("removing the images: %v\n%s", err, out)
	}
}

func (n node) imagesDir() string { return filepath.Join(n.StateDir(), "cache", "images") }

// TestAnImageTakesLittleDisk pulls an image of 1,500 paths in both forms: but for
// digests nothing of it may be kept beside the store.
func TestAnImageTakesLittleDisk(t *testing.T) {
	t.Parallel()
	const paths, most = 1500, 100_000 // bytes
	n := start(t, agent.Config{Args: offline()})
	root := n.textClosure(paths, "disk")
	repository := "store/" + hashOf(root)
	image := n.pull(repository)
	requireBlobs(t, image)
	if used := n.imagesBytes(); used > most {
		t.Errorf("%d bytes are kept of an image, want at most %d", used, most)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("of an image of %d paths in %d layers %d bytes are kept", paths, len(manifest.Layers), n.imagesBytes())
	if len(manifest.Layers) > 100 {
		t.Errorf("the image has %d layers, want at most 100", len(manifest.Layers))
	}
}

// imagesBytes gives the disk that the agent uses for images, in blocks as du(1) counts.
func (n node) imagesBytes() (bytes int64) {
	n.t.Helper()
	err := filepath.WalkDir(n.imagesDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		var stat syscall.Stat_t
		err = syscall.Lstat(path, &stat)
		bytes += stat.Blocks * 512 // stat(2)
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return bytes
}
