package hosts

import "fmt"

const (
	// Marker is the first line of each file of ours, and how we know it again.
	// deploy/cleanup looks for it, too: never change it.
	Marker = "# Written by closured."
	// FileName is the file that containerd reads in the folder of a host
	// (docs/hosts.md of containerd).
	FileName = "hosts.toml"
	// CRIOFile is where CRI-O and podman look for the file that CRIO renders
	// (containers-registries.conf.d(5)).
	CRIOFile = "/etc/containers/registries.conf.d/50-closured.conf"
	// K3sCertsDir is the folder that k3s and RKE2 give to their containerd in place
	// of /etc/containerd/certs.d.
	K3sCertsDir = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"
	// RKE2CertsDir is the same of RKE2.
	RKE2CertsDir = "/var/lib/rancher/rke2/agent/etc/containerd/certs.d"
	// K3sRegistriesFile is where k3s looks for the file that K3s renders; RKE2 has
	// /etc/rancher/rke2/registries.yaml.
	K3sRegistriesFile = "/etc/rancher/k3s/registries.yaml"
)

// Containerd renders hosts.toml for a registry at address.
//
// The server is the registry itself, so that nothing falls back to the made-up
// host. It is there for pushes only, which the registry refuses: containerd tries
// the hosts and then the server, and would ask twice, and wait twice, for an image
// that is still being built. A file without any [host] is refused by containerd 1.x
// ("invalid `host` tree").
func Containerd(address string) []byte {
	return fmt.Appendf(nil, `%s
# Images of this host are on the node itself. The agent puts this file back when it
# is changed or removed; it goes with deploy/cleanup.
server = "http://%[2]s"
capabilities = ["push"]

[host."http://%[2]s"]
  capabilities = ["pull", "resolve"]
`, Marker, address)
}

// CRIO renders a drop-in of containers-registries.conf(5), for CRIOFile.
func CRIO(host, address string) []byte {
	return fmt.Appendf(nil, `%s
# Images of %[2]s are on the node itself, over plain HTTP on its loopback.
[[registry]]
prefix = "%[2]s"
location = "%[3]s"
insecure = true
`, Marker, host, address)
}

// K3s renders what K3sRegistriesFile needs where the agent does not write into
// K3sCertsDir; k3s reads it when it starts. It is to be merged by hand with what
// that file holds already.
func K3s(host, address string) []byte {
	return fmt.Appendf(nil, `mirrors:
  "%s":
    endpoint:
    - "http://%s"
`, host, address)
}
