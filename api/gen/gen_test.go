package gen_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const project = "../.."

// generated are the files that generate writes, below the project.
var generated = []string{
	"api/v1alpha1/zz_generated.deepcopy.go",
	"deploy/components/niximage/closured.dev_niximages.yaml",
	"deploy/chart/closured/files/closured.dev_niximages.yaml",
}

func TestGeneratedFilesAreCurrent(t *testing.T) {
	out := t.TempDir()
	if text, err := exec.CommandContext(t.Context(), "./generate", out).CombinedOutput(); err != nil {
		t.Fatalf("generating: %v\n%s", err, text)
	}
	for _, name := range generated {
		want, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(project, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its types say: run `cd api/gen && go generate ./...`", name)
		}
	}
}
