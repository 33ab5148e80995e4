package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/closured/closured/nixstore"
)

const (
	// volumeIDMax bounds a volume id in bytes (CSI spec: 128 for strings).
	volumeIDMax = 128
	// podInfoPrefix begins the keys that kubelet writes itself
	// (pkg/volume/csi: podInfoOnMount, tokenRequests).
	podInfoPrefix = "csi.storage.k8s.io/"
	// digestLen is the length of a short digest in hexadecimal characters: 64
	// bits, compared only among the volumes of one node.
	digestLen = 16
)

// request is a publish whose form is right. What the attributes mean is not
// looked at yet.
type request struct {
	id       string
	target   string // clean and absolute
	podUID   string // of the target path; empty without a kubelet folder
	readonly bool
	context  map[string]string
	holder   nixstore.Holder
}

// parsePublish checks the form of a publish and names its holder.
func (d *Driver) parsePublish(req *csi.NodePublishVolumeRequest) (request, error) {
	if err := checkVolumeID(req.GetVolumeId()); err != nil {
		return request{}, err
	}
	uid, err := checkTarget(d.cfg.KubeletDir, req.GetTargetPath())
	if err != nil {
		return request{}, err
	}
	if err := checkCapability(req.GetVolumeCapability()); err != nil {
		return request{}, err
	}
	r := request{
		id:       req.GetVolumeId(),
		target:   req.GetTargetPath(),
		podUID:   uid,
		readonly: req.GetReadonly(),
		context:  req.GetVolumeContext(),
	}
	r.holder = volumeName{r.id, targetDigest(r.target), r.digest()}.holder()
	return r, nil
}

// checkCapability accepts mounts. Access modes say who else may have the volume;
// it is never shared and always its own copy, so that each of them holds.
func checkCapability(c *csi.VolumeCapability) error {
	switch {
	case c == nil:
		return invalid("the caller must send one", "the volume capability is missing")
	case c.GetBlock() != nil:
		return invalid("use volumeMounts, not volumeDevices", "a closure cannot be a block device")
	case c.GetMount() == nil:
		return invalid("the caller must ask for a mount", "the volume capability has no access type")
	case len(c.GetMount().GetMountFlags()) > 0:
		return invalid("remove the mount options", "mount options are not supported: a closure is always mounted read-only, nosuid and nodev")
	}
	return nil
}

// checkVolumeID accepts what can be part of a file name and of a command line.
func checkVolumeID(id string) error {
	const next = "the caller must send 1 to 128 characters of A-Z a-z 0-9 . _ -, of which the first is neither dot nor dash"
	switch {
	case id == "":
		return invalid(next, "the volume id is missing")
	case len(id) > volumeIDMax:
		return invalid(next, "the volume id %s is longer than %d bytes", nixstore.Quote(id), volumeIDMax)
	case id[0] == '.' || id[0] == '-':
		return invalid(next, "the volume id %s begins with a dot or a dash", nixstore.Quote(id))
	}
	for i := range len(id) {
		if !isIDByte(id[i]) {
			return invalid(next, "the volume id %s holds the character %q", nixstore.Quote(id), id[i])
		}
	}
	return nil
}

func isIDByte(c byte) bool {
	switch {
	case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return true
	}
	return c == '.' || c == '_' || c == '-'
}

// digest tells requests apart: equal for calls that ask for the same thing at the
// same place. Kubelet's own keys are left out, as tokens among them change from
// call to call.
func (r request) digest() string {
	h := sha256.New()
	put(h, "target", r.target)
	put(h, "readonly", fmt.Sprint(r.readonly))
	for _, key := range slices.Sorted(maps.Keys(r.context)) {
		if !strings.HasPrefix(key, podInfoPrefix) {
			put(h, key, r.context[key])
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:digestLen]
}

// put writes one pair so that no two lists of pairs give the same bytes.
func put(h hash.Hash, key, value string) {
	fmt.Fprintf(h, "%d:%s=%d:%s\n", len(key), key, len(value), value)
}

// targetDigest is the short digest of a target path.
func targetDigest(target string) string {
	sum := sha256.Sum256([]byte(target))
	return hex.EncodeToString(sum[:])[:digestLen]
}

// volumeName is the name of a volume's pin, "<id>.<target>.<request>": it alone
// tells whether a call repeats what was published, and which mount is its.
type volumeName struct {
	id      string
	target  string // targetDigest
	request string // request.digest
}

func (n volumeName) holder() nixstore.Holder {
	return nixstore.Holder{Kind: nixstore.HolderVolume, Name: n.id + "." + n.target + "." + n.request}
}

// parseVolumeName parses the name of a pin. Volume ids may hold dots, digests
// may not, so it reads from the right.
func parseVolumeName(name string) (volumeName, bool) {
	rest, request, ok := cutLast(name)
	if !ok || !isDigest(request) {
		return volumeName{}, false
	}
	id, target, ok := cutLast(rest)
	if !ok || !isDigest(target) || checkVolumeID(id) != nil {
		return volumeName{}, false
	}
	return volumeName{id, target, request}, true
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func isDigest(s string) bool {
	return len(s) == digestLen && strings.Trim(s, "0123456789abcdef") == ""
}
