package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/controller"
	"github.com/closured/closured/controller/buildjob"
	"github.com/closured/closured/controller/report"
	"github.com/closured/closured/registry/closureimage"
)

const base = "1rz4g4znpzjwh1xymhjpm42vipw92pr7-tool-1"

// volume makes what a build pod sees, and gives its folder.
func volume(t *testing.T, system string) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "store", base, "bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "var"), 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "tool"), []byte("#!/bin/sh\n"), 0o555))
	nar := narOfTool()
	sum := sha256.Sum256(nar)
	json := fmt.Sprintf(`{"version":1,"root":"/nix/store/%[1]s","system":%[2]q,"paths":[{"path":"/nix/store/%[1]s","narHash":"sha256-%[3]s","narSize":%[4]d,"references":[]}]}`,
		base, system, base64.StdEncoding.EncodeToString(sum[:]), len(nar))
	must(t, os.WriteFile(filepath.Join(dir, "var", "closure.json"), []byte(json), 0o444))
	return dir
}

// narOfTool gives the NAR of the one store path ("nix-store --dump").
func narOfTool() []byte {
	const align = 8
	var nar []byte
	for _, word := range []string{
		"nix-archive-1", "(", "type", "directory", "entry", "(", "name", "bin", "node",
		"(", "type", "directory", "entry", "(", "name", "tool", "node",
		"(", "type", "regular", "executable", "", "contents", "#!/bin/sh\n", ")", ")", ")", ")", ")",
	} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(word)))
		nar = append(nar, word...)
		nar = append(nar, make([]byte, -len(word)&(align-1))...)
	}
	return nar
}

// args are those of a Job's container, as kubelet gives them, for a volume in dir.
func args(dir string, config v1alpha1.ImageConfig, system v1alpha1.System) []string {
	list := buildjob.Args(config, system, "none")[1:]
	for i := range list {
		list[i] = strings.ReplaceAll(list[i], "$$", "$")
		if strings.HasPrefix(list[i], "--cache-dir=") {
			list[i] = "--cache-dir=" + filepath.Join(dir, "digests")
		}
	}
	return append(list, "--volume="+dir, "--message="+filepath.Join(dir, "message"))
}

func TestReportHasTheDigestOfTheRegistry(t *testing.T) {
	config := v1alpha1.ImageConfig{
		Entrypoint: []string{"/bin/tool", "--price=$(HOME) $5 $$"}, Cmd: []string{"", "-a=b"}, Env: []string{"A=b=c"}, User: "65534:65534",
		WorkingDir: "/tmp", ExposedPorts: []string{"80/tcp"}, Labels: map[string]v1alpha1.LabelValue{"a=b": "c=d"},
	}
	var images []*closureimage.Image
	var reported []v1alpha1.SystemImage
	for _, system := range []v1alpha1.System{v1alpha1.SystemX86, v1alpha1.SystemARM} {
		dir := volume(t, string(system))
		t.Setenv("NODE_NAME", "node-a")
		if code := reportCommand(t.Context(), args(dir, config, system)); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		message, err := os.ReadFile(filepath.Join(dir, "message"))
		must(t, err)
		got, err := report.Parse(message)
		must(t, err)
		if got.Size != 496 || got.Paths != 1 || got.Node != "node-a" || got.System != string(system) {
			t.Errorf("report %+v", got)
		}
		image := want(t, dir, string(system))
		if got.Digest != image.Digest().String() || got.ManifestSize != int64(len(image.Manifest())) {
			t.Errorf("digest %s, but the registry's is %s", got.Digest, image.Digest())
		}
		images = append(images, image)
		reported = append(reported, v1alpha1.SystemImage{System: system, Digest: got.Digest, ManifestSize: got.ManifestSize})
	}
	_, index, err := closureimage.Index(images...)
	must(t, err)
	digest, err := controller.Digest(reported)
	must(t, err)
	if digest != index.String() {
		t.Errorf("the index is %s, but the registry's is %s", digest, index)
	}
}

// want is the image as a registry makes it.
func want(t *testing.T, dir, system string) *closureimage.Image {
	t.Helper()
	v, err := report.Open(filepath.Join(dir, "var", "closure.json"))
	must(t, err)
	builder, err := closureimage.New(closureimage.Config{StoreDir: filepath.Join(dir, "store"), CacheDir: t.TempDir(), Closures: v.Reader()})
	must(t, err)
	image, err := builder.Image(t.Context(), closureimage.Spec{Root: v.Closure.Root, System: system, Settings: closureimage.Settings{
		Entrypoint: []string{"/bin/tool", "--price=$(HOME) $5 $$"}, Cmd: []string{"", "-a=b"}, Env: []string{"A=b=c"}, User: "65534:65534",
		WorkingDir: "/tmp", ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"a=b": "c=d"},
	}})
	must(t, err)
	return image
}

func TestReportOfAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		config v1alpha1.ImageConfig
		damage func(t *testing.T, dir string)
		says   string
	}{
		"no volume":              {damage: func(t *testing.T, dir string) { t.Helper(); must(t, os.RemoveAll(filepath.Join(dir, "var"))) }, says: "closure"},
		"a port that is none":    {config: v1alpha1.ImageConfig{ExposedPorts: []string{"99999"}}, says: "port"},
		"a path that is missing": {damage: func(t *testing.T, dir string) { t.Helper(); must(t, os.RemoveAll(filepath.Join(dir, "store", base))) }, says: base},
	} {
		t.Run(name, func(t *testing.T) {
			dir := volume(t, "x86_64-linux")
			if test.damage != nil {
				test.damage(t, dir)
			}
			if code := reportCommand(t.Context(), args(dir, test.config, v1alpha1.SystemX86)); code != exitFailure {
				t.Errorf("exit code %d", code)
			}
			message, err := os.ReadFile(filepath.Join(dir, "message"))
			must(t, err)
			got, err := report.Parse(message)
			must(t, err)
			if !strings.Contains(got.Failure, test.says) {
				t.Errorf("failure %q lacks %q", got.Failure, test.says)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	good, err := parseFlags([]string{
		"--build-image=a", "--build-requests=cpu=1,memory=1Gi", "--build-limits=", "--build-node-selector=a=b",
		"--build-toleration=gpu=yes:NoSchedule", "--build-toleration=any",
		"--build-image-pull-secret=one", "--build-image-pull-secret=two",
	}, io.Discard)
	must(t, err)
	b := good.build
	if b.Requests.Cpu().String() != "1" || len(b.Limits) != 0 || b.Limits == nil || b.NodeSelector["a"] != "b" ||
		len(b.Tolerations) != 2 || b.Tolerations[0].Value != "yes" || b.Tolerations[1].Operator != "Exists" ||
		!slices.Equal(b.PullSecrets, []string{"one", "two"}) {
		t.Errorf("build settings %+v", b)
	}
	if zipped, err := parseFlags([]string{"--registry-compression=gzip"}, io.Discard); err != nil || zipped.rules.Making == good.rules.Making {
		t.Errorf("images are made by %q whatever the compression, %v", good.rules.Making, err)
	}
	for _, bad := range [][]string{
		{"--build-image=a", "extra"},
		{"--build-image=a", "--registry-compression=xz"},
		{"--build-image=a", "--build-requests=cpu"},
		{"--build-image=a", "--retry-after=1h"},
		{"--build-image=a", "--build-toleration=a:Never"},
		{"--build-image=a", "--build-deadline=0"},
		{"--build-image=a", "--build-image-pull-policy=Now"},
		{"--build-image=a", "--build-image-pull-secret="},
		{"--build-image=a", "--build-image-pull-secret=a/b"},
	} {
		if _, err := parseFlags(bad, io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
