package nixstore_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"testing"

	"github.com/closured/closured/nixstore"
)

func exampleClosure() nixstore.Closure {
	all := paths("a", "b")
	return nixstore.Closure{
		Root: all[1], Registration: 7,
		Paths: []nixstore.PathInfo{
			{Path: all[0], NarHash: "sha256-/+A=", NarSize: 100, References: nil},
			{Path: all[1], NarHash: "sha256-B=", NarSize: 23, References: all},
		},
	}
}

func TestTheManifestIsThisTextExactly(t *testing.T) {
	t.Parallel()
	got, err := exampleClosure().Manifest("x86_64-linux")
	if err != nil {
		t.Fatal(err)
	}
	a, b := "/nix/store/"+goodHash+"-a", "/nix/store/"+goodHash+"-b"
	want := `{"version":1,"root":"` + b + `","system":"x86_64-linux","paths":[` +
		`{"path":"` + a + `","narHash":"sha256-/+A=","narSize":100,"references":[]},` +
		`{"path":"` + b + `","narHash":"sha256-B=","narSize":23,"references":["` + a + `","` + b + `"]}]}` + "\n"
	if string(got) != want {
		t.Errorf("got\n %s, want\n %s", got, want)
	}
}

func TestEqualClosuresHaveEqualManifests(t *testing.T) {
	t.Parallel()
	one, two := exampleClosure(), exampleClosure()
	two.Paths[0].References = []nixstore.StorePath{} // read by another path through the program
	two.Registration = 8                             // another node's
	a, errA := one.Manifest("x86_64-linux")
	b, errB := two.Manifest("x86_64-linux")
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("they differ: %v, %v\n %s %s", errA, errB, a, b)
	}
	if one.Paths[0].References != nil {
		t.Error("the closure changed")
	}
	empty, err := nixstore.Closure{}.Manifest("")
	if err != nil || bytes.Contains(empty, []byte("null")) {
		t.Errorf("the empty closure is %s, %v", empty, err)
	}
}

func TestAManifestCanBeReadBack(t *testing.T) {
	t.Parallel()
	data, err := exampleClosure().Manifest(nixstore.System())
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Root  nixstore.StorePath  `json:"root"`
		Paths []nixstore.PathInfo `json:"paths"`
	}
	if err := json.Unmarshal(data, &doc); err != nil || doc.Root != exampleClosure().Root || len(doc.Paths) != 2 {
		t.Errorf("read back %+v, %v", doc, err)
	}
}

func TestAClosureKnowsItsPathsAndSize(t *testing.T) {
	t.Parallel()
	c := exampleClosure()
	if c.NarSize() != 123 {
		t.Errorf("the size is %d", c.NarSize())
	}
	for p, want := range map[string]bool{"a": true, "b": true, "c": false, "A": false} {
		if got := c.Has(paths(p)[0]); got != want {
			t.Errorf("has %s: %t", p, got)
		}
	}
}

func TestTheSystemIsNixsWordForThisMachine(t *testing.T) {
	t.Parallel()
	want, ok := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
	if !ok {
		t.Skipf("no word for %s", runtime.GOARCH)
	}
	if got := nixstore.System(); got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}

func ExampleClosure_Has() {
	curl := nixstore.MustParseStorePath("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-curl")
	c := nixstore.Closure{Root: curl, Paths: []nixstore.PathInfo{{Path: curl, NarSize: 5}}}
	fmt.Println(c.Has(curl), c.NarSize())
	// Output: true 5
}
