// Package buildjob is the Job that builds a NixImage for one system: what it
// looks like, what it is called, and what its state says.
//
// A build needs nothing but an ordinary pod: its volume names the source, the
// node's agent realises that before the pod starts, and the pod's container reads
// the volume and reports. Hence the scheduler places builds, and the namespace's
// policy, quotas and limits apply.
//
// Everything here is a pure function of objects, without clients and clocks, and
// may be called concurrently. A Job's name follows from what it builds, so that a
// controller that was killed before it could note that it made the Job makes no
// second one. That an attempt failed is written on its Job too (see FailurePatch):
// attempts are counted by the Jobs that are there, and nowhere else.
package buildjob
