package driver_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/closured/closured/driver/drivertest"
	"github.com/closured/closured/driver/policy"
	"github.com/closured/closured/nixstore"
)

const uid = "0a1b2c3d-0000-4000-8000-000000000001"

func redis() map[string]string { return map[string]string{"packages": "redis"} }

func newNode(t *testing.T) *drivertest.Node {
	t.Helper()
	n := drivertest.NewNode(t)
	n.Provider.Add("redis", "curl")
	return n
}

// expect fails the test unless err has the code and its message begins with prefix.
func expect(t *testing.T, err error, code codes.Code, prefix string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code || !strings.HasPrefix(s.Message(), prefix) {
		t.Errorf("got %s %q, want %s %q…", s.Code(), s.Message(), code, prefix)
	}
}

func expectState(t *testing.T, n *drivertest.Node, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, n.State(t)); diff != "" {
		t.Errorf("the node's state differs (-want +got):\n%s", diff)
	}
}

func setMount(req *csi.NodePublishVolumeRequest, m *csi.VolumeCapability_MountVolume) {
	req.VolumeCapability.AccessType = &csi.VolumeCapability_Mount{Mount: m}
}

func TestPublishChangedInOneField(t *testing.T) {
	t.Parallel()
	const podUID = "csi.storage.k8s.io/pod.uid"
	for _, row := range []struct {
		name   string
		change func(*csi.NodePublishVolumeRequest)
		code   codes.Code
		prefix string
	}{
		{"nothing", func(*csi.NodePublishVolumeRequest) {}, codes.OK, ""},
		{"no volume id", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "" }, codes.InvalidArgument, "the volume id is missing"},
		{"a volume id that is a path", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "../x" }, codes.InvalidArgument, `the volume id "../x" begins with a dot`},
		{"a volume id that is an option", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "-rf" }, codes.InvalidArgument, `the volume id "-rf" begins with`},
		{"a volume id with a slash", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "a/b" }, codes.InvalidArgument, `the volume id "a/b" holds the character '/'`},
		{"a volume id of 129 bytes", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = strings.Repeat("a", 129) }, codes.InvalidArgument, "the volume id"},
		{"a volume id of 128 bytes", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = strings.Repeat("a", 128) }, codes.OK, ""},
		{"no capability", func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil }, codes.InvalidArgument, "the volume capability is missing"},
		{"a block device", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, codes.InvalidArgument, "a closure cannot be a block device"},
		{"no access type", func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.AccessType = nil }, codes.InvalidArgument, "the volume capability has no access type"},
		{"mount options", func(r *csi.NodePublishVolumeRequest) {
			setMount(r, &csi.VolumeCapability_MountVolume{MountFlags: []string{"rw"}})
		}, codes.InvalidArgument, "mount options are not supported"},
		{"a file system type", func(r *csi.NodePublishVolumeRequest) {
			setMount(r, &csi.VolumeCapability_MountVolume{FsType: "ext4"})
		}, codes.OK, ""},
		{"another access mode", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
		}, codes.OK, ""},
		{"not readOnly", func(r *csi.NodePublishVolumeRequest) { r.Readonly = false }, codes.OK, ""},
		{"secrets", func(r *csi.NodePublishVolumeRequest) { r.Secrets = map[string]string{"a": "b"} }, codes.OK, ""},
		{"writable and readOnly", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["writable"] = "true" }, codes.InvalidArgument, `the attribute writable: "true" contradicts readOnly`},
		{"writable", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext["writable"] = "true"
			r.Readonly = false
		}, codes.OK, ""},
		{"no source", func(r *csi.NodePublishVolumeRequest) { delete(r.GetVolumeContext(), "packages") }, codes.InvalidArgument, ""},
		{"two sources", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext["storePath"] = drivertest.Root("redis").String()
		}, codes.InvalidArgument, ""},
		{"no attributes", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext = nil }, codes.InvalidArgument, ""},
		{"an unknown key", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["pakages"] = "x" }, codes.InvalidArgument, `there is no volume attribute "pakages"; next: did you mean "packages"?`},
		{"a package that nobody has", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["packages"] = "nothing" }, codes.NotFound, "there is no closure of that name"},
		{"a store path", func(r *csi.NodePublishVolumeRequest) {
			delete(r.GetVolumeContext(), "packages")
			r.VolumeContext["storePath"] = drivertest.Root("curl").String()
		}, codes.OK, ""},
		{"no pod uid", func(r *csi.NodePublishVolumeRequest) { delete(r.GetVolumeContext(), podUID) }, codes.InvalidArgument, "csi.storage.k8s.io/pod.uid is missing"},
		{"another pod's uid", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[podUID] = "other" }, codes.InvalidArgument, `csi.storage.k8s.io/pod.uid "other" is not the uid in the target path`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			client := drivertest.Serve(t, n.Driver(t))
			req := n.Publish(t, uid, redis())
			start := n.State(t)
			row.change(req)
			_, err := client.NodePublishVolume(t.Context(), req)
			expect(t, err, row.code, row.prefix)
			if row.code != codes.OK {
				expectState(t, n, start)
				return
			}
			_, err = client.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
			expect(t, err, codes.OK, "")
			expectState(t, n, start)
		})
	}
}

func TestPublishAgainIsOfflineAndMountsOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	req := n.Publish(t, uid, redis())
	for range 3 {
		if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		req.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] += "x" // kubelet renews them
	}
	if n.Provider.Provided() != 1 || n.Views.Mounts() != 1 || d.Volumes() != 1 {
		t.Errorf("provided %d times, %d mounts, %d volumes", n.Provider.Provided(), n.Views.Mounts(), d.Volumes())
	}
	// Also by the next process, with the policy turned against it and the store gone.
	n.Restart(t)
	n.Policy = func(string, nixstore.Source) (policy.Decision, error) {
		return policy.Decision{}, nixstore.ErrForbidden
	}
	if _, err := n.Driver(t).NodePublishVolume(t.Context(), req); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if n.Provider.Provided() != 0 {
		t.Error("the provider was asked for a volume that is mounted")
	}
}

func TestFault06SameVolumeOtherRequest(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*drivertest.Node, *csi.NodePublishVolumeRequest)
		prefix string
	}{
		{
			"other attributes", func(_ *drivertest.Node, r *csi.NodePublishVolumeRequest) { r.VolumeContext["packages"] = "curl" },
			"volume csi-" + uid + " is already published at this target with other attributes",
		},
		{
			"other readOnly", func(_ *drivertest.Node, r *csi.NodePublishVolumeRequest) { r.Readonly = false },
			"volume csi-" + uid + " is already published at this target with other attributes or another readOnly",
		},
		{
			"another target", func(n *drivertest.Node, r *csi.NodePublishVolumeRequest) { r.TargetPath = n.Target(t, uid, "two") },
			"volume csi-" + uid + " is already published at another target path",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			d := n.Driver(t)
			req := n.Publish(t, uid, redis())
			if _, err := d.NodePublishVolume(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			before := n.State(t)
			other := n.Publish(t, uid, redis())
			row.change(n, other)
			_, err := d.NodePublishVolume(t.Context(), other)
			expect(t, err, codes.AlreadyExists, row.prefix)
			expectState(t, n, before)
			_, err = d.NodePublishVolume(t.Context(), req)
			expect(t, err, codes.OK, "")
		})
	}
}

func TestForeignMountAtTheTargetIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	first := n.Publish(t, uid, redis())
	if _, err := d.NodePublishVolume(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	before := n.State(t)
	second := n.Publish(t, uid, map[string]string{"packages": "curl"})
	second.VolumeId = "another"
	_, err := d.NodePublishVolume(t.Context(), second)
	expect(t, err, codes.AlreadyExists, "something is mounted at the target")
	expectState(t, n, before)
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(second))
	expect(t, err, codes.OK, "")
	expectState(t, n, before)
}

func TestFault04FailingStepLeavesNothing(t *testing.T) {
	t.Parallel()
	final := map[string]error{
		"a plain error": errors.New("mounting: operation not permitted"),
		"corruption":    nixstore.Fail(nixstore.ErrCorrupt, "", "wrong hash"),
		"a build":       nixstore.Fail(nixstore.ErrBuild, "", "builder failed"),
	}
	for _, step := range []string{"provide", "mount", "mount late"} {
		for name, failure := range final {
			t.Run(step+" fails with "+name, func(t *testing.T) {
				t.Parallel()
				n := newNode(t)
				req := n.Publish(t, uid, redis())
				start := n.State(t)
				hook := failAt(step, failure)
				n.Provider.Hook, n.Views.Hook = hook, hook
				_, err := n.Driver(t).NodePublishVolume(t.Context(), req)
				if code := status.Code(err); code == codes.OK || code == codes.Aborted || code == codes.Unknown {
					t.Errorf("got %s", code)
				}
				expectState(t, n, start)
			})
		}
	}
}

func failAt(step string, err error) func(string) error {
	return func(s string) error {
		if s == step {
			return err
		}
		return nil
	}
}

func TestUndoThatFailsIsNotFinal(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	start := n.State(t)
	broken := true
	n.Views.Hook = failAt("mount", errors.New("operation not permitted"))
	n.Provider.Hook = func(step string) error {
		if step == "release" && broken {
			return errors.New("read-only file system")
		}
		return nil
	}
	d := n.Driver(t)
	_, err := d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.Aborted, "operation not permitted (and undoing it failed)")
	broken = false
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req)) // so kubelet comes
	expect(t, err, codes.OK, "")
	expectState(t, n, start)
}

func TestMountThatFailsButStaysKeepsItsPin(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	failed := false
	n.Views.Hook = func(step string) error {
		switch {
		case step == "mount":
			failed = true
			return errors.New("operation not permitted")
		case step == "mounted" && failed:
			return errors.New("input/output error")
		}
		return nil
	}
	d := n.Driver(t)
	_, err := d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.Aborted, "operation not permitted (and undoing it failed)")
	if d.Volumes() != 1 {
		t.Error("the pin is gone though the mount may be there")
	}
}

func TestErrorsThatAreNotFinalKeepThePin(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	req := n.Publish(t, uid, redis())
	start := n.State(t)
	var failure error = nixstore.Fail(nixstore.ErrNoSpace, "free some", "the disk is full")
	n.Views.Hook = func(step string) error {
		if step == "mount" {
			return failure
		}
		return nil
	}
	d := n.Driver(t)
	_, err := d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.ResourceExhausted, "the disk is full; next: free some")
	if d.Volumes() != 1 {
		t.Error("the pin is gone")
	}
	failure = nil
	_, err = d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expectState(t, n, start)
}

func TestFinalErrorAlsoEndsTheInterestOfEarlierCalls(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Provider.AddSlow("slow")
	allowed := true
	n.Policy = func(string, nixstore.Source) (policy.Decision, error) {
		if !allowed {
			return policy.Decision{}, nixstore.Fail(nixstore.ErrForbidden, "ask the operator", "packages are refused")
		}
		return policy.Decision{Build: true}, nil
	}
	req := n.Publish(t, uid, map[string]string{"packages": "slow"})
	start := n.State(t)
	d := n.Driver(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.NodePublishVolume(ctx, req)
	expect(t, err, codes.Aborted, "the closure of volume csi-"+uid+" is still being realised")
	if len(n.Provider.Interested()) != 1 {
		t.Fatal("the call left no interest")
	}
	allowed = false
	_, err = d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.PermissionDenied, "packages are refused; next: ask the operator")
	expectState(t, n, start)
}

func TestNewerRequestTakesThePlaceOfAnUnfinishedOne(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.Provider.AddSlow("slow")
	d := n.Driver(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := n.Publish(t, uid, map[string]string{"packages": "slow"})
	start := n.State(t)
	_, err := d.NodePublishVolume(ctx, req)
	expect(t, err, codes.Aborted, "")
	req.VolumeContext["packages"] = "redis"
	_, err = d.NodePublishVolume(t.Context(), req)
	expect(t, err, codes.OK, "")
	if left := n.Provider.Interested(); len(left) > 0 {
		t.Errorf("interest in %v is left", left)
	}
	_, err = d.NodeUnpublishVolume(t.Context(), drivertest.Unpublish(req))
	expect(t, err, codes.OK, "")
	expectState(t, n, start)
}

func TestFault30TargetShape(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.Driver(t)
	good := n.Target(t, uid, "nix")
	kubelet := n.KubeletDir
	outside := filepath.Dir(kubelet)
	if err := os.Symlink(outside, filepath.Join(kubelet, "pods", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(outside, "volumes", "kubernetes.io~csi", "nix"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"missing":               "",
		"relative":              "pods/x/volumes/kubernetes.io~csi/nix/mount",
		"outside":               "/etc",
		"the kubelet folder":    kubelet,
		"beside it":             kubelet + "2/pods/" + uid + "/volumes/kubernetes.io~csi/nix/mount",
		"with dot-dot":          kubelet + "/pods/" + uid + "/../" + uid + "/volumes/kubernetes.io~csi/nix/mount",
		"out by dot-dot":        good + "/../../../../../../etc",
		"with a slash at end":   good + "/",
		"with two slashes":      strings.Replace(good, "/pods/", "//pods/", 1),
		"another plugin":        strings.Replace(good, "kubernetes.io~csi", "kubernetes.io~empty-dir", 1),
		"not mount":             strings.TrimSuffix(good, "mount") + "other",
		"deeper":                good + "/mount",
		"with a NUL":            good + "\x00",
		"too long":              kubelet + "/" + strings.Repeat("a/", 3000) + "mount",
		"through a symlink":     strings.Replace(good, uid, "link", 1),
		"block volume":          kubelet + "/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/x",
		"uid of another pod":    n.Target(t, "other", "nix"),
		"in the pod's own data": kubelet + "/pods/" + uid + "/volumes/kubernetes.io~empty-dir/data/mount",
	} {
		req := n.Publish(t, uid, redis())
		if name == "through a symlink" {
			req.VolumeContext["csi.storage.k8s.io/pod.uid"] = "link"
		}
		req.TargetPath = target
		start := n.State(t)
		if _, err := d.NodePublishVolume(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		expectState(t, n, start)
	}
}

func TestFault32ForgedPodKeys(t *testing.T) {
	t.Parallel()
	const prefix = "csi.storage.k8s.io/"
	n := newNode(t)
	var asked []string
	n.Policy = func(namespace string, _ nixstore.Source) (policy.Decision, error) {
		asked = append(asked, namespace)
		return policy.Decision{}, nil
	}
	d := n.Driver(t)
	for name, forged := range map[string]map[string]string{
		"no uid, with a namespace":        {prefix + "pod.uid": "", prefix + "pod.namespace": "kube-system"},
		"a wrong uid":                     {prefix + "pod.uid": "11111111-0000-4000-8000-000000000001"},
		"a uid that is a path":            {prefix + "pod.uid": uid + "/../x"},
		"a namespace that is a pattern":   {prefix + "pod.namespace": "*"},
		"a namespace with a line end":     {prefix + "pod.namespace": "default\n"},
		"an odd pod name":                 {prefix + "pod.name": "../../etc"},
		"an odd service account":          {prefix + "serviceAccount.name": "a b"},
		"an odd mark of inline volumes":   {prefix + "ephemeral": "maybe"},
		"a uid of more than one spelling": {prefix + "pod.uid": strings.ToUpper(uid)},
	} {
		req := n.Publish(t, uid, redis())
		maps.Copy(req.GetVolumeContext(), forged)
		start := n.State(t)
		if _, err := d.NodePublishVolume(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		expectState(t, n, start)
	}
	if len(asked) > 0 {
		t.Errorf("the policy was asked about %q", asked)
	}
}
