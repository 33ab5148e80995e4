// Package niximages is what a node's agent knows of the cluster's NixImages: which
// closure a name stands for on this node, with which settings its image is made,
// and which nodes have it.
//
// It keeps, of each object, what is needed to serve it (some 2 kB, and its source)
// in memory, and follows changes by a watch. An API server that is away is no trouble: what was
// seen last holds. A cluster without the kind, or that does not let the agent read
// it, is told once in the log, and to whoever asks. It is no controller, writes
// nothing to the cluster, and realises nothing.
//
// # Keeping
//
// What a node built must stay there for as long as an object names it: nobody else
// may have it. Keep holds a pin for each such closure.
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
// All methods may be called concurrently. Run and Keep belong to one goroutine
// each; what they start ends with them. Nothing but the pins is on disk: after a
// restart the API server is asked again, and the pins stay until it has answered.
package niximages
