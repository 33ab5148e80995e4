// Package driver answers the CSI Identity and Node services: it turns an inline
// volume's attributes into a mount that shows exactly one closure.
//
// It orders the steps and owns their undoing; the steps themselves belong to
// others. What to mount comes from a nixstore.Provider, where and how from
// package view, who may from package policy, and what a user wrote from package
// attributes. The socket, logging, metrics and registration are package serve.
// Errors become gRPC statuses in status.go and nowhere else.
//
// # Concurrency
//
// All methods may be called concurrently. A publish try-locks its volume and its
// target and answers Aborted when either is taken. An unpublish cancels a publish
// of the same volume and waits for it. The only goroutine is that of a publish
// which waits for its closure and tells the pod's people about it (Config.Events);
// it ends before the call does.
//
// # Crashes
//
// The pins and the mount table are the state, and the order of steps keeps them
// honest: a pin is there before its mount, and goes after it. So whatever a kill
// leaves is a pin without mount (kept for kubelet's next call or released) or
// nothing. [Driver.Recover] repairs both at start. The only memory is which
// holder an unfinished publish asked for, and what its pod was told; the work dies
// with the process, and the next one tells anew.
package driver
