package gen_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const api = "../v1alpha1"

// generated are the files that generate writes, below the package.
var generated = []string{"zz_generated.deepcopy.go", "crd/closured.dev_niximages.yaml"}

func TestGeneratedFilesAreCurrent(t *testing.T) {
	out := t.TempDir()
	if text, err := exec.CommandContext(t.Context(), "./generate", out).CombinedOutput(); err != nil {
		t.Fatalf("generating: %v\n%s", err, text)
	}
	for _, name := range generated {
		want, err := os.ReadFile(filepath.Join(out, "v1alpha1", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(api, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its types say: run `cd api/gen && go generate ./...`", name)
		}
	}
}
