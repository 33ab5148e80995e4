package niximages

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/nixstore"
)

func TestSettingsHaveEveryWordOfAConfig(t *testing.T) {
	t.Parallel()
	config := &v1alpha1.ImageConfig{
		Entrypoint: []string{"/bin/a", "$(B)"}, Cmd: []string{"", "c"}, Env: []string{"A=b=c"}, User: "1:2", WorkingDir: "/w",
		ExposedPorts: []string{"80/tcp", "53/udp"}, Labels: map[string]v1alpha1.LabelValue{"a=b": "c"},
	}
	for i, v := 0, reflect.ValueOf(*config); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the test leaves %s out", v.Type().Field(i).Name)
		}
	}
	for _, c := range []*v1alpha1.ImageConfig{config, {}} {
		// Both are written with the same words, so that a new one of either is noticed.
		if diff := cmp.Diff(words(t, c), words(t, Settings(c))); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
	}
}

// words gives what a value is written as.
func words(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEqualConfigsAreKeptOnce(t *testing.T) {
	t.Parallel()
	n := &v1alpha1.NixImage{}
	for _, user := range []string{"a", "a", "b"} {
		n.Status.History = append(n.Status.History, v1alpha1.Version{Config: v1alpha1.ImageConfig{User: user}})
	}
	v := compact(n).versions
	if v[0].config != v[1].config || v[1].config == v[2].config || v[2].config.User != "b" {
		t.Errorf("configs are %p, %p and %p", v[0].config, v[1].config, v[2].config)
	}
}

func FuzzObject(f *testing.F) {
	f.Add(`{"spec": {"tag": "v1"}, "status": {"images": [{"system": "x86_64-linux", "storePath": "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-a"}]}}`)
	f.Add(`{"status": {"conditions": [{"type": "Stalled", "status": "True", "reason": "A", "message": "b\nc"}]}}`)
	f.Add(`{"status": {"images": [{"system": "x86_64-linux", "storePath": "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-a.drv"}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		n := &v1alpha1.NixImage{}
		if json.Unmarshal([]byte(text), n) != nil {
			return
		}
		o := compact(n)
		if len(o.why) > whyMax+len("…") || !utf8.ValidString(o.why) || strings.ContainsAny(o.why, "\n\r\t") {
			t.Errorf("the reason is %q", o.why)
		}
		for _, i := range o.images {
			if _, err := nixstore.ParseStorePath(i.root.String()); err != nil || i.root.IsDerivation() {
				t.Errorf("the root is %q", i.root)
			}
		}
	})
}

func BenchmarkKeep200(b *testing.B) {
	n := &v1alpha1.NixImage{}
	n.Spec.Expression = strings.Repeat("x", 4000)
	n.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("y", 8000)}
	image := v1alpha1.SystemImage{
		System: v1alpha1.SystemX86, StorePath: "/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-a",
		Digest: "sha256:" + strings.Repeat("0", 64), Node: "node-a",
	}
	for range 4 {
		n.Status.History = append(n.Status.History, v1alpha1.Version{
			Digest: image.Digest, Tag: "v1", Images: []v1alpha1.SystemImage{image}, Config: v1alpha1.ImageConfig{Env: []string{"A=b"}},
		})
	}
	text, err := json.Marshal(n)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		kept := make([]*object, 0, 200)
		for range 200 {
			read := &v1alpha1.NixImage{}
			if err := json.Unmarshal(text, read); err != nil {
				b.Fatal(err)
			}
			kept = append(kept, compact(read))
		}
		b.ReportMetric(float64(held(kept))/200, "B-held/object")
	}
}
