// Package niximages is what a node's agent knows of the cluster's NixImages: which
// closure a name stands for on this node, with which settings its image is made,
// and which nodes have it.
//
// It keeps, of each object, what is needed to serve it (some 2 kB) in memory, and
// follows changes by a watch. An API server that is away is no trouble: what was
// seen last holds. A cluster without the kind, or that does not let the agent read
// it, is told once in the log, and to whoever asks. It is no controller, writes
// nothing, and realises nothing.
//
// # Waiting
//
// A pod may come before its image. Kubelet's pauses between two tries grow to two
// minutes, a container runtime's to five, so that a question waits here for a
// moment: as long as Config.Patience while the image is on its way, and shortly
// when it needs somebody's hand. Then the answer is an error that says what is
// waited for.
//
// # Concurrency and crashes
//
// All methods may be called concurrently. Run belongs to one goroutine; what it
// starts ends with it. Nothing is on disk: after a restart the API server is
// asked again.
package niximages
