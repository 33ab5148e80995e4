package driver

import (
	"strings"
	"testing"
)

func TestVolumeNameKeepsIDsWithDots(t *testing.T) {
	t.Parallel()
	a := volumeName{"a", targetDigest("/x"), strings.Repeat("0", digestLen)}
	tricky := volumeName{"a." + targetDigest("/x"), targetDigest("/y"), strings.Repeat("f", digestLen)}
	for _, want := range []volumeName{a, tricky} {
		got, ok := parseVolumeName(want.holder().Name)
		if !ok || got != want {
			t.Errorf("%s came back as %+v, %t", want.holder().Name, got, ok)
		}
	}
	if len((volumeName{strings.Repeat("x", volumeIDMax), a.target, a.request}).holder().Name) > 255 {
		t.Error("the longest name is no file name")
	}
}

func TestDigestTellsRequestsApart(t *testing.T) {
	t.Parallel()
	base := func() request {
		return request{target: "/t", readonly: true, context: map[string]string{"packages": "redis", podInfoPrefix + "pod.uid": "1"}}
	}
	same := map[string]func(*request){
		"another token": func(r *request) { r.context[podInfoPrefix+"serviceAccount.tokens"] = "secret" },
		"another pod":   func(r *request) { r.context[podInfoPrefix+"pod.uid"] = "2" },
		"another id":    func(r *request) { r.id = "x" },
	}
	other := map[string]func(*request){
		"another target":          func(r *request) { r.target = "/u" },
		"another readonly":        func(r *request) { r.readonly = false },
		"another value":           func(r *request) { r.context["packages"] = "curl" },
		"another key":             func(r *request) { r.context["writable"] = "true" },
		"no attributes":           func(r *request) { r.context = nil },
		"a value that is a pair":  func(r *request) { r.context["packages"] = "redis\n8:writable=4:true" },
		"the value moved in key":  func(r *request) { r.context = map[string]string{"packagesredis": ""} },
		"bytes that are not UTF8": func(r *request) { r.context["packages"] = "redis\xff" },
	}
	start := base().digest()
	for name, change := range same {
		r := base()
		if change(&r); r.digest() != start {
			t.Errorf("%s changes the digest", name)
		}
	}
	seen := map[string]string{start: "the request"}
	for name, change := range other {
		r := base()
		change(&r)
		if twin, ok := seen[r.digest()]; ok {
			t.Errorf("%s has the digest of %s", name, twin)
		}
		seen[r.digest()] = name
	}
}

func FuzzParseVolumeName(f *testing.F) {
	f.Add("csi-1." + strings.Repeat("0", 16) + "." + strings.Repeat("f", 16))
	f.Add("..")
	f.Add("a.b")
	f.Fuzz(func(t *testing.T, name string) {
		n, ok := parseVolumeName(name)
		if ok && (n.holder().Name != name || checkVolumeID(n.id) != nil || strings.ContainsAny(name, "/\x00")) {
			t.Fatalf("%q was parsed as %+v", name, n)
		}
	})
}

func FuzzCheckTarget(f *testing.F) {
	const kubelet = "/var/lib/kubelet"
	f.Add(kubelet + "/pods/u/volumes/kubernetes.io~csi/nix/mount")
	f.Add(kubelet + "/pods/../volumes/kubernetes.io~csi/nix/mount")
	f.Add("/var/lib/kubelet")
	f.Fuzz(func(t *testing.T, target string) {
		uid, err := checkTarget(kubelet, target)
		if err != nil {
			return
		}
		if uid == "" || uid == "." || uid == ".." || !strings.HasPrefix(target, kubelet+"/pods/"+uid+"/") || strings.Contains(target, "/../") {
			t.Fatalf("%q was accepted, uid %q", target, uid)
		}
	})
}
