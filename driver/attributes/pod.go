package attributes

import (
	"github.com/closured/closured/nixstore"
)

// The keys of kubelet that are read; others with the same prefix are left alone,
// since newer versions of kubelet may send more (k8s.io/kubernetes
// pkg/volume/csi/csi_attacher.go, 1.36).
const (
	keyPodName        = Reserved + "pod.name"
	keyPodNamespace   = Reserved + "pod.namespace"
	keyPodUID         = Reserved + "pod.uid"
	keyServiceAccount = Reserved + "serviceAccount.name"
	keyEphemeral      = Reserved + "ephemeral"
)

// maxUIDBytes bounds a pod's uid: a UUID has 36, a static pod's hash 32 or 64.
const maxUIDBytes = 64

// Pod is who asks, in kubelet's words. The fields are empty when kubelet, or
// whoever calls, does not say. They are true only if the CSIDriver object has
// podInfoOnMount: otherwise a pod's author may write them.
type Pod struct {
	Namespace      string // a DNS label
	Name           string // a DNS subdomain
	UID            string // 1 to 64 letters, digits and dashes
	ServiceAccount string // a DNS subdomain
	Ephemeral      bool   // the volume is an inline volume
}

func (p *parser) pod() {
	p.out.Pod = Pod{
		Namespace:      p.identity(keyPodNamespace, "a namespace", isLabel),
		Name:           p.identity(keyPodName, "the name of a pod", isSubdomain),
		UID:            p.identity(keyPodUID, "a pod's uid", isUID),
		ServiceAccount: p.identity(keyServiceAccount, "a service account", isSubdomainOrEmpty),
	}
	switch value, ok := p.context[keyEphemeral]; {
	case ok && value == "true":
		p.out.Pod.Ephemeral = true
	case ok && value != "false":
		p.forged(keyEphemeral, value, "true or false")
	}
}

func (p *parser) identity(key, what string, valid func(string) bool) string {
	value, ok := p.context[key]
	if !ok {
		return ""
	}
	if !valid(value) {
		p.forged(key, value, what)
		return ""
	}
	return value
}

func (p *parser) forged(key, value, want string) {
	p.fail("remove it: kubelet sets it", "%s is %s, not %s", key, nixstore.Quote(value), want)
}

// isSubdomainOrEmpty: a static pod has no service account, and kubelet says so
// with an empty value.
func isSubdomainOrEmpty(s string) bool { return s == "" || isSubdomain(s) }

func isUID(s string) bool {
	if s == "" || len(s) > maxUIDBytes || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isLetter(s[i]) && !isDigit(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}
