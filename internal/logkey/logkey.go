// Package logkey holds the keys of log attributes, so that one fact has one
// name in every line of the agent and an operator can search for it.
//
// It is a list of constants: nothing here logs, runs or keeps state. Keys are
// lowerCamelCase; a number's unit is part of its key.
package logkey

// The keys, by what they speak of.
const (
	// Component names the part of the agent that speaks.
	Component = "component"
	// Error is an error's text, redacted.
	Error = "error"
	// Problem is a state that an operator should look at.
	Problem = "problem"
	// Stack is the stack of a recovered panic.
	Stack = "stack"
	// Version is the version of the program.
	Version = "version"

	// Method is the full name of an RPC.
	Method = "method"
	// Code is the gRPC code of an answer.
	Code = "code"
	// DurationSeconds is how long a thing took.
	DurationSeconds = "durationSeconds"
	// Request is a sanitised request.
	Request = "request"

	// VolumeID is CSI's volume handle.
	VolumeID = "volumeId"
	// Target is the path at which a volume is published.
	Target = "target"
	// Namespace is the namespace of a pod.
	Namespace = "namespace"
	// Pod is the name of a pod.
	Pod = "pod"
	// PodUID is the uid of a pod.
	PodUID = "podUid"
	// Driver is the name of the CSI driver.
	Driver = "driver"
	// Node is the name of the node.
	Node = "node"
	// Taint is the key of a node's taint.
	Taint = "taint"

	// Source is the kind of a source, a word of the policy file.
	Source = "source"
	// Root is the root of a closure, a logical store path.
	Root = "root"
	// StorePath is one logical store path.
	StorePath = "storePath"
	// Derivation is the store path of a derivation.
	Derivation = "derivation"
	// System is a Nix system.
	System = "system"
	// Holder is who holds a pin.
	Holder = "holder"
	// Pin is the name of a pin.
	Pin = "pin"
	// View is the folder of a view.
	View = "view"
	// Phase is the phase of a realisation.
	Phase = "phase"
	// Substituter is the address of a binary cache, redacted.
	Substituter = "substituter"

	// Path is a path of the node's file system.
	Path = "path"
	// Socket is the path of a unix socket.
	Socket = "socket"
	// Address is a network address.
	Address = "address"
	// Program is the name of a program that was started.
	Program = "program"
	// PID is the id of a process.
	PID = "pid"
	// ExitCode is the exit code of a process.
	ExitCode = "exitCode"

	// Count is how many there are of what the message names.
	Count = "count"
	// SizeBytes is the size of what the message names.
	SizeBytes = "sizeBytes"
	// Attempt counts tries, from 1.
	Attempt = "attempt"
	// Rule is the number of a policy rule, from 1.
	Rule = "rule"
)
