// Package report is what a build pod tells the controller: which closure its
// volume shows, and the digest of its image. The pod writes it as its
// termination message; the controller reads it from the pod's status.
//
// A volume is a folder with store/ and var/closure.json. This package reads that
// file and gives it as a nixstore.Reader, so that whoever computes images from a
// store can do it from a volume. It computes no digest itself, and knows nothing
// of Kubernetes but the limit of a termination message.
//
// Functions may be called concurrently, and keep nothing.
package report
