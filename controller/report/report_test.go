package report_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/controller/report"
	"github.com/closured/closured/nixstore"
)

const root = "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2"

func good() report.Report {
	return report.Report{
		Root: nixstore.MustParseStorePath(root), System: "x86_64-linux", Digest: "sha256:" + strings.Repeat("a", 64),
		ManifestSize: 1234, Size: 5678, Paths: 12, Node: "node-a",
	}
}

func TestReportsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, r := range []report.Report{good(), {Failure: "the disk is full"}} {
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := report.Parse(data)
		if err != nil || !cmp.Equal(got, r, cmp.AllowUnexported(nixstore.StorePath{})) {
			t.Errorf("%+v became %+v (%v)", r, got, err)
		}
	}
	long := report.Report{Failure: strings.Repeat("\x00ä", 10000)}
	if data, err := long.Encode(); err != nil || len(data) > report.MessageMax {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestReportsThatAreRefused(t *testing.T) {
	t.Parallel()
	data, err := good().Encode()
	if err != nil {
		t.Fatal(err)
	}
	whole := string(data)
	for name, text := range map[string]string{
		"nothing":           "",
		"a log":             "panic: no",
		"two reports":       whole + whole,
		"an unknown field":  strings.Replace(whole, "{", `{"more":1,`, 1),
		"no root":           strings.Replace(whole, `"root":"`+root+`",`, "", 1),
		"another path":      strings.Replace(whole, root, "/etc/passwd", 1),
		"no system":         strings.Replace(whole, "x86_64-linux", "", 1),
		"a short digest":    strings.Replace(whole, "aaaa", "", 1),
		"a negative size":   strings.Replace(whole, "5678", "-1", 1),
		"no paths":          strings.Replace(whole, `"paths":12`, `"paths":0`, 1),
		"a size too great":  strings.Replace(whole, "5678", "99999999999999999999", 1),
		"too many paths":    strings.Replace(whole, `"paths":12`, `"paths":4294967296`, 1),
		"a node that grows": strings.Replace(whole, "node-a", strings.Repeat("n", 300), 1),
	} {
		if _, err := report.Parse([]byte(text)); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVolume(t *testing.T) {
	t.Parallel()
	closure := nixstore.Closure{Root: nixstore.MustParseStorePath(root), Paths: []nixstore.PathInfo{{Path: nixstore.MustParseStorePath(root), NarSize: 7}}}
	doc, err := closure.Manifest("x86_64-linux")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "closure.json")
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := report.Open(file)
	if err != nil || v.System != "x86_64-linux" || v.Closure.NarSize() != 7 {
		t.Fatalf("volume %+v, %v", v, err)
	}
	if got, err := v.Reader().Closure(t.Context(), closure.Root); err != nil || got.Root != closure.Root {
		t.Errorf("closure %+v, %v", got, err)
	}
	other := nixstore.MustParseStorePath(strings.Replace(root, "1", "2", 1))
	if _, err := v.Reader().Closure(t.Context(), other); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("another closure: %v", err)
	}
	if _, err := v.Reader().Registration(t.Context(), other); !errors.Is(err, nixstore.ErrNotFound) {
		t.Errorf("another registration: %v", err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "another version": strings.Replace(string(doc), `"version":1`, `"version":2`, 1),
		"no system": strings.Replace(string(doc), "x86_64-linux", "", 1), "a root elsewhere": strings.Replace(string(doc), root, other.String(), 1),
		"a negative size": strings.Replace(string(doc), `"narSize":7`, `"narSize":-7`, 1),
	} {
		if _, err := report.ParseClosure([]byte(bad)); !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := good().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"error":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := report.Parse(data)
		if err != nil {
			return
		}
		if _, err := r.Encode(); err != nil {
			t.Errorf("%+v was read, and cannot be written: %v", r, err)
		}
	})
}

func FuzzParseClosure(f *testing.F) {
	f.Add([]byte(`{"version":1,"root":"` + root + `","system":"x86_64-linux","paths":[{"path":"` + root + `","narSize":1,"references":[]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := report.ParseClosure(data); err == nil && !v.Closure.Has(v.Closure.Root) {
			t.Errorf("the root of %+v is not in it", v)
		}
	})
}

func ExampleReport_Encode() {
	data, err := report.Report{Failure: "the disk is full"}.Encode()
	fmt.Println(string(data), err)
	// Output: {"error":"the disk is full"} <nil>
}
