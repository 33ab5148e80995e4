// Package nixstore is the vocabulary of the project: store paths, closures,
// sources, the narrow interfaces of a store, and the kinds of errors.
//
// It knows nothing of CSI, OCI or Kubernetes, and imports the standard library
// only. Implementations live in the folders below it: nixcli is Nix itself,
// storetest holds the conformance suite that each store must pass.
//
// Everything here is a value that may be shared between goroutines and never
// changes once made. Nothing here touches the disk.
package nixstore
