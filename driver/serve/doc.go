// Package serve puts the driver's gRPC services on a unix socket and tells
// kubelet about them.
//
// A Server listens on the CSI socket, registers with kubelet by a second socket
// in the same process (so no sidecar is needed), looks after both sockets, logs
// one line for each call, measures, and turns panics into errors. It knows
// nothing of what the calls do.
//
// # Sockets
//
// A socket that a dead process left is replaced, one that answers belongs to
// somebody else and is an error, and so is anything at the path that is no
// socket. A new socket is made under a hidden name with mode 0600 and renamed
// into place, so that nobody ever connects to one that is half made, and kubelet
// sees it appear whole. Each second the server looks whether its sockets are
// still its own; one that was removed (kubelet, or an operator, clears the
// folder) is made again while running calls go on.
//
// # Concurrency and crashes
//
// A Server's methods may be called concurrently; Run once. All goroutines end
// before Run does. After kill -9 only the two socket files remain, which the
// next process replaces.
package serve
