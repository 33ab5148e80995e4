// Package hosts tells the container runtime of a node that the images of
// closured are on its loopback: it keeps <certs-dir>/<registry-host>/hosts.toml
// of containerd, renders the same for CRI-O and for k3s, and looks whether
// containerd reads the folder at all. It serves nothing (package registry does),
// restarts nothing, and changes no configuration but its own one file.
//
// The file is known by its first line. A file without that line is somebody's
// own and is never changed or removed; neither is a symbolic link.
//
// The file stays when the agent stops. Without it containerd would take the
// made-up host for a real one and ask the node's DNS for it: a pod that restarts
// while the agent is updated would wait for a name server and read "no such
// host", or meet whoever answers for the name. With it the runtime asks loopback,
// reads "connection refused" at once, and kubelet tries again until the agent is
// back. So Remove is for a node that is to be without closured, and for an agent
// whose registry is switched off; deploy/cleanup does the same in a shell.
//
// One process owns a file: the agent, by the lock on its state directory. The
// methods of a File are not for concurrent use. After kill -9 at any instruction
// the folder holds the old file, the new one, or none, as a whole; the next Put
// sweeps a temporary one that was left over.
package hosts
