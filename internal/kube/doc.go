// Package kube is what the agent asks and tells a Kubernetes API server: events
// on pods, whether a pod has a user namespace, the node's start-up taint, and
// NixImages.
//
// All of it is help, and nothing depends on it: no publish waits for an answer
// longer than a moment, and with the API server away pods start as they do
// without one. There are no informers or caches, and the one watch, of NixImages,
// belongs to whoever asks for it. It is no controller, and writes nothing but
// events and the taints of its own node.
//
// It speaks through client-go's REST client with schemes that know core/v1 and
// closured.dev/v1alpha1 alone. The generated clients bring the types of all API
// groups with them: 19 MB of program and 9 MiB of resident memory on every node,
// measured with 0.37.
//
// # Events
//
// They are made by core/v1 and not events.k8s.io/v1. The API server keeps both as
// the same objects. core/v1 alone has first and last timestamp, which sorting and
// ages of kubectl and most collectors of events read, and needs no second group
// in the scheme and in the role. Its one lack is that it checks no lengths, so
// that this package does.
//
// # Concurrency and crashes
//
// Client and Recorder may be used concurrently; each Run belongs to one goroutine
// and starts none. A crash loses the events that wait to be sent. Nothing else is
// in memory, and nothing is on disk.
package kube
